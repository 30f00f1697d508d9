"""What a set is said to be: names that act, splits and system files by their names, formats, limits, brightness; and what `inspect` warns of."""
import io
import json
import struct
import unicodedata
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxssl import data
from jaxssl.data import decode, layout, listing, pipeline
from jaxssl.errors import UserError, shown
from tests.test_data_outside import run
from tests.test_data_sources import tree


# Names that act

ACTING = ["\n", "\r", "\x1b[31m", "\x07", "\x9b2J", "\u202egnp.exe", "\u2066", "\u2028", "\t", "\x7f"]


@pytest.mark.parametrize("text", ACTING, ids=ascii)
def test_names_that_act_are_shown_harmless(tmp_path, text, capsys, caplog):
    assert not set(shown(f"a{text}b")) & set("\n\r\x1b\x07\x9b\u202e\u2066\u2028\t\x7f") and shown(shown(f"a{text}b")) == shown(f"a{text}b")
    root = tree(tmp_path / f"set{text}", [f"{text}cat/{text}1.png", "dog/1.png"])
    (root / f"{text}cat" / f"{text}2.png").write_bytes(b"broken")
    made = data.make(source="folder", path=str(root), holdout=0., max_broken=1.)
    data.store(made, made.train)
    assert run("inspect", root, "--out", tmp_path / "sheet.png") == 0
    with pytest.raises(UserError) as caught:
        data.make(source="folder", path=str(root), test_path=str(tree(tmp_path / f"t{text}", [f"{text}x/1.png", f"{text}y/1.png"])))
    told = [*made.classes, *(made.train.id(i) for i in range(3)), *made.said, str(caught.value), *(r.getMessage() for r in caplog.records), *capsys.readouterr().out.splitlines()]
    assert not any(set(line) & set("\r\x1b\x07\x9b\u202e\u2066\u2028\t\x7f\n") for line in told)
    assert made.train.read(0)[0]


@pytest.mark.parametrize("name", ["Bildschirmfoto 2024\u202f10.png", "a\u00a0b", "نام\u200cها", "👩\u200d🔬", "große Katze", "\udcff", "日本\u3000語"])
def test_other_names_stay_as_they_are(name):
    assert shown(name) == name


# Limits

def test_images_above_the_limit_name_the_key_and_its_remedy_works(tmp_path):
    Image.new("L", (300, 200)).save(tmp_path / "1.png")
    for limit, sentence in ((59_999, "300×200 pixels exceed data.max_pixels=59999; raise it"), (60_000, "")):
        made = data.make(source="folder", path=str(tmp_path), max_pixels=limit, max_broken=1.)
        if sentence:
            with pytest.raises(UserError, match=sentence):
                data.store(made, made.train)
        else:
            assert data.store(made, made.train)["size"].tolist() == [[21, 32]]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("factor", [1.5, 3.])
def test_the_limit_may_be_raised_above_pillows_own(tmp_path, monkeypatch, factor):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(60_000 / factor))
    monkeypatch.setattr(decode, "MAX_PIXELS", 1)
    Image.new("L", (300, 200)).save(tmp_path / "1.png")
    with pytest.raises(decode.Broken, match="data.max_pixels=20000; raise it"):
        decode.rgb((tmp_path / "1.png").read_bytes(), 20_000)
    made = data.make(source="folder", path=str(tmp_path), max_pixels=60_000)
    assert len(data.store(made, made.train)["id"]) == 1


class Many:
    name, classes = "many", ()

    def __init__(self, n, broken):
        self.n, self.broken = n, set(broken)

    def __len__(self):
        return self.n

    def read(self, index):
        if index in self.broken:
            raise decode.Broken("cut")
        return np.zeros((4, 4, 3), np.uint8), -1, str(index)

    def entry(self, index):
        return -1, str(index)


@pytest.mark.parametrize("n, broken, share, stops", [
    (600, [0], .01, False), (600, [299], .01, False), (600, [599], .01, False), (600, range(6), .01, False), (600, range(7), .01, True), (100, [50], .01, False),
    (99, [50], .01, True), (50, [0], .02, False), (10, [9], .1, False), (10, [8, 9], .1, True), (600, [1], 0., True), (5000, range(0, 5000, 100), .01, False)])
