"""Weights that another program wrote: whose names they have, which architecture, and the preprocessing stated beside them."""
import importlib
import json
import re
from pathlib import Path
from types import ModuleType

import numpy as np

from jaxssl import models
from jaxssl.errors import UserError
from jaxssl.interop import names

LAYOUTS = ("torchvision", "transformers", "simclr")      # timm's names are torchvision's
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def sides() -> dict[str, ModuleType]:
    return {layout: importlib.import_module(f"jaxssl.interop.{layout}") for layout in LAYOUTS}


def detect(file: Path, found: dict[str, str]) -> str:
    """Whose names these are. Raises: UserError that names what was found, and the prefix to give where there is one."""
    for layout, side in sides().items():
        if any(side.canonical(name) == side.STEM for name in found):
            return layout
    for side in sides().values():
        prefixed = sorted({name[:-len(side.STEM)] for name in map(side.canonical, found) if name.endswith(side.STEM) and not re.match(side.BODY, name)})
        prefixed = [p for p in prefixed if not any(p != q and p.startswith(q) for q in prefixed)]      # blocks have a conv1 of their own
        if prefixed:
            raise UserError(f"the names in {file.name} begin with {' or '.join(map(repr, prefixed))}; "
                            f"convert it with `python -m jaxssl.convert SRC DST --prefix {prefixed[0]}`")
    raise UserError(f"{file.name} holds no ResNet under the names of {', '.join(LAYOUTS)} (timm's are torchvision's) or jaxssl: their stems' kernels are missing; "
                    f"it has {names.listed(sorted(found))}")


def architecture(side: ModuleType, found: dict[str, str]) -> str:
    """The ResNet whose names differ least from those found."""
    body = {name for name in found if re.match(side.BODY, name) and not re.fullmatch(side.KNOWN, name)}
    return min(models.resnet.LAYERS, key=lambda model: len(side.table(*models.resnet.LAYERS[model]).keys() ^ body))


def config(side: ModuleType, layout: str, path: Path, model: str, tensors: dict[str, np.ndarray]) -> tuple[dict, tuple[str, ...]]:
    """The config of weights from elsewhere, from shapes and the config files beside them, and notes on what was assumed."""
    kernel = tensors[side.STEM]
    if kernel.ndim != 4:
        raise UserError(f"{side.STEM} of {path} has shape {kernel.shape}; a convolution's kernel has four axes, so this is another architecture")
    table = side.table(*models.resnet.LAYERS[model])
    size, _, _, width = names.turned(kernel, names.AXES[table[side.STEM].layout][1]).shape
    if size not in (3, 7):
        raise UserError(f"the stem of {path} is a {size}×{size} convolution; here a ResNet begins with 7×7 (ImageNet) or 3×3 (CIFAR)")
    stem = "cifar" if size == 3 else "tensorflow" if layout == "simclr" else "imagenet"
    augment, assumed = preprocessing(path, layout, stem)
    notes = [f"preprocessing assumed, as nothing beside the weights states it: {augment}"] if assumed else []
    found = {"model": {"name": model, "width": width / 64, "stem": stem}, "augment": augment}
    if layout == "simclr":
        heads = sorted((int(re.fullmatch(side.HEAD, n)[1]), a.shape) for n, a in tensors.items() if re.fullmatch(side.HEAD, n))
        if heads:
            found["method"] = {"name": "simclr", "layers": len(heads), "hidden": heads[0][1][1] if len(heads) > 1 else 1, "dim": heads[-1][1][1]}
    return found, tuple(notes)


def preprocessing(path: Path, layout: str, stem: str) -> tuple[dict, bool]:
    """size, resize, interpolation, mean and std from timm's config.json or transformers' preprocessor_config.json; else the usual ones, and True."""
    usual = {"size": 32 if stem == "cifar" else 224, "interpolation": "bicubic" if layout == "simclr" else "bilinear", **IMAGENET}
    if layout == "simclr":
        return {**usual, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}, False
    texts = {name: json.loads((path / name).read_text()) for name in ("config.json", "preprocessor_config.json") if path.is_dir() and (path / name).is_file()}
    timm, processor = texts.get("config.json", {}).get("pretrained_cfg"), texts.get("preprocessor_config.json")
    try:
        if timm:
            size = timm["input_size"][-1]
            return {"size": size, "resize": int(size / timm["crop_pct"]), "interpolation": known(timm["interpolation"]),
                    "mean": tuple(timm["mean"]), "std": tuple(timm["std"])}, False
        if processor:
            target = processor["size"]["shortest_edge"]
            size = processor["crop_size"]["height"] if "crop_size" in processor else target
            resize = int(target / processor["crop_pct"]) if "crop_pct" in processor and target < 384 else target
            kind = {2: "bilinear", 3: "bicubic"}.get(processor.get("resample"), "bicubic")
            return {"size": size, "resize": resize, "interpolation": kind, "mean": tuple(processor["image_mean"]), "std": tuple(processor["image_std"])}, False
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(f"the preprocessing in {path} is not in the form that timm or transformers write ({type(error).__name__}: {error})") from error
    return usual, True


def known(interpolation: str) -> str:
    return interpolation if interpolation in ("bilinear", "bicubic") else "bicubic"
