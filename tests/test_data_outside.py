"""What comes from outside: pipes, links, odd archives, absurd numbers, classes that a file names. Right, or one sentence; never waited for, never run."""
import ast
import json
import os
import socket
import struct
import sys
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

from jaxssl import data
from jaxssl.data import decode
from jaxssl.data.__main__ import main
from jaxssl.errors import UserError
from tests.test_data_sources import png, tree
from tests.tiny import ROOT


def run(*args):
    return main([str(a) for a in args])


# Pipes, devices, paths

@pytest.mark.parametrize("config", [dict(source=s) for s in ("folder", "zip", "tfds", "array_record")], ids=str)
@pytest.mark.parametrize("thing", ["pipe", "/dev/zero", "/dev/null", "link to a pipe", "socket"])
def test_what_is_no_file_is_refused_and_never_read(tmp_path, config, thing, monkeypatch):
    path = tmp_path / "thing.zip"
    if thing == "socket":
        monkeypatch.chdir(tmp_path)                         # the address of a socket is short
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("thing.zip")
    elif thing == "pipe":
        os.mkfifo(path)
    elif thing == "link to a pipe":
        os.mkfifo(tmp_path / "p")
        path.symlink_to("p")
    else:
        path = thing
    for keys in (dict(path=str(path)), dict(path=str(tree(tmp_path / "good", ["a/1.png"])), test_path=str(path))):
        if config["source"] == "folder" or "test_path" not in keys:
            with pytest.raises(UserError, match="is a pipe, a socket or a device"):
                data.make(**config, **keys)
    assert run("inspect", path, "--out", "") == 2


def test_a_pipe_that_takes_an_images_place_is_a_broken_image(tmp_path):
    root = tree(tmp_path / "set", ["a/1.png", "b/1.png"])
    source = data.make(source="folder", path=str(root), holdout=0.).train
    (root / "a/1.png").unlink()
    os.mkfifo(root / "a/1.png")
    with pytest.raises(decode.Broken, match="no regular file"):
        source.read(0)


def test_files_of_prepared_and_packed_sets_that_are_pipes(tmp_path):
    for name, sentence in (("manifest.json", "no manifest.json"), ("dataset_info.json", "no prepared TFDS set")):
        os.mkfifo(tmp_path / name)
        with pytest.raises(UserError, match=sentence):
            data.make(source="array_record" if name == "manifest.json" else "tfds", path=str(tmp_path))


def test_home_is_meant_by_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    tree(tmp_path / "set", ["a/1.png", "b/1.png"])
    tree(tmp_path / "other", ["a/1.png", "b/1.png", "b/2.png"])
    assert len(data.make(source="folder", path="~/set", test_path="~/other").test) == 3
    assert run("inspect", "~/set", "--out", "~/sheet.png") == 0 and (tmp_path / "sheet.png").is_file()
    assert run("pack", "~/set", "~/packed") == 0 and len(data.make(source="array_record", path="~/packed", holdout=0.).train) == 2


@pytest.mark.parametrize("path", ["a\0b", "x" * 300, "y/" * 3000, "~nobody-of-that-name/x"])
def test_paths_that_cannot_be(path):
    with pytest.raises(UserError, match="data.path=") as caught:
        data.make(source="folder", path=path)
    assert "\0" not in str(caught.value)


# Archives

def archive(path, names, raw=None, flags=0):
    """A zip of one image a name; `raw`: the bytes of the first entry's name, with `flags` for them."""
    with zipfile.ZipFile(path, "w") as out, warnings.catch_warnings(action="ignore"):      # a name may come twice
        for value, name in enumerate(names):
            out.writestr(zipfile.ZipInfo(name), picture(value))
    content = bytearray(path.read_bytes())
    for signature, flag_at, name_at in ((b"PK\x03\x04", 6, 30), (b"PK\x01\x02", 8, 46)) if raw else ():
        at = content.index(signature)
        assert len(raw) == len(names[0])
        struct.pack_into("<H", content, at + flag_at, flags)
        content[at + name_at:at + name_at + len(raw)] = raw
    path.write_bytes(content)
    return path


def picture(value):
    import io
    out = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(out, "PNG")
    return out.getvalue()


def test_names_of_entries_that_are_utf8_without_saying_so(tmp_path):
    for flags in (0, 0x800):
        path = archive(tmp_path / "s.zip", ["aaa/1.png", "c/1.png"], "ä-/1.png".encode(), flags)
        assert data.make(source="zip", path=str(path), holdout=0.).classes == ("c", "ä-")


def test_names_of_entries_that_are_no_text(tmp_path):
    path = archive(tmp_path / "s.zip", ["a/1.png", "b/1.png"], b"\xff/1.png", 0x800)
    with pytest.raises(UserError, match="says that it is UTF-8, and is not"):
        data.make(source="zip", path=str(path))
    path = archive(tmp_path / "s.zip", ["a/1.png", "b/1.png"], b"\xff/1.png")      # the old code page has a letter for it
    assert len(data.make(source="zip", path=str(path), holdout=0.).classes) == 2


