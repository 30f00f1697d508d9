"""Classes apart for training, validation and test; wrong labels and fewer classes: what is drawn, that it is kept, and that nothing leaks."""
import json

import numpy as np
import pytest
from PIL import Image

from jaxssl import data as datas
from jaxssl.data import disjoint
from jaxssl.data.decode import pixel_limit
from jaxssl.data.sources import Subset
from jaxssl.errors import UserError
from jaxssl.evaluation import protocols, subjects
from jaxssl.evaluation.features import cache
from jaxssl.training import train
from tests.tiny import BRIEF, ENCODERS, ROOT

OMNIGLOT = ROOT.parent / "shared" / "data" / "omniglot"
NAMES = [f"{i:03d}" for i in range(200)]


def folder(root, classes, images=3, first=0, side=4):
    """root/<class>/<n>.png, each image of its own."""
    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(images):
            Image.fromarray(np.full((side, side, 3), (first + c * images + i) % 251, np.uint8)).save(root / name / f"{i}.png")
    return str(root)


def opened(path, **keys):
    return datas.make(source="folder", path=path, canvas=4, split="class_disjoint", **keys)


@pytest.mark.parametrize("count, starts, train_length, val_length", [(200, (0, 25, 50, 75), 75, 25), (196, (0, 24, 49, 73), 74, 24), (22634, (0, 2829, 5658, 8487), 8488, 2829),
                                                                     (9, (0, 1, 2, 3), 3, 1)])
def test_folds_are_those_of_musgrave(count, starts, train_length, val_length):
    """CUB, Cars196 and SOP, worked out by hand from int(N · ratio) and a wrapped range that begins at int(p / 4 · N // 2)."""
    names = [f"{i:05d}" for i in range(count)]
    half = count // 2
    for fold, start in enumerate(starts):
        parts = disjoint.decide(names[::-1], fold=fold)
        ring = [names[(start + i) % half] for i in range(half)]
        assert set(parts.train) == set(ring[:train_length]) and set(parts.val) == set(ring[train_length:]) and len(parts.val) == val_length
        assert list(parts.test) == names[half:] and list(parts.train) == sorted(parts.train)


def test_folds_validate_on_different_classes():
    """Fold 0 trains on 0–37.5 % of the classes and validates on 37.5–50 %; 1 on 0–12.5 %; 2 on 12.5–25 %; 3 on 25–37.5 %."""
    firsts = [disjoint.decide(NAMES, fold=fold).val[0] for fold in range(4)]
    assert firsts == ["075", "000", "025", "050"]


def test_by_parent_and_by_lists():
    classes = [f"{a}/{c}" for a in "abcdefgh" for c in range(3)]
    parts = disjoint.decide(classes, by="parent", fold=1)
    assert [sorted({name[0] for name in part}) for part in parts[:3]] == [["b", "c", "d"], ["a"], ["e", "f", "g", "h"]]
    parts = disjoint.decide(classes, val_classes="a", test_classes="b,c/1")
    assert parts.val == ("a/0", "a/1", "a/2") and parts.test == ("b/0", "b/1", "b/2", "c/1") and len(parts.train) == 24 - 7
    parts = disjoint.decide(classes, by="parent", test_classes="g,h")
    assert {name[0] for name in parts.test} == {"g", "h"} and {name[0] for name in parts.val} == {"f"}


def test_a_list_may_be_a_file(tmp_path):
    (tmp_path / "test.txt").write_text("b\n\nd, with a comma\n")
    parts = disjoint.decide(["a", "b", "c", "d, with a comma"], val_classes="a", test_classes=str(tmp_path / "test.txt"))
    assert parts.test == ("b", "d, with a comma") and parts.train == ("c",)


@pytest.mark.parametrize("keys, said", [
    ({"fold": 4}, "fold is 4"), ({"by": "parnet"}, "did you mean 'parent'"), ({"test_classes": "0011"}, "neither a class nor a parent"), ({"by": "parent"}, "class_depth=2"),
    ({"val_classes": "001,002", "test_classes": "002"}, r"in data.val_classes and in data.test_classes \(002\)"), ({"val_classes": "001", "fold": 1}, "no folds"),
    ({"val_classes": "001", "test_classes": ",".join(NAMES[2:] + NAMES[:1])}, "leaves no class to be trained on"), ({"test_classes": ","}, "names no class")])
def test_refused_splits(keys, said):
    with pytest.raises(UserError, match=said):
        disjoint.decide(NAMES, **keys)
    with pytest.raises(UserError, match="at least 8 classes"):
        disjoint.decide(NAMES[:7])


@pytest.mark.parametrize("keys, said", [
    ({"split": "train", "fold": 1}, "split='class_disjoint' only"), ({"test_split": "tset"}, "choose val or test"), ({"holdout": .3}, "holds images out"),
    ({"class_share": 1.5}, "share between 0 and 1"), ({"label_noise": -.1}, "at least 0"), ({"confusable": "x.json"}, "label_noise is 0"), ({"draw_seed": 3}, "none is set"),
    ({"imbalance": .5}, "at least 1"), ({"imbalance": float("nan")}, "at least 1"),
    ({"label_noise": .5, "confusable": "none.json"}, "cannot be read")])
