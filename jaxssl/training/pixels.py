"""What a config leaves to its images: channels and type of their numbers, statistics of each channel, and the range that becomes 0 to 1."""
from collections.abc import Iterable
from typing import Any

from jaxssl import augment, data as datas
from jaxssl.data import Source, channels
from jaxssl.errors import UserError, shown

_SAID = "python -m jaxssl.data inspect prints what your images have"


def settled(config: Any, data: Any) -> tuple[Any, list[str]]:
    """(the config with what `data` say, sentences on it): the same where images are RGB of 8 bits. Whatever the config says itself stays. Raises: UserError where it disagrees."""
    kind, count = data.pixels, data.pixels.channels
    own = config.copy_and_resolve_references().unlock()
    said = []
    if kind.native:
        own.data.channels, own.data.depth = count, kind.depth
        statistics = _statistics(own, data)
        said += _model(own, count)
        if statistics is not None:
            said += _filled(own, statistics, kind, data.train)
    for section in ("augment", "local"):
        if own[section].get("views") and len(own[section].mean) != count:
            raise UserError(f"{section}.mean has {len(own[section].mean)} numbers and the images {count} channel{'s' if count > 1 else ''}; give as many of mean and std, or "
                            f"leave them out: {_SAID}")
    if "channels" in own.model and own.model.channels != count:
        raise UserError(f"model.channels is {own.model.channels} and the images have {count}; leave it out, or set --config.model.channels={count}")
    if not said:
        return config, []
    return own.lock(), said


def _statistics(own, data):
    """Statistics of the training images where the config leaves any to them, else None."""
    usual = tuple(own.augment.mean) == augment.MEAN and tuple(own.augment.std) == augment.STD
    if not (usual and (data.pixels.channels != 3 or data.pixels.depth != "uint8") or data.pixels.depth != "uint8" and not own.augment.high):
        return None
    if hasattr(data.train, "examples"):             # declared for planning: any values are as good
        count = data.pixels.channels
        return channels.Statistics(0, (0.0,) * count, (1.0,) * count, (.5,) * count, (.25,) * count, (), (), 0.0, "")
    return channels.statistics(data.train)


def _model(own, count) -> list[str]:
    if "channels" not in own.model or own.model.channels == count or own.model.channels != 3:
        return []
    own.model.channels = count
    return [f"model.channels is {count}, as many as the images have"]


def _filled(own, found, kind, source: Source) -> list[str]:
    said, usual = [], tuple(own.augment.mean) == augment.MEAN and tuple(own.augment.std) == augment.STD
    ranged = not own.augment.high and kind.depth != "uint8"
    if ranged:
        _put(own, low=found.low, high=found.high)
        said.append(f"range of {shown(source.name)}: {found.how} (augment.low, augment.high)")
    elif own.augment.high:          # statistics are of another range
        usual = usual and _stated(own, found)
    if usual:
        _put(own, mean=found.mean, std=found.std)
        said.append(f"mean and std of each channel of {found.images:,} images: mean {listed(found.mean)}, std {listed(found.std)}"
                    + (f"; {found.missing:.1%} says nothing and is left out" if found.missing else ""))
    return said


def _stated(own, found):
    if tuple(own.augment.low) == found.low and tuple(own.augment.high) == found.high:
        return True
    raise UserError("augment.low and augment.high are given, and augment.mean and augment.std are not; give these too, of each channel on the scale from low (0) to high (1), or "
                    f"leave all of them to the images: {_SAID}")


def _put(own, **values):
    for section in ("augment", "local"):
        with own[section].ignore_type():
            for key, value in values.items():
                own[section][key] = value


def listed(numbers: Iterable[float]) -> str:
    return ", ".join(f"{number:.4g}" for number in numbers)
