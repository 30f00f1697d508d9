"""ONNX, written node by node: `model.onnx` takes normalised float32 [batch, 3, height, width] and gives features [batch, D]."""
from pathlib import Path

import numpy as np

from jaxssl import models, tree
from jaxssl.encoder.formats import arrays, files, names, records, resnets, safetensors

OPSET, IR = 17, 8       # of 2022: read by every onnxruntime from 1.12 on
FILE = "model.onnx"


def write(encoder, folder: Path) -> None:
    """`model.onnx`, checked by onnx, and beside it the weights in our own format."""
    onnx = files.library("onnx", "exporting to ONNX")
    model = graph(onnx, encoder)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, folder / FILE)
    safetensors.write(encoder, folder)


class Graph:
    """Nodes in order, and the tensors they use; every method returns the name of what it made."""

    def __init__(self, helper, numpy_helper, tensors: dict[str, np.ndarray], eps: float):
        self.helper, self.numpy_helper, self.tensors, self.eps = helper, numpy_helper, tensors, eps
        self.nodes, self.initializers, self.used = [], [], set()

    def node(self, op: str, inputs: list[str], output: str, **attributes) -> str:
        self.nodes.append(self.helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def constant(self, ours: str, axes=None) -> str:
        self.used.add(ours)
        self.initializers.append(self.numpy_helper.from_array(names.turned(self.tensors[ours], axes), ours))
        return ours

    def unit(self, x: str, place: resnets.Place, stride: int, relu: bool = True) -> str:
        """Convolution, norm and, unless it is the last of a block, ReLU at `place`."""
        conv, norm = resnets.ours(place)
        kernel = f"params/{conv}/kernel"
        size = self.tensors[kernel].shape[0]
        x = self.node("Conv", [x, self.constant(kernel, names.AXES["conv"][0])], conv, kernel_shape=[size, size], strides=[stride] * 2, pads=[size // 2] * 4)
        statistics = [self.constant(f"{path}/{norm}/{leaf}") for path, leaf in (("params", "scale"), ("params", "bias"), ("batch_stats", "mean"), ("batch_stats", "var"))]
        x = self.node("BatchNormalization", [x, *statistics], norm, epsilon=self.eps)
        return self.node("Relu", [x], f"{norm}/relu") if relu else x

    def block(self, x: str, stage: int, block: int, units: int, strided: int) -> str:
        """A residual block; `strided` is the unit that carries the stride of a stage's first block."""
        stride = 2 if stage > 1 and block == 0 else 1
        y = x
        for unit in range(1, units + 1):
            y = self.unit(y, resnets.Place(stage, block, unit), stride if unit == strided else 1, relu=unit < units)
        shortcut = resnets.Place(stage, block, 0)
        if f"params/{resnets.ours(shortcut)[0]}/kernel" in self.tensors:
            x = self.unit(x, shortcut, stride, relu=False)
        path = f"encoder/stage{stage}/block{block}"
        return self.node("Relu", [self.node("Add", [x, y], f"{path}/sum")], f"{path}/relu")


def graph(onnx, encoder):
    """A ResNet as an ONNX model. Raises: AssertionError when a tensor is left over."""
    kind, depths = encoder.module.kind, encoder.module.depths
    g = Graph(onnx.helper, onnx.numpy_helper, tree.names(records.parts(encoder.variables, ("encoder",))), encoder.module.bn_eps)
    pool = models.resnet.POOL.get(encoder.module.stem)
    x = g.unit("images", resnets.Place(0, 0, 1), 2 if pool else 1)
    if pool:
        x = g.node("MaxPool", [x], "encoder/stem/pool", kernel_shape=[3, 3], strides=[2, 2], pads=[pool[0]] * 2 + [pool[1]] * 2)
    for stage, depth in enumerate(depths, 1):
        for block in range(depth):
            x = g.block(x, stage, block, *((2, 1) if kind == "basic" else (3, 2)))
    g.node("Flatten", [g.node("GlobalAveragePool", [x], "encoder/pool")], "features", axis=1)
    assert g.used == g.tensors.keys(), g.tensors.keys() - g.used
    value, number = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    images, features = value("images", number, ["batch", len(encoder.preprocessing["mean"]), "height", "width"]), value("features", number, ["batch", encoder.width])
    made = onnx.helper.make_graph(g.nodes, "encoder", [images], [features], g.initializers)
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR, producer_name="jaxssl")
    onnx.helper.set_model_props(model, {key: str(value) for key, value in encoder.preprocessing.items()})
    return model


def usage(encoder, folder: Path) -> tuple[str, str]:
    """Code that opens the file, and code that makes `features` [B, D] of `images`, normalised float32 [B, 3, H, W]."""
    return f"import onnxruntime\n\nsession = onnxruntime.InferenceSession({str(folder / FILE)!r})", 'features, = session.run(None, {"images": images})'


def feed(x: np.ndarray, pixels: list):
    return arrays.planes(x)