def test_the_share_of_broken_images_is_of_the_whole_set(n, broken, share, stops):
    made = data.Data(Many(n, broken), None, (), 4, False, 0, share)
    for go in (lambda: data.store(made, made.train), lambda: list(data.eval_batches(made, made.train, batch_size=64)),
               lambda: list(data.batches(made, drawn=data.shuffled(0, 50, len(made.train)), batch_size=50, total_steps=2 * n // 50 + 1))):
        if stops:
            with pytest.raises(UserError, match="cannot be decoded, more than data.max_broken"):
                go()
        else:
            go()


def test_padding_is_not_counted():
    tally = pipeline.Tally(Many(10, [9]), .1)
    tally.add(64, [(9, "cut")] * 55)                        # the last image, broken, fills the batch
    assert tally.broken == {9}


# What is said

def test_what_was_read_is_told_apart_from_which_images_they_are(tmp_path):
    root = tree(tmp_path / "set", [f"{part}/{c}/1.png" for part in ("train", "val", "test") for c in "ab"])
    made = data.make(source="folder", path=str(root))
    assert {"read_as", "written"}.isdisjoint(made.images) and made.described == made.images | {"read_as": list(made.said), "written": {}}
    assert json.loads(json.dumps(made.described)) == made.described
    assert str(tmp_path) not in json.dumps(made.described) and "held out: val/ (2 images)" in made.said[0]
    (root / "notes.txt").write_text("x")
    again = data.make(source="folder", path=str(root))
    assert again.images == made.images and again.described != made.described
    held = data.make(source="folder", path=str(tree(tmp_path / "plain", [f"{c}/{i}.png" for c in "ab" for i in range(20)])), holdout=.3)
    assert f"held out: {len(held.test)} of 40 images, by a hash of each name (data.holdout=0.3)" in held.said
    assert data.make().said and "split" not in data.make().said[0]


@pytest.mark.parametrize("name, expected", [
    *((word, role) for role, group in layout.WORDS.items() for word in group), *((word.upper(), role) for role, group in layout.WORDS.items() for word in group),
    ("Train_Images", "train"), ("trainset", "train"), ("Test Set", "test"), ("val2017", "val"), ("valSet", "val"), ("images-train", "train"), ("test1", "test"),
    ("train-data", "train"), ("constrain", ""), ("trainer", ""), ("training wheels", ""),
    ("train_station", ""), ("evaluation", ""), ("developer", ""), ("latest", ""), ("valley", ""),
    ("контроль test", ""), ("", ""), ("2017", ""), ("images", ""), ("cat", "")])
def test_folders_named_like_splits(name, expected):
    assert layout.role(name) == expected


@pytest.mark.parametrize("name, why", [
    ("Thumbs.db", True), ("THUMBS.DB", True), ("desktop.ini", True), (".DS_Store", True), ("@eaDir", True), ("@EADIR", True), ("#recycle", True), (".Trashes", True),
    ("__MACOSX", True), ("lost+found", True), ("$RECYCLE.BIN", True), ("System Volume Information", True), (".git", True), ("._1.jpg", True), ("..", True),
    ("thumbs", False), ("recycle", False), ("a.b", False)])
def test_files_of_systems(name, why):
    assert bool(listing.hidden(name)) == why and bool(listing.hidden_path(f"a/{name}/b.jpg")) == why


def test_formats_are_told_by_content(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (9, 7, 3), np.uint8)
    for kind in decode.FORMATS:
        for mode in ("RGB", "L"):
            path = tmp_path / f"{kind} {mode}"
            Image.fromarray(pixels).convert(mode).save(path, kind)
            assert listing.sniff(path.read_bytes()[:listing.SNIFFED])
    for name, content in (("bm", b"BM no bitmap at all, only text here"), ("riff", b"RIFF....WAVEfmt "), ("text", b"hello"), ("none", b""), ("exe", b"MZ\x90\0")):
        assert not listing.sniff(content[:listing.SNIFFED])
        (tmp_path / name).write_bytes(content)
    made = data.make(source="folder", path=str(tmp_path), canvas=9)
    assert len(made.train) == 12 and any("no extension (5)" in sentence for sentence in made.said)
    data.store(made, made.train)


# Pixels

def test_16_bits_with_a_clear_grey_and_first_frames(tmp_path):
    grey = np.full((4, 4), 0x8000, np.uint16)
    grey[0] = 1000
    out = io.BytesIO()
    Image.fromarray(grey).save(out, "PNG")
    raw = out.getvalue()
    chunk = b"tRNS" + struct.pack(">H", 1000)
    clear = raw[:33] + struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk)) + raw[33:]
    assert decode.canvas(clear, 4)[0][:, 0, 0].tolist() == [255, 128, 128, 128] and decode.canvas(raw, 4)[0][0, 0, 0] == 4
    for kind, options in (("GIF", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
        out = io.BytesIO()
        frames = [Image.new("RGB", (4, 4), (value, value, value)) for value in (255, 0)]
        frames[0].save(out, kind, save_all=True, append_images=frames[1:], **options)
        assert decode.canvas(out.getvalue(), 4)[0].min() == 255


def test_inspect_shows_brightness_and_what_would_be_refused(tmp_path, capsys, monkeypatch):
    root = tree(tmp_path / "set", [f"train/{c}/{i}.png" for c in "ab" for i in range(2)] + ["val/a/1.png", "val/c/1.png"])
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(900, 1024, (9, 9)).astype(np.uint16)).save(root / "train/a/ten.png")
    Image.fromarray(np.dstack([rng.integers(0, 255, (9, 9, 3), np.uint8), np.zeros((9, 9), np.uint8)])).save(root / "train/a/clear.png")
    (root / "train/b/broken.png").write_bytes(b"no")
    before = sorted(root.rglob("*"))
    for out in (root / "sheet.png", root / "train/a/0.png", root, "/dev/null"):
        assert run("inspect", root, "--out", out) == 2 and "choose another --out" in capsys.readouterr().err
    monkeypatch.chdir(root)
    assert run("inspect", ".") == 2 and "--out" in capsys.readouterr().err
    assert sorted(root.rglob("*")) == before
    assert run("inspect", root, "--out", tmp_path / "sheet.png") == 0
    told = capsys.readouterr().out
    for expected in ("read as     training images: train/ (7 images); held out: val/ (2 images)", "the largest value of 1 16-bit image is",
                     "10 bits are used, so they are 64 times too dark",
                     "images of one colour, 1 of them once their transparency is laid on white", "training would refuse this set: 1 of 7 images cannot be decoded",
                     "training would refuse this set: The held-out set", "bright    mean"):
        assert expected in told, (expected, told)


def test_nfc_and_nfd_are_one_class(tmp_path):
    for form in ("NFC", "NFD"):
        root = tree(tmp_path / form, [unicodedata.normalize(form, name) for name in ("café/1.png", "thé/1.png")])
        assert data.make(source="folder", path=str(root), holdout=0.).classes == ("café", "thé")
