"""Every method against its paper: the loss and the state it leaves, from a loop in numpy over tiny networks; what teaches it and what does not.

A method joins with a row in `CASES` and an oracle, (params, aux, batch, step, make's keys) -> loss, {path in aux: what the step leaves there}, in numpy.
"""
import functools
import importlib
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl import tree
from jaxssl.errors import UserError
from jaxssl.methods import base
from jaxssl.models import Features, Net

TOTAL, STEP = 10, 3


class Average(nn.Module):
    """The smallest encoder: a linear map of the mean colour, for images of any size."""
    features: int = 5

    @nn.compact
    def __call__(self, x, train, rows=None):
        return Features(nn.Dense(self.features, name="linear")(x.mean((1, 2))), x.reshape(len(x), -1, 3))


class Case(NamedTuple):
    method: str
    oracle: object
    keys: dict
    local: int = 0


# -- the papers, in numpy -----------------------------------------------------------------------------------------------------------------------------------

def encoded(params, views):
    return views.mean((2, 3)) @ params["linear"]["kernel"] + params["linear"]["bias"]                            # [B, V, D]


def normed(x, params):
    """Batch norm of the last axis over all others."""
    axes = tuple(range(x.ndim - 1))
    return (x - x.mean(axes)) / np.sqrt(x.var(axes) + 1e-5) * params["scale"] + params["bias"]


def perceptron(params, x):
    return np.maximum(normed(x @ params["linear1"]["kernel"], params["norm1"]), 0) @ params["linear2"]["kernel"]


def unit(x, axis=-1):
    return x / np.linalg.norm(x, axis=axis, keepdims=True)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def pairs(views, targets):
    return [(s, t) for t in range(targets) for s in range(views) if s != t]


def byol(params, aux, batch, step, keys):
    teacher = aux["teacher"]["params"]
    p = perceptron(params["predictor"], perceptron(params["projector"], encoded(params["encoder"], batch["views"])))
    z = perceptron(teacher["projector"], encoded(teacher["encoder"], batch["views"]))
    return np.mean([np.sum((unit(p[b, s]) - unit(z[b, t])) ** 2) for b in range(len(p)) for s, t in pairs(2, 2)]), {}


def prototype_logits(params, h, norm):
    for i in (1, 2):
        layer = params[f"linear{i}"]
        h = normed(h @ layer["kernel"], params[f"norm{i}"]) if norm else h @ layer["kernel"] + layer["bias"]
        h = h / 2 * (1 + np.vectorize(math.erf)(h / math.sqrt(2)))
    h = unit(h @ params["linear3"]["kernel"] + params["linear3"]["bias"])
    return h @ unit(params["prototypes"]["kernel"], 0) * params["prototypes"].get("gain", 1)


def dino(params, aux, batch, step, keys):
    teacher, norm = aux["teacher"]["params"], keys.get("norm", False)
    h = np.concatenate([encoded(params["encoder"], batch[name]) for name in ("views", "local") if name in batch], 1)
    s, t = prototype_logits(params["head"], h, norm), prototype_logits(teacher["head"], encoded(teacher["encoder"], batch["views"]), norm)
    warm = .04 + (.07 - .04) * min(step / 6, 1)                                                                 # "6_steps", below
    loss = np.mean([-softmax((t[b, j] - aux["center"]) / warm) @ np.log(softmax(s[b, i] / .1)) for b in range(len(s)) for i, j in pairs(s.shape[1], t.shape[1])])
    return loss, {"center": .9 * aux["center"] + .1 * t.mean((0, 1))}


def directpred(params, aux, batch, step, keys):
    teacher = aux["teacher"]["params"]
    z = perceptron(params["projector"], encoded(params["encoder"], batch["views"]))
    t = perceptron(teacher["projector"], encoded(teacher["encoder"], batch["views"]))
    s, u = np.linalg.eigh((aux["correlation"] + aux["correlation"].T) / 2)
    p = z @ (u * ((np.maximum(s, 0) / s[-1]) ** keys.get("power", .5) + .01)) @ u.T
    loss = np.mean([np.sum((unit(p[b, s]) - unit(t[b, j])) ** 2) for b in range(len(p)) for s, j in pairs(2, 2)])
    return loss, {"correlation": .3 * aux["correlation"] + .7 * np.einsum("bvi,bvj->ij", z, z) / 8}


def bottleneck(params, h):
    for i in (1, 2):
        h = h @ params[f"linear{i}"]["kernel"] + params[f"linear{i}"]["bias"]
        h = h / 2 * (1 + np.vectorize(math.erf)(h / math.sqrt(2)))
    return unit(h @ params["linear3"]["kernel"] + params["linear3"]["bias"])


