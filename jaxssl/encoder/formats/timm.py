"""timm's ResNets: config.json and model.safetensors, which `timm.create_model("local-dir:…")` opens with the right preprocessing."""
import json
import math
from pathlib import Path

import numpy as np

from jaxssl import models
from jaxssl.errors import UserError
from jaxssl.encoder.formats import arrays, names, records, torchvision

STEM, BODY, KNOWN = torchvision.STEM, torchvision.BODY, torchvision.KNOWN
canonical, table = torchvision.canonical, torchvision.table


def write(encoder, folder: Path) -> None:
    records.write_torch(encoder, folder, "timm", table(*names.resnet(encoder.module)))
    (folder / "config.json").write_text(json.dumps(config(encoder), indent=1))


def config(encoder) -> dict:
    """timm's config.json: architecture, arguments, preprocessing. Raises: UserError when timm has no such network."""
    m, name = encoder.module, encoder.config["model"]["name"]
    narrow = m.stem == "imagenet" and m.bn_eps == 1e-5
    for wrong, what in ((m.stem != "imagenet", f"the stem {m.stem!r} ({models.resnet.STEMS[m.stem]})"), (m.width != 64, f"a first stage of {m.width} channels"),
                        (m.bn_eps != 1e-5, f"a batch norm epsilon of {m.bn_eps}")):
        if wrong:
            raise UserError(f"timm's ResNets cannot have {what}; use --format {'transformers, ' if narrow else ''}torchvision, onnx, stablehlo or safetensors")
    p = encoder.preprocessing
    return {"architecture": "resnet18" if name == "resnet10" else name, "num_classes": 0, "num_features": encoder.width, "global_pool": "avg",
            "model_args": {"layers": list(m.depths)} if name == "resnet10" else {},
            "pretrained_cfg": {"input_size": [3, p["size"], p["size"]], "fixed_input_size": False, "interpolation": p["interpolation"],
                               "crop_pct": crop_pct(p["size"], p["resize"]), "crop_mode": "center", "mean": list(p["mean"]), "std": list(p["std"]),
                               "num_classes": 0, "pool_size": [-(-p["size"] // 32)] * 2, "first_conv": "conv1", "classifier": "fc"}}


def crop_pct(size: int, resize: int) -> float:
    """The share of the resized side that is kept: a float for which timm's floor(size / crop_pct) and transformers' int(size / crop_pct) give `resize` exactly."""
    share = size / resize
    while math.floor(size / share) < resize:
        share = math.nextafter(share, 0.0)
    return share


def usage(encoder, folder: Path) -> tuple[str, str]:
    """Code that makes `model` and `transform` of the folder, and code that makes `features` [B, D] of `images` [B, 3, H, W]."""
    return (f"import timm\nimport torch\n\nmodel = timm.create_model({f'local-dir:{folder}'!r}, pretrained=True).eval()\n"
            "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)     # of a PIL image",
            "with torch.inference_mode():\n    features = model(images)")


def feed(x: np.ndarray, pixels: list):
    return arrays.tensor(x)


def view(scope: dict, image: np.ndarray) -> np.ndarray:
    """What timm makes of a uint8 image [h, w, 3] with the transform of `usage`: [size, size, 3]."""
    return scope["transform"](arrays.picture(image)).numpy().transpose(1, 2, 0)
