"""Packing, TFDS, and the two command lines: what goes in comes out, and nothing half-written stays."""
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from jaxssl import data
from jaxssl.evaluation.features import cache
from jaxssl.data import __main__ as command
from jaxssl.data import array_record as from_shards
from jaxssl.data import decode
from jaxssl.data import inspect as inspecting
from jaxssl.data import open as opening
from jaxssl.data import tfds
from jaxssl.errors import UserError

array_record = pytest.importorskip("array_record", reason="array_record is not installed")


@pytest.fixture
def folder(tmp_path):
    """train/ and test/ of two classes; PNG, JPEG and WebP; landscape, portrait and square."""
    rng, root = np.random.default_rng(0), tmp_path / "set"
    for part, n in (("train", 12), ("test", 5)):
        for i in range(n):
            path = root / part / ("cat", "dog")[i % 2] / f"{i:02d}.{('png', 'jpg', 'webp')[i % 3]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            small = Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8))
            small.resize((20 + 7 * i, 60 - 3 * i), Image.BICUBIC).save(path)
    return root


def run(*args):
    return command.main([str(a) for a in args])


def records(source):
    return [source.read(i) for i in range(len(source))]


@pytest.mark.parametrize("shards", [1, 3])
def test_pack_keeps_bytes_order_labels_and_ids(tmp_path, folder, shards, capsys):
    assert run("pack", folder, tmp_path / "packed", "--shards", shards) == 0
    before, after = data.make(source="folder", path=str(folder)), data.make(source="array_record", path=str(tmp_path / "packed"))
    assert after.classes == before.classes == ("cat", "dog")
    for old, new in ((before.train, after.train), (before.test, after.test)):
        assert [new.id(i) for i in range(len(new))] == [new.entry(i)[1] for i in range(len(new))]
        assert records(new) == records(old) and [new.entry(i) for i in range(len(new))] == [old.entry(i) for i in range(len(old))]
        assert records(pickle.loads(pickle.dumps(new))) == records(old)
    manifest = json.loads((tmp_path / "packed/manifest.json").read_text())
    train = manifest["splits"]["train"]
    assert train["examples"] == 12 and train["shards"] == shards and train["examples_per_class"] == {"cat": 6, "dog": 6}
    assert train["width"] == {"min": 20, "median": 58.5, "max": 97} and train["height"] == {"min": 27, "median": 43.5, "max": 60}
    assert manifest["options"] == {"size": 0, "source": "folder", "path": "set"} and str(tmp_path) not in json.dumps(manifest)
    assert len(list((tmp_path / "packed").glob("*.array_record"))) == 2 * shards
    out = capsys.readouterr()
    assert "train: 12 images" in out.out and "packed 17/17 (100%)" in out.err
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []


def test_the_digest_depends_on_the_records_not_on_the_shards(tmp_path, folder):
    def digest(name, *options):
        run("pack", folder, tmp_path / name, *options)
        return json.loads((tmp_path / name / "manifest.json").read_text())["splits"]["train"]["sha256"]
    one = digest("a")
    assert digest("b", "--shards", 4) == one and digest("c", "--size", 32) != one
    (folder / "train/cat/00.png").rename(folder / "train/cat/000.png")
    assert digest("d") != one


@pytest.mark.parametrize("harm", [lambda text: text[:-9], lambda text: text.split("\n", 1)[1], lambda text: "[1]\n"])
def test_a_damaged_index_is_one_sentence(tmp_path, folder, harm):
    run("pack", folder / "train", tmp_path / "packed")
    file = tmp_path / "packed/train.index.jsonl"
    file.write_text(harm(file.read_text()))
    with pytest.raises(UserError, match="train.index.jsonl .*copy the whole directory again"):
        data.make(source="array_record", path=str(tmp_path / "packed"))


