"""The contrastive methods: goldens by other implementations, what each keeps and learns from, whose rows are whose, and what is refused.

Their losses' loops are in test_losses.py; each method's invariants in test_stories.py.
"""
import functools
import importlib
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl import config as configs, tree
from jaxssl.augment import jigsaw
from jaxssl.encoder import load as loading
from jaxssl.errors import UserError
from jaxssl.losses import bank as banks, contrastive, copies as copying, dictionary, discrimination, matching, unified
from jaxssl.methods import base, nnclr
from jaxssl.models import Features, Net
from jaxssl.parallel import mesh as sharding
from jaxssl.training import job as jobs
from jaxssl.workdir import checkpoint
from tests.test_losses import assert_near
from tests.test_methods import Average
from tests.tiny import BRIEF, ENCODERS, Tiny, config_of, kinds_of_state, small, spec

T = .2


def asked(g):
    return dict(ids=jnp.arange(8), queue_ids=g["queue_ids"].astype(int))


def msf(g, p):
    near, _ = dictionary.nearest(g["z"], g["queue"], count=3, **asked(g))
    return dictionary.mean_shift(p, g["z"], near)


def isd(g, p):
    value, metrics = dictionary.relational(p, g["z"], g["queue"], student_temp=.1, teacher_temp=.02, **asked(g))
    return value - metrics["teacher_entropy"]


def queued(g, q, k):
    """Among rows of other images alone: lightly does not know whose they are."""
    return dictionary.queue_nce(q, k, g["queue"][2:], ids=jnp.arange(8), queue_ids=g["queue_ids"][2:].astype(int), temperature=T)[0]


def sscd(shows, z):
    contrast, entropy, _ = copying.copies(z, shows, temperature=T)
    return contrast + 3 * entropy


# name → ours, from the file's arrays and the one that is differentiated; that array; by what the other's value and gradient are multiplied
GOLDENS = {
    "dcl": (lambda g, z: contrastive.dcl(z, temperature=T), "z", 1.),
    "dclw": (lambda g, z: contrastive.dcl(z, temperature=T, sigma=.5), "z", 1.),
    "directclr": (lambda g, z: contrastive.nt_xent(z[..., :4], temperature=T), "z", 1.),
    "supcon": (lambda g, z: contrastive.sup_con(z, g["labels"].astype(int), classes=3, temperature=T), "z", 1.),
    "nnclr": (lambda g, p: dictionary.neighbour_nce(dictionary.nearest(g["z"], g["queue"], **asked(g))[0][:, :, 0], p[:, ::-1], temperature=T)[0], "p", 1.),
    "msf": (msf, "p", 1.),
    "isd": (isd, "p", 1.),
    "ressl": (lambda g, p: dictionary.relational(p, g["z"], g["queue"], student_temp=.1, teacher_temp=.04, **asked(g))[0], "p", 1.),
    "npid": (lambda g, z: discrimination.softmax(z, g["bank"], ids=jnp.arange(8), examples=10, temperature=T), "z", 1.),
    "moco": (lambda g, q: queued(g, q, g["z"]), "p", 1.),
    "moco_v3": (lambda g, q: 4 * T * dictionary.batch_nce(q, g["z"][:, ::-1], temperature=T)[0], "p", 1.),
    "densecl": (lambda g, q: queued(g, q, matching.corresponding(g["map"], g["other_map"], g["other_places"])), "places", 1.),
    "sscd": (lambda g, z: sscd(g["shows"].astype(int), z), "z", 1.),
    "sscd_alone": (lambda g, z: copying.copies(z, jnp.broadcast_to(jnp.arange(8)[:, None, None], (8, 2, 2)), temperature=T)[0], "z", 1.),
}


@functools.cache
def goldens():
    """tests/goldens/make_contrastive.py made them."""
    with np.load(Path(__file__).parent / "goldens" / "contrastive.npz", allow_pickle=False) as file:
        return {name: jnp.asarray(file[name], jnp.float32) for name in file.files}


@pytest.mark.parametrize("name", GOLDENS)
def test_golden(name):
    g = goldens()
    ours, predicted, times = GOLDENS[name]
    value, grad = jax.jit(jax.value_and_grad(lambda x: ours(g, x)))(g[predicted])
    assert_near(value, times * g[name])
    assert_near(grad, times * g[f"grad_{name}"])


