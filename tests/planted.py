"""Faults to plant: each breaks one promise of design.md in one place of the program, and names the tests that must then fail.

`pytest -p tests.planted --plant=NAME …` runs tests with a fault in place; tests/test_planted.py does so for each.
"""
import importlib
from collections.abc import Callable
from typing import NamedTuple

import pytest


class Plant(NamedTuple):
    """plant(): breaks the program. caught_by: tests that must fail. has: what tells of a method whether it has the part that breaks, an aux key or a key of its
    config; "" needs none."""
    plant: Callable
    caught_by: tuple[str, ...]
    has: str = ""


def patch(place: str, name: str, value) -> None:
    setattr(importlib.import_module(place), name, value)


def original(place: str, name: str):
    return getattr(importlib.import_module(place), name)


def probe_attached():
    patch("jaxssl.training.online", "stop_gradient", lambda x: x)


def teacher_trained():
    """Weight decay reaches the moving average."""
    import jax
    own = original("jaxssl.methods.base", "with_teacher")

    def with_teacher(method, names, tau):
        made = own(method, names, tau)

        def post(params, aux, step):
            params, aux = made.post(params, aux, step)
            return params, {**aux, "teacher": jax.tree.map(lambda x: x * 0.999, aux["teacher"])}
        return made._replace(post=post)
    patch("jaxssl.methods.base", "with_teacher", with_teacher)


def key_reused():
    """Views and loss draw from the same key."""
    own = original("jaxssl.training.step", "train_step")

    def train_step(state, batch, *, method, augment, **more):
        met = []

        def views(key, batch):
            met.append(key)
            return augment(key, batch)
        return own(state, batch, method=method._replace(loss=lambda params, aux, batch, key, step: method.loss(params, aux, batch, met[0], step)), augment=views, **more)
    for place in ("jaxssl.training.step", "jaxssl.training.job"):
        patch(place, "train_step", train_step)


def state_not_saved():
    """A checkpoint leaves out what is neither a weight nor a statistic: queue, center, bank."""
    import dataclasses

    import jax
    import jax.numpy as jnp
    manager = original("jaxssl.workdir.checkpoint", "Manager")
    own = manager.save

    def save(self, step, state, meta):
        lost = {name: part if name in ("batch_stats", "teacher", "frozen") else jax.tree.map(jnp.zeros_like, part) for name, part in state.aux.items()}
        own(self, step, dataclasses.replace(state, aux=lost), meta)
    manager.save = save


def local_loss():
    """Each device compares its own images only."""
    own = original("jaxssl.methods.simclr", "nt_xent")

    def nt_xent(z, *, mesh, **how):
        return sum(own(part, mesh=None, **how) for part in z.reshape(mesh.size, -1, *z.shape[1:])) / mesh.size
    patch("jaxssl.methods.simclr", "nt_xent", nt_xent)


def lars_mask_dropped():
    """Biases and norms are decayed and adapted like weights."""
    patch("jaxssl.optim", "defaults", lambda probe_lr: (("^probe/", {"adam": probe_lr}),))


def order_shifted():
    """A run that goes on begins one batch too late."""
    session = original("jaxssl.training.session", "datas")
    own = session.batches
    session.batches = lambda data, *, drawn, start_step=0, **how: own(
        data, drawn=lambda number, rows=None: drawn(number + bool(start_step), rows), start_step=start_step, **how)


def embed_in_train_mode():
    """What is given for an image is normed by the images beside it."""
    patch("jaxssl.methods.base", "embedding", lambda encoder: lambda params, aux, images: encoder(params["encoder"], aux["batch_stats"]["encoder"], images)[0])


def view_sees_the_batch():
    """Images are made as bright as the mean of the batch, a hundredth of the way."""
    import jax.numpy as jnp
    own = original("jaxssl.augment", "make")

    def make(**how):
        views = own(**how)

        def blended(key, batch):
            out = views(key, batch)
            return {**out, "views": out["views"] + 0.01 * jnp.mean(out["views"], 0, keepdims=True)}
        return blended
    patch("jaxssl.augment", "make", make)


def masked_pixels_leak():
    """A patch that is seen holds a hundredth of the patches around it."""
    import jax.numpy as jnp
    net = original("jaxssl.models.net", "Net")
    own = net.__call__

    def call(self, params, stats, x, **how):
        if hasattr(self.module, "patch") and how.keys() & {"keep", "mask"}:
            x = x + 0.01 * jnp.roll(x, self.module.patch, 1)
        return own(self, params, stats, x, **how)
    net.__call__ = call


PLANTS = {
    "probe attached": Plant(probe_attached, ("test_stories.py::test_story[simclr]",)),
    "teacher trained": Plant(teacher_trained, ("test_stories.py::test_moving_average_of_the_encoder", "test_stories.py::test_story[{method}]"), has="teacher"),
    "key reused": Plant(key_reused, ("test_step.py::test_the_loss_meets_no_number_of_the_views_nor_of_another_step",)),
    "center or queue not saved": Plant(state_not_saved, ("test_stories.py::test_story[{method}]",), has="center|queue|bank"),
    "loss of the local batch": Plant(local_loss, ("test_stories.py::test_story[simclr]",)),
    "LARS mask dropped": Plant(lars_mask_dropped, ("test_optim.py::test_lars_equals_optax_lars_with_the_right_masks",
                                                  "test_optim.py::test_lars_is_the_published_algorithm_over_20_steps[False-False]")),
    "resumed order shifted": Plant(order_shifted, ("test_session.py::test_a_stop_in_the_middle_of_each_evaluation",)),
    "embed in train mode": Plant(embed_in_train_mode, ("test_stories.py::test_story[simclr]",)),
    "view sees the batch": Plant(view_sees_the_batch, ("test_augment.py::test_a_view_does_not_depend_on_the_rest_of_the_batch",)),
    "masked pixels leak": Plant(masked_pixels_leak, ("test_stories.py::test_hidden_pixels_are_not_seen[{method}]",), has="method.mask_ratio"),
}


def pytest_addoption(parser):
    parser.addoption("--plant", choices=list(PLANTS), help="a fault that the program has during this run")


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session):
    """Before any test file is imported, and after conftest.py has said on which devices."""
    if name := session.config.getoption("plant"):
        PLANTS[name].plant()
