"""The layout of SimCLR's official TensorFlow 2 code (google-research/simclr, tf2/resnet.py and tf2/model.py), encoder and projection head; read only.

Their checkpoints need TensorFlow to open. Where it is installed, this writes the file that is read here:

    reader = tf.train.load_checkpoint(folder)
    numpy.savez("simclr.npz", **{name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map() if name.startswith("model/")})

A tensor is named by its place in the object tree: `model/resnet_model/block_groups/0/layers/0/conv_relu_dropblock_layers/3/conv2d/kernel`, with
`/.ATTRIBUTES/VARIABLE_VALUE` behind it. Kernels lie as ours do. Pixels go in on the scale [0, 1], neither centred nor scaled.
"""
import re

from jaxssl.encoder.formats import names, resnets

STEM = "resnet_model/initial_conv_relu_max_pool/0/conv2d/kernel"
BODY = r"resnet_model/"
KNOWN = r"_projection_head/.*|supervised_head/.*|.*/\.OPTIMIZER_SLOT/.*|optimizer/.*|global_step|save_counter|_CHECKPOINTABLE_OBJECT_GRAPH"
LEAVES = {"kernel": "/conv2d/kernel", "scale": "/bn/gamma", "bias": "/bn/beta", "mean": "/bn/moving_mean", "var": "/bn/moving_variance"}
HEAD = r"_projection_head/linear_layers/(\d+)/dense/kernel"


def canonical(name: str) -> str:
    return name.removeprefix("model/").removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")


def place(p: resnets.Place, kind: str) -> tuple[str, str]:
    """Layers without weights count in their lists: an identity in the stem, drop block behind each convolution of a bottleneck."""
    if not p.stage:
        return "resnet_model/initial_conv_relu_max_pool/0", "resnet_model/initial_conv_relu_max_pool/2"
    block = f"resnet_model/block_groups/{p.stage - 1}/layers/{p.block}"
    shortcut, units, stride = ("projection_layers", "conv_relu_dropblock_layers", 3) if kind == "bottleneck" else ("shortcut_layers", "conv2d_bn_layers", 2)
    first = stride * (p.unit - 1) if p.unit else 0
    return tuple(f"{block}/{units if p.unit else shortcut}/{first + i}" for i in range(2))


def table(module) -> dict[str, names.Tensor]:
    return resnets.table(module, lambda p: place(p, module.kind), LEAVES, "same")


def head(found: list[str]) -> dict[str, names.Tensor]:
    """The projection head among the names `found`: linear layers without bias, each with its norm, the last norm without a centre."""
    count = len([name for name in found if re.fullmatch(HEAD, name)])
    entries = {}
    for i in range(count):
        theirs = f"_projection_head/linear_layers/{i}"
        entries[f"{theirs}/dense/kernel"] = f"params/projector/linear{i + 1}/kernel"
        for leaf, collection in (("scale", "params"), ("mean", "batch_stats"), ("var", "batch_stats"), *((("bias", "params"),) if i < count - 1 else ())):
            entries[f"{theirs}/bn_relu{LEAVES[leaf]}"] = f"{collection}/projector/norm{i + 1}/{leaf}"
    return {name: names.Tensor(mine, "same") for name, mine in entries.items()}


SIDES = {resnets: names.Side("simclr", STEM, BODY, KNOWN, table, canonical, head)}
