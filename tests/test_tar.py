"""Tar shards: read in place, by the WebDataset convention, from an index that is kept; what is damaged or hostile is said, or harmless."""
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from jaxssl import data as datas
from jaxssl.data import open as opening, tar
from jaxssl.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(tar, "HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def picture(value, kind="PNG"):
    out = io.BytesIO()
    Image.fromarray(np.full((6, 5, 3), value, np.uint8)).save(out, kind)
    return out.getvalue()


def shard(path, members, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, how.pop("mode", "w"), **how) as out:
        for name, content in members:
            entry = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            entry.size = len(content)
            out.addfile(entry, io.BytesIO(content))
    return path


def labelled(start, count):
    return [(f"{i:04d}.{kind}", content) for i in range(start, start + count) for kind, content in (("png", picture(i)), ("cls", f"{i % 2}\n".encode()))]


def made(path, **keys):
    return datas.make(source="tar", path=str(path), canvas=8, workers=0, **keys)


def test_samples_of_a_key_are_read_in_place_with_their_labels(tmp_path):
    for s in range(2):
        shard(tmp_path / f"set/part-{s:06d}.tar", labelled(10 * s, 10))
    data = made(tmp_path / "set", holdout=0)
    assert opening.detect(str(tmp_path / "set")) == "tar" and data.classes == ("0", "1") and len(data.train) == 20
    assert data.labels.tolist() == [i % 2 for i in range(20)] and data.train.id(13) == "part-000001.tar/0013.png"
    store = datas.store(data, data.train)
    assert store["image"][:, 0, 0, 0].tolist() == list(range(20))
    with pytest.raises(UserError, match="use data.source='tar'"):
        datas.make(source="folder", path=str(tmp_path / "set/part-000000.tar"))
    (tmp_path / "set/cat").mkdir()
    assert opening.detect(str(tmp_path / "set")) == "folder"            # classes beside an archive
    (tmp_path / "set/cat").rmdir()
    assert sorted(p.name for p in (tmp_path / "set").iterdir()) == ["part-000000.tar", "part-000001.tar"]     # nothing is written there


def test_the_index_is_kept_and_made_again_when_a_shard_changes_or_the_index_is_damaged(tmp_path, cache, monkeypatch):
    path = shard(tmp_path / "a.tar", labelled(0, 4))
    first = tar.index(str(path))
    monkeypatch.setattr(tar, "_scan", lambda *_: pytest.fail("read again"))
    assert tar.index(str(path))[0] == first.names
    monkeypatch.undo()
    monkeypatch.setattr(tar, "HOME", str(cache))
    kept, = cache.iterdir()
    kept.write_bytes(kept.read_bytes()[:-40] + b"x" * 40)
    assert tar.index(str(path)).names == first.names
    shard(path, labelled(0, 5))
    assert len(tar.index(str(path)).names) == 5


def test_the_same_on_several_processes_and_after_a_resume(tmp_path):
    shard(tmp_path / "a.tar", labelled(0, 16))
    data = made(tmp_path / "a.tar", holdout=0, resident="no")
    how = dict(drawn=data.order(0, 8), batch_size=8, total_steps=4)
    whole = {step: batch["id"] for step, batch in datas.batches(data, **how)}
    parts = [{step: batch["id"] for step, batch in datas.batches(data, process_index=i, process_count=2, start_step=2, **how)} for i in range(2)]
    for step in (2, 3):
        assert np.concatenate([part[step] for part in parts]).tolist() == whole[step].tolist()
    data.train.read(0)
    assert json.dumps(data.images) == json.dumps(made(tmp_path / "a.tar", holdout=0).images)
    import pickle
    assert pickle.loads(pickle.dumps(data.train)).read(3) == data.train.read(3)


def test_json_labels_folders_and_splits(tmp_path):
    words = [(f"{i}.{kind}", content) for i in range(4) for kind, content in (("jpg", picture(i, "JPEG")), ("json", json.dumps({"label": "ab"[i % 2], "x": 1}).encode()))]
    assert made(shard(tmp_path / "j.tar", words), holdout=0).classes == ("a", "b")
    folders = [(f"./{c}/{i}.png", picture(i)) for c in ("cat", "dog") for i in range(3)]
    assert made(shard(tmp_path / "f.tar", folders), holdout=0).classes == ("cat", "dog")
    for name in ("x-train-0.tar", "x-val-0.tar"):
        shard(tmp_path / "s" / name, labelled(0, 4))
    data = made(tmp_path / "s")
    assert len(data.train) == len(data.test) == 4 and "held out: 4 images of 1 shard (val)" in data.said
    data = made(tmp_path / "s", splits="none", holdout=0)
    assert len(data.train) == 8 and data.test is None
    several = [("1.seg.png", picture(9)), ("1.jpg", picture(1, "JPEG")), ("1.cls", b"0"), ("1.txt", b"words")]
    data = made(shard(tmp_path / "m.tar", several), holdout=0)
    assert data.train.id(0) == "1.jpg" and any("skipped 2 files" in line for line in data.said)


def test_hostile_names_are_names(tmp_path):
    members = [("../../evil.png", picture(1)), ("/etc/evil.png", picture(2)), ("a\x1b[31m.png", picture(3))]
    link = tarfile.TarInfo("link.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    data = made(shard(tmp_path / "in/h.tar", [*members, (link, b"")]), holdout=0)
    assert len(data.train) == 3 and not any("\x1b" in data.train.id(i) for i in range(3))
    assert datas.store(data, data.train)["image"][:, 0, 0, 0].tolist() == [1, 2, 3]
    assert not (tmp_path / "evil.png").exists() and any("links, devices" in line for line in data.said)


@pytest.mark.parametrize("damage, sentence", [
    (lambda p: p.write_bytes(p.read_bytes()[:700]), "truncated|not a whole tar"),
    (lambda p: p.write_bytes(p.read_bytes()[:1024] + b"\xff" * 512 + p.read_bytes()[1536:]), "is damaged at byte 1,024"),
    (lambda p: shard(p, labelled(0, 2), mode="w:gz"), "compressed by gzip"),
    (lambda p: p.write_bytes(b"no tar at all" * 100), "not a whole tar"),
    (lambda p: shard(p, [("1.txt", b"a")]), "holds no image"),
    (lambda p: shard(p, [("1.png", picture(0)), ("1.json", b"{")]), "says no label that can be read")])
def test_what_is_no_whole_plain_tar_is_one_sentence(tmp_path, damage, sentence):
    path = shard(tmp_path / "d.tar", labelled(0, 4))
    damage(path)
    with pytest.raises(UserError, match=sentence):
        made(path)


def test_bytes_that_went_after_listing_are_broken_images(tmp_path):
    path = shard(tmp_path / "a.tar", labelled(0, 4))
    data = made(path, holdout=0, max_broken=.5)
    path.write_bytes(path.read_bytes()[:4620])
    assert datas.store(data, data.train)["id"].tolist()[:2] == [0, 1] and len(data.broken) == 2
