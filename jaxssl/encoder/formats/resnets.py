"""The family of ResNets: the places of convolutions and norms, from which each library's table is made, and what names do not tell."""
import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxssl import models
from jaxssl.errors import UserError
from jaxssl.encoder.formats import names

WORD, MODULE, NAMES = "ResNet", models.resnet.ResNet, models.resnet.NAMES
LAYOUTS = ("torchvision", "transformers", "simclr")                                                 # that are read; timm's names are torchvision's
FORMATS = ("timm", "torchvision", "transformers", "safetensors", "onnx", "stablehlo")               # that are written
# what shapes do not show and features depend on: key -> how weights and a run are said to have it
UNSEEN = {"bn_eps": ("a batch norm epsilon of {:g}", "{:g}"), "stem": ("the stem {!r}", "{!r}")}
OPTIONAL = ()
# timm's architectures that are ours; of its arguments, those that shapes or nothing but training show, and the values of the others that ours has
PLAIN = tuple(name for name in NAMES if name != "resnet10")
SHAPES = ("layers", "num_classes", "in_chans", "channels", "base_width", "drop_rate", "drop_path_rate", "drop_block_rate", "zero_init_last")
TIMM = {"output_stride": 32, "global_pool": "avg", "cardinality": 1, "stem_width": 64, "stem_type": "", "replace_stem_pool": False, "block_reduce_first": 1, "down_kernel_size": 1,
        "avg_down": False, "act_layer": "relu", "norm_layer": "batchnorm2d", "aa_layer": None, "block_args": None}
# of transformers' config.json; what is not there has these values
TRANSFORMERS = {"model_type": "resnet", "hidden_act": "relu", "downsample_in_first_stage": False, "downsample_in_bottleneck": False}


class Place(NamedTuple):
    """A convolution and its norm: stage from 1 (0 is the stem), block from 0, unit from 1 (0 is the shortcut)."""
    stage: int
    block: int
    unit: int


def places(module) -> list[Place]:
    """Every convolution of a ResNet, input to output."""
    found = [Place(0, 0, 1)]
    for stage, depth in enumerate(module.depths, 1):
        for block in range(depth):
            if block == 0 and (stage > 1 or module.kind == "bottleneck"):
                found.append(Place(stage, block, 0))
            found += [Place(stage, block, unit) for unit in range(1, 3 if module.kind == "basic" else 4)]
    return found


def ours(place: Place) -> tuple[str, str]:
    """Paths of the convolution and the norm at `place` in our tree."""
    if not place.stage:
        return "encoder/stem/conv", "encoder/stem/norm"
    block = f"encoder/stage{place.stage}/block{place.block}"
    return (f"{block}/conv{place.unit}", f"{block}/norm{place.unit}") if place.unit else (f"{block}/shortcut/conv", f"{block}/shortcut/norm")


TORCH = {"kernel": ".weight", "scale": ".weight", "bias": ".bias", "mean": ".running_mean", "var": ".running_var"}


def table(module, name: Callable[[Place], tuple[str, str]], leaves: dict[str, str], layout: str) -> dict[str, names.Tensor]:
    """Their names to ours for a ResNet's encoder.

    name: their (convolution, norm) at a place. leaves: their ends for our kernel, scale, bias, mean and var, separators included.
    layout: of their convolutions, "conv" or "same".
    """
    found = {}
    for place in places(module):
        (conv, norm), (their_conv, their_norm) = ours(place), name(place)
        found[their_conv + leaves["kernel"]] = names.Tensor(f"params/{conv}/kernel", layout)
        for leaf, collection in (("scale", "params"), ("bias", "params"), ("mean", "batch_stats"), ("var", "batch_stats")):
            found[their_norm + leaves[leaf]] = names.Tensor(f"{collection}/{norm}/{leaf}", "same")
    return found


def blank(name: str):
    """A module of the smallest width with the names of `name`."""
    return models.make(name=name, width=1 / 64, precision="f32")


def renamed(found: dict[str, str]) -> dict[str, str]:
    """`found` with torchvision's names where a `torch.nn.Sequential` has numbers; else as it is."""
    first = first_stage("", found)
    words = {"0": "conv1", "1": "bn1", **{str(first + i): f"layer{i + 1}" for i in range(4)}} if first else {}
    return {".".join([words.get(head := name.partition(".")[0], head), *name.split(".")[1:]]): theirs for name, theirs in found.items()}


def first_stage(prefix: str, found: Collection[str]) -> int:
    """The place of the first stage in a `torch.nn.Sequential(*resnet.children())`, which stands behind what the stem has of convolution, norm, ReLU and pool; 0 when it is none."""
    stages = (i for i in (2, 3, 4) if f"{prefix}0.weight" in found and f"{prefix}1.running_mean" in found and f"{prefix}{i}.0.conv1.weight" in found)
    return next(stages, 0)


def prefixes(side: names.Side, found: set[str]) -> set[str]:
    """What stands before the names of a ResNet. A block has five of a stem's names too, so more are asked for."""
    usual = {name[:-len(side.stem)] for name in found if name.endswith(side.stem)}
    table = side.table(blank("resnet10"))
    numbered = {name[:-len("0.weight")] for name in found if name.endswith("0.weight")} if side.stem == "conv1.weight" else set()
    return {p for p in usual if sum(p + name in found for name in table) > 5} | {p for p in numbered if first_stage(p, found)}


