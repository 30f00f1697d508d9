"""Weights that another program wrote: whose names they have, which architecture, and the preprocessing stated beside them."""
import importlib
import re
from collections.abc import Collection
from pathlib import Path
from types import ModuleType

import numpy as np

from jaxssl import models
from jaxssl.workdir import folder as folders
from jaxssl.errors import UserError, listed
from jaxssl.encoder.formats import files, names

LAYOUTS = ("torchvision", "transformers", "simclr")      # timm's names are torchvision's
CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
# timm's architectures that are ours; of its arguments, those that shapes or nothing but training show, and the values of the others that ours has
PLAIN = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
SHAPES = ("layers", "num_classes", "in_chans", "channels", "base_width", "drop_rate", "drop_path_rate", "drop_block_rate", "zero_init_last")
TIMM = {"output_stride": 32, "global_pool": "avg", "cardinality": 1, "stem_width": 64, "stem_type": "", "replace_stem_pool": False, "block_reduce_first": 1, "down_kernel_size": 1,
        "avg_down": False, "act_layer": "relu", "norm_layer": "batchnorm2d", "aa_layer": None, "block_args": None}
# of transformers' config.json; what is not there has these values
TRANSFORMERS = {"model_type": "resnet", "hidden_act": "relu", "downsample_in_first_stage": False, "downsample_in_bottleneck": False}
KINDS = ("bilinear", "bicubic")
RESAMPLE = {2: "bilinear", 3: "bicubic", None: "bicubic"}        # Pillow's numbers
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def sides() -> dict[str, ModuleType]:
    return {layout: importlib.import_module(f"jaxssl.encoder.formats.{layout}") for layout in LAYOUTS}


def detect(file: Path, found: dict[str, str]) -> str:
    """Whose names these are. Raises: UserError that names what was found, and the prefix to give where there is one."""
    for layout, side in sides().items():
        if any(side.canonical(name) == side.STEM for name in found):
            return layout
    for side in sides().values():
        prefixed = sorted(filter(None, prefixes(side, set(map(side.canonical, found)))))
        if prefixed:
            raise UserError(f"the names in {file.name} begin with {' or '.join(map(repr, prefixed))}; "
                            f"convert it with `python -m jaxssl.convert SRC DST --prefix {prefixed[0]}`")
    raise UserError(f"{file.name} holds no ResNet under the names of {', '.join(LAYOUTS)} (timm's are torchvision's) or jaxssl: their stems' kernels are missing; "
                    f"it has {listed(sorted(found))}")


def prefixes(side: ModuleType, found: set[str]) -> set[str]:
    """What stands before the names of a ResNet. A block has five of a stem's names too, so more are asked for."""
    usual = {name[:-len(side.STEM)] for name in found if name.endswith(side.STEM)}
    table = side.table("basic", (1, 1, 1, 1))
    listed = {name[:-len("0.weight")] for name in found if name.endswith("0.weight")} if side.STEM == "conv1.weight" else set()
    return {p for p in usual if sum(p + name in found for name in table) > 5} | {p for p in listed if first_stage(p, found)}


def first_stage(prefix: str, found: Collection[str]) -> int:
    """The place of the first stage in a `torch.nn.Sequential(*resnet.children())`, which stands behind what the stem has of convolution, norm, ReLU and pool; 0 when it is none."""
    stages = (i for i in (2, 3, 4) if f"{prefix}0.weight" in found and f"{prefix}1.running_mean" in found and f"{prefix}{i}.0.conv1.weight" in found)
    return next(stages, 0)


def named(found: dict[str, str]) -> dict[str, str]:
    """`found` with torchvision's names where a `torch.nn.Sequential` has numbers; else as it is."""
    first = first_stage("", found)
    words = {"0": "conv1", "1": "bn1", **{str(first + i): f"layer{i + 1}" for i in range(4)}} if first else {}
    return {".".join([words.get(head := name.partition(".")[0], head), *name.split(".")[1:]]): theirs for name, theirs in found.items()}


