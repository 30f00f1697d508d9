"""Distillation: a teacher of another family sees the views as it was trained to, its weights are read and stay, its licence travels, and what cannot be is one sentence."""
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl import augment, export, main, tree
from jaxssl.encoder import frozen, initial, load as loading
from jaxssl.encoder.formats import safetensors as native
from jaxssl.errors import UserError
from jaxssl.losses import spread
from jaxssl.methods import base, distill, distill_dinov2
from jaxssl.models import Net
from jaxssl.models.prototypes import PrototypeHead
from jaxssl.parallel import mesh as sharding
from jaxssl.training import job as jobs
from jaxssl.workdir import sources
from tests.test_efficientnet import made
from tests.test_methods import Average
from tests.tiny import config_of

MEAN, STD = (.2, .3, .4), (.5, .6, .7)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """An export of a tiny EfficientNet-Lite that was trained on 16 px, with a licence in its record."""
    folder = tmp_path_factory.mktemp("teacher")
    encoder, _ = made(depths=(1, 1))
    encoder.config["augment"] |= {"mean": (.1, .2, .3), "std": (.3, .2, .1), "interpolation": "bicubic"}
    object.__setattr__(encoder, "origin", encoder.origin._replace(licence="apache-2.0"))
    native.write(encoder, folder)
    return str(folder)


def test_teacher_sees_pixels_as_it_was_trained(teacher):
    """What the run's views become is what `Encoder.view` makes of the same pixels; and of another size what it makes of the enlarged ones."""
    pixels = np.random.RandomState(0).randint(0, 255, (4, 16, 16, 3), np.uint8)
    ours = augment.test_view(size=16, mean=MEAN, std=STD)({"image": pixels})
    encoder = loading.load(teacher)
    asked = frozen.opener(Net(encoder.module), mean=MEAN, std=STD, precision="f32")(teacher)
    np.testing.assert_allclose(asked.seen(ours, 0), encoder.view({"image": pixels}), atol=1e-5)
    np.testing.assert_allclose(asked.seen(ours[:, None], 16)[:, 0], encoder.view({"image": pixels}), atol=1e-5)
    larger = augment.test_view(**{**encoder.preprocessing, "size": 24, "resize": 24})({"image": pixels})
    np.testing.assert_allclose(asked.seen(ours, 24), larger, atol=1e-3)
    np.testing.assert_allclose(asked.seen(ours.astype(jnp.bfloat16), 0), encoder.view({"image": pixels}), atol=.06)
    want = jax.jit(lambda v, x: encoder.forward(v, x)[0])(encoder.variables, encoder.view({"image": pixels}))
    got = asked.net(encoder.variables["params"]["encoder"], encoder.variables["batch_stats"]["encoder"], asked.seen(ours, 0), train=False)[0].pooled
    np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


def test_a_side_that_patches_do_not_divide_is_refused():
    with pytest.raises(UserError, match="method.teacher_size is 30; the teacher's patches have 14 pixels a side, so choose a multiple of that, such as 28"):
        frozen.seen(jnp.zeros((1, 8, 8, 3)), 30, ours=(MEAN, STD), theirs={"mean": MEAN, "std": STD, "size": 28, "interpolation": "bilinear"}, multiple=14)


def job_of(teacher, **changes):
    config = config_of("distill", **{"method.teacher": teacher, "method.patch_weight": "1.0", "augment.mean": str(MEAN), **changes})
    return config, jobs.prepare(config, sharding.make_mesh(devices=jax.devices()[:1]), jobs.Facts(1000, 10, 16, True))


