"""The family of EfficientNet-Lites: our names against timm's and those of EfficientNet-PyTorch (lukemelas), and what names and shapes tell of an architecture."""
import re
from collections.abc import Collection
from pathlib import Path

import numpy as np

from jaxssl import models
from jaxssl.errors import UserError
from jaxssl.models import efficientnet
from jaxssl.encoder.formats import names

WORD, MODULE, NAMES = "EfficientNet-Lite", efficientnet.EfficientNet, efficientnet.NAMES
LAYOUTS = ("timm",)
FORMATS = ("safetensors", "stablehlo")
UNSEEN = {"bn_eps": ("a batch norm epsilon of {:g}", "{:g}")}
OPTIONAL = ()
SHAPES = ("num_classes", "in_chans", "drop_rate", "drop_path_rate")         # of timm's arguments, those that shapes or nothing but training show
READ = f"EfficientNet-Lites of TensorFlow's padding alone: timm's {', '.join(f'tf_{name}' for name in NAMES)}"
# Of the official preprocessing (tensorflow/tpu, efficientnet/lite): pixels less 127, over 128.
VIEW = {"interpolation": "bicubic", "mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}
SIDES = dict(zip(NAMES, (224, 240, 260, 280, 300)))
LEAVES = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def timm_names(place: str, expands: bool) -> tuple[list[str], list[str]]:
    """timm's names of the convolutions and of the norms at a place of ours, "stem", "stage2/block0" or "head", in the order of the layers. expands: the block has a first 1×1."""
    if place in ("stem", "head"):
        return (["conv_stem"], ["bn1"]) if place == "stem" else (["conv_head"], ["bn2"])
    stage, block = (int(re.sub(r"\D", "", part)) for part in place.split("/"))
    above = f"blocks.{stage - 1}.{block}"
    convolutions = ("conv_pw", "conv_dw", "conv_pwl") if expands else ("conv_dw", "conv_pw")
    return [f"{above}.{name}" for name in convolutions], [f"{above}.bn{i}" for i in range(1, len(convolutions) + 1)]


def table(module) -> dict[str, names.Tensor]:
    """timm's names to ours."""
    found = {}
    places = {"stem": False, "head": False, **{f"stage{i}/block{j}": expand > 1 for i, (depth, (*_, expand, _)) in enumerate(zip(module.depths, efficientnet.STAGES), 1)
                                               for j in range(depth)}}
    for place, expands in places.items():
        convolutions, norms = timm_names(place, expands)
        numbers = [""] if place in ("stem", "head") else [1, 2, 3] if expands else [2, 3]
        for number, convolution, norm in zip(numbers, convolutions, norms):
            found[f"{convolution}.weight"] = names.Tensor(f"params/encoder/{place}/conv{number}/kernel", "conv")
            for ours, theirs in LEAVES.items():
                found[f"{norm}.{theirs}"] = names.Tensor(f"{'params' if ours in ('scale', 'bias') else 'batch_stats'}/encoder/{place}/norm{number}/{ours}")
    return found


def side() -> names.Side:
    """timm's side."""
    return names.Side("timm", "conv_stem.weight", r"(conv_stem|bn1|blocks|conv_head|bn2|classifier)\.", rf"classifier\.(weight|bias)|(.*\.)?{names.COUNTERS}", table)


def renamed(found: dict[str, str]) -> dict[str, str]:
    """`found` with timm's names where it has those of EfficientNet-PyTorch, whose blocks are numbered through; else as it is."""
    if "_conv_stem.weight" not in found:
        return found
    count = len({name.split(".")[1] for name in found if re.match(r"_blocks\.\d+\.", name)})
    depths = next((d for d in map(efficientnet.blocks, NAMES) if sum(d) == count), ())
    places = [f"stage{i}/block{j}" for i, depth in enumerate(depths, 1) for j in range(depth)]
    words = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    for number, place in enumerate(places):
        expands = f"_blocks.{number}._expand_conv.weight" in found
        theirs = (["_expand_conv", "_depthwise_conv", "_project_conv"], ["_bn0", "_bn1", "_bn2"]) if expands else (["_depthwise_conv", "_project_conv"], ["_bn1", "_bn2"])
        for here, there in zip(theirs, timm_names(place, expands)):
            words |= {f"_blocks.{number}.{name}": other for name, other in zip(here, there)}
    return {f"{words.get(name.rpartition('.')[0], name.rpartition('.')[0])}.{name.rpartition('.')[2]}": theirs for name, theirs in found.items()}


def prefixes(side: names.Side, found: set[str]) -> set[str]:
    """What stands before the names of an EfficientNet-Lite."""
    usual = {name[:-len(side.stem)] for name in found if name.endswith(side.stem)}
    return {p for p in usual if sum(p + name in found for name in ("bn1.weight", "blocks.0.0.conv_dw.weight", "conv_head.weight", "bn2.weight")) > 2}


def network(side: names.Side, path: Path, name: str, tensors: dict[str, np.ndarray], stated: dict, told: dict) -> tuple[dict, list[str]]:
    """As `resnets.network`: the size from the blocks and channels of the stages."""
    if told:
        raise UserError(f"{path} holds an {WORD}, which has no {' or '.join(told)} to state; leave out --{next(iter(told))}")
    depths = []
    while depth := len({n.split(".")[2] for n in tensors if n.startswith(f"blocks.{len(depths)}.")}):
        depths.append(depth)
    last = f"blocks.{len(depths) - 1}.0.{'conv_pwl' if len(depths) > 1 else 'conv_pw'}.weight"
    if not 0 < len(depths) <= 7 or not {last, "conv_head.weight"} <= tensors.keys() or tensors[side.stem].ndim != 4:
        raise UserError(f"{path} has {len(depths)} stages of blocks in timm's names{'' if 'conv_head.weight' in tensors else ' and no conv_head.weight'}; read are {READ}")
    stem, behind, head = (tensors[key].shape[0] for key in (side.stem, last, "conv_head.weight"))
    depths, width = tuple(depths), head / efficientnet.HEAD

    def fits(size):
        own = efficientnet.channels(size, width)
        return efficientnet.blocks(size)[:len(depths)] == depths and (own[0], own[len(depths)]) == (stem, behind)
    size = name or next(filter(fits, NAMES), NAMES[0])
    other = {"width": width, "depths": depths if depths != efficientnet.blocks(size) else ()}
    return {"name": size, **{key: value for key, value in other.items() if value not in (1, ())}}, ["architecture"] if "architecture" not in stated else []


def assumption(model: dict, assumed: Collection[str]) -> str:
    return f"a plain {model['name']} with ReLU6, TensorFlow's padding and norms of epsilon {models.make(**model, precision='f32').bn_eps:g}"


def usual(model: dict, layout: str) -> dict:
    """Side, interpolation, mean and deviation of the official code."""
    return {"size": SIDES[model["name"]], **VIEW}


def differs(stated: dict, name: str) -> list[str]:
    """What timm's config.json states and our `name` does not compute."""
    if "architecture" not in stated:
        return [f"model_type {stated['model_type']!r}"] if "model_type" in stated else []
    arguments, pool = stated.get("model_args") or {}, stated.get("global_pool", "avg")
    if stated["architecture"] != f"tf_{name}":
        return [f"architecture {stated['architecture']!r}"]
    if not isinstance(arguments, dict):
        return [f"model_args {arguments!r}"]
    return [f"{key} {value!r}" for key, value in arguments.items() if key not in SHAPES] + ([f"global_pool {pool!r}"] if pool not in ("avg", "") else [])


def described(model: dict) -> str:
    """A model's config in a few words."""
    extra = [f"width {model['width']:g}" if model.get("width", 1) != 1 else "", f"blocks {tuple(model['depths'])}" if model.get("depths") else ""]
    return ", ".join([model["name"], *filter(None, extra)])


def fitted(found: dict[str, np.ndarray], wanted: dict, module) -> tuple[dict[str, np.ndarray], list[str]]:
    """As `resnets.fitted`: tensors are used as they are."""
    return found, []