def architecture(side: ModuleType, found: dict[str, str]) -> str:
    """The ResNet whose names differ least from those found."""
    body = {name for name in found if re.match(side.BODY, name) and not re.fullmatch(side.KNOWN, name)}
    return min(models.resnet.LAYERS, key=lambda model: len(side.table(*models.resnet.LAYERS[model]).keys() ^ body))


def beside(path: Path) -> dict[str, dict]:
    """config.json and preprocessor_config.json of a folder of weights, or beside a file that has the name of one in such a folder. Raises: UserError when torn."""
    folder = path if path.is_dir() else path.parent if path.name in files.NAMES else None
    return {name: folders.read_object(folder / name) for name in (CONFIG, PROCESSOR) if folder is not None and (folder / name).is_file()}


def config(side: ModuleType, layout: str, path: Path, model: str, tensors: dict[str, np.ndarray], stated: dict) -> tuple[dict, tuple[str, ...], tuple[str, ...]]:
    """The config of weights from elsewhere, from shapes, the config files beside them and the preprocessing `stated` by a person; what was assumed, as in `notes`;
    and sentences on what of the stated preprocessing was replaced."""
    kernel = tensors[side.STEM]
    if kernel.ndim != 4:
        raise UserError(f"{side.STEM} of {path} has shape {kernel.shape}; a convolution's kernel has four axes, so this is another architecture")
    table = side.table(*models.resnet.LAYERS[model])
    size, _, _, width = names.turned(kernel, names.AXES[table[side.STEM].layout][1]).shape
    if size not in (3, 7):
        raise UserError(f"the stem of {path} is a {size}×{size} convolution; here a ResNet begins with 7×7 (ImageNet) or 3×3 (CIFAR)")
    stem = "cifar" if size == 3 else "tensorflow" if layout == "simclr" else "imagenet"
    texts = {} if layout == "simclr" else beside(path)
    reproduced(path, texts.get(CONFIG, {}), model)
    augment, usual, replaced = preprocessing(path, texts, layout, stem, stated)
    assumed = [key for key in augment if usual and key not in stated]
    if layout != "simclr" and (stem == "cifar" or not texts.get(CONFIG, {}).keys() & {"architecture", "model_type"}):       # theirs have no 3×3 stem
        assumed.append("architecture")
    found = {"model": {"name": model, "width": width / 64, "stem": stem}, "augment": restated(augment, stated)}
    if layout == "simclr":
        heads = sorted((int(re.fullmatch(side.HEAD, n)[1]), a.shape) for n, a in tensors.items() if re.fullmatch(side.HEAD, n))
        if heads:
            found["method"] = {"name": "simclr", "layers": len(heads), "hidden": heads[0][1][1] if len(heads) > 1 else 1, "dim": heads[-1][1][1]}
    return found, tuple(assumed), replaced


def restated(augment: dict, stated: dict) -> dict:
    """A preprocessing with what a person states instead; the resize target goes along with another size, so that the crop keeps its share."""
    along = {"resize": round(augment["resize"] * stated["size"] / augment["size"])} if "size" in stated and "resize" in augment else {}
    return {**augment, **along, **stated}


def notes(config: dict, assumed: Collection[str]) -> tuple[str, ...]:
    """Sentences on what was `assumed` in a config: "architecture", or keys of its preprocessing."""
    values, found = {key: value for key, value in config["augment"].items() if key in assumed}, []
    if values:
        found.append(f"preprocessing assumed, as nothing beside the weights states it: {values}")
    if "architecture" in assumed:
        stem = "a 3×3 stem of stride 1 and padding 1 without a max pool, " if config["model"].get("stem") == "cifar" else ""
        found.append(f"architecture assumed, as nothing beside the weights states it: a plain {config['model']['name']} with {stem}ReLU, strides on the 3×3 convolutions, "
                     "and no blur, which names and shapes cannot tell")
    return tuple(found)