def test_refused_keys(tmp_path, keys, said):
    path = folder(tmp_path / "set", NAMES[:8], 1)
    with pytest.raises(UserError, match=said):
        datas.make(**{"source": "folder", "path": path, "canvas": 4, "split": "class_disjoint", **keys})


def test_labels_are_renumbered_and_images_apart(tmp_path):
    path = folder(tmp_path / "set", NAMES[:16])
    made = {which: opened(path, fold=2, test_split=which) for which in ("val", "test")}
    val, test = made["val"], made["test"]
    assert val.classes == val.train.classes == ("000", "001", "004", "005", "006", "007") and val.test.classes == ("002", "003") and test.test.classes == tuple(NAMES[8:16])
    for source in (val.train, val.test, test.test):
        entries = [source.entry(i) for i in range(len(source))]
        assert [source.classes[label] for label, _ in entries] == [name.split("/")[0] for _, name in entries]
        assert [source.read(i)[1] for i in range(len(source))] == [label for label, _ in entries]
    assert set(val.labels) == set(range(6)) and val.images["classes"] == 6 and val.disjoint
    kept = json.loads(val.kept["split.json"])
    assert kept["train"] == list(val.classes) and kept["test"] == NAMES[8:16] and kept["images"] == {"train": 18, "val": 6}
    assert any("classes apart, fold 2 of 4" in sentence for sentence in val.said)


def test_train_and_test_folders_are_one_pool(tmp_path):
    """Classes of one name in both are one class; the same image in both counts once, another one of the same name stays."""
    folder(tmp_path / "set" / "train", NAMES[:6], 2)
    folder(tmp_path / "set" / "test", NAMES[4:10], 2, first=100)
    (tmp_path / "set/test/004/0.png").write_bytes((tmp_path / "set/train/004/0.png").read_bytes())
    made = opened(str(tmp_path / "set"), max_pixels=77)
    whole = made.train.source
    assert pixel_limit(made.train) == pixel_limit(made.test) == 77
    assert whole.classes == tuple(NAMES[:10]) and len(whole) == 24 - 1 and "1 images lie in both sets and count once" in made.said
    names = [whole.entry(i) for i in range(len(whole))]
    assert all(whole.classes[label] == name.split("/")[0] for label, name in names)
    assert cache.identity(made.train) != cache.identity(opened(str(tmp_path / "set"), fold=1).train)


def test_three_folders_are_one_pool_too(tmp_path):
    for i, name in enumerate(("train", "val", "test")):
        folder(tmp_path / "set" / name, NAMES[4 * i:4 * i + 4], 2, first=100 * i)
    made = opened(str(tmp_path / "set"), test_split="test")
    assert made.classes == tuple(NAMES[:5]) and made.test.classes == tuple(NAMES[6:12]) and len(made.test) == 12
    assert any(sentence.endswith("test/ (8 images) too") for sentence in made.said) and cache.identity(made.test)


def test_a_long_tail_of_classes(tmp_path):
    """Counts by hand: of 8 images each 8, 8 / √4 = 4 and 8 / 4 = 2; a function of the seed; the held-out images and what was declared are of the whole set."""
    path = folder(tmp_path / "set", NAMES[:3], images=8)
    held = folder(tmp_path / "held", NAMES[:3], images=2, first=100)
    keys = dict(source="folder", path=path, test_path=held, canvas=4, imbalance=4., examples=24)
    made, again, other = datas.make(**keys), datas.make(**keys), datas.make(**keys, draw_seed=1)
    record = json.loads(made.kept["imbalance.json"])
    assert list(record["images"].values()) == [8, 4, 2] and record["of"] == 24 and len(made.train) == 14 and len(made.test) == 6
    ids = [[part.train.id(i) for i in range(14)] for part in (made, again, other)]
    assert ids[0] == ids[1] != ids[2] and made.images != other.images
    assert any("14 images, classes of 8 to 2 (data.imbalance=4)" in sentence for sentence in made.said)
    own = subjects.open_data({"data": {**keys, "test_path": held}}, "", {}, resize=4)
    assert len(own.train) == 24 and set(own.kept) == set()


def test_an_evaluation_of_a_run_looks_at_its_classes_of_the_test(tmp_path):
    """With the run's own keys, but no wrong labels and all classes; protocols that would name a class of the training images are refused."""
    path = folder(tmp_path / "set", NAMES[:16])
    own = {"data": {"source": "folder", "path": path, "canvas": 4, "split": "class_disjoint", "fold": 1, "label_noise": .5, "class_share": .5, "sampler": "m_per_class",
                    "per_class": 2, "draw_seed": 1, "examples": 9, "classes": 3}}
    made = subjects.open_data(own, "", {"test_split": "test"}, resize=4)
    assert made.test.classes == tuple(NAMES[8:16]) and made.classes == ("002", "003", "004", "005", "006", "007") and not made.per_class and set(made.kept) == {"split.json"}
    with pytest.raises(UserError, match="knn tells test images the class of training images"):
        protocols.check_labels({"knn": {}, "retrieval": {}}, made)
    protocols.check_labels({"retrieval": {}}, made)


