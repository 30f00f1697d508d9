"""The known collapses, planted: a tiny encoder trains for some hundred steps on cluttered digits, the alarm fires, and where nothing is planted it stays silent."""
import functools
import importlib
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxssl import augment, data as datas
from jaxssl.evaluation.measures import rank, signs
from jaxssl.losses.unit import normalised
from jaxssl.methods import base, dino, msf, simsiam
from jaxssl.models import Features, Net
from jaxssl.models.norm import BatchNorm
from jaxssl.parallel import mesh as sharding
from jaxssl.training import monitor, online

B, STEPS, BATCHES, WIDTH, DIM = 64, 300, 15, 32, 32
LONG = 1000        # steps after which a planted collapse is far beyond its threshold, whatever the rounding of a processor made of the way there
EVERY = pytest.mark.every


class Small(nn.Module):
    """Two layers over grey pixels: what compiles in a second."""
    features: int = WIDTH

    @nn.compact
    def __call__(self, x, train, rows=None):
        h = nn.Dense(64, name="one")(x.mean(-1).reshape(len(x), -1))
        h = nn.relu(nn.Dense(self.features, name="two")(nn.relu(BatchNorm(name="norm")(h, train))))
        return Features(h, h[:, None])


@functools.cache
def views():
    """[batches, B, 2, 12, 12, 3]"""
    data = datas.make(source="digits", variant="cluttered", canvas=32)
    store = datas.store(data, data.train)
    colors = dict(jitter=.8, brightness=.6, contrast=.6, saturation=0., hue=0., gray=0., blur=0., invert=.5, mean=(.5,) * 3, std=(.25,) * 3)
    make = jax.jit(augment.make(size=12, crop_scale=(.5, 1.), flip=0., **colors))
    return np.stack([make(jax.random.key(i), {k: v[i * B:(i + 1) * B] for k, v in store.items()})["views"] for i in range(BATCHES)])


def warned(name, rate, still=(), steps=STEPS, leaps=0, **keys):
    """What the monitor says after so many steps. still: networks of params that do not learn. leaps: every so many steps the gradient is a hundred times itself."""
    context = dict(encoder=Net(Small()), net=Net, mesh=None, batch_size=B, views=2, local=0, classes=0, examples=1000, total=100_000,
                   duration=lambda value, key: value if isinstance(value, int) else 0)
    method = online.watch(base.build(importlib.import_module(f"jaxssl.methods.{name}").make, keys, context), classes=0, width=WIDTH)
    rest = {"id": jnp.arange(B), "label": jnp.zeros(B, int)}

    @jax.jit
    def trained(pixels, key):
        params, aux = method.init(key, {"views": pixels[0, :4], **jax.tree.map(lambda a: a[:4], rest)})
        rates = {network: "still" if network in still else "moves" for network in params}
        tx = optax.multi_transform({"moves": optax.adam(rate), "still": optax.set_to_zero()}, {k: jax.tree.map(lambda _: rates[k], v) for k, v in params.items()})

        def step(state, i):
            params, aux, slots = state
            batch = {"views": pixels[i % BATCHES], **rest}
            (_, (aux, metrics, _)), grads = jax.value_and_grad(method.loss, has_aux=True)(params, aux, batch, jax.random.fold_in(key, i), i)
            grads = jax.tree.map(lambda g: jnp.where(leaps and i % max(leaps, 1) == leaps - 1, 100., 1.) * g, grads)
            updates, slots = tx.update(grads, slots, params)
            params, aux = method.post(optax.apply_updates(params, updates), aux, i)
            return (params, aux, slots), {**metrics, "grad_norm": optax.tree.norm(grads)}
        (params, aux, _), metrics = jax.lax.scan(step, (params, aux, tx.init(params)), jnp.arange(steps))
        return metrics, method.embed(params, aux, pixels[:4].reshape(-1, *pixels.shape[3:])).pooled
    metrics, features = trained(views(), jax.random.key(0))
    metrics = {"gradient_spikes": signs.spikes(metrics["grad_norm"]), **{name: values[-1] for name, values in metrics.items()}}
    print({k: float(v) for k, v in metrics.items()}, rank.rankme(np.asarray(features)))                      # shown where the test fails
    job = SimpleNamespace(embedding=lambda: DIM if "collapse_std" in metrics else None, width=WIDTH, seen={"views": jnp.zeros((B, 1))})
    return " | ".join(monitor.warnings(metrics, {"rankme": rank.rankme(np.asarray(features))}, job))