def simdino(params, aux, batch, step, keys):
    teacher, K, B = aux["teacher"]["params"], keys["dim"], len(batch["views"])
    h = np.concatenate([encoded(params["encoder"], batch[name]) for name in ("views", "local")], 1)
    s, t = bottleneck(params["head"], h), bottleneck(teacher["head"], encoded(teacher["encoder"], batch["views"]))
    agreement = np.mean([s[b, i] @ t[b, j] for b in range(B) for i, j in pairs(s.shape[1], 2)])
    rate = 0.
    for v in range(2):
        for g in range(2):                                                                                       # images g, g + 2, …
            z = (s[g::2, v] + t[g::2, v]) / 2
            rate += np.linalg.slogdet(np.eye(K) + K / (B * .05) * z.T @ z)[1] / 2 / 4
    return -agreement - (K + B) / (K * B) * rate, {}


def projections(params, batch):
    h = np.concatenate([encoded(params["encoder"], batch[name]) for name in ("views", "local")], 1)
    head = params["projector"]
    return unit(np.maximum(normed(h @ head["linear1"]["kernel"], head["norm1"]), 0) @ head["linear2"]["kernel"] + head["linear2"]["bias"])


def labelled(params, aux, batch, step, keys, centroids, prototypes, shift, temp):
    """Heads label by views 0, 1, 0, of the bank's rows; row 1 was never written."""
    z, heads = projections(params, batch), len(centroids)
    own = [z[b, :2] if b == 1 else aux["bank"]["rows"][b] for b in range(4)]
    labels = [[np.argmax(centroids[h] @ own[b][h % 2] / temp + shift[h]) for h in range(heads)] for b in range(4)]
    loss = np.mean([-np.log(softmax(prototypes[h] @ z[b, v] / .1))[labels[b][h]] for b in range(4) for v in range(5) for h in range(heads)])
    rows = aux["bank"]["rows"].copy()
    rows[:4] = z[:, :2]
    return loss, {"bank/rows": rows}


def deepcluster(params, aux, batch, step, keys):
    """Between two clusterings."""
    centroids = aux["clusters"]["centroids"]
    return labelled(params, aux, batch, step, keys, centroids, centroids, aux["clusters"]["shift"], 1.)


def sela(params, aux, batch, step, keys):
    prototypes = unit(params["prototypes"]["kernel"], 0).T.reshape(2, 6, 3)
    return labelled(params, aux, batch, step, keys, aux["clusters"]["centroids"], prototypes, aux["clusters"]["shift"], .05)


def tico(params, aux, batch, step, keys):
    teacher = aux["teacher"]["params"]

    def head(params, h):
        return perceptron(params, h) + params["linear2"]["bias"]
    p, z = (unit(head(x["projector"], encoded(x["encoder"], batch["views"]))) for x in (params, teacher))
    C = keys["decay"] * aux["covariance"] + (1 - keys["decay"]) * np.mean([np.outer(x, x) for x in p.reshape(-1, p.shape[-1])], 0)
    agreement = np.mean([1 - p[b, s] @ z[b, t] for b in range(len(p)) for s, t in pairs(2, 2)])
    return agreement + keys["contrast"] * np.mean([x @ C @ x for x in p.reshape(-1, p.shape[-1])]), {"covariance": C}


def msn(params, aux, batch, step, keys):
    """All patches seen; the mean assignment is drawn to a power law, targets are shared out equally or not."""
    def projected(params, h):
        for i in (1, 2):
            h = normed(h @ params[f"linear{i}"]["kernel"], params[f"norm{i}"])
            h = h / 2 * (1 + np.vectorize(math.erf)(h / math.sqrt(2)))
        return unit(h @ params["linear3"]["kernel"] + params["linear3"]["bias"])
    h = np.concatenate([encoded(params["encoder"], batch["views"][:, 1:]), encoded(params["encoder"], batch["local"])], 1)
    teacher, directions = aux["teacher"]["params"], unit(params["prototypes"]["kernel"], 0)
    z, t = projected(params["projector"], h), projected(teacher["projector"], encoded(teacher["encoder"], batch["views"][:, :1]))[:, 0]
    targets = np.stack([softmax(x @ directions / .1) ** 4 for x in t])
    targets /= targets.sum(1, keepdims=True)
    if keys.get("equal", True):
        for _ in range(3):
            targets = targets / targets.sum(0)
            targets = targets / targets.sum(1, keepdims=True)
    p = np.stack([[softmax(x @ directions / .1) for x in row] for row in z])
    mean, prior = p.mean((0, 1)), np.arange(1, 7.) ** -keys.get("exponent", 0)
    return np.mean(-np.einsum("bk,bvk->bv", targets, np.log(p))) + np.sum(mean * np.log(mean * prior.sum() / prior)), {}


