"""Wrong input: one sentence that names what came and what to do, before anything is decoded."""
import os
import shutil
import zipfile

import pytest
from PIL import Image

from jaxssl import data
from jaxssl.data import folder
from jaxssl.errors import UserError


@pytest.fixture
def place(tmp_path):
    """Everything that can be wrong, in one folder."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    for name in ("a.txt", "b.txt", "c.pdf", "README"):
        (tmp_path / "text" / name).write_text("x")
    for name in ("images/cat/1.png", "images/dog/1.png", "other/cat/1.png", "other/cow/1.png", "flat/1.png", "split/train/cat/1.png",
                 "split/train/dog/1.png", "split/val/1.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    with zipfile.ZipFile(tmp_path / "good.zip", "w") as archive:
        archive.write(tmp_path / "images/cat/1.png", "cat/1.png")
        archive.write(tmp_path / "images/dog/1.png", "dog/1.png")
    whole = (tmp_path / "good.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[:len(whole) // 2])
    (tmp_path / "void.zip").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "bz.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.write(tmp_path / "images/cat/1.png", "cat/1.png")
    with zipfile.ZipFile(tmp_path / "text.zip", "w") as archive:
        archive.writestr("a/b.txt", "x")
    with zipfile.ZipFile(tmp_path / "nothing.zip", "w"):
        pass
    secret = bytearray(whole)       # the flag bit that says "encrypted", in both directories of the first entry
    secret[6] |= 1
    secret[whole.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "secret.zip").write_bytes(secret)
    shutil.copytree(tmp_path / "images", tmp_path / "hollow" / "train")
    (tmp_path / "hollow" / "test" / "cat").mkdir(parents=True)
    return tmp_path


TABLE = [
    (dict(source="zipp"), "data.source='zipp'.*digits, folder, zip, tfds, array_record.*did you mean 'zip'"),
    (dict(source="imagenet"), "data.source='imagenet' is not known; choose one of digits"),
    (dict(source="folder"), "data.path is empty.*--config.data.path="),
    (dict(source="folder", path="{}/imagess"), "imagess' does not exist.*did you mean 'images'"),
    (dict(source="folder", path="/nowhere/at/all"), "does not exist.*check the path"),
    (dict(source="folder", path="gs://bucket/images"), "is a URL.*gcsfuse"),
    (dict(source="folder", path="{}/empty"), "empty holds no images.*class/name.jpg"),
    (dict(source="folder", path="{}/text"), r"\.txt \(2\), \.pdf \(1\), no extension \(1\).*supported are \.jpg, \.jpeg, \.png, \.webp"),
    (dict(source="folder", path="{}/good.zip"), "is a file.*use data.source='zip'"),
    (dict(source="folder", path="{}/text/a.txt"), "is a file.*give the folder"),
    (dict(source="zip", path="{}/images"), "is a folder.*use data.source='folder'"),
    (dict(source="zip", path="{}/cut.zip"), "not a readable zip.*truncated"),
    (dict(source="zip", path="{}/void.zip"), "not a readable zip"),
    (dict(source="zip", path="{}/text/a.txt"), "not a readable zip"),
    (dict(source="zip", path="{}/text.zip"), r"\.txt \(1\)"),
    (dict(source="zip", path="{}/nothing.zip"), "holds no images"),
    (dict(source="zip", path="{}/bz.zip"), "neither stored nor deflated"),
    (dict(source="zip", path="{}/secret.zip"), "is encrypted"),
    (dict(source="array_record", path="{}/images"), "not a packed set.*jaxssl.data pack"),
    (dict(source="array_record", path="{}/good.zip"), "not a packed set"),
    (dict(source="tfds", path="{}/images"), "no prepared TFDS set"),
    (dict(source="folder", path="{}/images", test_path="{}/other"), r"other classes.*1 missing \(dog\) and 1 unknown \(cow\).*test_path"),
    (dict(source="folder", path="{}/images", test_path="{}/flat"), r"2 missing \(cat, dog\)"),
    (dict(source="folder", path="{}/split"), r"split/val has other classes.*2 missing"),
    (dict(source="folder", path="{}/hollow"), r"hollow/test holds no images.*data.test_path=none"),
    (dict(source="folder", path="{}/images", test_path="{}/nope"), "data.test_path='.*nope' does not exist"),
    (dict(path="{}/images"), "has no use with data.source='digits'.*data.source='folder'"),
    (dict(holdout=0.2), "data.holdout=0.2 has no use with data.source='digits'"),
    (dict(source="folder", path="{}/images", variant="clean"), "data.variant='clean' has no use with data.source='folder'; it is read with digits only"),
    (dict(test_path="none"), "has no use with data.source='digits'"),
    (dict(variant="cluterred"), "data.variant='cluterred'.*did you mean 'cluttered'"),
    (dict(resident="maybe"), "data.resident='maybe' is none of auto, yes, no"),
    (dict(canvas=0), "data.canvas=0 makes no sense; it must be at least 1"),
    (dict(canvas=-32), "data.canvas=-32"),
    (dict(workers=-2), "data.workers=-2"),
    (dict(holdout=-.1), "data.holdout=-0.1"),
    (dict(holdout=1.5), "data.holdout=1.5.*between 0 and 1"),
    (dict(max_broken=2.), "data.max_broken=2.0"),
    (dict(max_broken=float("nan")), "data.max_broken=nan"),
    (dict(resident_gb=-1.), "data.resident_gb"),
    (dict(class_depth=0), "data.class_depth=0"),
    (dict(examples=-1), "data.examples=-1"),
    (dict(examples=17), "data.examples=17 was declared, but digits .* has"),
    (dict(classes=11), "data.classes=11 was declared"),
]


@pytest.mark.parametrize("config, sentence", TABLE, ids=[f"{i}-{s[:30]}" for i, (_, s) in enumerate(TABLE)])
def test_bad_input(place, config, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        data.make(**{k: v.format(place) if isinstance(v, str) else v for k, v in config.items()})
    assert "\n" not in str(caught.value)


def test_the_table_names_what_is_possible():
    data.make(source="digits", variant="clean", canvas=8, resident="no")


def test_no_permission(place, monkeypatch):
    """Through the calls that refuse, since a privileged user may read everything."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *a, **k: False)
        for config in (dict(source="folder", path=str(place / "images")), dict(source="zip", path=str(place / "good.zip"))):
            with pytest.raises(UserError, match="No permission to read data.path="):
                data.make(**config)

    def refuse(path, *rest):
        if str(path).endswith("dog/"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path, *rest)

    scandir = os.scandir
    monkeypatch.setattr(folder.os, "scandir", lambda path: refuse(f"{path}/"))
    with pytest.raises(UserError, match="No permission to read the folder .*dog"):
        data.make(source="folder", path=str(place / "images"))


def test_a_file_that_vanished_is_a_broken_image(place):
    source = data.make(source="folder", path=str(place / "images"), holdout=0.).train
    (place / "images/cat/1.png").unlink()
    with pytest.raises(Exception, match="No such file") as caught:
        source.read(0)
    assert type(caught.value).__name__ == "Broken"


def test_unknown_keys_are_type_errors():
    with pytest.raises(TypeError, match="sorce"):
        data.make(sorce="digits")


def test_every_key_is_read():
    """A key that changes nothing would be a dead switch: each is named in the body of `make`, beyond its signature."""
    import ast
    import inspect
    tree = ast.parse(inspect.getsource(data.make))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert set(inspect.signature(data.make).parameters) <= used