def test_the_last_entry_of_a_name_counts(tmp_path):
    for names in (["a/1.png", "a/1.png", "b/1.png"], ["a/1.png", "a\\1.png", "b/1.png"], ["./a/1.png", "a/./1.png", "b/1.png"], ["a//1.png", "a/1.png", "b/1.png"]):
        path = archive(tmp_path / "s.zip", names)
        made = data.make(source="zip", path=str(path), holdout=0.)
        assert [made.train.id(i) for i in range(2)] == ["a/1.png", "b/1.png"] and any("under the name of another" in sentence for sentence in made.said)
        assert decode.canvas(made.train.read(0)[0], 4)[0][0, 0, 0] == 1


@pytest.mark.parametrize("offset, number", [(20, 0xfffffffe), (24, 0xfffffffe), (42, 0xfffffff0), (42, 2**31)])     # packed size, size, place
def test_entries_with_absurd_numbers(tmp_path, offset, number):
    path = archive(tmp_path / "s.zip", ["a/1.png", "b/1.png"])
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.index(b"PK\x01\x02") + offset, number)
    path.write_bytes(content)
    try:
        source = data.make(source="zip", path=str(path), holdout=0.).train
    except UserError as error:
        assert "\n" not in str(error) and ("claims" in str(error) or "not a readable zip" in str(error))
    else:
        with pytest.raises(decode.Broken):
            source.read(0)


@pytest.mark.parametrize("size, packed, place", [(2**64 - 1, 100, 0), (100, 2**64 - 1, 0), (100, 100, 2**64 - 1), (2**63, 2**63, 2**63), (2**40, 100, 0)])
def test_entries_with_absurd_numbers_of_64_bits(tmp_path, size, packed, place):
    name, image = b"a/1.png", png()
    extra = struct.pack("<HHQQQ", 1, 24, size, packed, place)
    local = struct.pack("<4sHHHHHIIIHH", b"PK\x03\x04", 45, 0, 0, 0, 0, 0, len(image), len(image), len(name), 0) + name + image
    central = struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\x01\x02", 45, 45, 0, 0, 0, 0, 0, 0xffffffff, 0xffffffff, len(name), len(extra), 0, 0, 0, 0, 0xffffffff) + name + extra
    (tmp_path / "s.zip").write_bytes(local + central + struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 1, 1, len(central), len(local), 0))
    try:
        source = data.make(source="zip", path=str(tmp_path / "s.zip"), holdout=0.).train
    except UserError as error:
        assert "\n" not in str(error)
    else:
        with pytest.raises(decode.Broken, match="larger"):
            source.read(0)


def test_a_zip_of_which_any_part_is_lost_is_read_or_refused(tmp_path):
    whole = archive(tmp_path / "s.zip", [f"{c}/{i}.png" for c in "ab" for i in range(3)]).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        content = bytearray(whole)
        for at in rng.integers(0, len(whole), 4):
            content[at] = rng.integers(256)
        (tmp_path / "t.zip").write_bytes(content[:rng.integers(1, len(whole))] if rng.random() < .3 else content)
        try:
            source = data.make(source="zip", path=str(tmp_path / "t.zip"), holdout=0.).train
        except UserError as error:
            assert "\n" not in str(error) and "\x1b" not in str(error)
            continue
        for index in range(len(source)):
            try:
                decode.canvas(source.read(index)[0], 4)
            except decode.Broken:
                pass


# Packed sets

GOOD = {"format": "jaxssl.records.1", "classes": ["a"], "splits": {"train": {"examples": 1, "shards": 1}}}


@pytest.mark.parametrize("text", [
    "", "{", "[]", "1", "null", '"x"', "NaN", "\0", "[" * 5000, "{}", *(json.dumps(GOOD | change) for change in (
        {"format": 7}, {"format": "jaxssl.records.2"}, {"classes": "ab"}, {"classes": [1, 2]}, {"classes": ["a", "a"]}, {"classes": None}, {"splits": []}, {"splits": {}},
        {"splits": {"test": {"examples": 1, "shards": 1}}}, {"splits": {"train": 3}}, {"splits": {"train": {"examples": 1}}},
        *({"splits": {"train": {"examples": n, "shards": s}}}
          for n, s in ((-1, 1), (0, 1), (1, 0), (1, -3), (1, 10**9), (10**30, 1), (1.5, 1), (True, 1), ("1", 1), (1, None), (float("inf"), 1))),
        {"splits": {"train": {"examples": 1, "shards": 1}, "test": {"examples": -1, "shards": 1}}}))])
def test_manifests_that_are_none(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="is not a manifest of format|is not a packed set") as caught:
        data.make(source="array_record", path=str(tmp_path))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700


