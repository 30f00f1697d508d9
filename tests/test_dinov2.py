"""DINOv2's parts against the official code's values and statistics, and what its masks, groups and anchors promise. The loops of its losses stand in test_losses.py."""
import functools
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl import config as configs, models, schedules
from jaxssl.augment import ragged
from jaxssl.errors import UserError
from jaxssl.losses import distillation, spread
from jaxssl.methods import base, dinov2, simdinov2
from jaxssl.models import Features, Net
from jaxssl.training import job as jobs
from jaxssl.parallel import mesh as sharding
from tests.test_methods import Average, bottleneck, prototype_logits, unit
from tests.tiny import config_of


@functools.cache
def golden():
    """tests/goldens/make_dinov2.py made them, in float64."""
    with np.load(Path(__file__).parent / "goldens" / "dinov2.npz", allow_pickle=False) as file:
        return dict(file)


def test_image_loss_of_the_official_code():
    g = golden()
    target = distillation.centered(g["teacher"], g["center_before"], .04)
    value, slope = jax.jit(jax.value_and_grad(lambda s: distillation.cross_entropy(s, target, student_temp=.1)))(jnp.float32(g["student"]))
    assert value == pytest.approx(g["dino"], rel=1e-5)
    np.testing.assert_allclose(slope, g["grad_dino"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(distillation.update_center(g["center_before"], g["teacher"], .9), g["center"], rtol=1e-5, atol=1e-7)
    shares = jax.jit(functools.partial(distillation.sinkhorn, temp=.04))(jnp.float32(g["teacher"]))
    np.testing.assert_allclose(shares.reshape(16, 6), g["sinkhorn"], rtol=1e-4, atol=1e-6)


def buffer(g):
    """Nine hidden patches in a buffer of twelve, whose last three hold what must not count, and the weights of the places."""
    rest = np.full((3, 6), 1e3)
    weight = np.concatenate([np.repeat(1 / np.maximum(g["mask"].sum(1), 1), g["mask"].sum(1)), np.zeros(3)])
    return [np.float32(np.concatenate([g[name], rest])) for name in ("patch_student", "patch_teacher")], np.float32(weight)


def test_patch_loss_of_the_official_code_in_a_buffer_that_is_not_full():
    g = golden()
    (student, teacher), weight = buffer(g)
    target = distillation.centered(teacher, g["center_before"], .04)
    value, slope = jax.jit(jax.value_and_grad(lambda s: distillation.token_cross_entropy(s, target, weight, student_temp=.1) / 16))(jnp.asarray(student))
    assert value == pytest.approx(g["ibot"], rel=1e-5)
    np.testing.assert_allclose(slope[:9], g["grad_ibot"], rtol=1e-4, atol=1e-6)
    assert not np.any(slope[9:])
    np.testing.assert_allclose(distillation.update_center(g["center_before"], teacher, .9, weight > 0), g["center_patch"], rtol=1e-5, atol=1e-7)
    shares = jax.jit(functools.partial(distillation.sinkhorn, temp=.04))(teacher, weight=jnp.float32(weight > 0))
    np.testing.assert_allclose(shares[:9], g["sinkhorn_patch"], rtol=1e-4, atol=1e-6)
    assert not np.any(shares[9:])


def test_koleo_of_the_official_code():
    g = golden()
    value, slope = jax.jit(jax.value_and_grad(lambda z: 2 * spread.koleo(z)[0]))(jnp.float32(g["features"]))
    assert value == pytest.approx(g["koleo"], rel=1e-4)
    np.testing.assert_allclose(slope, g["grad_koleo"], rtol=1e-3, atol=1e-5)


def test_groups_ids_and_floor_of_koleo():
    z = np.random.default_rng(0).normal(size=(8, 1, 5)).astype(np.float32)
    koleo = jax.jit(spread.koleo, static_argnames=("groups", "floor"))
    apart = np.mean([koleo(z[i::2])[0] for i in range(2)])
    assert koleo(z, groups=2)[0] == pytest.approx(apart, rel=1e-5) and koleo(z)[0] != pytest.approx(apart, rel=1e-3)
    twice = z.copy()
    twice[3] = twice[5] = z[0]                       # three: of two the gradients are each other's opposites
    ids = jnp.array([0, 1, 2, 0, 4, 0, 6, 7])
    assert koleo(twice)[1]["duplicates"] == .375 and koleo(twice, ids=ids)[1]["duplicates"] == 0
    slope = {floor: jax.jit(jax.grad(lambda z: koleo(z, floor=floor)[0]))(twice) for floor in (0., 1e-4)}
    assert np.abs(slope[0.]).max() > 1e5 and np.isfinite(slope[0.]).all() and np.abs(slope[1e-4]).max() < 10
    for groups in (3, 8):
        with pytest.raises(ValueError, match="at least two in a group"):
            spread.koleo(z, groups=groups)


def test_schedules_of_the_short_recipe():
    """The official ones begin each straight line a step earlier."""
    g, at = golden(), (0, 6000, 12500, 60000, 124999)
    config = configs.load("configs/imagenet/dinov2.py")
    job = jobs.prepare(config, sharding.make_mesh(devices=jax.devices()[:1]), jobs.Facts(1281167, 1000, 288, False))
    rate = job.optim.schedule
    ours = {"lr": rate, "decay": job.optim.weight_decay, "momentum": schedules.tau(config.method.tau, job.total),
            "temp": schedules.linear(config.method.teacher_temp_start, config.method.teacher_temp, job.duration(config.method.teacher_temp_warmup, "", 2048))}
    for name, schedule in ours.items():
        np.testing.assert_allclose([schedule(step) for step in at], g[f"schedule_{name}"], rtol=2e-4, atol=1e-9, err_msg=name)
    assert job.total == 125_000 and job.optim.groups["encoder/patch/kernel"]["rate"] == .2


@functools.partial(jax.jit, static_argnames=("exact", "shape", "groups", "multiple"))
def masks(key, exact=True, shape="block", groups=2, multiple=1):
    return ragged.draw(key, 128, (14, 14), share=.5, ratios=(.1, .5), exact=exact, shape=shape, groups=groups, multiple=multiple)


def test_masks_have_the_statistics_of_the_official_code():
    g = golden()
    drawn = jax.vmap(lambda key: masks(key, exact=False, groups=1))(jax.random.split(jax.random.key(0), 20))
    grid = np.asarray(drawn.mask).reshape(-1, 14, 14)
    assert ((grid.reshape(20, 128, -1).any(-1)).sum(1) == g["mask_crops"]).all() and drawn.place.shape[-1] == g["upperbound"] == 3771
    assert grid.mean() == pytest.approx(g["mask_share"], rel=.01)
    assert (grid[:, 1:] & grid[:, :-1]).sum() / grid[:, 1:].sum() == pytest.approx(g["mask_together"], abs=.02)


@pytest.mark.parametrize("shape", ragged.SHAPES)
def test_exact_masks_hide_as_many_in_every_step(shape):
    for seed in range(2):
        gone = masks(jax.random.key(seed), shape=shape, multiple=5)
        counts = np.sort(np.asarray(gone.mask).sum(1).reshape(2, 64))
        want = [0] * 32 + [int(196 * (.1 + .4 * (i + 1) / 32) + 1e-6) for i in range(32)]
        np.testing.assert_array_equal(counts, [want] * 2)
        assert gone.place.size % 5 == 0 and gone.weight.sum() == pytest.approx(64, rel=1e-5)
    tokens = jnp.arange(1., 1 + 128 * 196).reshape(128, 196, 1)
    taken, used = np.asarray(gone.taken(tokens))[:, 0], np.asarray(gone.weight).reshape(-1) > 0
    np.testing.assert_array_equal(np.sort(taken[used]), np.asarray(tokens[..., 0])[np.asarray(gone.mask)])


WRONG = [({"mask_share": ".01"}, "leaves nothing hidden"), ({"mask_ratios": "(0., .01)"}, "leaves nothing hidden"), ({"mask_groups": "5"}, "divisor of the 32"),
         ({"mask_ratios": "(.5, .1)"}, "low ≤ high"), ({"koleo_groups": "16"}, "each the other's neighbour"), ({"patch_hidden": "4"}, "method.separate"),
         ({"assignment": "'sinkhron'"}, "center, sinkhorn")]


@pytest.mark.parametrize("how, words", WRONG)
def test_what_cannot_be_is_a_sentence(how, words):
    with pytest.raises(UserError, match=words):
        config = config_of("dinov2", **{f"method.{key}": value for key, value in how.items()})
        jobs.prepare(config, sharding.make_mesh(devices=jax.devices()[:1]), jobs.Facts(1000, 10, 16, True)).embedding()


def test_the_student_does_not_see_what_is_hidden_and_the_teacher_does():
    """Other pixels in hidden patches: not a bit of what the student says of any crop changes, and what the teacher says of them does."""
    encoder = Net(models.make(name="vit_tiny", patch=4, image=16, width=16, depth=2, heads=2, mask_token=True, precision="f32"))
    batch = {"views": jax.random.normal(jax.random.key(0), (4, 2, 16, 16, 3)), "local": jax.random.normal(jax.random.key(1), (4, 1, 8, 8, 3))}
    params, _ = jax.jit(encoder.init)(jax.random.key(2), batch["views"][:, 0])
    gone = dinov2.drawn(encoder, jax.random.key(3), batch["views"], share=.5, ratios=(.2, .5), groups=2, exact=True, shape="block", smallest=1)

    @jax.jit
    def both(views):
        student = dinov2.seen_masked(encoder, {"encoder": params}, {"encoder": {}}, {**batch, "views": views}, gone.mask, jax.random.key(4))[:2]
        return student, dinov2.seen_whole(encoder, {"params": {"encoder": params}, "batch_stats": {"encoder": {}}}, views)
    hidden = np.repeat(np.repeat(np.asarray(gone.mask).reshape(4, 2, 4, 4), 4, 2), 4, 3)[..., None]
    assert 0 < hidden.mean() < .5
    (student, teacher), (same, other) = both(batch["views"]), both(jnp.where(hidden, 3., batch["views"]))
    jax.tree.map(np.testing.assert_array_equal, student, same)
    changed = np.any(np.asarray(teacher[0] != other[0]), -1)
    np.testing.assert_array_equal(changed, hidden.any((2, 3, 4)))


def test_a_copy_of_the_teacher_is_taken_when_it_anchors():
    method = dinov2.make(encoder=Net(Average()), net=Net, batch_size=4, examples=9, total=20, duration=lambda value, key: int(value.removesuffix("_steps")), prototypes=6, hidden=4,
                         bottleneck=3, teacher_temp_warmup="0_steps", gram_weight=1., gram_from="3_steps", gram_renewed="2_steps", gram_renewals=1)
    batch = {"views": jnp.zeros((4, 2, 4, 4, 3))}
    params, aux = jax.jit(method.init)(jax.random.key(0), batch)
    kept, post = [], jax.jit(method.post)
    for step in range(8):
        teacher = aux["teacher"]["params"]["encoder"]["linear"]["bias"]
        params = jax.tree.map(lambda a: a + 1, params)
        params, aux = post(params, aux, jnp.int32(step))
        kept.append([float(aux["gram"]["params"]["linear"]["bias"][0]), float(teacher[0])])
    kept = np.array(kept)
    assert (kept[:2, 0] == 0).all() and (kept[2:4, 0] == kept[2, 1]).all() and (kept[4:, 0] == kept[4, 1]).all() and 0 < kept[2, 0] < kept[4, 0]


class Patchy(nn.Module):
    """The smallest encoder of patches: each is mapped linearly, hidden ones are the mask token, and the class token is the square of their mean."""
    features: int = 5
    patch: int = 2

    @nn.compact
    def __call__(self, x, train, keep=None, mask=None, rows=None):
        B, H, W, C = x.shape
        x = x.reshape(B, H // 2, 2, W // 2, 2, C).transpose(0, 1, 3, 2, 4, 5).reshape(B, -1, 4 * C)
        tokens = nn.Dense(self.features, name="linear")(x)
        token = self.param("mask", nn.initializers.ones, (self.features,))
        tokens = tokens if mask is None else jnp.where(mask[..., None], token, tokens)
        return Features(jnp.square(tokens.mean(1)), tokens)


def patched(params, views, mask=None):
    """The same in numpy: class tokens [B, V, D] and patches [B · V, N, D]."""
    B, V, H, W, C = views.shape
    x = views.reshape(B * V, H // 2, 2, W // 2, 2, C).transpose(0, 1, 3, 2, 4, 5).reshape(B * V, -1, 4 * C)
    tokens = x @ params["linear"]["kernel"] + params["linear"]["bias"]
    if mask is not None:
        tokens = np.where(mask[..., None], params["mask"], tokens)
    return np.square(tokens.mean(1)).reshape(B, V, -1), tokens


def shares(logits, temp):
    Q = np.exp(logits.reshape(-1, logits.shape[-1]) / temp)
    for _ in range(3):
        Q = Q / Q.sum(0) / Q.shape[1]
        Q = Q / Q.sum(1, keepdims=True) / len(Q)
    return (Q * len(Q)).reshape(logits.shape)


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def of_dinov2(params, aux, batch, hidden, keys):
    teacher, mask = aux["teacher"]["params"], np.asarray(hidden.mask)
    own = "patch_head" if "patch_head" in params else "head"
    h, tokens = patched(params["encoder"], batch["views"], mask)
    pooled = np.concatenate([h, patched(params["encoder"], batch["local"])[0]], 1)
    whole, their_tokens = patched(teacher["encoder"], batch["views"])
    s, t = prototype_logits(params["head"], pooled, False), prototype_logits(teacher["head"], whole, False)
    sp, tp = prototype_logits(params[own], tokens[mask], False), prototype_logits(teacher[own], their_tokens[mask], False)
    if keys["assignment"] == "center":
        q, qp = np.exp(log_softmax((t - aux["center"]) / .05)), np.exp(log_softmax((tp - aux["center_patch"]) / .05))
        left = {"center": .9 * aux["center"] + .1 * t.mean((0, 1)), "center_patch": .9 * aux["center_patch"] + .1 * tp.mean(0)}
    else:
        q, qp, left = shares(t, .05), shares(tp, .05), {}
    image = np.sum([(1 if i < 2 else .5) * -q[b, j] @ log_softmax(s[b, i] / .1) for b in range(4) for i in range(5) for j in range(2) if i != j]) / 4 / 8
    per_crop = mask.sum(1)
    weight = np.concatenate([np.full(n, 1 / n) for n in per_crop if n])
    patch = np.sum(weight * -np.sum(qp * log_softmax(sp / .1), -1)) / ((per_crop > 0).sum() if keys["patch_mean"] == "masked" else 8)
    crops, far = (2 if keys["koleo_crops"] == "both" else 1), 0.
    for v in range(crops):
        for g in range(2):
            x = unit(h[g::2, v])
            far -= sum(np.log(np.linalg.norm(x[i] - x[1 - i] + 1e-8) + 1e-8) for i in range(2)) / 4
    return image + 2 * patch + .3 * far, left


def of_simdinov2(params, aux, batch, hidden, keys):
    teacher, mask = aux["teacher"]["params"], np.asarray(hidden.mask)
    h, tokens = patched(params["encoder"], batch["views"], mask)
    whole, their_tokens = patched(teacher["encoder"], batch["views"])
    s = bottleneck(params["head"], np.concatenate([h, patched(params["encoder"], batch["local"])[0]], 1))
    t, sp, tp = bottleneck(teacher["head"], whole), bottleneck(params["head"], tokens[mask]), bottleneck(teacher["head"], their_tokens[mask])
    agreement = np.mean([s[b, i] @ t[b, j] for b in range(4) for i in range(5) for j in range(2) if i != j])
    rate = sum(np.linalg.slogdet(np.eye(3) + 3 / (4 * .05) * z.T @ z)[1] / 2 for v in range(2) for g in range(2) for z in [(s[g::2, v] + t[g::2, v]) / 2]) / 4
    weight = np.concatenate([np.full(n, 1 / n) for n in mask.sum(1) if n])
    return -agreement - 7 / 12 * rate - np.sum(weight * (sp * tp).sum(-1)) / 8, {}


HEAD = dict(hidden=4, tau=.9, mask_ratios=(.3, .8), mask_smallest=1)
DINO = dict(HEAD, prototypes=6, bottleneck=3, teacher_temp_start=.05, teacher_temp=.05, teacher_temp_warmup="0_steps", local_weight=.5, patch_weight=2., koleo=.3, koleo_groups=2)
WHOLE = {"shared head, center": (dinov2, of_dinov2, dict(DINO, assignment="center", patch_mean="crops", koleo_crops="both", koleo_floor=0.)),
         "two heads, shares": (dinov2, of_dinov2, dict(DINO, assignment="sinkhorn", patch_mean="masked", koleo_crops="first", separate=True, patch_prototypes=7)),
         "simdinov2": (simdinov2, of_simdinov2, dict(HEAD, dim=3, groups=2))}


@pytest.mark.parametrize("name", WHOLE)
def test_loss_of_the_method_is_the_papers(name):
    """Crops, masks, heads, weights and groups together, and what no gradient may reach."""
    module, oracle, keys = WHOLE[name]
    encoder, rng = Net(Patchy()), np.random.default_rng(0)
    batch = {"views": rng.normal(size=(4, 2, 8, 8, 3)).astype(np.float32), "local": rng.normal(size=(4, 3, 4, 4, 3)).astype(np.float32), "id": np.arange(4, dtype=np.int32)}
    context = dict(encoder=encoder, net=Net, batch_size=4, examples=9, total=10, duration=lambda value, key: int(value.removesuffix("_steps").removesuffix("_percent")))
    method = base.build(module.make, keys, context)
    params, aux = jax.tree.map(lambda a: np.asarray(a) + .5 * rng.normal(size=a.shape).astype(np.float32), jax.jit(method.init)(jax.random.key(0), batch))
    key = jax.random.key(1)
    how = dict(share=.5, ratios=(.3, .8), groups=1, exact=True, shape="block", smallest=1)
    hidden = dinov2.drawn(encoder, jax.random.split(key)[0], batch["views"], **how)
    both = jax.jit(jax.value_and_grad(lambda p, a: method.loss(p, a, batch, key, jnp.int32(3)), (0, 1), has_aux=True))
    (loss, (left, metrics, seen)), (trained, state) = both(params, aux)
    want, changed = oracle(*jax.tree.map(lambda a: np.asarray(a, np.float64), (params, aux, {k: batch[k] for k in ("views", "local")})), hidden, keys)
    assert loss == pytest.approx(want, rel=2e-5)
    for path, value in changed.items():
        np.testing.assert_allclose(left[path], value, rtol=1e-4, atol=1e-6, err_msg=path)
    assert not any(np.any(x) for x in jax.tree.leaves({k: v for k, v in state.items() if k in ("teacher", "center", "center_patch")}))
    for network, gradients in trained.items():
        assert any(np.abs(gradient).max() > 1e-6 for gradient in jax.tree.leaves(gradients)), network
    assert seen["features"].shape == (4, 2, 5) and all(np.ndim(value) == 0 and np.isfinite(value) for value in metrics.values())
