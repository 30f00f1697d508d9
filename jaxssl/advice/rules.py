"""What follows from a set of images and a machine: a recipe of values, each with its reason and where that is from. A pure function; nothing is read or computed.

The evidence is of three kinds, and every reason says which: `published` (a paper's or its code's own value), `measured` (by this project, or on these images), and `thin`: a
rule of thumb that follows from neither.
"""
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxssl.advice.look import Facts

PUBLISHED, MEASURED, THIN = "published", "measured", "thin"
SMALL, LARGE = 20_000, 50_000           # images: below the first little is known of training from scratch; from the second on it beats ImageNet's features in their domain
SIZES = (32, 48, 64, 96, 128, 160, 224)
SEEN, SEEN_CPU = 10_000_000, 1_000_000  # images that a run sees, repeats counted
KEPT = 10                               # checkpoints


class Machine(NamedTuple):
    """devices: number; memory: bytes of one; cpu: whether they are this machine's processor; said: for people."""
    devices: int
    memory: float
    cpu: bool
    said: str


class Reason(NamedTuple):
    """text: why; source: from where; evidence: PUBLISHED, MEASURED or THIN."""
    text: str
    source: str
    evidence: str


class Recipe(NamedTuple):
    """config: section or "" -> {key: value}, of what the file sets. reasons: section or key of the top level -> its reasons. warnings: of the images, with what to do."""
    config: dict[str, dict[str, Any]]
    reasons: dict[str, list[Reason]]
    warnings: list[str]


