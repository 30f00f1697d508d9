"""The recipe command: what it sees in a folder, that its file loads and is the same each time, what follows from what, and what it refuses."""
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from jaxssl import config as configs, recipe, tree
from jaxssl.advice import look, rules, written
from jaxssl.encoder import initial
from jaxssl.errors import UserError
from tests import reported
from tests.tiny import config_of

HERE = rules.Machine(2, 24e9, False, "2 accelerators with 24 GB each")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """24 images of two classes: one repeats another's bytes, one is it again in another size, two are of nearly one colour, one is torn."""
    folder, rng = tmp_path_factory.mktemp("recipe") / "my images", np.random.default_rng(0)
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        for i in range(12):
            blocks = rng.integers(0, 255, (8, 9, 3))
            if (label, i) == ("a", 0):              # neighbours far apart, so that rounding turns none of them
                blocks = (np.arange(8)[:, None, None] * 31 + np.arange(9)[:, None] * 73 + np.array([0, 9, 5])) % 230
            pixels = np.kron(blocks, np.ones((5, 5, 1))).astype(np.uint8)                                   # 40 × 45
            Image.fromarray(pixels).save(folder / label / f"{i:02d}.png")
    first = folder / "a" / "00.png"
    (folder / "b" / "copy.png").write_bytes(first.read_bytes())
    Image.open(first).resize((90, 80), Image.NEAREST).save(folder / "b" / "larger.png")
    for i in (1, 2):
        Image.fromarray(np.full((40, 45, 3), 100 + i, np.uint8)).save(folder / "a" / f"flat{i}.png")
    (folder / "b" / "torn.png").write_bytes(first.read_bytes()[:60])
    Image.fromarray((rng.integers(0, 1000, (40, 45)) * 4).astype(np.uint16)).save(folder / "a" / "deep.png")
    return folder


@pytest.fixture(scope="module")
def facts(images):
    return look.look(str(images))


def of(facts, **other):
    """Facts of a sound set of photographs, but for what is given."""
    plain = {"images": 60_000, "held_out": 6000, "classes": 5, "looked": 2000, "short": (240, 300., 500), "long": (300, 400., 900), "broken": 0, "grey": 0, "deep": 0, "peak": 0,
             "clear": 0, "faint": 0, "alike": 0, "hashed": 20_000, "copies": 0}
    return facts._replace(**{**plain, **other})


def test_a_folder_is_seen_as_it_is(facts, images):
    assert facts.path == str(images) and facts.source == "folder" and facts.classes == 2
    assert facts.images + facts.held_out == 30 and facts.looked == facts.images and facts.broken <= 1
    assert facts.short[1] == 40 and facts.long[1] == 45 and dict(facts.kinds)["PNG RGB"] >= facts.whole - 1
    assert all(0 < m < 1 for m in facts.mean) and all(.01 <= s < .5 for s in facts.std)


def test_what_is_wrong_with_images_is_counted(images, tmp_path):
    for file in images.rglob("*.png"):              # without classes, so that none are held out
        shutil.copy(file, tmp_path / f"{file.parent.name}_{file.name}")
    found = look.look(str(tmp_path))
    assert (found.images, found.held_out, found.classes, found.looked, found.broken) == (30, None, 0, 30, 1)
    assert (found.hashed, found.copies, found.alike, found.faint, found.deep, found.clear) == (30, 1, 2, 2, 1, 0)
    assert found.peak.bit_length() == 12 and found.long == (45, 45., 90)
    said = " ".join(rules.warnings(found))
    assert "1 of 30 images cannot be decoded, so that training refuses" in said and "16 times too dark" in said
    assert "dedup self" in said and "2 of 30 images are nearly of one colour" in said


