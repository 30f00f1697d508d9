"""The family of ConvNeXts: our names against timm's and torchvision's, and what shapes tell of an architecture."""
import re
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from jaxssl import models
from jaxssl.errors import UserError
from jaxssl.models import convnext, convnext_v2
from jaxssl.encoder.formats import names

WORD, MODULE, NAMES = "ConvNeXt", convnext.ConvNeXt, convnext.NAMES + convnext_v2.NAMES
SIZES = convnext.SIZES | convnext_v2.SIZES
LAYOUTS = ("timm", "torchvision")
FORMATS = ("timm", "safetensors", "stablehlo")
UNSEEN = {"eps": ("a layer norm epsilon of {:g}", "{:g}")}
OPTIONAL = ()
# of timm's arguments, those that shapes or nothing but training show, and the values of the others that ours has
SHAPES = ("depths", "dims", "ls_init_value", "num_classes", "in_chans", "drop_rate", "drop_path_rate", "head_init_scale")
TIMM = {"global_pool": "avg", "output_stride": 32, "kernel_sizes": 7, "stem_type": "patch", "patch_size": 4, "head_norm_first": False, "head_hidden_size": None, "conv_mlp": False,
        "conv_bias": True, "act_layer": "gelu", "norm_layer": None, "norm_eps": None}
READ = f"plain ConvNeXts and ConvNeXt V2s alone: timm's {', '.join(NAMES)}"
ROW = (lambda a: a.reshape(-1, 1, 1), lambda a: a.reshape(-1))          # torchvision's factors of a branch are [C, 1, 1]


def timm_name(place: str) -> str:
    """timm's name at a place of ours, "stem/conv", "stage2/norm", "stage1/block0/fc1" or "norm"."""
    if place == "norm":
        return "head.norm"
    folder, *block, layer = place.split("/")
    if folder == "stem":
        return f"stem.{['conv', 'norm'].index(layer)}"
    stage = f"stages.{int(folder.removeprefix('stage')) - 1}"
    if not block:
        return f"{stage}.downsample.{['norm', 'conv'].index(layer)}"
    word = {"conv": "conv_dw", "norm": "norm", "fc1": "mlp.fc1", "fc2": "mlp.fc2", "grn": "mlp.grn", "scale": "gamma"}[layer]
    return f"{stage}.blocks.{block[0].removeprefix('block')}.{word}"


def torchvision_name(place: str) -> str:
    """torchvision's name at such a place."""
    if place == "norm":
        return "classifier.0"
    folder, *block, layer = place.split("/")
    if folder == "stem":
        return f"features.0.{['conv', 'norm'].index(layer)}"
    stage = int(folder.removeprefix("stage"))
    if not block:
        return f"features.{2 * stage - 2}.{['norm', 'conv'].index(layer)}"
    word = {"conv": "block.0", "norm": "block.2", "fc1": "block.3", "fc2": "block.5", "grn": "block.grn", "scale": "layer_scale"}[layer]
    return f"features.{2 * stage - 1}.{block[0].removeprefix('block')}.{word}"


def table(module, name: Callable[[str], str], scale: tuple | None = None) -> dict[str, names.Tensor]:
    """Their names to ours. scale: how the factors of a branch are turned, as in `names.Tensor`."""
    found = {}
    convolution, norm, matrix = ("kernel", "conv"), ("scale", "same"), ("kernel", "matrix")
    layers = {"stem/conv": convolution, "stem/norm": norm, "norm": norm}
    for stage, depth in enumerate(module.depths, 1):
        layers |= {f"stage{stage}/{layer}": kind for layer, kind in (("norm", norm), ("conv", convolution)) if stage > 1}
        for block in range(depth):
            place = f"stage{stage}/block{block}"
            layers |= {f"{place}/conv": convolution, f"{place}/norm": norm, f"{place}/fc1": matrix, f"{place}/fc2": matrix}
            if module.grn:
                layers[f"{place}/grn"] = "gain", "same"
            if module.layer_scale:
                found[name(f"{place}/scale")] = names.Tensor(f"params/encoder/{place}/scale", turns=scale)
    for place, (leaf, layout) in layers.items():
        found[f"{name(place)}.weight"] = names.Tensor(f"params/encoder/{place}/{leaf}", layout)
        found[f"{name(place)}.bias"] = names.Tensor(f"params/encoder/{place}/bias")
    return found


def side(layout: str) -> names.Side:
    """The side of a library."""
    if layout == "torchvision":
        return names.Side(layout, "features.0.0.weight", r"(features|classifier)\.", r"classifier\.2\.(weight|bias)", lambda module: table(module, torchvision_name, ROW))
    return names.Side(layout, "stem.0.weight", r"(stem|stages|norm_pre|head)\.", r"head\.fc\.(weight|bias)", lambda module: table(module, timm_name))


