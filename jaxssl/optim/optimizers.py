"""The optimizers: a function each, whose keywords are its keys in a config, and which gives its part of the common chain."""
import math
from collections.abc import Callable
from typing import NamedTuple

import optax

from jaxssl.errors import UserError
from jaxssl.optim import transforms


class Part(NamedTuple):
    """The chain is: clip, weight decay, `before`, rate, `after`.

    decoupled: weight decay comes behind `before` and is part of the update, not of the gradient. adapts: reads `adapt` of the rules.
    largest: a learning rate above it is worth a warning.
    """
    before: tuple = ()
    after: tuple = ()
    decoupled: bool = False
    adapts: bool = False
    largest: float = math.inf


# Adam-like updates have about unit size, so a LARS-sized rate destroys the weights within an epoch
_ADAPTIVE = 0.05


def lars(table: transforms.Table, *, momentum: float = 0.9, nesterov: bool = False, trust_coefficient: float = 1e-3) -> Part:
    """SimCLR's (arXiv 1708.03888; google-research/simclr tf2/lars_optimizer.py, classic_momentum): g += wd p; ratio = trust_coefficient |p| / |g|,
    1 where either is 0; v = momentum v + lr ratio g; p -= v. Nesterov as there."""
    _check(momentum=momentum, trust_coefficient=trust_coefficient, nesterov=nesterov)
    before = tuple(transforms.adapt(trust_coefficient, table, stacked=stacked) for stacked in (False, True))
    return Part(before, _velocity(momentum, nesterov), adapts=True)


def sgd(table: transforms.Table, *, momentum: float = 0.9, nesterov: bool = False) -> Part:
    """PyTorch's: g += wd p; v = momentum v + g; p -= lr v (nesterov: lr (g + momentum v))."""
    _check(momentum=momentum, nesterov=nesterov)
    return Part(_velocity(momentum, nesterov))


def adam(table: transforms.Table, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Part:
    """PyTorch's: g += wd p before the moments; eps outside the root, bias-corrected."""
    _check(b1=b1, b2=b2, eps=eps)
    return Part((optax.scale_by_adam(b1, b2, eps),), largest=_ADAPTIVE)


def adamw(table: transforms.Table, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Part:
    """PyTorch's: p -= lr (adam + wd p)."""
    return adam(table, b1=b1, b2=b2, eps=eps)._replace(decoupled=True)


def rmsprop(table: transforms.Table, *, momentum: float = 0.9, rho: float = 0.99, eps: float = 1e-8) -> Part:
    """PyTorch's, not TensorFlow's: g += wd p; s = rho s + (1-rho) g^2 from 0; v = momentum v + g / (sqrt(s) + eps); p -= lr v."""
    _check(momentum=momentum, rho=rho, eps=eps)
    return Part((optax.scale_by_rms(rho, eps, eps_in_sqrt=False), *_velocity(momentum, False)), largest=_ADAPTIVE)


def families() -> dict[str, Callable[..., Part]]:
    """{name: the function whose keywords are its keys}."""
    return {f.__name__: f for f in (lars, sgd, adam, adamw, rmsprop)}


def _velocity(momentum: float, nesterov: bool) -> tuple:
    return (optax.trace(momentum, nesterov=nesterov),) if momentum else ()


def _check(nesterov: bool = False, **values: float) -> None:
    """Collects every wrong value and raises once."""
    faults = []
    for option, value in values.items():
        if option in ("trust_coefficient", "eps"):
            if not value > 0:
                faults.append(f"optim.{option} must be above 0, got {value}")
        elif not 0 <= value < 1:
            faults.append(f"optim.{option} must lie in [0, 1), got {value}")
    if nesterov and not values["momentum"]:
        faults.append("optim.nesterov needs optim.momentum above 0")
    if faults:
        raise UserError("; ".join(faults))