def test_the_file_loads_and_is_the_same_each_time(images, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipe.main([str(images), "--out", "mine.py"]) == 0
    text = (tmp_path / "mine.py").read_text()
    assert recipe.main([str(images), "--out", "mine.py"]) == 0 and (tmp_path / "mine.py").read_text() == text           # it says so already
    out, err = capsys.readouterr()
    assert "--config mine.py" in out and not err
    config = configs.load("mine.py")
    assert config.data.path == str(images) and config.batch_size == 16 and config.method.name == "simclr" and config.augment.size == 32
    assert int(config.total.removesuffix("_steps")) == 10 * config.checkpoint.keep_every
    assert "thin: arXiv 2404.17202" in text and "by formula, not measured" in text
    (tmp_path / "mine.py").write_text("# changed\n" + text)
    assert recipe.main([str(images), "--out", "mine.py"]) == 2 and "something else" in capsys.readouterr().err
    assert (tmp_path / "mine.py").read_text().startswith("# changed")


@pytest.mark.parametrize("other,machine,method,model,size", [
    ({"images": 5000}, HERE, "lejepa", "vit_small", 224), ({}, HERE, "dino", "vit_small", 224), ({"images": 5000, "short": (50, 60., 70)}, HERE, "lejepa", "resnet18", 64),
    ({"short": (50, 60., 70), "long": (50, 60., 70)}, HERE, "simclr", "resnet18", 64), ({}, HERE._replace(cpu=True, devices=1), "simclr", "resnet10", 64),
    ({"short": (100, 130., 200)}, HERE, "dino", "vit_small", 128), ({"short": (20, 28., 40), "long": (20, 28., 40)}, HERE, "simclr", "resnet18", 32)])
def test_every_recipe_loads_and_says_why(facts, tmp_path, other, machine, method, model, size):
    found = of(facts, **other)
    made = rules.decide(found, machine)
    file = tmp_path / "made.py"
    file.write_text(written.text(found, machine, made, costs=["so many hours"], command="a 'command' with \"quotes\" and \\", out=""))
    config = configs.load(str(file))
    assert (config.method.name, config.model.name, config.augment.size) == (method, model, size)
    assert config.batch_size % machine.devices == 0 and config.data.canvas >= min(size, found.long[2])
    assert set(made.reasons) >= {"method", "model", "optim", "batch_size", "total", "data", "augment"}
    assert all(reason.text and reason.source and reason.evidence in (rules.PUBLISHED, rules.MEASURED, rules.THIN) for reasons in made.reasons.values() for reason in reasons)


def test_values_follow_from_the_set_and_the_machine(facts):
    def batch(images, machine=HERE, most=0):
        return rules.decide(of(facts, images=images), machine, most=most).config
    assert batch(60_000)[""]["batch_size"] == 512 and batch(60_000, most=100)[""]["batch_size"] == 64 and batch(60)[""]["batch_size"] == 16
    assert batch(60_000, HERE._replace(devices=3))[""]["batch_size"] % 3 == 0
    few, fewer = batch(5000), batch(5000, most=64)
    assert few["method"]["weight"] * few[""]["batch_size"] == pytest.approx(fewer["method"]["weight"] * fewer[""]["batch_size"], rel=.01)     # what LeJEPA keeps
    grey = rules.decide(of(facts, grey=2000), HERE)
    assert all(grey.config[section][key] == 0 for section in ("augment", "local") for key in ("saturation", "hue", "gray")) and "grey" in grey.reasons["augment"][0].text
    assert rules.decide(of(facts), HERE).config["augment"]["saturation"] > 0
    begin = {"path": "w", "model": {"name": "vit_small", "patch": 14}, "size": 98, "mean": (.1, .2, .3), "std": (.4, .5, .6), "interpolation": "bicubic"}
    on = rules.decide(of(facts), HERE, weights=begin)
    assert on.config[""]["init_from"] == "w" and on.config["augment"]["mean"] == (.1, .2, .3) and on.config["optim"]["layer_decay"] == .9 and on.config["model"]["patch"] == 14
    # a fifth of the steps from scratch, at the same batch
    scratch = rules.decide(of(facts), HERE, most=256).config[""]
    assert int(on.config[""]["total"].removesuffix("_steps")) == pytest.approx(int(scratch["total"].removesuffix("_steps")) / 5, rel=.02)


def test_memory_decides_by_plans_count():
    count = {"state_and_gradients": 4e9, "activations_at_most_per_image": 1e8}
    assert recipe.fitting(count, 1, 10e9) == 40 and recipe.fitting(count, 4, 10e9) == 160 and recipe.fitting(count, 1, 5e9) == 0


@pytest.mark.parametrize("flags,words", [
    (["missing"], "does not exist"), (["empty"], "holds no images"), (["file.txt"], "is a file that is no zip"), (["few"], "a recipe needs at least 16"), (["digits"], "built in"),
    (["few", "--devices", "2"], "go together"), (["few", "--devices", "-1", "--memory", "4"], "make no sense"), (["few", "--out", "mine.txt"], "ends in .py"),
    (["few", "--time", "--devices", "1", "--memory", "8"], "leave one of them out"), (["few", "--weights", "missing"], "missing")])
def test_wrong_input_is_one_sentence(tmp_path, monkeypatch, capsys, flags, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir(), (tmp_path / "few").mkdir()
    (tmp_path / "file.txt").write_text("no image")
    for i in range(3):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(tmp_path / "few" / f"{i}.png")
    code, (out, err) = recipe.main(flags), capsys.readouterr()
    assert code == 2 and words in err and not out and len(err.strip().splitlines()) == 1, err


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_may_not_be_read(tmp_path, capsys):
    (tmp_path / "closed").mkdir(mode=0)
    assert recipe.main([str(tmp_path / "closed")]) == 2 and "permission" in capsys.readouterr().err.lower()


def test_a_device_that_holds_nothing_is_refused(images, monkeypatch):
    with pytest.raises(UserError, match="not even two images a device"):
        recipe.advise(str(images), devices=1, memory=.001)


@pytest.mark.parametrize("method,decay", [("simclr", 1.), ("mae", .9)])
def test_a_recipe_continues_from_weights(facts, images, tmp_path, method, decay):
    """A residual network and a transformer, as workdirs of random weights: the file loads, and every tensor of the encoder finds its place."""
    reported.workdir(tmp_path / "run", config_of(method), 0)
    begin = recipe.given(str(tmp_path / "run"))
    made = rules.decide(facts, HERE, weights=begin)
    config, job = recipe.loaded(written.text(facts, HERE, made, costs=[], command="", out=""), facts)
    start = initial.read(config.init_from, state=job.state, heads=tuple(job.method.heads), config=config, allow_missing=config.init_allow_missing)
    encoder = {name for name in tree.names({"params": {"encoder": job.state.params["encoder"]}})}
    assert encoder <= set(start.values) and not any("/head/" in name for name in start.values) and "warning" not in start.note
    assert (config.method.name, config.optim.layer_decay, config.augment.size) == ("dino", decay, 16) and job.optim.describe
    frozen = [rule for pattern, rule in config.optim.rules if pattern == "^encoder/"]
    assert frozen == [{"frozen_until": .1}]