@pytest.mark.parametrize("line", ["", "{}", "[0]", '[0, "x", 1]', '["0", "x"]', '[0, 5]', '[2, "x"]', '[-2, "x"]', '[1e999, "x"]', '[NaN, "x"]', '[true, "x"]', "[" * 5000,
                                  '[%s, "x"]' % ("9" * 5000), '[0.5, "x"]', "\udcff"])
def test_indices_that_are_none(tmp_path, line):
    pytest.importorskip("array_record", reason="array_record is not installed")
    assert run("pack", tree(tmp_path / "set", ["a/1.png", "b/1.png"]), tmp_path / "packed") == 0
    file = tmp_path / "packed" / "train.index.jsonl"
    file.write_bytes((line + "\n" + file.read_text().splitlines()[1] + "\n").encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match="train.index.jsonl cannot be read.*copy the whole directory again") as caught:
        data.make(source="array_record", path=str(tmp_path / "packed"), holdout=0.).images
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700


def test_a_record_with_a_label_beyond_the_classes_is_broken(tmp_path):
    pytest.importorskip("array_record", reason="array_record is not installed")
    run("pack", tree(tmp_path / "set", ["a/1.png", "b/1.png"]), tmp_path / "packed")
    manifest = tmp_path / "packed" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"classes": ["a"]}))
    made = data.make(source="array_record", path=str(tmp_path / "packed"), holdout=0.)
    made.train.read(0)
    with pytest.raises(decode.Broken, match="label 1, and there are 1 classes"):
        made.train.read(1)


# Code in data

EVIL = "evil_features_of_a_set"


def feature(name, legacy=False):
    return {"type": name, "content": {}} if legacy else {"pythonClassName": name}


IMAGE, DICT = "tensorflow_datasets.core.features.image_feature.Image", "tensorflow_datasets.core.features.features_dict.FeaturesDict"


@pytest.mark.parametrize("name", [f"{EVIL}.Image", EVIL, f"{EVIL}.a.b.Image", "os.system", "tensorflow_datasets.core.features.nothing.Image", f"tensorflow_datasets.{EVIL}.Image",
                                  "", ".", "..Image", "tensorflow_datasets.core.lazy_imports_lib.LazyImporter", "antigravity.x", f" {IMAGE}", f"{EVIL}\n.\x1b[2J"])
def test_classes_that_a_prepared_set_names_are_not_imported(tmp_path, monkeypatch, name):
    pytest.importorskip("tensorflow_datasets", reason="tensorflow_datasets is not installed")
    import tensorflow_datasets.core.features.feature as library
    asked = []
    monkeypatch.setattr(library.importlib, "import_module", lambda module, *_: asked.append(module))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / f"{EVIL}.py").write_text("raise SystemExit('this ran')")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/dataset_info.json").write_text(json.dumps({"name": "set", "version": "1.0.0", "fileFormat": "array_record", "moduleName": EVIL}))
    inner = {"image": feature(IMAGE), "x": feature(name)}
    for content in (feature(name), feature(name, legacy=True), {"python_class_name": name}, feature(DICT) | {"featuresDict": {"features": inner}},
                    {"type": DICT, "content": {"image": feature(IMAGE, True), "x": feature(name, True)}}, {"type": DICT, "content": json.dumps({"features": inner})}):
        (tmp_path / "set/features.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match="which is no feature of tensorflow_datasets, and is not imported") as caught:
            data.make(source="tfds", path=str(tmp_path / "set"))
        assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)
    assert not asked and EVIL not in sys.modules


@pytest.mark.parametrize("content", ["", "{", "[" * 5000, "\0", None, "pipe"])
def test_features_that_cannot_be_read(tmp_path, content):
    pytest.importorskip("tensorflow_datasets", reason="tensorflow_datasets is not installed")
    (tmp_path / "dataset_info.json").write_text("{}")
    if content == "pipe":
        os.mkfifo(tmp_path / "features.json")
    elif content is not None:
        (tmp_path / "features.json").write_text(content)
    with pytest.raises(UserError, match="is not a readable TFDS set"):
        data.make(source="tfds", path=str(tmp_path))


@pytest.mark.parametrize("file", sorted((ROOT / "jaxssl/data").glob("*.py")), ids=lambda file: file.name)
def test_no_reader_imports_or_runs_by_a_name_that_it_read(file):
    """Imports are statements; nothing calls the machinery behind them, and nothing evaluates or unpickles."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            assert not {name.split(".")[0] for name in names} & set("importlib imp runpy pkgutil pickle marshal shelve dill code subprocess ctypes".split()), file
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            assert name not in ("eval", "exec", "compile", "__import__", "globals", "vars"), (file, node.lineno)
            if name in ("getattr", "setattr"):
                assert isinstance(node.args[1], ast.Constant), (file, node.lineno)
            if isinstance(node.func, ast.Attribute):
                assert node.func.attr not in ("import_module", "load_module", "exec_module", "system", "popen", "builder_cls"), (file, node.lineno)
            assert not any(keyword.arg == "allow_pickle" for keyword in node.keywords)
        assert not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and (node.value.id, node.attr) == ("np", "load")), file
