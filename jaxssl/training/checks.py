"""What is refused before anything is compiled or written: config against devices, data and method."""
import logging
from typing import Any

import jax
from jax.sharding import Mesh

from jaxssl.data import per_class
from jaxssl.errors import UserError
from jaxssl.methods.base import Needs

log = logging.getLogger("jaxssl.training.job")


def config(config: Any, mesh: Mesh, facts: Any) -> None:
    """Config against devices and data. Warns of images that are enlarged to make a view. Raises: UserError."""
    if config.batch_size % mesh.size:
        below = config.batch_size // mesh.size * mesh.size
        raise UserError(f"batch_size is {config.batch_size}, which {mesh.size} devices cannot share equally; use {below or mesh.size} or {below + mesh.size}")
    if config.batch_size > facts.examples:
        raise UserError(f"batch_size is {config.batch_size}, but there are only {facts.examples} training images; use at most {facts.examples}")
    if config.augment.size > facts.canvas:
        raise UserError(f"augment.size is {config.augment.size} pixels, but images arrive on a canvas of {facts.canvas}; "
                        f"set --config.augment.size={facts.canvas} or less, or a larger --config.data.canvas if the images are larger")
    rows, groups = (config.micro_batch or config.batch_size) * config.augment.views, config.model.get("bn_groups", 1)
    if groups < 1 or rows % groups:
        raise UserError(f"model.bn_groups is {groups}; it must be at least 1 (the global batch) and divide the {rows} views of a "
                        f"{'micro-batch' if config.micro_batch else 'batch'}")
    micro_batches(config, mesh)
    if config.data.sampler == "m_per_class" and facts.classes:
        per_class.check(config.batch_size, config.data.per_class, facts.classes)
    sides(config.augment.size, facts.sides)


def micro_batches(config: Any, mesh: Mesh) -> None:
    """`config.micro_batch` against batch and devices. Raises: UserError."""
    size, batch = config.micro_batch, config.batch_size
    if not size:
        return
    good = [n for n in range(mesh.size, batch + 1, mesh.size) if batch % n == 0]
    if size not in good:
        near = min(good, key=lambda n: abs(n - size)) if good else batch
        raise UserError(f"micro_batch is {size}; it is the images of a part of the batch, which must divide batch_size={batch} and be shared equally by {mesh.size} "
                        f"device{'s' if mesh.size > 1 else ''}: use {near}, or 0 for the whole batch at once")


def needs(config: Any, facts: Any, encoder: Any, wanted: Needs) -> None:
    """What the method cannot do without. Raises: UserError that lists all that is missing."""
    name, faults = config.method.name, []
    if config.augment.views < wanted.views:
        faults.append(f"augment.views is {config.augment.views} and {name} needs at least {wanted.views}")
    if wanted.most and config.augment.views > wanted.most:
        faults.append(f"augment.views is {config.augment.views}, of which {name} would read {wanted.most}; set it to that")
    if wanted.local is None and config.local.views:
        faults.append(f"local.views is {config.local.views}, and {name} reads no local views; leave local out")
    if config.local.views < (wanted.local or 0):
        faults.append(f"local.views is {config.local.views} and {name} needs at least {wanted.local}")
    if config.batch_size < wanted.batch:
        faults.append(f"batch_size is {config.batch_size} and {name} needs at least {wanted.batch} images")
    if wanted.labels and not facts.classes:
        faults.append(f"the images have no labels and {name} learns from them")
    if wanted.patches and not hasattr(encoder.module, "patch"):
        faults.append(f"model.name is {config.model.name} and {name} needs an encoder of patches: choose a vision transformer, such as vit_small")
    if wanted.maps and not hasattr(encoder.module, "cell"):
        faults.append(f"model.name is {config.model.name} and {name} needs an encoder whose convolutions go around hidden patches: choose a ConvNeXt, such as convnextv2_tiny")
    if wanted.maps and (cell := getattr(encoder.module, "cell", 1)) and config.augment.size % cell:
        faults.append(f"augment.size is {config.augment.size}; choose a multiple of {cell}, the pixels of a place of the encoder's last map")
    if wanted.pairs and config.data.sampler == "m_per_class" and config.data.per_class < 2:
        faults.append(f"data.per_class is {config.data.per_class} and {name} compares images of one class: a batch of {config.batch_size} "
                      f"out of {facts.classes} classes holds no two of any; use at least data.per_class=2")
    if patch := getattr(encoder.module, "patch", 0):
        faults += [f"{section}.size is {config[section].size}; choose a multiple of model.patch={patch}" for section in ("augment", "local")
                   if config[section].views and config[section].size % patch]
    if faults:
        raise UserError("; ".join(faults))


def sides(size: int, shorter: tuple[int, ...]) -> None:
    """Views of `size` pixels against the shorter sides of a few images, ascending. Raises: UserError when not one reaches half of it; a warning when most fall short."""
    if shorter and 2 * shorter[-1] < size:
        raise UserError(f"augment.size is {size} pixels, but the images are small: of {len(shorter)} looked at, the shorter side is {shorter[-1]} pixels at most, "
                        f"and views would be mostly invented; set --config.augment.size={shorter[-1]} or less, or give larger images")
    if shorter and (middle := shorter[len(shorter) // 2]) < size and jax.process_index() == 0:
        log.warning("warning: augment.size is %d pixels and the images are smaller (of %d looked at, half have a shorter side of at most %d): "
                    "views are enlarged; --config.augment.size=%d would cost less", size, len(shorter), middle, middle)