def decide(facts: Facts, machine: Machine, *, weights: Mapping[str, Any] | None = None, most: int = 0) -> Recipe:
    """The recipe. weights: {"path", "model": its section, "size", "mean", "std", "interpolation"} of an encoder to continue from.
    most: images of a batch that fit; 0: not known yet."""
    size, reason = view_size(facts, machine, weights)
    name = family(facts, machine, size, weights)
    recipe, reasons = FAMILIES[name](facts, machine, size, weights)
    batch, why = batch_size(facts, machine, recipe[""].pop("batch_size"), most)
    steps, long = length(facts, machine, batch, continued=weights is not None)
    every = steps // KEPT
    recipe[""] = {"batch_size": batch, "total": f"{steps}_steps", "warmup": f"{max(min(steps // 20, 3000), 1)}_steps", "log_every": max(min(50, steps // 20), 1),
                  "eval_every": f"{every}_steps", "checkpoint_every": f"{every}_steps", "precision": "f32" if machine.cpu else "bf16", **recipe[""]}
    recipe["data"] = {"source": facts.source, "path": facts.path, "canvas": canvas(facts, size), "examples": facts.images, "classes": facts.classes}
    recipe["checkpoint"] = {"keep_every": every}
    colours(facts, recipe, reasons)
    scale(recipe, batch)
    reasons |= {"batch_size": why, "total": long, "data": [reason], "checkpoint": [Reason(
        f"{KEPT} checkpoints stay, so that `python -m jaxssl.evaluate --workdir DIR --choose rankme` can say which to keep; the run says at its start what they take",
        "arXiv 2210.02885 chooses among models by it; that it orders one run's checkpoints is an assumption", THIN)]}
    return Recipe(recipe, reasons, warnings(facts))


def view_size(facts: Facts, machine: Machine, weights: Mapping[str, Any] | None) -> tuple[int, Reason]:
    """Pixels of a side of a view, and why."""
    if weights:
        return weights["size"], Reason(f"views of {weights['size']} pixels, as the weights were trained with", "their own preprocessing", PUBLISHED)
    most = 64 if machine.cpu else SIZES[-1]
    size = max(size for size in SIZES if size == SIZES[0] or size <= min(most, 1.15 * facts.short[1]))
    text = f"views of {size} pixels: the shorter side of the images is {facts.short[1]:g} in the median"
    return size, Reason(text + (", and a processor's step costs as the square of it" if machine.cpu and size == most else ""), "images are hardly enlarged", THIN)


def canvas(facts: Facts, size: int) -> int:
    """Pixels of a side of the decoded images: 1.28 times a view, as 288 is for 224; no more than the largest image has."""
    return max(size, min(math.ceil(1.28 * size / 8) * 8, facts.long[2]))


def family(facts: Facts, machine: Machine, size: int, weights: Mapping[str, Any] | None) -> str:
    """Which recipe."""
    if weights:
        return "continued"
    if machine.cpu:
        return "processor"
    if size < 96:
        return "small_few" if facts.images < SMALL else "small_many"
    return "large_few" if facts.images < SMALL else "large_many"


def batch_size(facts: Facts, machine: Machine, wanted: int, most: int) -> tuple[int, list[Reason]]:
    """Images of a step: the recipe's number, less where the set is small or the memory is, in powers of two that the devices share."""
    few = 2 ** int(math.log2(max(facts.images // 8, 16)))
    batch = min(wanted, few, 2 ** int(math.log2(most)) if most >= 2 else wanted)
    batch = max(batch // machine.devices, 1) * machine.devices
    why = [Reason(f"{wanted} is what the recipe was published with", "the config that it is taken from", PUBLISHED)] if batch == wanted else []
    if batch < wanted and few <= (most or few):
        why.append(Reason(f"{facts.images:,} images make eight steps of an epoch so, or batches of 16, below which batch norm and contrast have little to go by",
                          "rule of thumb", THIN))
    elif batch < wanted:
        why.append(Reason(f"by `plan`'s count of what the backward pass keeps, at most {most:,} images fit into {machine.devices} × {machine.memory / 1e9:.3g} GB, "
                          "of which a fifth is left free", "python -m jaxssl.plan", MEASURED))
    return batch, why


def length(facts: Facts, machine: Machine, batch: int, *, continued: bool) -> tuple[int, list[Reason]]:
    """Steps of the run, and why."""
    seen = SEEN_CPU if machine.cpu else SEEN
    low, high = (2, 100) if machine.cpu else (100, 800)
    if continued:
        seen, low, high = seen / 5, low / 5, high / 5
    epochs = min(max(seen / facts.images, low), high)
    steps = max(round(epochs * facts.images / batch / KEPT), 2) * KEPT
    what = f"{epochs:.3g} epochs, about {steps * batch / 1e6:.3g} million images with repeats"
    if machine.cpu:
        return steps, [Reason(f"{what}: what a processor can do, and far from converged", "rule of thumb; configs/cifar10/simclr.py:laptop has 150,000 images", THIN)]
    return steps, [Reason(f"{what}: published runs see 10 to 50 million on CIFAR-10 and 128 million on ImageNet, and small sets are repeated at most {high:g} times"
                          + ("; a fifth of that, since the encoder is trained already" if continued else ""), "configs/cifar10, configs/imagenet", THIN)]


def scale(recipe: dict, batch: int) -> None:
    """LeJEPA's weight counts times the batch (arXiv 2511.08544: the statistic grows with it)."""
    if recipe["method"]["name"] == "lejepa":
        recipe["method"]["weight"] = float(f"{min(recipe['method']['weight'] * recipe['method'].pop('of_batch') / batch, .5):.3g}")


def colours(facts: Facts, recipe: dict, reasons: dict) -> None:
    """What the images' channels ask of the augmentation."""
    for section in (section for section in ("augment", "local") if section in recipe):
        if facts.grey == facts.whole:
            recipe[section].update(saturation=0.0, hue=0.0, gray=0.0)
        if "mean" not in recipe[section]:
            recipe[section].update(mean=facts.mean, std=facts.std)
    found = reasons.setdefault("augment", [])
    if facts.grey == facts.whole:
        found.append(Reason("all images that were looked at are grey, where saturation, hue and grey change nothing", "by definition", PUBLISHED))
    if recipe["augment"]["mean"] == facts.mean:
        found.append(Reason("mean and deviation of each channel are those of these images", f"{facts.whole:,} of them", MEASURED))
    else:
        found.append(Reason("mean and deviation of each channel are those that the weights were trained with", "their own preprocessing", PUBLISHED))


def warnings(facts: Facts) -> list[str]:
    """Of the images, each with what to do."""
    found, where = [], f"python -m jaxssl.data inspect {facts.path}"
    if facts.broken:
        many = facts.broken > .01 * facts.looked
        refused = "so that training refuses the set as it is: mend or delete them, or raise data.max_broken" if many else "which training leaves out"
        found.append(f"{facts.broken:,} of {facts.looked:,} images cannot be decoded, {refused}; `{where}` names them")
    if facts.copies:
        found.append(f"{facts.copies:,} of {facts.hashed:,} images repeat another's bytes")
    if facts.alike > facts.copies * facts.looked / max(facts.hashed, 1) + facts.looked / 1000:
        found.append(f"{facts.alike:,} of {facts.looked:,} images look like another (a 64-bit difference hash, which errs both ways)")
    if facts.copies or len(found) > bool(facts.broken):
        found.append("copies weigh twice in training and leak into held-out images: `python -m jaxssl.curate embed`, `dedup self` and `manifest` take them out (README)")
    if facts.faint:
        found.append(f"{facts.faint:,} of {facts.looked:,} images are nearly of one colour and teach nothing; `{where}` names the plainest")
    if facts.deep:
        dark = f", and no value is above {facts.peak:,}, so that they are {2 ** (16 - facts.peak.bit_length())} times too dark" if 0 < facts.peak.bit_length() <= 14 else ""
        found.append(f"{facts.deep:,} of {facts.looked:,} images have 16 bits, of which training sees the upper 8{dark}")
    if facts.clear:
        found.append(f"{facts.clear:,} of {facts.looked:,} images have transparency, which is laid on white")
    if facts.long[2] > 2 * facts.short[0] and facts.long[1] > 2.5 * facts.short[1]:
        found.append("most images are more than 2.5 times as long as wide; square crops see a part of them at a time")
    return found


SCRATCH = {
    True: Reason(f"from scratch, on fewer than {SMALL:,} images: continuing from released weights is likely better; name them with --weights, and this writes that recipe",
                 "arXiv 2404.17202: from scratch beats ImageNet's features within a domain from about 50,000 images on; arXiv 2502.18056, 2511.08544 train on less", THIN),
    False: Reason("from scratch", "arXiv 2404.17202: from about 50,000 images on it beats ImageNet's features within a domain, in medical and security images, "
                  "not in remote sensing", PUBLISHED)}
BETWEEN = Reason(f"from scratch, between {SMALL:,} and {LARGE:,} images, where neither is known to be better; --weights writes the recipe that continues", "arXiv 2404.17202", THIN)
COLOURS = dict(jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, gray=0.2)
LARGE_COLOURS = dict(COLOURS, interpolation="bicubic", blur_sigma=(0.1, 2.0))


def _scratch(facts):
    return SCRATCH[True] if facts.images < SMALL else BETWEEN if facts.images < LARGE else SCRATCH[False]


def _processor(facts, machine, size, weights):
    """configs/cifar10/simclr.py:laptop."""
    config = {"": {"batch_size": 256}, "augment": dict(COLOURS, size=size, crop_scale=(0.2, 1.0), saturation=0.4, blur=0.0),
              "model": dict(name="resnet10", stem="imagenet", width=0.25), "method": dict(name="simclr", temperature=0.5, hidden=256, dim=128, layers=2),
              "optim": dict(name="adamw", lr=1e-3, scaling="none", weight_decay=1e-2)}
    return config, {"method": [_scratch(facts), Reason("SimCLR: three epochs of CIFAR-10 on two cores gave it a kNN of 36.9 ± .3 %, VICReg 35.4, DINO 30.3",
                                                       "configs/cifar10: simclr, vicreg and dino in their variant laptop", MEASURED)],
                    "model": [Reason("a ResNet-10 of quarter width: what a processor trains in hours; an accelerator trains a better one",
                                     "configs/cifar10/simclr.py:laptop", MEASURED)],
                    "optim": [Reason("AdamW at 1e-3 without scaling", "configs/cifar10/simclr.py:laptop", MEASURED)]}


def _small_few(facts, machine, size, weights):
    """configs/cifar10/lejepa.py."""
    config = {"": {"batch_size": 256}, "augment": dict(COLOURS, size=size, crop_scale=(0.2, 1.0), blur=0.0, solarize=0.1),
              "model": dict(name="resnet18", stem="cifar"), "method": dict(name="lejepa", weight=0.0097, of_batch=256, slices=256, hidden=2048, dim=128, layers=2),
              "optim": dict(name="lars", lr=0.3, scaling="linear", weight_decay=1e-4, momentum=0.9)}
    return config, {"method": [_scratch(facts), _LEJEPA], "model": [Reason("ResNet-18 with the stem of small images", "configs/cifar10/lejepa.py", PUBLISHED)],
                    "optim": [Reason("LARS, .3 at 256 images, in proportion to the batch", "facebookresearch/eb_jepa, for CIFAR-10", PUBLISHED)]}


def _small_many(facts, machine, size, weights):
    """configs/cifar10/simclr.py:sgd200."""
    config = {"": {"batch_size": 512}, "augment": dict(COLOURS, size=size, crop_scale=(0.08, 1.0), saturation=0.4, blur=0.0),
              "model": dict(name="resnet18", stem="cifar"), "method": dict(name="simclr", temperature=0.5, hidden=512, dim=128, layers=2),
              "optim": dict(name="sgd", lr=0.12, scaling="linear", weight_decay=5e-4, momentum=0.9)}
    return config, {"method": [_scratch(facts), Reason("SimCLR: on CIFAR-10 at equal length its published kNN is above DINO's (84.8 against 81.3 %)",
                                                       "lightly's benchmark of CIFAR-10", PUBLISHED)],
                    "model": [Reason("ResNet-18 with the stem of small images", "configs/cifar10/simclr.py:sgd200", PUBLISHED)],
                    "optim": [Reason("SGD, .12 at 256 images, in proportion to the batch", "lightly's benchmark of CIFAR-10", PUBLISHED)]}


def _large_few(facts, machine, size, weights):
    """configs/imagenet/lejepa.py."""
    config = {"": {"batch_size": 256}, "augment": dict(LARGE_COLOURS, size=size, crop_scale=(0.3, 1.0), blur=0.5, solarize=0.2),
              "local": dict(LARGE_COLOURS, views=6, size=_local(size), crop_scale=(0.05, 0.3), blur=0.5, solarize=0.2),
              "model": dict(name="vit_small", patch=_patch(size), image=size),
              "method": dict(name="lejepa", weight=0.02, of_batch=512, slices=1024, hidden=2048, dim=128),
              "optim": dict(name="adamw", lr=5e-4, scaling="none", schedule="cosine", end_lr=5e-7, weight_decay=5e-2)}
    return config, {"method": [_scratch(facts), _LEJEPA], "model": [Reason("ViT-S", "configs/imagenet/lejepa.py; for a small set its size is a guess", THIN)],
                    "local": [_CROPS], "optim": [Reason("AdamW at 5e-4", "arXiv 2511.08544", PUBLISHED)]}


def _large_many(facts, machine, size, weights):
    """configs/imagenet/dino.py."""
    config = {"": {"batch_size": 512}, "augment": dict(LARGE_COLOURS, size=size, crop_scale=(0.4, 1.0), blur=(1.0, 0.1), solarize=(0.0, 0.2)),
              "local": dict(LARGE_COLOURS, views=8, size=_local(size), crop_scale=(0.05, 0.4), blur=0.5),
              "model": dict(name="vit_small", patch=_patch(size), image=size, drop_path=0.1),
              "method": dict(name="dino", prototypes=65536 if facts.images >= 500_000 else 8192, hidden=2048, bottleneck=256, teacher_temp=0.04, teacher_temp_warmup="0_epochs",
                             tau=0.996),
              "optim": dict(name="adamw", lr=5e-4, scaling="linear", end_lr=1e-6, weight_decay=0.04, weight_decay_end=0.4, clip=3.0, clip_by="array",
                            rules=((r"^head/prototypes/", dict(frozen_until=0.01)),))}
    return config, {"method": [_scratch(facts), Reason("DINO: the strongest of those compared within their own domains", "arXiv 2404.17202", PUBLISHED)] + ([Reason(
        "8,192 prototypes instead of 65,536, which are more than these images need", "rule of thumb", THIN)] if facts.images < 500_000 else []),
        "model": [Reason("ViT-S", "arXiv 2104.14294, table 2", PUBLISHED)], "local": [_CROPS],
        "optim": [Reason("AdamW, 5e-4 at 256 images, in proportion to the batch; prototypes stand still at first", "facebookresearch/dino, main_dino.py", PUBLISHED)]}


def _continued(facts, machine, size, weights):
    """Heads are not released, so they learn on a frozen encoder first."""
    vit = "patch" in weights["model"]
    config = {"": {"batch_size": 64 if machine.cpu else 256, "init_from": weights["path"], "init_allow_missing": "head"},
              "augment": dict(LARGE_COLOURS, size=size, crop_scale=(0.4, 1.0), interpolation=weights["interpolation"], mean=weights["mean"], std=weights["std"]),
              "model": dict(weights["model"]), "method": dict(name="dino", prototypes=4096 if facts.images >= SMALL else 1024, hidden=1024, bottleneck=256, teacher_temp=0.04,
                                                              teacher_temp_warmup="0_steps", tau=0.994),
              "optim": dict(name="adamw", lr=5e-5, scaling="none", end_lr=5e-6, weight_decay=0.04, clip=3.0, **({"layer_decay": 0.9} if vit else {}),
                            rules=((r"^encoder/", dict(frozen_until=0.1)),))}
    return config, {
        "method": [Reason("continued from the weights that were given: the start's own kNN is the first that the run logs, and its end should lie above",
                          "facebookresearch/dinov2, issue 204: without this care kNN fell from 80 to 10", PUBLISHED),
                   Reason("DINO's loss, with heads of the seed, since heads are not released", "arXiv 2104.14294", THIN)],
        "model": [Reason("as the weights have it", weights["path"], PUBLISHED)],
        "optim": [Reason("the encoder stands still for a tenth of the run, while the heads learn; then 5e-5, less the deeper the layer lies",
                         "arXiv 2606.05107 (FINO): heads for 1,000 to 10,000 steps, then 5e-5 with layer decay .9", PUBLISHED)]}


def _patch(size):
    return 16 if size % 16 == 0 else 8


def _local(size):
    """Pixels of a small crop: 3/7 of the whole one, as 96 is of 224, in whole patches."""
    return max(round(size * 3 / 7 / _patch(size)), 2) * _patch(size)


_LEJEPA = Reason("LeJEPA: no teacher, queue or prototypes, one weight to set; its paper trains on small sets of their own domain. This project has not repeated that",
                 "arXiv 2511.08544", THIN)
_CROPS = Reason("small crops beside the two large ones, of 3/7 of their side", "as 96 is of 224 in arXiv 2104.14294", PUBLISHED)
FAMILIES = {"processor": _processor, "small_few": _small_few, "small_many": _small_many, "large_few": _large_few, "large_many": _large_many, "continued": _continued}