def test_records_that_were_not_packed_are_noticed(tmp_path, folder, monkeypatch):
    """A shard of as many other images beside the manifest: one sentence when a sample shows it, else no image of it is trained on."""
    def opened(name="packed"):
        return data.make(source="array_record", path=str(tmp_path / name), holdout=0.).train
    for i in (0, 1):
        run("pack", folder / "train", tmp_path / ("packed", "other")[i], "--shards", 3)
        (folder / "train/dog/11.webp").write_bytes((folder / "train/dog/01.jpg").read_bytes())
    shard = "train-00002-of-00003.array_record"
    kept = {name: (tmp_path / "packed" / name).read_bytes() for name in (shard, "manifest.json", "train.index.jsonl", "train.crc32")}
    before = opened().contents()
    shutil.copy(tmp_path / "other" / shard, tmp_path / "packed" / shard)
    with pytest.raises(UserError, match="the train record 11 is not the one that was packed, so a shard was replaced; copy the whole directory again"):
        opened()
    monkeypatch.setattr(from_shards, "SAMPLES", 1)                   # the first alone, which is as it was
    found = [error for error in map(broken, [opened()] * 12, range(12)) if error]
    assert found == ["its record is not the one that was packed"]
    monkeypatch.undo()
    (tmp_path / "packed" / shard).write_bytes(kept[shard])
    assert opened().contents() == before and opened().sampled() == ""
    for name in ("train.crc32", "train.index.jsonl"):                # of the other pack, whole and well formed
        (tmp_path / "packed" / name).write_bytes(bytes(48) if name == "train.crc32" else kept[name].replace(b"[0,", b"[1,", 1))
        with pytest.raises(UserError, match=f"{name} is not the file that the manifest beside it was written with"):
            opened().index
        (tmp_path / "packed" / name).write_bytes(kept[name])


def test_a_pack_of_an_earlier_version_is_told_by_samples(tmp_path, folder):
    def opened(source, name):
        run("pack", source, tmp_path / name)
        manifest = tmp_path / name / "manifest.json"
        content = json.loads(manifest.read_text())
        del content["splits"]["train"]["files_sha256"]
        manifest.write_text(json.dumps(content))
        (tmp_path / name / "train.crc32").unlink()
        return data.make(source="array_record", path=str(tmp_path / name), holdout=0.)
    old = opened(folder / "train", "packed")
    assert len(old.train.read(3)[0]) and "sampled_sha256" in old.images
    (folder / "train/dog/11.webp").write_bytes((folder / "train/dog/01.jpg").read_bytes())
    assert opened(folder / "train", "other").train.sampled() != old.train.sampled()


def broken(source, index):
    try:
        source.read(index)
    except decode.Broken as error:
        return str(error)
    return ""


def test_size_shrinks_only_what_is_larger(tmp_path, folder):
    run("pack", folder, tmp_path / "packed", "--size", 48)
    before, after = (opening.open_source(*a)[0] for a in (("folder", str(folder)), ("array_record", str(tmp_path / "packed"))))
    resized = 0
    for (old, *_), (new, *_) in zip(records(before), records(after), strict=True):
        size, shrunk = Image.open(io.BytesIO(old)).size, Image.open(io.BytesIO(new))
        if max(size) <= 48:
            assert new == old
            continue
        resized += 1
        assert shrunk.size == tuple(round(side * 48 / max(size)) for side in size)
        assert shrunk.format == ("JPEG" if Image.open(io.BytesIO(old)).format == "JPEG" else "PNG")
        direct, packed = decode.canvas(old, 48)[0].astype(int), decode.canvas(new, 48)[0].astype(int)
        assert np.abs(direct - packed).max() <= (0 if shrunk.format == "PNG" else 12)
    assert resized > 5


def test_every_kind_of_source_can_be_packed(tmp_path, folder):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(folder))
    run("pack", folder, tmp_path / "a")
    run("pack", tmp_path / "set.zip", tmp_path / "b")
    run("pack", tmp_path / "a", tmp_path / "c")
    digests = [json.loads((tmp_path / x / "manifest.json").read_text())["splits"]["test"]["sha256"] for x in "abc"]
    assert len(set(digests)) == 1
    run("pack", "digits", tmp_path / "d", "--variant", "clean")
    digits, packed = data.make(variant="clean").train, data.make(source="array_record", path=str(tmp_path / "d")).train
    assert all(np.array_equal(decode.canvas(packed.read(i)[0], 32)[0], digits.read(i)[0]) and packed.entry(i) == digits.entry(i) for i in range(0, 1000, 50))


def test_held_out_is_the_same_before_and_after_packing(tmp_path, folder):
    run("pack", folder / "train", tmp_path / "packed")
    before, after = (data.make(source=s, path=str(p), holdout=.4) for s, p in (("folder", folder / "train"), ("array_record", tmp_path / "packed")))
    assert before.test is not None
    assert [before.test.entry(i) for i in range(len(before.test))] == [after.test.entry(i) for i in range(len(after.test))]


