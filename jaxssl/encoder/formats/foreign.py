"""Weights that another program wrote: whose names they have, which architecture, and the preprocessing stated beside them."""
import importlib
import re
from collections.abc import Collection
from pathlib import Path
from types import ModuleType

import numpy as np

from jaxssl.workdir import folder as folders
from jaxssl.errors import UserError, listed
from jaxssl.encoder.formats import families, files, names

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
KINDS = ("bilinear", "bicubic")
RESAMPLE = {2: "bilinear", 3: "bicubic", None: "bicubic"}        # Pillow's numbers
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def sides() -> list[tuple[ModuleType, names.Side]]:
    """Every family with every side that is read."""
    return [(family, importlib.import_module(f"jaxssl.encoder.formats.{layout}").SIDES[family]) for family in families.FAMILIES for layout in family.LAYOUTS]


def detect(file: Path, found: dict[str, str]) -> tuple[ModuleType, names.Side, dict[str, str]]:
    """Of which family and whose names these are, and `found` with canonical ones. Raises: UserError that names what was found, and the prefix to give where there is one."""
    for family, side in sides():
        canonical = {side.canonical(short): name for short, name in family.renamed(found).items()}
        if side.stem in canonical:
            return family, side, canonical
    for family, side in sides():
        prefixed = sorted(filter(None, family.prefixes(side, set(map(side.canonical, found)))))
        if prefixed:
            raise UserError(f"the names in {file.name} begin with {' or '.join(map(repr, prefixed))}; "
                            f"convert it with `python -m jaxssl.convert SRC DST --prefix {prefixed[0]}`")
    resnets, transformers, others, lite = (", ".join(family.LAYOUTS) for family in families.FAMILIES)
    raise UserError(f"{file.name} holds no ResNet under the names of {resnets} (timm's are torchvision's) or jaxssl, no vision transformer under those of {transformers} "
                    f"(those of DINO, DINOv2, DeiT, MAE and MoCo v3 are timm's), no ConvNeXt under those of {others} "
                    f"and no EfficientNet-Lite under those of {lite}: their first kernels are missing; it has {listed(sorted(found))}")


def beside(path: Path) -> dict[str, dict]:
    """config.json and preprocessor_config.json of a folder of weights, or beside a file that has the name of one in such a folder. Raises: UserError when torn."""
    folder = path if path.is_dir() else path.parent if path.name in files.NAMES else None
    return {name: folders.read_object(folder / name) for name in (CONFIG, PROCESSOR) if folder is not None and (folder / name).is_file()}


def licence(path: Path) -> str:
    """What timm's config.json beside weights states, or ""."""
    stated = beside(path).get(CONFIG, {}).get("pretrained_cfg")
    found = stated.get("license") if isinstance(stated, dict) else None
    return found if isinstance(found, str) else ""


def config(family: ModuleType, side: names.Side, path: Path, model: str, tensors: dict[str, np.ndarray], stated: dict, told: dict) -> tuple[dict, tuple[str, ...], tuple[str, ...]]:
    """The config of weights from elsewhere, from shapes, the config files beside them, and the preprocessing `stated` and keys of the model `told` by a person; what
    was assumed, as in `notes`; and sentences on what of the stated preprocessing was replaced."""
    texts = {} if side.layout == "simclr" else beside(path)
    network, unsaid = family.network(side, path, model, tensors, texts.get(CONFIG, {}), told)
    reproduced(path, texts.get(CONFIG, {}), network["name"])
    augment, usual, replaced = preprocessing(path, texts, side.layout, family.usual(network, side.layout), stated)
    assumed = [*(key for key in augment if usual and key not in stated), *unsaid]
    found = {"model": network, "augment": restated(augment, stated)}
    if side.layout == "simclr":
        pattern = importlib.import_module("jaxssl.encoder.formats.simclr").HEAD
        heads = sorted((int(re.fullmatch(pattern, n)[1]), a.shape) for n, a in tensors.items() if re.fullmatch(pattern, n))
        if heads:
            found["method"] = {"name": "simclr", "layers": len(heads), "hidden": heads[0][1][1] if len(heads) > 1 else 1, "dim": heads[-1][1][1]}
    return found, tuple(assumed), replaced


def restated(augment: dict, stated: dict) -> dict:
    """A preprocessing with what a person states instead; the resize target goes along with another size, so that the crop keeps its share."""
    along = {"resize": round(augment["resize"] * stated["size"] / augment["size"])} if "size" in stated and "resize" in augment else {}
    return {**augment, **along, **stated}


def notes(config: dict, assumed: Collection[str]) -> tuple[str, ...]:
    """Sentences on what was `assumed` in a config: "architecture", keys of the model, or keys of its preprocessing."""
    values, found = {key: value for key, value in config["augment"].items() if key in assumed}, []
    if values:
        found.append(f"preprocessing assumed, as nothing beside the weights states it: {values}")
    if set(assumed) & {"architecture", "heads", "eps", "pool"}:
        text = families.named(config["model"]["name"]).assumption(config["model"], assumed)
        found.append(f"architecture assumed, as nothing beside the weights states it: {text}, which names and shapes cannot tell")
    return tuple(found)


def reproduced(path: Path, stated: dict, model: str) -> None:
    """Whether our `model` computes what a config.json of timm or transformers states: names and shapes do not tell. Raises: UserError when it does not."""
    family = families.named(model)
    wrong = family.differs(stated, model)
    if wrong:
        raise UserError(f"the {CONFIG} of {path} states {', '.join(wrong)}, which is not what a {model} of this program computes, "
                        f"whatever the names and shapes; read are {family.READ}")


def preprocessing(path: Path, texts: dict[str, dict], layout: str, usual: dict, stated: dict) -> tuple[dict, bool, tuple[str, ...]]:
    """size, resize, interpolation, mean and std from timm's config.json or transformers' preprocessor_config.json; else the `usual` ones of the family, and True.

    Last: sentences on what they state and ours cannot do, unless a person has `stated` another. Raises: UserError.
    """
    usual = {**usual, **IMAGENET, **usual}
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
    exact = "shortest_edge" not in processor["size"]                    # ViT's: squashed to height × width, whatever the image's shape
    if exact:
        processor = {**processor, "do_center_crop": True, "crop_size": {side: processor["size"][side] for side in ("height", "width")}}
    target = min(processor["crop_size"].values()) if exact else processor["size"]["shortest_edge"]
    crop, number = processor.get("crop_size") if processor.get("do_center_crop", True) else None, processor.get("resample", 3)
    size = (crop["height"], crop["width"]) if crop else (target, target)
    resize = int(target / processor["crop_pct"]) if "crop_pct" in processor and target < 384 else target
    scale = 255 * (processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 1)
    scale = 1 if abs(scale - 1) < 1e-6 else scale
    mean, std = (processor["image_mean"], processor["image_std"]) if processor.get("do_normalize", True) else ((0.0,) * 3, (1.0,) * 3)
    replaced = [] if processor.get("do_resize", True) else [("", "do_resize False", f"the short side is resized to {resize}")]
    replaced += [("", f"size {size[0]} × {size[1]} without a crop", f"the short side is resized to {resize} and the centre cropped")] if exact else []
    replaced += [] if processor.get("do_center_crop", True) else [("", "do_center_crop False", f"the middle {size[0]} × {size[0]} pixels are taken")]
    replaced += [] if number in RESAMPLE else [("interpolation", f"resample {number!r}", "bicubic is used")]
    return {"size": size, "resize": resize, "interpolation": RESAMPLE.get(number, "bicubic"),
            "mean": tuple(m / scale for m in mean), "std": tuple(s / scale for s in std)}, replaced