def nearest(side: names.Side, found: Iterable[str]) -> str:
    """The ResNet whose names differ least from those found; of several, the plain one."""
    body = {name for name in found if re.match(side.body, name) and not re.fullmatch(side.known, name)}
    return min(NAMES, key=lambda name: len(side.table(blank(name)).keys() ^ body))


def widened(side: names.Side, name: str, tensors: dict[str, np.ndarray]) -> str:
    """`name`, or the wide ResNet of its depth where the first convolution behind the stem has more channels than the stem."""
    table = side.table(blank(name))
    first = next(theirs for theirs, tensor in table.items() if tensor.ours == "params/encoder/stage1/block0/conv1/kernel")
    if first not in tensors or tensors[first].ndim != 4:
        return name
    times = table[first].back(tensors[first]).shape[-1] / table[side.stem].back(tensors[side.stem]).shape[-1]
    return next((wide for wide, inner in models.resnet.INNER.items() if (inner, models.resnet.LAYERS[wide]) == (times, models.resnet.LAYERS[name])), name)


def network(side: names.Side, path: Path, name: str, tensors: dict[str, np.ndarray], stated: dict, told: dict) -> tuple[dict, list[str]]:
    """The model's config, from names, shapes and the `stated` config.json beside them; and what of it nothing states, "architecture".

    name: the architecture that a person gives, or "". told: keys of the model that a person gives. Raises: UserError for another architecture.
    """
    if told:
        raise UserError(f"{path} holds a ResNet, which has no {' or '.join(told)} to state; leave out --{next(iter(told))}")
    kernel = tensors[side.stem]
    if kernel.ndim != 4:
        raise UserError(f"{side.stem} of {path} has shape {kernel.shape}; a convolution's kernel has four axes, so this is another architecture")
    name = name or widened(side, nearest(side, tensors), tensors)
    size, _, _, width = side.table(blank(name))[side.stem].back(kernel).shape
    if size not in (3, 7):
        raise UserError(f"the stem of {path} is a {size}×{size} convolution; here a ResNet begins with 7×7 (ImageNet) or 3×3 (CIFAR)")
    stem = "cifar" if size == 3 else "tensorflow" if side.layout == "simclr" else "imagenet"
    unsaid = side.layout != "simclr" and (stem == "cifar" or not stated.keys() & {"architecture", "model_type"})       # theirs have no 3×3 stem
    return {"name": name, "width": width / 64, "stem": stem}, ["architecture"] * unsaid


def assumption(model: dict, assumed: Collection[str]) -> str:
    stem = "a 3×3 stem of stride 1 and padding 1 without a max pool, " if model.get("stem") == "cifar" else ""
    return f"a plain {model['name']} with {stem}ReLU, strides on the 3×3 convolutions, and no blur"


def usual(model: dict, layout: str) -> dict:
    """Size and interpolation of the images where nothing states them."""
    return {"size": 32 if model["stem"] == "cifar" else 224, "interpolation": "bicubic" if layout == "simclr" else "bilinear"}


def differs(stated: dict, name: str) -> list[str]:
    """What a config.json of timm or transformers states and our `name` does not compute."""
    kind, depths = models.resnet.LAYERS[name]
    if "architecture" in stated:
        return _timm(stated, kind, depths)
    if "model_type" in stated:
        return [f"{key} {stated[key]!r}" for key, ours in {**TRANSFORMERS, "layer_type": kind, "depths": list(depths)}.items() if stated.get(key, ours) != ours]
    return []


READ = f"plain ResNets alone: timm's {', '.join(PLAIN)}, and transformers' model_type resnet with ReLU and its strides on the 3×3 convolutions"


def _timm(stated, kind, depths):
    """What timm's config.json states and ours does not have."""
    name, arguments, pool = stated["architecture"], stated.get("model_args") or {}, stated.get("global_pool", "avg")
    if name not in PLAIN:
        return [f"architecture {name!r}"]
    if not isinstance(arguments, dict):
        return [f"model_args {arguments!r}"]
    wrong = [f"{key} {value!r}" for key, value in arguments.items() if key not in SHAPES and not (key in TIMM and TIMM[key] == value)]
    layers = arguments.get("layers", list(models.resnet.LAYERS[name][1]))
    if (models.resnet.LAYERS[name][0], layers) != (kind, list(depths)):
        wrong.append(f"architecture {name!r} of layers {layers}")
    return wrong + ([f"global_pool {pool!r}"] if pool not in ("avg", "") else [])


def described(model: dict) -> str:
    """A model's config in a few words."""
    blocks = f" of blocks {tuple(model['depths'])}" if model.get("depths") else ""
    return f"{model['name']}{blocks}, width {model.get('width', 1.0):g}, {model.get('stem', 'imagenet')} stem"


def fitted(found: dict[str, np.ndarray], wanted: dict, module) -> tuple[dict[str, np.ndarray], list[str]]:
    """Tensors of `module` as a run with the shapes `wanted` can begin with, and sentences on what was done: a ResNet's are used as they are."""
    return found, []