def collapsed(found):
    """Whether a sentence says that embeddings point the same way, or that they are a point, and another that the predictor or its targets give way."""
    return (("different images point the same way" in found or "embeddings are collapsing" in found)
            and ("the targets are collapsing" in found or "let the predictor keep up" in found))


HEAD = dict(hidden=64, dim=DIM)
PLAIN = {
    "simsiam": functools.partial(warned, "simsiam", predictor=16, layers=2, **HEAD),
    "byol": functools.partial(warned, "byol", 1e-2, **HEAD),
    "dino": functools.partial(warned, "dino", 3e-3, prototypes=32, hidden=64, bottleneck=16, norm=True, teacher_temp=.04, teacher_temp_warmup="0_steps", tau=.99),
    "vicreg": functools.partial(warned, "vicreg", 1e-2, sim=5., cov=2., layers=2, **HEAD),
    "barlow_twins": functools.partial(warned, "barlow_twins", 1e-2, layers=2, **HEAD),
    "lejepa": functools.partial(warned, "lejepa", 1e-2, layers=2, slices=64, **HEAD),
    "visreg": functools.partial(warned, "visreg", 1e-2, layers=2, slices=64, **HEAD),
    "tico": functools.partial(warned, "tico", 3e-3, tau=.99, **HEAD),
    "mmcr": functools.partial(warned, "mmcr", 1e-2, teacher=False, layers=2, **HEAD),
    "msf": functools.partial(warned, "msf", queue=512, topk=5, **HEAD),
    "nnclr": functools.partial(warned, "nnclr", 3e-3, queue=512, layers=2, predictor=64, **HEAD),
    "moco_v3": functools.partial(warned, "moco_v3", tau=.99, **HEAD),
    "sela_v2": functools.partial(warned, "sela_v2", prototypes=16, heads=1, fill=15, every=15, **HEAD),
}


@pytest.mark.parametrize("name, keys", [
    ("simsiam", dict(rate=1e-2)), ("byol", dict(tau=.99)), ("dino", {}), ("vicreg", dict(std=25.)), ("barlow_twins", dict(redundancy_weight=.1)),
    *(pytest.param(name, keys, marks=EVERY) for name, keys in (
        ("byol", dict(tau=.99, still=("predictor",))), ("lejepa", dict(weight=.05)), ("visreg", dict(weight=.6)), ("tico", {}), ("mmcr", {}), ("msf", dict(rate=3e-3, tau=.99)),
        ("nnclr", {}), ("moco_v3", dict(rate=3e-3)), ("sela_v2", dict(rate=3e-4))))])
def test_healthy_runs_are_silent(name, keys):
    assert PLAIN[name](**keys) == ""


def test_simsiam_without_predictor():
    """What is compared is the projection with itself in the other view (table 1 of the paper)."""
    assert collapsed(PLAIN["simsiam"](rate=1e-2, steps=LONG, predictor=0))


def test_simsiam_without_stop_gradient(monkeypatch):
    """Section 4.1."""
    monkeypatch.setattr(simsiam, "cosine_regression", lambda p, z: jnp.square(normalised(p) - normalised(z)[:, ::-1]).sum(-1).mean())
    assert collapsed(PLAIN["simsiam"](rate=3e-3, steps=LONG))


def test_dino_without_centering(monkeypatch):
    """Sharpening alone: one prototype wins everywhere (section 5.3)."""
    monkeypatch.setattr(dino, "centered", lambda teacher, center, temp: jax.lax.stop_gradient(jax.nn.softmax(teacher / temp)))
    found = PLAIN["dino"]()
    assert "the targets say" in found and "one prototype wins everywhere" in found and "the student says" in found


def test_byol_with_decay_0():
    """A target that is the network itself holds only as long as the predictor keeps up (SimSiam is that); with one that stands still it does not, and a slow one does."""
    assert collapsed(PLAIN["byol"](tau=0., still=("predictor",), steps=LONG))


def test_vicreg_without_variance():
    found = PLAIN["vicreg"](std=0.)
    assert "embeddings shrink to a point" in found and "raise method.std" in found