def distilled(params, aux, batch, step, keys):
    """Both views; the queue's rows 0 and 2 are of images 0 and 2 themselves. Patches are the pixels' colours to both, so that they add nothing."""
    told, head = encoded(aux["frozen"]["teacher"]["params"]["encoder"], batch["views"]), params["projector"]["linear1"]
    s = unit(encoded(params["encoder"], batch["views"]) @ head["kernel"] + head["bias"])
    center = .99 * aux["center"] + .01 * told.mean((0, 1))
    t, queue = unit(told - center), unit(aux["queue"]["keys"])
    loss = 0
    for b in range(4):
        others = queue[aux["queue"]["ids"] != b]
        for v in range(2):
            p, q = softmax(others @ t[b, v] / .07), softmax(others @ s[b, v] / .07)
            loss += (np.sum(p * np.log(p / q)) + keys["regression"] * np.sum((s[b, v] - t[b, v])**2)) / 8
    keys_after, ids_after = aux["queue"]["keys"].copy(), aux["queue"]["ids"].copy()
    keys_after[4:], ids_after[4:] = t[:, 0], np.arange(4)                                                       # step 3 of 2 a round
    return loss, {"center": center, "queue/keys": keys_after, "queue/ids": ids_after}


def distilled_heads(params, aux, batch, step, keys):
    """The teacher's heads, shared out equally over both views of all images; without patches and KoLeo."""
    of = aux["frozen"]["teacher"]["params"]
    s = prototype_logits(params["head"], np.concatenate([encoded(params["encoder"], batch[name]) for name in ("views", "local")], 1), False)
    q = np.exp(prototype_logits(of["head"], encoded(of["encoder"], batch["views"]), False).reshape(8, -1) / .07)
    for _ in range(3):
        q = q / q.sum(0)
        q = q / q.sum(1, keepdims=True)
    q = q.reshape(4, 2, -1)
    return np.mean([-q[b, j] @ np.log(softmax(s[b, i] / .1)) for b in range(4) for i, j in pairs(5, 2)]), {}


HEAD = dict(prototypes=6, hidden=4, bottleneck=3, teacher_temp_warmup="6_steps")
BANK = dict(prototypes=6, heads=2, hidden=16, dim=3, every="5_steps")
CASES = {
    "byol": Case("byol", byol, dict(hidden=16, dim=3, tau=.9)),
    "directpred": Case("directpred", directpred, dict(hidden=16, dim=3, tau=.9)),
    "directset": Case("directpred", directpred, dict(hidden=16, dim=3, tau=.8, power=1.)),
    "simdino": Case("simdino", simdino, dict(hidden=4, dim=3, tau=.9, groups=2), local=3),
    "deepcluster_v2": Case("deepcluster_v2", deepcluster, dict(BANK, fill="1_steps", heads=3), local=3),
    "sela_v2": Case("sela_v2", sela, dict(BANK, fill="1_steps"), local=3),
    "tico": Case("tico", tico, dict(hidden=16, dim=3, tau=.9, contrast=3., decay=.7)),
    "msn": Case("msn", msn, dict(hidden=8, dim=3, prototypes=6, tau=.9, patch_drop=0.), local=3),
    "pmsn": Case("pmsn", msn, dict(hidden=8, dim=3, prototypes=6, tau=.9, patch_drop=0., exponent=.5, equal=False), local=3),
    "distill": Case("distill", distilled, dict(queue=8, regression=.5)),
    "distill_dinov2": Case("distill_dinov2", distilled_heads, dict(prototypes=6, hidden=4, bottleneck=3, patch_weight=0., koleo=0.), local=3),
    "dino": Case("dino", dino, dict(HEAD, tau=.9), local=3),
    "dino without crops": Case("dino", dino, dict(HEAD, tau=.8, norm=True, norm_last_layer=False)),
}


# -- what holds for each ------------------------------------------------------------------------------------------------------------------------------------