def test_packed_sets_stream(tmp_path, folder):
    run("pack", folder, tmp_path / "packed", "--shards", 2)
    config = dict(canvas=24, resident="no")
    sets = [data.make(source=s, path=str(p), workers=w, **config)
            for s, p, w in (("folder", folder, 0), ("array_record", tmp_path / "packed", 0), ("array_record", tmp_path / "packed", 1))]
    streams = [data.batches(made, drawn=data.shuffled(1, 5, len(made.train)), batch_size=5, total_steps=4) for made in sets]
    for items in zip(*streams, strict=True):
        assert all(np.array_equal(items[0][1][k], batch[k]) for _, batch in items[1:] for k in batch)


def test_broken_images_are_left_out_and_listed(tmp_path, folder, capsys):
    (folder / "train/cat/00.png").write_bytes(b"broken")
    assert run("pack", folder, tmp_path / "none") == 2
    assert "max_broken=0.01 allows" in capsys.readouterr().err and not (tmp_path / "none").exists()
    assert run("pack", folder, tmp_path / "packed", "--max_broken", ".2") == 0
    train = json.loads((tmp_path / "packed/manifest.json").read_text())["splits"]["train"]
    assert train["examples"] == 11 and train["broken"] == [["cat/00.png", "no JPEG, PNG, WEBP, BMP, GIF or TIFF file"]]
    assert len(data.make(source="array_record", path=str(tmp_path / "packed")).train) == 11


def test_nothing_half_written_stays(tmp_path, folder, monkeypatch):
    def fail(done, total):
        if done == 8:
            raise KeyboardInterrupt

    from jaxssl.data.pack import pack
    with pytest.raises(KeyboardInterrupt):
        pack(*opening.open_source("folder", str(folder)), str(tmp_path / "packed"), progress=fail)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set"]


def test_destination(tmp_path, folder, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file"):
        assert run("pack", folder, tmp_path / name) == 2
        assert "not an empty folder" in capsys.readouterr().err
    assert (tmp_path / "full/x").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert run("pack", folder, tmp_path / "empty") == 0 and (tmp_path / "empty/manifest.json").is_file()
    assert run("pack", folder, tmp_path / "new" / "deep") == 0
    for options in (("--size", -1), ("--shards", 0)):
        assert run("pack", folder, tmp_path / "other", *options) == 2


def test_the_folder_one_is_in_can_be_packed_into(tmp_path, folder, monkeypatch):
    """And it stays that folder, as a shell that is in it sees it."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run("pack", folder, ".") == 0
    assert len(data.make(source="array_record", path=".").train) == 12
    assert sorted(p.name for p in tmp_path.iterdir()) == ["here", "set"]


@pytest.mark.parametrize("harm, sentence", [
    (lambda p: (p / "manifest.json").unlink(), "not a packed set"),
    (lambda p: (p / "manifest.json").write_text("{"), "not a manifest"),
    (lambda p: (p / "manifest.json").write_text('{"format": "jaxssl.records.9"}'), "jaxssl.records.9"),
    (lambda p: next(p.glob("train*.array_record")).unlink(), "lacks 1 of the 4 files of its train set .train-0000"),
    (lambda p: (p / "train.index.jsonl").unlink(), r"lacks 1 of the 4 files of its train set \(train.index.jsonl\); copy the whole"),
    (lambda p: os.truncate(next(p.glob("train*.array_record")), 70), "copy it again"),
    (lambda p: os.replace(p / "test-00000-of-00002.array_record", p / "train-00000-of-00002.array_record"), "copy the whole directory again"),
])
def test_damaged_packs(tmp_path, folder, harm, sentence):
    run("pack", folder, tmp_path / "packed", "--shards", 2)
    harm(tmp_path / "packed")
    with pytest.raises(UserError, match=sentence):
        data.make(source="array_record", path=str(tmp_path / "packed"))


# TFDS

def png(i):
    out = io.BytesIO()
    Image.fromarray(np.full((8, 9, 3), i * 10, np.uint8)).save(out, "PNG")
    out.seek(0)
    return out


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A set prepared by tensorflow_datasets itself, without TensorFlow."""
    tfds = pytest.importorskip("tensorflow_datasets", reason="tensorflow_datasets is not installed")
    root = tmp_path_factory.mktemp("tfds")

    class Tiny(tfds.core.GeneratorBasedBuilder):
        """Ten grey images whose level is ten times their number."""
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {"image": tfds.features.Image(shape=(None, None, 3)), "label": tfds.features.ClassLabel(names=["even", "odd"])}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, manager):
            return {"train": self._generate_examples(range(10)), "validation": self._generate_examples(range(10, 14))}

        def _generate_examples(self, numbers):
            for i in numbers:
                yield i, {"image": png(i), "label": i % 2}

    Tiny(data_dir=root, file_format="array_record").download_and_prepare()
    return root


