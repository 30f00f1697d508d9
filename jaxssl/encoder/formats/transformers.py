"""transformers' ResNet: config.json, preprocessor_config.json and model.safetensors, which `ResNetModel.from_pretrained` opens.

Its blocks put the stride on the 3×3 convolution (`downsample_in_bottleneck=False`, ResNet v1.5) as ours do.
"""
import json
from pathlib import Path

import numpy as np

from jaxssl import models
from jaxssl.errors import UserError
from jaxssl.encoder.formats import arrays, names, records

STEM = "embedder.embedder.convolution.weight"
BODY = r"(embedder|encoder)\."
KNOWN = r"classifier\.1\.(weight|bias)|(.*\.)?" + names.COUNTERS
RESAMPLE = {"bilinear": 2, "bicubic": 3}      # Pillow's numbers


def canonical(name: str) -> str:
    """Without the name of the base model, which classifiers put in front."""
    return name.removeprefix("resnet.")


def place(p: names.Place) -> tuple[str, str]:
    if not p.stage:
        unit = "embedder.embedder"
    else:
        block = f"encoder.stages.{p.stage - 1}.layers.{p.block}"
        unit = f"{block}.layer.{p.unit - 1}" if p.unit else f"{block}.shortcut"
    return f"{unit}.convolution", f"{unit}.normalization"


def table(kind: str, depths: tuple[int, ...]) -> dict[str, names.Tensor]:
    return names.table(kind, depths, place, names.TORCH, "conv")


def write(encoder, folder: Path) -> None:
    records.write_torch(encoder, folder, "transformers", table(*names.resnet(encoder.module)))
    (folder / "config.json").write_text(json.dumps(config(encoder), indent=1))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor(encoder.preprocessing), indent=1))


def config(encoder) -> dict:
    """A `ResNetConfig`. Raises: UserError when it cannot describe the network."""
    m = encoder.module
    for wrong, what in ((m.stem != "imagenet", f"the stem {m.stem!r} ({models.resnet.STEMS[m.stem]})"), (m.bn_eps != 1e-5, f"a batch norm epsilon of {m.bn_eps}")):
        if wrong:
            raise UserError(f"transformers' ResNet cannot have {what}; use --format torchvision, onnx, stablehlo or safetensors")
    widths = [m.features // 2 ** i for i in reversed(range(len(m.depths)))]
    return {"architectures": ["ResNetModel"], "model_type": "resnet", "num_channels": 3, "embedding_size": m.width, "hidden_sizes": widths,
            "depths": list(m.depths), "layer_type": m.kind, "hidden_act": "relu", "downsample_in_first_stage": False, "downsample_in_bottleneck": False}


def processor(p: dict) -> dict:
    """An image processor's config: short side to `resize`, centre crop of `size`, normalise."""
    return {"image_processor_type": "BitImageProcessor", "do_convert_rgb": True,
            "do_resize": True, "size": {"shortest_edge": p["resize"]}, "resample": RESAMPLE[p["interpolation"]],
            "do_center_crop": True, "crop_size": {"height": p["size"], "width": p["size"]}, "do_rescale": True, "rescale_factor": 1 / 255,
            "do_normalize": True, "image_mean": list(p["mean"]), "image_std": list(p["std"])}


def usage(encoder, folder: Path) -> tuple[str, str]:
    """Code that makes `model` and `processor` of the folder, and code that makes `features` [B, D] of `images` [B, 3, H, W]."""
    return (f"import torch\nfrom transformers import AutoImageProcessor, ResNetModel\n\nmodel = ResNetModel.from_pretrained({str(folder)!r}).eval()\n"
            f"processor = AutoImageProcessor.from_pretrained({str(folder)!r})        # processor(image, return_tensors='pt').pixel_values",
            "with torch.inference_mode():\n    features = model(images).pooler_output.flatten(1)")


def feed(x: np.ndarray, pixels: list):
    return arrays.tensor(x)


def view(scope: dict, image: np.ndarray) -> np.ndarray:
    """What the folder's image processor makes of a uint8 image [h, w, 3]: [size, size, 3]."""
    return scope["processor"](arrays.picture(image), return_tensors="pt").pixel_values[0].numpy().transpose(1, 2, 0)