@functools.cache
def made(name):
    """(method, params, aux, batch) of a case: what teaches is not what it starts as, so that one is not taken for the other."""
    case, rng = CASES[name], np.random.default_rng(0)
    batch = {"views": rng.normal(size=(4, 2, 4, 4, 3)).astype(np.float32), "label": np.zeros(4, np.int32), "id": np.arange(4, dtype=np.int32)}
    if case.local:
        batch["local"] = rng.normal(size=(4, case.local, 2, 2, 3)).astype(np.float32)
    context = dict(encoder=Net(Average()), net=Net, mesh=None, batch_size=4, views=2, local=case.local, classes=0, examples=40, total=TOTAL,
                   duration=lambda value, key: int(value.removesuffix("_steps")), frozen=lambda path: base.Frozen(Net(Average())))
    method = base.build(importlib.import_module(f"jaxssl.methods.{case.method}").make, case.keys, context)
    state = jax.tree.map(lambda a: np.asarray(a) + .3 * rng.normal(size=a.shape).astype(np.float32), jax.jit(method.init)(jax.random.key(0), batch))
    params, aux = state
    if "queue" in aux:
        aux["queue"]["ids"] = np.float32([0, -1, 2, -1, -1, -1, 7, 8])
    if "bank" in aux:
        aux["bank"]["rows"][1] = 0                          # an image that was not seen yet
    return method, params, aux, batch


def step_of(name, params, aux):
    method, _, _, batch = made(name)
    return method.loss(params, aux, batch, jax.random.key(1), jnp.int32(STEP))


each = pytest.mark.parametrize("name", CASES)


@each
def test_loss_is_the_papers(name):
    _, params, aux, batch = made(name)
    loss, (left, metrics, seen) = jax.jit(functools.partial(step_of, name))(params, aux)
    wide = jax.tree.map(lambda a: np.asarray(a, np.float64), (params, aux, batch))
    want, changed = CASES[name].oracle(*wide, STEP, CASES[name].keys)
    assert loss == pytest.approx(want, rel=1e-5)
    for path, value in changed.items():
        np.testing.assert_allclose(tree.names(left)[path], value, rtol=1e-5, atol=1e-6, err_msg=path)
    before, after = tree.names(aux), tree.names(left)
    assert before.keys() == after.keys()
    for path in before:                                     # and nothing else in aux but running statistics
        if path not in changed and not path.startswith("batch_stats/"):
            np.testing.assert_array_equal(before[path], after[path], err_msg=path)
    assert all(np.ndim(value) == 0 and np.isfinite(value) for value in metrics.values())
    assert seen["features"].shape[:2] == (4, 1 if "msn" in name else 2)


@each
def test_gradient_reaches_all_that_trains_and_nothing_else(name):
    """The stop-gradient that keeps it from collapse: none through the target; and every network of params is trained."""
    _, params, aux, _ = made(name)
    trained, state = jax.jit(jax.grad(lambda *a: step_of(name, *a)[0], (0, 1)))(params, aux)
    for path, gradient in tree.names(state).items():
        if path.startswith(("teacher/", "frozen/", "queue/", "center", "covariance")):
            assert not np.any(gradient), path
    for network, gradients in trained.items():
        assert any(np.abs(gradient).max() > 1e-6 for gradient in jax.tree.leaves(gradients)), network


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "tau" in case.keys])
def test_teacher_is_the_average(name):
    """Two updates, by the formula of the paper; statistics too. What is evaluated is the teacher."""
    method, params, aux, batch = made(name)
    want, tau0 = aux["teacher"], CASES[name].keys["tau"]
    for step in (STEP, STEP + 1):
        params = jax.tree.map(lambda a: a + np.float32(step), params)
        tau = 1 - (1 - tau0) * (math.cos(math.pi * step / TOTAL) + 1) / 2
        current = {"params": params, "batch_stats": aux["batch_stats"]}
        want = {part: {network: jax.tree.map(lambda old, new: tau * old + (1 - tau) * new, want[part][network], current[part][network]) for network in want[part]} for part in want}
        params, aux = method.post(params, aux, jnp.int32(step))
    for path, value in tree.names(aux["teacher"]).items():
        np.testing.assert_allclose(value, tree.names(want)[path], rtol=1e-5, atol=1e-6, err_msg=path)
    features = method.embed(params, aux, batch["views"][:, 0]).pooled
    np.testing.assert_allclose(features, encoded(want["params"]["encoder"], batch["views"])[:, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method, key", [("byol", "tau"), ("byol", "dim"), ("dino", "student_temp"), ("dino", "center_momentum"), ("dino", "layers")])
def test_a_wrong_key_is_named(method, key):
    make = importlib.import_module(f"jaxssl.methods.{method}").make
    with pytest.raises(UserError, match=f"method.{key} is -1"):
        make(**{"encoder": Net(Average()), "net": Net, "total": 1, **({"duration": None} if method == "dino" else {}), key: -1})