def test_a_run_begins_with_the_teachers_weights_and_learns_from_them(teacher):
    """Before they are read there are no numbers, so that a teacher which was not read cannot teach; then the loss is that of its features, and its networks stay."""
    config, job = job_of(teacher)
    params, aux = jax.jit(job.method.init)(jax.random.key(0), jobs.zeros(jobs.few(config, job.seen)))
    asleep = tree.names(aux["frozen"]["teacher"])
    assert asleep and all(np.isnan(leaf).all() for leaf in asleep.values())
    start = initial.add(None, "frozen/teacher", job.method.loads["frozen/teacher"], state=job.state)
    aux["frozen"] = _placed(aux["frozen"], start)
    rng = np.random.default_rng(0)
    batch = {"views": jnp.float32(rng.normal(size=(16, 1, 16, 16, 3))), "label": jnp.zeros(16, jnp.int32), "id": jnp.arange(16)}
    loss, (left, metrics, seen) = jax.jit(job.method.loss)(params, aux, batch, jax.random.key(1), jnp.int32(0))
    assert np.isfinite(loss) and metrics["patches"] > 0 and metrics["similarities"] >= 0 and seen["embeddings"].shape == (16, 1, 320)
    encoder = loading.load(teacher)
    asked = frozen.opener(Net(encoder.module), mean=MEAN, std=config.augment.std, precision="f32")(teacher)
    told = encoder.forward(encoder.variables, asked.seen(batch["views"][:, 0], 0))[0]
    centred = np.asarray(told - told.mean(0))
    np.testing.assert_allclose(left["queue"]["keys"][:16], centred / np.linalg.norm(centred, axis=1, keepdims=True), atol=1e-4)
    np.testing.assert_allclose(left["center"], told.mean(0), rtol=1e-4, atol=1e-5)
    for name, value in tree.names(left["frozen"]["teacher"]).items():
        np.testing.assert_array_equal(value, tree.names(encoder.variables)[name])
    assert start.sources["frozen/teacher"] | {"digest": ""} == {"name": start.sources["frozen/teacher"]["name"], "model": "efficientnet_lite0, width 0.25, blocks (1, 1)",
                                                                "licence": "apache-2.0", "digest": ""}


def _placed(networks, start):
    named = {name.removeprefix("aux/frozen/"): value for name, value in start.values.items()}
    assert named.keys() == tree.names(networks).keys()
    return jax.tree.unflatten(jax.tree.structure(networks), [jnp.asarray(named[name]) for name in tree.names(networks)])


def test_patch_relations_are_the_naive_loop():
    rng = np.random.default_rng(0)
    s, t = np.float32(rng.normal(size=(2, 4, 3))), np.float32(rng.normal(size=(2, 4, 5)))
    want = 0
    for a, b in zip(s, t):
        for p in range(4):
            said, told = ([x[p] @ x[o] / np.linalg.norm(x[p]) / np.linalg.norm(x[o]) / .1 for o in range(4) if o != p] for x in (a, b))
            q, r = (np.exp(x) / np.sum(np.exp(x)) for x in (said, told))
            want += np.sum(r * np.log(r / q)) / 8
    assert spread.patch_relations(s, t, temperature=.1) == pytest.approx(want, rel=1e-5)
    slope = jax.grad(lambda s, t: spread.patch_relations(s, t, temperature=.1), (0, 1))(s, t)
    assert np.abs(slope[0]).max() > 1e-3 and not np.any(slope[1])
    with pytest.raises(ValueError, match="of the same images and places"):
        spread.patch_relations(s, t[:, :3], temperature=.1)


def test_maps_of_two_sizes_meet_on_the_coarser_one():
    """The mean of each quarter, where the teacher's map has twice the places a side; the student's stays as it is."""
    class Any:
        patch = 4
    theirs = type("Other", (), {"patch": 2})()
    x, tokens, told = np.zeros((1, 16, 16, 3)), np.ones((1, 16, 2)), np.repeat(np.repeat(np.arange(16.).reshape(4, 4), 2, 0), 2, 1).reshape(1, 64, 1)
    ours, other = distill.on_one_grid(Any(), x, tokens, theirs, x, told)
    np.testing.assert_array_equal(ours, tokens)
    assert other.shape == (1, 16, 1)
    np.testing.assert_allclose(np.reshape(other, (4, 4))[1:3, 1:3], np.arange(16.).reshape(4, 4)[1:3, 1:3], atol=.3)


@pytest.mark.parametrize("keys, words", [({"teacher_size": -1}, "method.teacher_size is -1"), ({"temperature": 0.}, "method.temperature is 0.0; it must be above 0"),
                                         ({"queue": 6}, "method.queue is 6; a step adds 4 keys"), ({"mix": 2.}, "method.mix is 2.0")])
def test_a_wrong_key_is_named(keys, words):
    with pytest.raises(UserError, match=words):
        distill.make(**{"encoder": Net(Average()), "net": Net, "batch_size": 4, "frozen": lambda path: base.Frozen(Net(Average())), **keys})