def test_barlow_twins_without_off_diagonal():
    found = PLAIN["barlow_twins"](redundancy_weight=0.)
    assert "dimensions repeat each other" in found and "raise the weight of redundancy" in found


@EVERY
def test_a_queue_of_equal_rows(monkeypatch):
    """Mean shift whose target is the network itself, with its gradient: all targets become one, and so do their neighbours."""
    def itself(encoder, projector, predictor, params, aux, batch, key):
        h, z, stats = base.projected(encoder, projector, params, aux["batch_stats"], batch["views"][:, :2], key)
        return h[:, :1], z[:, :1], z[:, 1:], stats
    monkeypatch.setattr(msf, "asked_and_told", itself)
    monkeypatch.setattr(msf, "mean_shift", lambda q, target, near: jnp.square(normalised(q) - normalised(target)).sum(-1).mean())
    found = PLAIN["msf"](rate=3e-3, steps=LONG)
    assert "different images point the same way" in found and "nearest of the queue's rows are" in found and "method.tau nearer to 1" in found


def test_leaps_of_the_gradient():
    found = PLAIN["vicreg"](std=25., leaps=60)
    assert "the gradient's norm leapt" in found and "model.frozen_patch=true" in found and "optim.clip" in found


def test_leaps_are_counted():
    flat = [1.] * 40
    assert signs.spikes([]) == signs.spikes(flat) == signs.spikes([100., 50., *flat]) == 0            # a run may begin high
    assert signs.spikes([*flat, 11., *flat, 9., *flat, 11., 12., 11.]) == 2                           # and two steps one after another are one leap
    assert signs.spikes([*flat, np.nan, *flat]) == signs.spikes([*flat, np.inf]) == 1
    assert signs.spikes([*flat, 20., *[20.] * 40, 1., 20.]) == 1                                      # what stays is usual by then
    assert signs.spikes([*flat, 20., *[1.] * signs.WINDOW]) == 0


def test_a_run_remembers_the_norms_of_its_steps(tmp_path):
    looker = monitor.Monitor(None, None, sharding.make_mesh(devices=jax.devices()[:1]), tmp_path, False)
    job = SimpleNamespace(embedding=lambda: None, width=8, seen={"views": jnp.zeros((4, 1))})
    for _ in range(3):
        looker.saw([{"grad_norm": norm} for norm in [1.] * 20 + [30.]])
    assert "leapt 3 times" in " ".join(looker.warnings({}, {"rankme": 8.}, job))


@EVERY
@pytest.mark.parametrize("name, keys, words", [("lejepa", dict(weight=0.), "SIGReg is"), ("visreg", dict(weight=0.), "the scale term is"),
                                               ("tico", dict(contrast=0., tau=0.), "same way")])
def test_distribution_without_its_term(name, keys, words):
    assert words in PLAIN[name](**keys)


def test_each_sign_fires_and_is_silent_and_says_what_to_change():
    healthy = {"target_std": .9, "predictor_rank": 9., "target_information": 2., "student_information": 1., "center_share": .3, "off_diagonal": .1, "variance": .2,
               "covariance_rank": 20., "sigreg_over_floor": 2., "visreg_scale": .1, "capacity": .7, "prototypes_used": .6, "duplicates": 0.,
               "prior_divergence": .2, "clusters_in_effect": 30., "neighbour_margin": .3, "gradient_spikes": 2}
    collapsed = {"target_std": .01, "predictor_rank": 1., "target_information": 0., "student_information": 0., "center_share": 1., "off_diagonal": .9, "variance": .98,
                 "covariance_rank": 1., "sigreg_over_floor": .38 * 128, "visreg_scale": 1., "capacity": 64 ** -.5, "prototypes_used": 1 / 64,
                 "duplicates": 1., "prior_divergence": 6., "clusters_in_effect": 1., "neighbour_margin": 0., "gradient_spikes": 3}
    assert set(healthy) == set(collapsed) == set(signs.SIGNS)
    assert signs.warnings(healthy, 64, 128) == [] == signs.warnings({}, None, 128)
    for name in signs.SIGNS:
        for bad in (collapsed[name], np.nan):
            found = signs.warnings({**healthy, name: bad}, 64, 128)
            assert len(found) == 1 and "; " in found[0], name
    assert signs.warnings({"off_diagonal": .6}, 64, 8) == []                     # so much is chance among eight images
