"""Which images a run trains on, from names and what is cheap to know of the contents."""
import json
import os
import types
import zipfile

import numpy as np
import pytest
from PIL import Image

from jaxssl import config as configs, data
from jaxssl.data import dense, digits, files, folder, identity, sources, tfds, zip as zips
from tests.test_data_sources import CLASSED, both, picture, tree


def test_every_source_tells_its_ids_without_reading_an_image(tmp_path, monkeypatch):
    made = [data.make(**kwargs, holdout=0.) for kwargs in both(tree(tmp_path / "set", CLASSED))] + [data.make(), data.make(variant="clean", canvas=16)]
    for one in made:
        assert [one.train.id(i) for i in range(len(one.train))] == [one.train.entry(i)[1] for i in range(len(one.train))]
    for kind in (folder.Folder, zips.Zip, digits.Digits):
        monkeypatch.setattr(kind, "read", lambda *_: pytest.fail("read an image"))
    same = [{key: value for key, value in one.images.items() if key != "contents_sha256"} for one in made[:3]]
    assert same[0] == same[1] == same[2] and same[0]["training_images"] == 6 and same[0]["classes"] == 3 and same[0]["held_out_images"] == 0
    assert made[3].images["held_out_images"] > 0 and made[3].images != made[4].images
    split = types.SimpleNamespace(split="train")     # TFDS keeps no ids: a record has its number
    assert tfds.TFDS.id(split, 3) == "train/3"


def test_images_that_came_went_or_moved_change_the_digest(tmp_path):
    def found():
        return data.make(source="folder", path=str(root), holdout=0.).images
    root = tree(tmp_path / "set", CLASSED)
    first = found()
    assert found() == first and json.loads(json.dumps(first)) == first
    (root / "cat/1.jpg").rename(root / "dog/9.jpg")
    moved = found()
    assert moved["training_images"] == first["training_images"] and moved["names_sha256"] != first["names_sha256"]
    (root / "dog/9.jpg").rename(root / "cat/1.jpg")
    picture(root / "cat/0.jpg")
    assert found()["training_images"] == first["training_images"] + 1
    (root / "cat/0.jpg").unlink()
    (root / "ant/9.JPG").unlink()
    (root / "ant").rmdir()
    assert found()["classes"] == first["classes"] - 1


@pytest.mark.parametrize("source", ["folder", "zip"])
def test_other_contents_under_the_old_names_change_the_digest(tmp_path, source):
    def found():
        if source == "zip":
            with zipfile.ZipFile(root.with_suffix(".zip"), "w") as archive:
                for file in sorted(root.rglob("*.png")):
                    archive.writestr(zipfile.ZipInfo(str(file.relative_to(root))), file.read_bytes())
        return data.make(source=source, path=str(root.with_suffix(".zip") if source == "zip" else root), holdout=.3).images
    root = tree(tmp_path / "set", [f"{c}/{i}.png" for c in "ab" for i in range(20)])
    first, file, other = found(), root / "a/7.png", root / "b/9.png"
    kept, others = file.read_bytes(), other.read_bytes()
    os.utime(file, (1, 1))
    assert found() == first
    for new in (kept[:-20] + bytes([kept[-20] ^ 1]) + kept[-19:], kept + b"more"):       # of the same length, and of another
        file.write_bytes(new)
        apart = found()
        assert apart["contents_sha256"] != first["contents_sha256"] and apart | {"contents_sha256": 0} == first | {"contents_sha256": 0}
    file.write_bytes(others)
    other.write_bytes(kept)
    assert (found() == first) == (kept == others)


@pytest.fixture
def many(tmp_path, monkeypatch):
    """A set that counts as too large to be read, of forty files, of which three are sampled: the first, one in the middle, the last."""
    monkeypatch.setattr(files, "SMALL", (10, 100))
    monkeypatch.setattr(files, "SAMPLES", 3)
    root = tree(tmp_path / "set", [f"{c}/{i}.png" for c in "ab" for i in range(20)])
    for file in root.rglob("*.png"):
        os.utime(file, (1e9, 1e9))
    return root


def opened(root):
    return data.make(source="folder", path=str(root), holdout=.3)


def replaced(file, when):
    """Another image of the same length."""
    kept = file.read_bytes()
    file.write_bytes(kept[:-20] + bytes([kept[-20] ^ 1]) + kept[-19:])
    os.utime(file, (when, when))


