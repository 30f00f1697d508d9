"""What dense protocols share: the encoders beside each other, tokens that are kept, and how many classes the masks have."""
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxssl import encoder as encoders
from jaxssl.encoder import Encoder
from jaxssl.errors import UserError
from jaxssl.evaluation.dense import tokens
from jaxssl.evaluation.protocols import Context


def encoders_of(context: Context, untrained: bool) -> Iterator[tuple[str, Encoder]]:
    """("", the encoder), and where wanted ("untrained", as it began)."""
    yield "", context.encoder
    if untrained:
        yield "untrained", context.keep("untrained", functools.partial(encoders.untrained, context.encoder))


def embed(context: Context, encoder: Encoder, form: tokens.Form) -> tokens.Embed:
    return context.keep(("embed", encoder.step, encoder.name, form), lambda: tokens.Embed(encoder, form, context.mesh))


def training(context: Context, encoder: Encoder, form: tokens.Form) -> tokens.Places:
    """The windows of the training images, kept for protocols that follow."""
    source = context.data.train
    return context.keep(("tokens", encoder.step, encoder.name, form), lambda: tokens.collect(embed(context, encoder, form), source, np.arange(len(source))))


def classes(context: Context, train: tokens.Places) -> int:
    """How many classes the masks have: those that `classes.txt` names, or the highest number of a training mask and one more. Raises: UserError."""
    source = context.data.train
    named, highest = len(source.places), int(train.targets.max())
    if highest < 0:
        raise UserError(f"the masks of {source.name} say nothing of any pixel; see that their numbers are classes and not 255")
    if named and highest >= named:
        raise UserError(f"a mask of {source.name} has class {highest}, and classes.txt names {named} (0 to {named - 1}); name every class, or let 255 be what is left out")
    return named or highest + 1


def check_target(target: np.ndarray, count: int, source: Any, place: int) -> None:
    """Raises: UserError for a class that no training mask has."""
    if target.max(initial=-1) >= count:
        raise UserError(f"the mask of {source.id(place)} of {source.name} has class {int(target.max())}, and the training masks have {count} (0 to {count - 1}); "
                        "name all classes in classes.txt, or let 255 be what is left out")