def test_a_planted_leak_is_refused(tmp_path, monkeypatch):
    path = folder(tmp_path / "set", NAMES[:16])
    real = disjoint.decide
    monkeypatch.setattr(disjoint, "decide", lambda *a, **k: (parts := real(*a, **k))._replace(train=(*parts.train, parts.test[0])))
    with pytest.raises(UserError, match=r"trained on and held out \(008\)"):
        opened(path)
    monkeypatch.setattr(disjoint, "decide", real)
    whole = opened(path).train.source
    with pytest.raises(UserError, match=r"1 images are trained on and held out \(000/1.png\)"):
        disjoint.demand(Subset(whole, [0, 1], [0, 0], ("a",)), Subset(whole, [1, 2], [0, 0], ("b",)), ())


def test_a_run_never_reads_a_test_image(tmp_path, monkeypatch):
    """Trained and evaluated to the end on files of which those of the test cannot even be read; the split is in the workdir, and a look at the test is refused."""
    path = folder(tmp_path / "set", NAMES[:16], 5, side=16)
    for name in NAMES[8:16]:
        for file in (tmp_path / "set" / name).iterdir():
            file.write_bytes(b"no image")
    flags = {**BRIEF, **ENCODERS["vit"], "data.source": "folder", "data.path": path, "data.variant": "cluttered", "data.split": "class_disjoint", "data.label_noise": ".2",
             "data.class_share": ".7", "data.sampler": "m_per_class", "data.workers": "0", "data.max_broken": "0", "batch_size": "16", "total": "4", "warmup": "1",
             "report": "false", "log.tensorboard": "false", "eval_every": "2"}
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match="while training"):
        train.run("configs/digits/simclr.py", {**flags, "data.test_split": "test"}, str(tmp_path / "run"))
    result = train.run("configs/digits/simclr.py", flags, str(tmp_path / "run"))
    assert result["broken_images"] == 0 and 0 < result["map_at_r"] <= result["precision_at_1"] <= 1 and "knn" not in result and result["map_at_r_untrained"] > 0
    split = json.loads((tmp_path / "run/split.json").read_text())
    share = json.loads((tmp_path / "run/class_share.json").read_text())
    noise = json.loads((tmp_path / "run/label_noise.json").read_text())
    assert len(split["train"]) == 6 and set(share["classes"]) < set(split["train"]) and len(share["classes"]) == 4
    assert noise["of"] == 20 and len(noise["images"]) == 4 and all(true != given and name.startswith(true) for name, true, given in noise["images"])


@pytest.mark.parametrize("kind", ["uniform", "confusable"])
def test_wrong_labels(tmp_path, kind):
    """A share of them, never the true one, seeded, of training images alone; confusable ones among the classes that a file names."""
    near = {str(c): [str((c + 1) % 10), str((c + 2) % 10)] for c in range(10)}
    (tmp_path / "near.json").write_text(json.dumps(near))
    keys = {"label_noise": .32, **({"confusable": str(tmp_path / "near.json")} if kind == "confusable" else {})}
    clean, made, again, other = (datas.make(canvas=16, **k) for k in ({}, keys, keys, {**keys, "draw_seed": 1}))
    wrong = np.flatnonzero(made.labels != clean.labels)
    assert len(wrong) == round(.32 * len(clean.train)) and np.array_equal(made.labels, again.labels)
    assert len(np.intersect1d(wrong, np.flatnonzero(other.labels != clean.labels))) < .45 * len(wrong)
    step = (made.labels - clean.labels)[wrong] % 10
    assert set(step) == ({1, 2} if kind == "confusable" else set(range(1, 10))) and np.bincount(step).max() < 1.3 * len(wrong) / len(set(step))
    assert [made.test.entry(i) for i in range(50)] == [clean.test.entry(i) for i in range(50)] and made.train.read(int(wrong[0]))[1] == made.labels[wrong[0]]
    record = json.loads(made.kept["label_noise.json"])
    assert record["kind"] == kind and [name for name, *_ in record["images"]] == [clean.train.id(int(i)) for i in wrong]


@pytest.mark.skipif(not OMNIGLOT.is_dir(), reason=f"Omniglot is not at {OMNIGLOT}")
def test_omniglot_by_alphabets():
    """Two parts of it that share two alphabets, file for file."""
    keys = dict(source="zip", path=str(OMNIGLOT / "images_background_small1.zip"), test_path=str(OMNIGLOT / "images_background_small2.zip"), class_depth=2, canvas=28,
                split="class_disjoint", split_by="parent")
    made = datas.make(**keys)
    assert "1,000 images lie in both sets and count once" in made.said
    alphabets = [{name.split("/")[0] for name in part} for part in (made.classes, made.test.classes, json.loads(made.kept["split.json"])["test"])]
    assert alphabets == [{"Balinese", "Early_Aramaic", "Greek"}, {"Japanese_(katakana)"}, {"Korean", "Latin", "Sanskrit", "Tagalog"}]
    assert len(made.train.source) == 2720 + 3120 - 1000 and (len(made.train), len(made.test)) == (1400, 940)