def test_a_set_too_large_to_be_read_is_told_by_every_size_and_by_samples(many, monkeypatch):
    read = []
    monkeypatch.setattr(folder, "read_file", lambda path, most: read.append(str(path)[-7:]) or b"")
    first = opened(many).images
    assert sorted(read) == ["a/0.png", "b/0.png", "b/9.png"]         # of forty names in order
    monkeypatch.undo()
    monkeypatch.setattr(files, "SMALL", (10, 100))
    monkeypatch.setattr(files, "SIZED", 2)
    monkeypatch.setattr(files, "SAMPLES", 3)
    first = opened(many).images
    (many / "a/7.png").write_bytes(b"another length")
    sized = opened(many).images
    assert sized["sampled_sha256"] != first["sampled_sha256"] and sized["contents_sha256"] == first["contents_sha256"]
    replaced(many / "b/9.png", 1e9)
    assert opened(many).images["sampled_sha256"] != sized["sampled_sha256"]


def test_an_image_replaced_by_one_of_the_same_length_is_told_by_its_time(many):
    first = opened(many)
    record = json.loads(json.dumps(first.described))
    assert record[identity.WRITTEN]["files"] == 40 and opened(many).rewritten(record) == "" and opened(many).rewritten({}) == ""
    replaced(many / "a/7.png", 2e9)
    assert opened(many).images == first.images
    assert "1 file of 40 was written since this run began with them (a/7.png)" in opened(many).rewritten(record)
    replaced(many / "b/8.png", 2e9)
    assert "2 files of 40 were written since this run began with them (a/7.png, …)" in opened(many).rewritten(record)
    for name in ("a/7.png", "b/8.png"):
        os.utime(many / name, (9e8, 9e8))             # as `cp -p` from elsewhere leaves it
    assert "the 40 files bear other times of writing" in opened(many).rewritten(record)
    for odd in ("x", [], {"newest_ns": "x"}, {"newest_ns": True}):
        assert opened(many).rewritten({identity.WRITTEN: odd}) == ""


def test_a_slow_disk_is_asked_by_many_and_says_the_same(many, monkeypatch):
    monkeypatch.setattr(files, "_TRIED", 4)
    monkeypatch.setattr(files, "_TOGETHER", 7)
    few = opened(many).train.source.files
    facts = few.facts
    monkeypatch.setattr(files, "_SLOW", 0)
    (many / "a/7.png").unlink()
    slow = files.Files(few.root, few.names, few.read).facts
    gone = few.names.index("a/7.png")
    assert slow[gone].tolist() == [-1, -1] and (np.delete(slow, gone, 0) == np.delete(facts, gone, 0)).all()


def test_what_is_said_of_places_counts_among_a_dense_sets_contents(tmp_path):
    for name in ("images/a.png", "images/b.png", "masks/a.png", "masks/b.png"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8), 1).save(file)
    first = dense.open_splits(tmp_path, "", False, False)[0].contents()
    Image.new("L", (8, 8), 2).save(tmp_path / "masks/b.png")
    assert dense.open_splits(tmp_path, "", False, False)[0].contents() != first


def test_a_workdir_from_before_contents_were_told_is_of_the_same_images():
    old, new = {"training_images": 3, "names_sha256": "a"}, {"training_images": 3, "names_sha256": "a", "contents_sha256": "b"}
    assert configs.differences(json.dumps(old), json.dumps(new)) == []
    assert configs.differences(json.dumps(new), json.dumps(new | {"contents_sha256": "c", "sampled_sha256": "d"})) == ["contents_sha256: b → c"]


def test_names_are_read_at_a_thousand_places_and_may_be_no_text():
    class Many:
        name, classes, asked = "many", ("a",), []

        def __len__(self):
            return 1_000_000

        def id(self, index):
            self.asked.append(index)
            return f"a/{index}\udcff"
    many = Many()
    found = identity.describe(many, sources.Subset(many, np.arange(10)), many.classes)
    assert found["training_images"] == 1_000_000 and found["held_out_images"] == 10
    assert len(many.asked) == identity.PLACES + 10 and many.asked[0] == 0 and many.asked[identity.PLACES - 1] == 999_999