@pytest.mark.parametrize("below", ["", "tiny", "tiny/1.0.0"])
def test_tfds(prepared, below):
    made = data.make(source="tfds", path=str(prepared / below), canvas=8)
    assert (len(made.train), len(made.test), made.classes) == (10, 4, ("even", "odd"))
    for source, numbers in ((made.train, range(10)), (made.test, range(10, 14))):
        seen = []
        for i in range(len(source)):
            image, label, name = source.read(i)
            assert isinstance(image, bytes) and source.entry(i) == (label, name)
            number = round(int(decode.canvas(image, 8)[0][0, 0, 0]) / 10)
            assert label == number % 2
            seen.append(number)
        assert sorted(seen) == list(numbers)
        assert [source.id(i) for i in range(len(source))] == [source.entry(i)[1] for i in range(len(source))]
    again = pickle.loads(pickle.dumps(made.train))
    assert again.read(3) == made.train.read(3)
    assert "tensorflow" not in sys.modules
    assert data.make(source="tfds", path=str(prepared), split="validation", test_split="train").test.split == "train"
    held = data.make(source="tfds", path=str(prepared), split="train[:50%]", test_path="none", holdout=0.)
    assert len(held.train) == 5 and held.test is None


def test_a_tfds_set_that_is_prepared_again_is_another(prepared, tmp_path):
    """The identity by which features are cached: the same when the set is opened again, another when its records or what describes them were written since."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)

    def identity():
        return cache.identity(data.make(source="tfds", path=str(tmp_path), canvas=8).train)
    first = identity()
    assert identity() == first
    record, = (tmp_path / "tiny" / "1.0.0").glob("*-train.*")
    for file in (record, tmp_path / "tiny" / "1.0.0" / "dataset_info.json"):
        before = identity()
        os.utime(file, (1, 1))
        assert identity() != before


def test_a_split_with_labels_is_rather_held_out(tmp_path):
    """imagenet2012's test split has label -1 throughout; its validation split is the one to measure on."""
    tfds = pytest.importorskip("tensorflow_datasets", reason="tensorflow_datasets is not installed")

    class Contest(tfds.core.GeneratorBasedBuilder):
        """Four images a split; the labels of `test` are kept back."""
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {"image": tfds.features.Image(shape=(None, None, 3)), "label": tfds.features.ClassLabel(names=["even", "odd"])}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, manager):
            return {split: self._generate_examples(split) for split in ("train", "test", "validation")}

        def _generate_examples(self, split):
            for i in range(4):
                yield i, {"image": png(i), "label": -1 if split == "test" else i % 2}

    Contest(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    made = data.make(source="tfds", path=str(tmp_path))
    assert made.test.split == "validation" and made.test.labelled()
    assert data.make(source="tfds", path=str(tmp_path), test_split="test").test.split == "test"
    made.test.records = None                                # a record that cannot be read still has an id
    assert made.test.entry(2) == (-1, "validation/2")


def test_tfds_mistakes(prepared, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="'trian' is not a split.*did you mean 'train'"):
        data.make(source="tfds", path=str(prepared), split="trian")
    with pytest.raises(UserError, match="no prepared TFDS set.*download_and_prepare"):
        data.make(source="tfds", path=str(tmp_path))
    for version in ("1.0.0", "2.0.0"):
        (tmp_path / "mnist" / version).mkdir(parents=True)
        (tmp_path / "mnist" / version / "dataset_info.json").write_text("{}")
    with pytest.raises(UserError, match="2 prepared sets .*mnist/1.0.0, mnist/2.0.0"):
        data.make(source="tfds", path=str(tmp_path))
    with pytest.raises(UserError, match="not a readable TFDS set"):
        data.make(source="tfds", path=str(tmp_path / "mnist/1.0.0"))
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match="pip install tensorflow-datasets"):
        data.make(source="tfds", path=str(prepared))