def reproduced(path: Path, stated: dict, model: str) -> None:
    """Whether our `model` computes what a config.json of timm or transformers states: names and shapes do not tell. Raises: UserError when it does not."""
    kind, depths = models.resnet.LAYERS[model]
    if "architecture" in stated:
        wrong = _timm(stated, kind, depths)
    elif "model_type" in stated:
        wrong = [f"{key} {stated[key]!r}" for key, ours in {**TRANSFORMERS, "layer_type": kind, "depths": list(depths)}.items() if stated.get(key, ours) != ours]
    else:
        wrong = []
    if wrong:
        raise UserError(f"the {CONFIG} of {path} states {', '.join(wrong)}, which is not what a {model} of this program computes, whatever the names and shapes; read are plain "
                        f"ResNets alone: timm's {', '.join(PLAIN)}, and transformers' model_type resnet with ReLU and its strides on the 3×3 convolutions")


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


def preprocessing(path: Path, texts: dict[str, dict], layout: str, stem: str, stated: dict) -> tuple[dict, bool, tuple[str, ...]]:
    """size, resize, interpolation, mean and std from timm's config.json or transformers' preprocessor_config.json; else the usual ones, and True.

    Last: sentences on what they state and ours cannot do, unless a person has `stated` another. Raises: UserError.
    """
    usual = {"size": 32 if stem == "cifar" else 224, "interpolation": "bicubic" if layout == "simclr" else "bilinear", **IMAGENET}
    if layout == "simclr":
        return {**usual, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}, False, ()
    timm, processor = texts.get(CONFIG, {}).get("pretrained_cfg"), texts.get(PROCESSOR)
    if not (timm or processor):
        return usual, True, ()
    try:
        found, replaced = _timm_view(timm) if timm else _processor(processor)
        square = len(set(found["size"])) == 1 and all(isinstance(side, int) for side in found["size"])
    except (KeyError, TypeError, IndexError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(f"the preprocessing in {path} is not in the form that timm or transformers write ({type(error).__name__}: {error})") from error
    if not square and "size" not in stated:
        raise UserError(f"the preprocessing in {path} takes {' × '.join(map(str, found['size']))} pixels; views here are square: give a side with "
                        "python -m jaxssl.convert … --size")
    file = CONFIG if timm else PROCESSOR
    return ({**found, "size": found["size"][0]}, False,
            tuple(f"the {file} beside the weights states {what}, which is not done here: {instead}" for key, what, instead in replaced if key not in stated))


def _timm_view(timm):
    """The preprocessing of a pretrained_cfg, its size as (height, width); and what ours cannot do: (key of ours, what is stated, what is done instead)."""
    size, mode, kind = tuple(timm["input_size"][1:]), timm.get("crop_mode", "center"), timm["interpolation"]
    replaced = [] if mode == "center" else [("", f"crop_mode {mode!r}", "the centre is cropped")]
    replaced += [] if kind in KINDS else [("interpolation", f"interpolation {kind!r}", "bicubic is used")]
    return {"size": size, "resize": int(size[0] / timm["crop_pct"]), "interpolation": kind if kind in KINDS else "bicubic",
            "mean": tuple(timm["mean"]), "std": tuple(timm["std"])}, replaced


def _processor(processor):
    """The same of a preprocessor_config.json. Rescaling and normalising by other numbers, or not at all, is another mean and std of pixels in [0, 1]."""
    target = processor["size"]["shortest_edge"]
    crop, number = processor.get("crop_size") if processor.get("do_center_crop", True) else None, processor.get("resample", 3)
    size = (crop["height"], crop["width"]) if crop else (target, target)
    resize = int(target / processor["crop_pct"]) if "crop_pct" in processor and target < 384 else target
    scale = 255 * (processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 1)
    scale = 1 if abs(scale - 1) < 1e-6 else scale
    mean, std = (processor["image_mean"], processor["image_std"]) if processor.get("do_normalize", True) else ((0.0,) * 3, (1.0,) * 3)
    replaced = [] if processor.get("do_resize", True) else [("", "do_resize False", f"the short side is resized to {resize}")]
    replaced += [] if processor.get("do_center_crop", True) else [("", "do_center_crop False", f"the middle {size[0]} × {size[0]} pixels are taken")]
    replaced += [] if number in RESAMPLE else [("interpolation", f"resample {number!r}", "bicubic is used")]
    return {"size": size, "resize": resize, "interpolation": RESAMPLE.get(number, "bicubic"),
            "mean": tuple(m / scale for m in mean), "std": tuple(s / scale for s in std)}, replaced