def test_neighbours_are_lightlys():
    g = goldens()
    got, cosine = dictionary.nearest(g["z"][3:5], g["queue"], ids=jnp.array([3, 4]), queue_ids=asked(g)["queue_ids"])
    np.testing.assert_allclose(got[:, :, 0], g["near"][3:5], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(cosine[:, :, 0], jnp.sum(got[:, :, 0] * g["z"][3:5], -1) / jnp.linalg.norm(g["z"][3:5], axis=-1), rtol=1e-5)


def test_every_golden_is_compared():
    made = {"z", "p", "queue", "queue_ids", "bank", "labels", "near", "map", "other_map", "places", "other_places", "shows"}
    assert set(goldens()) == made | set(GOLDENS) | {f"grad_{name}" for name in GOLDENS}


LABELS = jnp.array([0, 1, -1, 0, 2, 2, -1, 0])
ON_A_MESH = {
    "dclw": lambda z, mesh: contrastive.dcl(z, sigma=.5, mesh=mesh), "dcl in tiles": lambda z, mesh: contrastive.dcl(z, block=4, mesh=mesh),
    "supcon in tiles": lambda z, mesh: contrastive.sup_con(z, LABELS, classes=3, block=4, mesh=mesh),
    "lifted": lambda z, mesh: unified.phi_psi(z, unified.FAMILY["lifted"](.1, .2), mesh=mesh),
    "triplet in parts": lambda z, mesh: unified.phi_psi(z, unified.FAMILY["triplet"](.1, .2), block=1, mesh=mesh),
}


@pytest.mark.parametrize("name", ON_A_MESH)
def test_eight_devices_told_of_the_mesh_equal_one(name):
    mesh, z = sharding.make_mesh(devices=jax.devices(), fsdp=2), jax.random.normal(jax.random.key(0), (8, 2, 5))
    (value, grad), (want, slope) = (jax.jit(jax.value_and_grad(functools.partial(ON_A_MESH[name], mesh=m)))(x)
                                    for m, x in ((mesh, jax.device_put(z, sharding.batch(mesh))), (None, z)))
    assert_near(value, want)
    assert_near(grad, slope)


# -- what each method keeps and learns from -----------------------------------------------------------------------------------------------------------------

KEYS = {
    "nnclr": dict(queue=8, hidden=6, dim=3, layers=2, predictor=6), "msf": dict(topk=3, queue=8, hidden=6, dim=3), "isd": dict(queue=8, hidden=6, dim=3),
    "ressl": dict(queue=8, hidden=6, dim=3), "npid": dict(negatives=5, dim=3, proximal=.1), "pirl": dict(negatives=0, dim=3, grid=2, share=.5), "supcon": dict(hidden=6, dim=3),
    "simclr": dict(tau=.9, hidden=6, dim=3), "densecl": dict(queue=8, hidden=6, dim=3), "sscd": dict(mixup=.5, dim=3),
}
IDS = np.array([5, 2, 7, 5], np.int32)          # image 5 stands twice in the batch


class Places(Average):
    """Its places as wide as the image."""
    @nn.compact
    def __call__(self, x, train, rows=None):
        tokens = nn.Dense(self.features, name="linear")(x.reshape(len(x), -1, 3))
        return Features(tokens.mean(1), tokens)


@functools.cache
def made(name, crops=0, **keys):
    """(method, params, aux, batch): the teacher is not what it starts as, and the queue holds a row of image 2 and one of image 7. crops: local ones, the views again."""
    rng, crops = np.random.default_rng(0), crops or name == "pirl"
    views = rng.normal(size=(4, 2, 8, 8, 3)).astype(np.float32)
    batch = {"views": views, **({"local": views[:, :crops]} if crops else {}), "label": np.array([0, 1, -1, 0], np.int32), "id": IDS}
    context = dict(encoder=Net(Places() if name == "densecl" else Average()), net=Net, mesh=None, batch_size=4, views=2, local=crops, classes=3, examples=10, total=10,
                   duration=None)
    method = base.build(importlib.import_module(f"jaxssl.methods.{name}").make, {**KEYS[name], **keys}, context)
    params, aux = jax.tree.map(lambda a: np.asarray(a) + (.3 * rng.normal(size=a.shape).astype(np.float32) if a.dtype == np.float32 else np.zeros_like(a)),
                               jax.jit(method.init)(jax.random.key(0), batch))
    if "queue" in aux:
        aux["queue"]["ids"] = np.array([2, 30, 31, 32, 7, 33, 34, 35], np.int32)
    return method, params, aux, batch


def stepped(name, step=1, **keys):
    """loss, aux after it, metrics, seen; and the gradients to params and to the floats of aux."""
    method, params, aux, batch = made(name, **keys)
    whole = {path: a for path, a in tree.names(aux).items() if a.dtype == np.float32}

    def value(params, floats):
        filled = jax.tree.unflatten(jax.tree.structure(aux), [floats.get(path, a) for path, a in tree.names(aux).items()])
        loss, rest = method.loss(params, filled, batch, jax.random.key(1), jnp.int32(step))
        return loss, (loss, *rest)
    (grads, state), (loss, left, metrics, seen) = jax.jit(jax.grad(value, (0, 1), has_aux=True))(params, whole)
    return loss, left, metrics, seen, grads, state


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("name", KEYS)
def test_what_trains_and_what_does_not(name):
    loss, left, metrics, seen, grads, state = stepped(name)
    assert np.isfinite(loss) and all(np.ndim(v) == 0 and np.isfinite(v) for v in metrics.values()) and len(seen["features"]) == 4
    for path, gradient in state.items():
        if not path.startswith("batch_stats/"):
            assert not np.any(gradient), path
    for network, gradients in grads.items():
        assert any(np.abs(g).max() > 1e-6 for g in jax.tree.leaves(gradients)), network
    before = made(name)[2]
    assert tree.names(before).keys() == tree.names(left).keys()


@pytest.mark.parametrize("name", ["nnclr", "msf", "isd", "ressl", "densecl"])
def test_the_queue_takes_its_rows_in_turn(name):
    """Of step 1, of a queue of two batches, rows 4 to 7; what they hold are unit vectors of these images."""
    before, after = made(name)[2]["queue"], stepped(name)[1]["queue"]
    np.testing.assert_array_equal(after["ids"], [2, 30, 31, 32, *IDS])
    np.testing.assert_array_equal(after["keys"][:4], before["keys"][:4])
    np.testing.assert_allclose(np.linalg.norm(after["keys"][4:], axis=1), 1, rtol=1e-5)
    if name == "nnclr":                                                       # the first view's projections
        np.testing.assert_allclose(after["keys"][4:], unit(stepped(name)[3]["embeddings"][:, 0]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["isd", "ressl"])
def test_relations_leave_the_image_itself_out(name):
    """The loss is the paper's of what the student said and of what went into the queue."""
    loss, left, _, seen, *_ = stepped(name)
    q, k = unit(np.float64(seen["embeddings"][:, 0])), np.float64(left["queue"]["keys"][4:])
    queue, ids = made(name)[2]["queue"]["keys"], made(name)[2]["queue"]["ids"]
    values = []
    for b in range(4):
        rows = unit(np.float64(queue[ids != IDS[b]]))
        s, t = rows @ q[b] / .1, rows @ k[b] / {"isd": .01, "ressl": .04}[name]
        logs, logt = s - np.log(np.exp(s).sum()), t - t.max() - np.log(np.exp(t - t.max()).sum())
        values.append(np.exp(logt) @ ((logt if name == "isd" else 0) - logs))
    assert loss == pytest.approx(np.mean(values), rel=1e-4)


def test_crops_of_relations():
    """ReSSL's student sees crops too, and each is as good as its view: a crop that is that view changes nothing, and one that is not does."""
    plain, same, other = (stepped("ressl", crops=n) for n in (0, 1, 2))
    assert same[0] == pytest.approx(float(plain[0]), rel=1e-6) and abs(other[0] - plain[0]) > 1e-4
    np.testing.assert_allclose(same[3]["embeddings"], plain[3]["embeddings"], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(same[1]["queue"]["keys"], plain[1]["queue"]["keys"])


def test_crops_of_neighbours(monkeypatch):
    """NNCLR's neighbours are of whole views alone, and each meets the predictions of every other crop; crop 2 is view 0 again, and crop 3 view 1."""
    asked = []
    monkeypatch.setattr(nnclr, "neighbour_nce", lambda near, p, temperature: asked.append((near, p)) or (p.sum(), p.sum()))
    method, params, aux, batch = made("nnclr", crops=2)
    seen = method.loss(params, jax.tree.map(jnp.asarray, aux), batch, jax.random.key(1), jnp.int32(1))[1][2]
    (near, p), = asked
    assert near.shape == p.shape == (4, 6, 3) and seen["embeddings"].shape == (4, 2, 3)
    for pair in (1, 2):
        np.testing.assert_array_equal(near[:, pair], near[:, 0])
        np.testing.assert_array_equal(near[:, 3 + pair], near[:, 3])
    assert np.any(near[:, 0] != near[:, 3])
    for pair, crop in enumerate((1, 0, 1, 0, 0, 1)):
        np.testing.assert_allclose(p[:, pair], p[:, 0 if crop else 3], rtol=1e-4, atol=1e-5)


def test_mean_shift_goes_to_the_target_and_to_neighbours_of_other_images():
    loss, left, _, seen, *_ = stepped("msf")
    q, queue, ids = unit(np.float64(seen["embeddings"][:, 0])), np.float64(unit(left["queue"]["keys"])), np.asarray(left["queue"]["ids"])
    values = []
    for b in range(4):
        target, others = queue[4 + b], queue[ids != IDS[b]]
        near = others[np.argsort(-others @ target)[:2]]
        values.append(np.mean([2 - 2 * q[b] @ x for x in (target, *near)]))
    assert loss == pytest.approx(np.mean(values), rel=1e-5)


@pytest.mark.parametrize("name", ["npid", "pirl"])
def test_the_bank_changes_where_the_batch_is(name):
    """An image that stands twice has one row, half of what it was and half of the mean of both places."""
    left, seen = stepped(name)[1], stepped(name)[3]
    before, said = made(name)[2]["bank"], unit(np.float64(seen["embeddings"])).mean(1)
    for i in range(10):
        if i in IDS:
            row = .5 * before[i] + .5 * said[IDS == i].mean(0)
            np.testing.assert_allclose(left["bank"][i], unit(row), rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_array_equal(left["bank"][i], before[i])
    assert len(before) == banks.rows(10)


def test_the_denominator_is_estimated_at_the_first_step_and_kept():
    first, later = stepped("npid", step=0)[1]["log_z"], stepped("npid", step=3)[1]["log_z"]
    assert first != made("npid")[2]["log_z"] == later


def test_a_slow_projector_is_the_only_one_that_is_slow():
    method, params, aux, batch = made("simclr")
    assert set(aux["teacher"]["params"]) == {"projector"}
    _, after = method.post(params, aux, jnp.int32(0))
    old, new, student = (tree.names(x)["linear1/kernel"] for x in (aux["teacher"]["params"]["projector"], after["teacher"]["params"]["projector"], params["projector"]))
    np.testing.assert_allclose(new, .9 * old + .1 * student, rtol=1e-5)
    loss, *_ = stepped("simclr")
    plain, *_ = stepped("simclr", tau=0.)
    assert abs(loss - plain) > 1e-3


def test_a_slow_projector_alone_is_not_what_is_given(tmp_path):
    """A run with `tau` is opened as its student, and says that it has no teacher."""
    tiny = Tiny(config_of("simclr", **{"method.tau": "0.9"}), devices=1)
    manager = checkpoint.open_manager(workdir=tmp_path, asynchronous=False)
    manager.save(1, tiny.state, {})
    manager.close()
    (tmp_path / "config.json").write_text(configs.describe(tiny.config))
    encoder = loading.from_workdir(str(tmp_path))
    assert encoder.weights == "student" and set(encoder.heads) == {"projector"}
    with pytest.raises(UserError, match="has no teacher"):
        loading.from_workdir(str(tmp_path), weights="teacher")


@pytest.mark.parametrize("objective", ["dcl", "dclw", "triplet", "soft_triplet", "tuplet", "lifted"])
def test_simclrs_objectives_differ_and_train(objective):
    loss, *_, grads, _ = stepped("simclr", tau=0., objective=objective)
    assert np.isfinite(loss) and abs(loss - stepped("simclr", tau=0.)[0]) > 1e-3
    assert np.abs(grads["encoder"]["linear"]["kernel"]).max() > 1e-6


def test_directclr_has_no_projector():
    loss, _, _, seen, grads, _ = stepped("simclr", tau=0., layers=0, dim=3)
    assert set(grads) == {"encoder"} and seen["embeddings"].shape == (4, 2, 3)
    np.testing.assert_array_equal(seen["embeddings"], seen["features"][..., :3])
    assert not np.any(grads["encoder"]["linear"]["bias"][3:]) and np.any(grads["encoder"]["linear"]["bias"][:3])


# -- puzzles ------------------------------------------------------------------------------------------------------------------------------------------------

def test_a_puzzle_has_a_patch_of_each_cell():
    """Pixels that say where they are: each patch lies whole in one cell, all nine cells are there, in an order of the image's own."""
    row, column = np.mgrid[:24, :24]
    image = jnp.asarray(np.stack([row, column, 0 * row], -1), jnp.float32)
    found = np.asarray(jigsaw.patches(jax.random.key(0), jnp.broadcast_to(image, (16, 2, 24, 24, 3)), grid=3, share=.75))
    assert found.shape == (16, 2, 9, 6, 6, 3)
    cells = found[..., 0] // 8 * 3 + found[..., 1] // 8
    assert (cells == cells[..., :1, :1]).all()
    assert (np.sort(cells[..., 0, 0], -1) == np.arange(9)).all()
    assert len({tuple(order) for order in cells[..., 0, 0].reshape(32, 9)}) > 28
    np.testing.assert_array_equal(np.diff(found[..., 0], axis=-2), 1)
    np.testing.assert_array_equal(np.diff(found[..., 1], axis=-1), 1)
    assert len(set((found[..., 0, 0, 0] % 8).ravel())) == 3                                   # 8 - 6 + 1 places
    assert jigsaw.side(255, 3, 64 / 85) == 64


# -- what is refused ----------------------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, key, value, words", [
    ("nnclr", "queue", 9, "method.queue is 9; a step adds 4 keys, so choose a multiple of that, as 8"), ("nnclr", "predictor", 0, "method.predictor is 0"),
    ("msf", "topk", 9, "method.topk is 9; it must be at least 1 and at most 8"), ("isd", "teacher_temp", 0., "method.teacher_temp is 0"),
    ("ressl", "student_temp", -1., "method.student_temp is -1"), ("npid", "momentum", 1., "method.momentum is 1.0"), ("pirl", "grid", 1, "method.grid is 1"),
    ("pirl", "share", 1.5, "method.share is 1.5"), ("densecl", "weight", 2., "method.weight is 2"), ("sscd", "mixup", -.1, "method.mixup is -0.1"),
    ("supcon", "temperature", 0., "method.temperature is 0"),
    ("simclr", "objective", "dlc", "method.objective is dlc; it must be one of"), ("simclr", "tau", 1., "method.tau is 1.0"),
    ("simclr", "block", 4, "a slow projector takes objective=nt_xent, block=0"),
])
def test_nonsense_is_refused(name, key, value, words):
    with pytest.raises(UserError, match=words):
        made(name, **{key: value})


def test_more_is_refused():
    with pytest.raises(UserError, match="at most 5, the features that there are"):
        made("simclr", tau=0., layers=0, dim=6)
    for keys, words in ((dict(sigma=.1), "method.sigma is 0.1, which nt_xent does not read; leave it out, or choose method.objective among dclw"),
                        (dict(margin=1., objective="tuplet"), "method.margin is 1.0, which tuplet does not read")):
        with pytest.raises(UserError, match=words):
            made("simclr", tau=0., **keys)
    with pytest.raises(UserError, match="an image of 8 pixels a side cannot be cut into 9 × 9 cells; change method.grid, method.share or local.size"):
        stepped("pirl", grid=9)


@pytest.mark.parametrize("name, changes, facts, words", [
    ("supcon", {}, dict(classes=0), "the images have no labels and supcon learns from them"),
    ("nnclr", {"augment.views": "1"}, {}, "augment.views is 1 and nnclr needs at least 2"),
    ("nnclr", {"augment.views": "4"}, {}, "augment.views is 4, of which nnclr would read 2; set it to that"),
    ("supcon", {"local.views": "2", "local.mean": "(.5, .5, .5)", "local.std": "(.25, .25, .25)"}, {}, "local.views is 2, and supcon reads no local views; leave local out"),
    ("pirl", {"local.views": "0", "local.size": "32"}, {}, "local.views is 0 and pirl needs at least 1"),
])
def test_what_a_method_needs_is_said(name, changes, facts, words):
    config = configs.load("configs/digits/simclr.py", {"method.name": name, **changes})
    config = config.copy_and_resolve_references()
    if "hidden" in config.method and "queue" in config.method:
        config.unlock().method.queue = 128
    with pytest.raises(UserError, match=words):
        jobs.prepare(config, sharding.make_mesh(devices=jax.devices()[:1]), jobs.Facts(1000, facts.get("classes", 10), 32, True))


def test_labels_are_not_read_where_there_are_none():
    """SupCon without a label is SimCLR's loss."""
    z = jax.random.normal(jax.random.key(0), (8, 2, 5))
    assert jax.jit(lambda z: contrastive.sup_con(z, jnp.full(8, -1), classes=3))(z) == pytest.approx(float(jax.jit(contrastive.nt_xent)(z)), rel=1e-6)


@pytest.mark.parametrize("name", [name for name in KEYS if name != "simclr"])
def test_on_a_vision_transformer(name):
    """The loss is traced, from shapes alone; a puzzle's patches are the transformer's, or it is said that they are not."""
    flags = {**BRIEF, **{key: value for key, value in small(name).items() if not key.startswith("model.")}, **ENCODERS["vit"]}
    if name == "pirl":
        with pytest.raises(UserError, match="patches of the puzzle have 3 pixels a side, not a multiple of model.patch=4; change method.grid, method.share"):
            traced(name, flags)
        flags |= {"local.size": "16", "method.share": ".5"}
    assert traced(name, flags) == 64


def traced(name, flags):
    job = jobs.prepare(configs.load(spec(name)[0], flags), sharding.make_mesh(devices=jax.devices()[:1]), jobs.Facts(1000, 10, 16, True))
    return job.embedding()


# -- configs ------------------------------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("data", ["imagenet", "cifar10", "digits"])
def test_variants_are_simclr_with_one_thing_changed(data):
    for name, changed in {"dcl": {"objective": "dcl"}, "dclw": {"objective": "dclw"}, "directclr": {"layers": 0}}.items():
        for variant in ("", ":laptop"):
            method = configs.load(f"configs/{data}/{name}.py{variant}").method
            assert method.name == "simclr" and {key: method[key] for key in changed} == changed


def test_banks_are_rows_and_queues_are_whole():
    assert {m for m in KEYS if ("bank", "rows") in kinds_of_state(m)} == {"npid", "pirl"}
    assert {m for m in KEYS if ("queue", "whole") in kinds_of_state(m)} == {"nnclr", "msf", "isd", "ressl", "densecl"}


def test_neighbours_are_found_where_the_queries_lie():
    """On eight devices nothing as wide as the queue travels."""
    split, whole = (place(sharding.make_mesh(devices=jax.devices())) for place in (sharding.batch, sharding.replicated))
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in (((16, 2, 4), jnp.float32), ((96, 4), jnp.float32), ((16,), jnp.int32), ((96,), jnp.int32))]
    search = jax.jit(lambda z, queue, ids, of: dictionary.nearest(z, queue, ids=ids, queue_ids=of, count=3), in_shardings=(split, whole, split, whole), out_shardings=split)
    text = search.lower(*shapes).compile().as_text()
    assert "f32[2,2,96]" in text and "all-gather" not in text


def test_a_bank_on_eight_devices_is_never_gathered():
    """The compiled step of NPID moves queries and drawn rows between devices, and never the bank."""
    tiny = Tiny(config_of("npid"), devices=8)
    text = tiny.job.step.lower(tiny.state, tiny.batch(0)).compile().as_text()
    rows = banks.rows(len(tiny.data.train))
    assert f"f32[{rows // 8}," in text
    assert not [line for line in text.splitlines() if "all-gather" in line and f"f32[{rows}," in line.split("=")[1][:40]]