def test_tfds_packs(prepared, tmp_path):
    assert run("pack", prepared / "tiny", tmp_path / "packed") == 0
    packed, direct = data.make(source="array_record", path=str(tmp_path / "packed")), data.make(source="tfds", path=str(prepared))
    assert records(packed.train) == records(direct.train) and records(packed.test) == records(direct.test)


def test_array_record_missing(tmp_path, folder, monkeypatch):
    run("pack", folder, tmp_path / "packed")
    monkeypatch.setitem(sys.modules, "array_record.python", None)
    with pytest.raises(UserError, match="pip install array_record"):
        data.make(source="array_record", path=str(tmp_path / "packed"))


# Command lines

def test_inspect(tmp_path, folder, capsys):
    (folder / "train/dog/01.jpg").write_bytes(b"broken")
    Image.new("L", (300, 200)).save(folder / "train/cat/big.png")
    assert run("inspect", folder, "--out", tmp_path / "sheet.png") == 0
    train, test = capsys.readouterr().out.split(f"{folder}/test")
    for expected in ("images    13", "PNG L 1", "JPEG RGB 3", "height    min 27, median 43.5, max 200", "width     min 20", "256–362", "cat 7", "dog 6",
                     "broken    1", "dog/01.jpg: no JPEG, PNG, WEBP, BMP, GIF or TIFF file"):
        assert expected in train, (expected, train)
    assert "images    5" in test and "broken    0" in test
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    red = (sheet == (255, 0, 0)).all(2)
    assert sheet.shape[0] == 2 * inspecting.TILE and red.any() and not red[:inspecting.TILE].any()      # the broken one is in the second row
    for row in range(2):
        assert (sheet[row * inspecting.TILE:(row + 1) * inspecting.TILE, :sheet.shape[1] - 10 * inspecting.TILE] < 90).any()   # its name


def test_contact_sheet_shows_the_images(tmp_path):
    for label, colour in (("red", (200, 0, 0)), ("green", (0, 200, 0))):
        (tmp_path / "s" / label).mkdir(parents=True)
        for i in range(12):
            Image.new("RGB", (16, 16), colour).save(tmp_path / f"s/{label}/{i}.png")
    sheet = np.asarray(inspecting.contact_sheet(opening.open_source("folder", str(tmp_path / "s"))[0]))
    for row, colour in enumerate([(0, 200, 0), (200, 0, 0)]):
        shown = (sheet == colour).all(2)
        assert shown.sum() == 10 * 64 * 64 and shown[row * inspecting.TILE:(row + 1) * inspecting.TILE].sum() == shown.sum()


def test_inspect_without_labels_or_of_a_part(tmp_path, capsys):
    (tmp_path / "s").mkdir()
    for i in range(30):
        Image.new("RGB", (10 + i, 10)).save(tmp_path / f"s/{i:02d}.png")
    assert run("inspect", tmp_path / "s", "--out", tmp_path / "c.png", "--limit", 5) == 0
    out = capsys.readouterr().out
    assert "30 (5 looked at)" in out and "no labels" in out and "width     min 10, median 24" in out
    assert Image.open(tmp_path / "c.png").size == (10 * inspecting.TILE, 3 * inspecting.TILE)
    assert run("inspect", tmp_path / "s", "--out", "") == 0 and "contact sheet" not in capsys.readouterr().out


def test_detect(tmp_path, folder, prepared):
    run("pack", folder, tmp_path / "packed")
    with zipfile.ZipFile(tmp_path / "unnamed", "w") as archive:
        archive.writestr("a.png", b"")
    found = [opening.detect(str(p)) for p in ("digits", folder, tmp_path / "packed", tmp_path / "unnamed", prepared, prepared / "tiny/1.0.0")]
    assert found == ["digits", "folder", "array_record", "zip", "tfds", "tfds"]


def test_mistakes_are_one_sentence_and_exit_2(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    for args in (["inspect", tmp_path / "nothing"], ["pack", tmp_path / "notes.txt", tmp_path / "x"], ["inspect", tmp_path], ["inspect", "digits", "--limit", "-1"]):
        done = subprocess.run([sys.executable, "-m", "jaxssl.data", *args], capture_output=True, text=True)
        assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    done = subprocess.run([sys.executable, "-m", "jaxssl.data", "pack", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--shards" in done.stdout and "bit for bit" in done.stdout