def renamed(found: dict[str, str]) -> dict[str, str]:
    return found


def prefixes(side: names.Side, found: set[str]) -> set[str]:
    """What stands before the names of a ConvNeXt."""
    usual, around = {name[:-len(side.stem)] for name in found if name.endswith(side.stem)}, side.table(models.make(name="convnext_tiny"))
    return {p for p in usual if sum(p + name in found for name in around) > 6}


def network(side: names.Side, path: Path, name: str, tensors: dict[str, np.ndarray], stated: dict, told: dict) -> tuple[dict, list[str]]:
    """As `resnets.network`: width, blocks of the stages and LayerScale from names and shapes."""
    if told:
        raise UserError(f"{path} holds a ConvNeXt, which has no {' or '.join(told)} to state; leave out --{next(iter(told))}")
    kernel = tensors[side.stem]
    if kernel.ndim != 4 or kernel.shape[1:] != (3, 4, 4):
        raise UserError(f"{side.stem} of {path} has shape {kernel.shape}; a ConvNeXt here begins with 4×4 patches of 3 channels, [D, 3, 4, 4]")
    spell = timm_name if side.layout == "timm" else torchvision_name
    depths = []
    while (depth := next(i for i in range(len(tensors) + 1) if f"{spell(f'stage{len(depths) + 1}/block{i}/conv')}.weight" not in tensors)):
        depths.append(depth)
    if not 0 < len(depths) <= 4:
        raise UserError(f"{path} has {len(depths)} stages of blocks in {side.layout}'s names of a ConvNeXt; one here has 1 to 4")
    width, depths = kernel.shape[0], tuple(depths)
    second = f"{spell('stage1/block0/grn')}.weight" in tensors
    sizes = (convnext_v2 if second else convnext).SIZES
    if name and sizes.get(name) != (width, depths):
        raise UserError(f"{path} has {width} channels and blocks {depths}{' with response norms' if second else ''}, which is no {name} (of {SIZES[name][0]} and {SIZES[name][1]}"
                        f"{', with response norms' if name in convnext_v2.SIZES else ''}); leave out --model")
    size = name or min(sizes, key=lambda n: (sizes[n][1] != depths, abs(sizes[n][0] - width)))
    own = sizes[size]
    other = {"width": width if width != own[0] else 0, "depths": depths if depths != own[1] else ()}
    usual = {"width": 0, "depths": (), "layer_scale": 1e-6}
    if not second:
        other["layer_scale"] = 1e-6 if spell("stage1/block0/scale") in tensors else 0.0
    return {"name": size, **{key: value for key, value in other.items() if value != usual[key]}}, ["architecture", "eps"] if "architecture" not in stated else []


def assumption(model: dict, assumed: Collection[str]) -> str:
    return f"a plain {model['name']} with layer norms of epsilon {models.make(**model, precision='f32').eps:g} and an exact GELU"


def usual(model: dict, layout: str) -> dict:
    return {"size": 224, "interpolation": "bicubic" if layout == "timm" else "bilinear"}


def differs(stated: dict, name: str) -> list[str]:
    """What timm's config.json states and our `name` does not compute."""
    if "architecture" not in stated:
        return [f"model_type {stated['model_type']!r}"] if "model_type" in stated else []
    arguments, pool = stated.get("model_args") or {}, stated.get("global_pool", "avg")
    if not re.fullmatch("|".join(NAMES), str(stated["architecture"])):
        return [f"architecture {stated['architecture']!r}"]
    if not isinstance(arguments, dict):
        return [f"model_args {arguments!r}"]
    same = {**TIMM, "use_grn": stated["architecture"] in convnext_v2.NAMES}
    wrong = [f"{key} {value!r}" for key, value in arguments.items() if key not in SHAPES and not (key in same and same[key] == value)]
    return wrong + ([f"global_pool {pool!r}"] if pool not in ("avg", "") else [])


def described(model: dict) -> str:
    """A model's config in a few words."""
    extra = [f"width {model['width']}" if model.get("width") else "", f"blocks {tuple(model['depths'])}" if model.get("depths") else ""]
    return ", ".join([model["name"], *filter(None, extra)])


def fitted(found: dict[str, np.ndarray], wanted: dict, module) -> tuple[dict[str, np.ndarray], list[str]]:
    """As `resnets.fitted`: a ConvNeXt's tensors are used as they are."""
    return found, []