def heads(**counts):
    """A teacher with these heads; its weights are at hand."""
    return base.Frozen(Net(Average()), {name: Net(PrototypeHead((4, 3, count))) for name, count in counts.items()}, {"params": {}, "batch_stats": {}})


@pytest.mark.parametrize("teacher, keys, words", [
    (heads(), {}, "method.teacher keeps no head, whose prototypes distill_dinov2 asks .it has no heads.: give a run of dinov2 with .*separate=False, or set method.name=distill"),
    (heads(head=8), {"separate": True}, "keeps no patch_head"), (heads(head=8), {}, "method.prototypes is 6, and the head of method.teacher has 8; set method.prototypes=8"),
    (heads(head=6, patch_head=9), {}, "has a head of its own for patches; set method.separate=True"),
    (heads(head=6, patch_head=9), {"separate": True}, "method.patch_prototypes is 6, and the patch_head of method.teacher has 9"),
    (heads(head=6), {"patch_prototypes": 8}, "method.patch_prototypes is 8; it must be 0 or more, and 0 without method.separate")])
def test_a_teacher_without_such_heads_is_refused(teacher, keys, words):
    with pytest.raises(UserError, match=words):
        distill_dinov2.make(encoder=Net(Average()), net=Net, frozen=lambda path: teacher, prototypes=6, hidden=4, bottleneck=3, **keys)


def test_another_grid_of_patches_is_refused_with_the_size_that_would_fit():
    with pytest.raises(UserError, match="the teacher sees 16 × 16 patches and the student 14 × 14, .* set method.teacher_size=196"):
        distill_dinov2.check_grids((14, 14), (16, 16), 224)
    at = np.asarray(distill_dinov2.places(jax.random.key(0), 5, 16, .5))
    assert at.shape == (5, 8) and all(len(set(row)) == 8 for row in at) and len({tuple(row) for row in at}) == 5
    np.testing.assert_array_equal(at[:3], distill_dinov2.places(jax.random.key(0), 3, 16, .5))


def run(*flags, workdir):
    return main.main(["--config", "configs/digits/distill.py:clean", "--workdir", str(workdir), "--config.total=2", "--config.data.canvas=16", "--config.augment.size=16",
                      "--config.batch_size=16", "--config.model.width=0.0625", "--config.model.depths=(1,)", "--config.method.queue=64", "--config.report=false",
                       "--config.warmup=0",
                      "--config.eval.reference=32", "--config.eval.queries=16", *flags])


@pytest.mark.parametrize("flag, words", [("", "method.teacher is empty, and the run learns from it; give weights"), ("--config.method.teacher={nowhere}", "method.teacher: "),
                                         ("--config.method.teacher={workdir}", "this run's own workdir, and a run cannot learn from what it is about to make")])
def test_a_teacher_that_is_not_there_is_one_sentence(tmp_path, capsys, flag, words):
    workdir = tmp_path / "run"
    assert run(*filter(None, [flag.format(nowhere=tmp_path / "nowhere", workdir=workdir)]), workdir=workdir) == 2
    said = capsys.readouterr().err.strip()
    assert words in said and said.count("\n") == 0 and not workdir.exists()


def test_the_licence_travels_to_the_card_of_the_student(teacher, tmp_path):
    """And on, from the student's export to who learns from it. A person may state it instead."""
    assert run(f"--config.method.teacher={teacher}", workdir=tmp_path / "run") == 0
    learned = json.loads((tmp_path / "run" / sources.FILE).read_text())
    assert learned["frozen/teacher"]["licence"] == "apache-2.0" and sources.licence(str(tmp_path / "run")) == "apache-2.0"
    student = loading.load(tmp_path / "run")
    (tmp_path / "out").mkdir()
    native.write(student, tmp_path / "out")
    check = {"images": 2, "source": "digits", "difference": 0., "limit": 1e-4, "format": "safetensors", "notes": []}
    card = export.describe(native, student, check, str(tmp_path / "run"))
    student = loading.load(tmp_path / "out")
    assert student.origin.licence == "apache-2.0" and student.config["method"]["teacher"] == teacher.rpartition("/")[2]
    assert initial.described_source(student, "mine")["licence"] == "mine"
