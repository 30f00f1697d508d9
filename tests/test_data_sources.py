"""The sources: what they list, what they read, what they refuse; the embedded digits; how a set is held out."""
import os
import pickle
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxssl import data
from jaxssl.data import decode, digits, sources
from jaxssl.errors import UserError


def picture(path, value=0, size=(6, 5)):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value % 256, np.uint8)).save(path)


def tree(root, names):
    """Writes one image a name, each of its own colour; the zip beside it has the same files."""
    for value, name in enumerate(names):
        picture(root / name, 7 * value)
    return root


def zipped(root, compression=zipfile.ZIP_DEFLATED):
    path = root.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(root.rglob("*"), reverse=True):
            archive.write(file, file.relative_to(root))
    return path


def both(root):
    """The same set as a folder, a deflated zip and a stored zip."""
    yield dict(source="folder", path=str(root))
    yield dict(source="zip", path=str(zipped(root)))
    stored = zipped(root, zipfile.ZIP_STORED)
    yield dict(source="zip", path=str(stored))


def contents(source):
    return [(name, label, decode.canvas(image, 8)[0].tobytes()) for image, label, name in (source.read(i) for i in range(len(source)))]


CLASSED = ["cat/1.jpg", "cat/2.png", "cat/deep/3.webp", "dog/1.jpeg", "dog/2.PNG", "ant/9.JPG"]


def test_class_folders(tmp_path):
    root = tree(tmp_path / "set", CLASSED)
    (root / "cat" / "notes.txt").write_text("no image")
    picture(root / ".hidden/1.png")
    picture(root / "cat/._1.png")
    picture(root / "__MACOSX/cat/1.png")
    seen = []
    for config in both(root):
        made = data.make(**config, holdout=0.)
        assert made.classes == ("ant", "cat", "dog") and made.test is None
        assert [made.train.entry(i) for i in range(6)] == [(0, "ant/9.JPG"), (1, "cat/1.jpg"), (1, "cat/2.png"), (1, "cat/deep/3.webp"),
                                                           (2, "dog/1.jpeg"), (2, "dog/2.PNG")]
        seen.append(contents(made.train))
        assert contents(pickle.loads(pickle.dumps(made.train))) == seen[0]
    assert seen[0] == seen[1] == seen[2] and len({pixels for *_, pixels in seen[0]}) == 6


@pytest.mark.parametrize("names, classes, labels", [
    (["b.png", "a.png"], (), [-1, -1]),
    (["photos/b.png", "photos/a.png"], (), [-1, -1]),                       # one folder around everything is no class
    (["wrap/inner/x/1.png", "wrap/inner/y/1.png"], ("x", "y"), [0, 1]),
    (["x/1.png", "loose.png", "y/1.png"], ("x", "y"), [-1, 0, 1]),
    (["x/p/1.png", "x/q/2.png", "y/p/3.png"], ("x", "y"), [0, 0, 1]),
])
def test_labels(tmp_path, names, classes, labels):
    for config in both(tree(tmp_path / "set", names)):
        made = data.make(**config, holdout=0.)
        assert made.classes == classes and [made.train.entry(i)[0] for i in range(len(made.train))] == labels


def test_class_depth(tmp_path):
    for config in both(tree(tmp_path / "set", ["x/p/1.png", "x/q/2.png", "y/p/3.png", "y/4.png"])):
        made = data.make(**config, holdout=0., class_depth=2)
        assert made.classes == ("x/p", "x/q", "y/p") and [made.train.entry(i)[0] for i in range(4)] == [0, 1, -1, 2]


@pytest.mark.parametrize("test", ["test", "val", "validation"])
@pytest.mark.parametrize("wrap", ["", "imagenet/"])
def test_train_and_test_folders(tmp_path, test, wrap):
    names = [f"{wrap}{part}/{c}/{i}.png" for part, n in (("train", 3), (test, 2)) for c in ("a", "b") for i in range(n)]
    for config in both(tree(tmp_path / "set", names)):
        made = data.make(**config)
        assert (len(made.train), len(made.test), made.classes) == (6, 4, ("a", "b"))
        assert [made.test.entry(i) for i in range(4)] == [(0, "a/0.png"), (0, "a/1.png"), (1, "b/0.png"), (1, "b/1.png")]
        assert len(data.make(**config, test_path="none", holdout=0.).train) == 6


def test_test_set_elsewhere(tmp_path):
    train, test = tree(tmp_path / "one", ["a/1.png", "b/1.png"]), tree(tmp_path / "two", ["a/7.png", "b/8.png", "b/9.png"])
    for t, e in zip(both(train), both(test)):
        made = data.make(**t, test_path=e["path"])
        assert len(made.train) == 2 and len(made.test) == 3 and [made.test.entry(i)[1] for i in range(3)] == ["a/7.png", "b/8.png", "b/9.png"]


def test_the_test_part_of_another_set(tmp_path):
    whole = tree(tmp_path / "whole", [f"{part}/{c}/{n}.png" for part, n in (("train", 1), ("test", 2)) for c in "ab"])
    train = tree(tmp_path / "other", ["a/3.png", "b/3.png"])
    for w, t in zip(both(whole), both(train)):
        made = data.make(**t, test_path=w["path"])
        assert [made.test.entry(i)[1] for i in range(len(made.test))] == ["a/2.png", "b/2.png"]


def test_links(tmp_path):
    root = tree(tmp_path / "set", ["a/1.png", "b/1.png"])
    picture(tmp_path / "outside" / "secret.png")
    (root / "a/again.png").symlink_to(root / "b/1.png")
    (root / "a/gone.png").symlink_to("nowhere.png")
    (root / "loop").symlink_to(root)
    made = data.make(source="folder", path=str(root), holdout=0.)
    assert [made.train.entry(i)[1] for i in range(4)] == ["a/1.png", "a/again.png", "a/gone.png", "b/1.png"]
    with pytest.raises(decode.Broken):
        made.train.read(2)
    (tmp_path / "alias").symlink_to(root)
    assert len(data.make(source="folder", path=str(tmp_path / "alias"), holdout=0.).train) == 4
    for target, link in ((tmp_path / "outside/secret.png", "a/x.png"), (tmp_path / "outside", "c"), ("../../outside/secret.png", "a/y.png"),
                         (tmp_path / "set-of-another-name", "d")):
        (root / link).symlink_to(target)
        with pytest.raises(UserError, match=f"{link}.*leads out"):
            data.make(source="folder", path=str(root))
        (root / link).unlink()


def png():
    import io
    out = io.BytesIO()
    Image.new("RGB", (4, 4)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "/etc/x.png", "a/..\\..\\x.png", "C:/x.png", "../notes.txt"])
def test_names_that_leave_an_archive(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.writestr("a/1.png", png())
        archive.writestr(zipfile.ZipInfo(name), png())
    with pytest.raises(UserError, match="points out of the archive"):
        data.make(source="zip", path=str(tmp_path / "s.zip"))


def test_links_in_an_archive(tmp_path):
    def make(target):
        with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
            archive.writestr("a/1.png", png())
            link = zipfile.ZipInfo("b/l.png")
            link.external_attr = 0o120777 << 16
            archive.writestr(link, target)
        return data.make(source="zip", path=str(tmp_path / "s.zip"), holdout=0.)
    assert len(make("../a/1.png").train) == 1
    for target in ("/etc/passwd", "../../x.png"):
        with pytest.raises(UserError, match="b/l.png.*leads out"):
            make(target)


@pytest.mark.parametrize("harm, sentence", [
    (lambda data, entry: data.__setitem__(entry.header_offset + 6, 1) or data.__setitem__(data.rindex(b"PK\x01\x02") + 8, 1), "'b/l' is encrypted"),
    (lambda data, entry: data.__setitem__(slice(entry.header_offset + 33, entry.header_offset + 37), b"\xff" * 4), "not a readable zip"),
])
def test_links_that_cannot_be_read(tmp_path, harm, sentence):
    """Even one that is no image: where it leads is not known."""
    path, link = tmp_path / "s.zip", zipfile.ZipInfo("b/l")
    link.external_attr, link.compress_type = 0o120777 << 16, zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/1.png", png())
        archive.writestr(link, "../a/1.png" * 9)
    changed = bytearray(path.read_bytes())
    harm(changed, link)
    path.write_bytes(changed)
    with pytest.raises(UserError, match=sentence):
        data.make(source="zip", path=str(path))


def test_zip_reads_survive_threads_and_pickling(tmp_path):
    from concurrent.futures import ThreadPoolExecutor
    root = tree(tmp_path / "set", [f"{c}/{i}.png" for c in "ab" for i in range(30)])
    source = data.make(source="zip", path=str(zipped(root)), holdout=0.).train
    expected = contents(data.make(source="folder", path=str(root), holdout=0.).train)
    source = pickle.loads(pickle.dumps(source))
    assert source._handle is None
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda i: source.read(i % 60), range(600)))
    assert all((name, label, decode.canvas(image, 8)[0].tobytes()) == expected[i % 60] for i, (image, label, name) in enumerate(got))


def test_damaged_zip_members_are_broken_images(tmp_path):
    path = zipped(tree(tmp_path / "set", [f"{c}/{i}.png" for c in "ab" for i in range(3)]))
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("a/1.png").header_offset
    raw = bytearray(path.read_bytes())
    raw[offset + 45] ^= 255
    path.write_bytes(raw)
    source = data.make(source="zip", path=str(path), holdout=0.).train
    for index in range(6):
        if source.entry(index)[1] == "a/1.png":
            with pytest.raises(decode.Broken):
                source.read(index)
        else:
            source.read(index)


def test_a_member_larger_than_it_says_is_broken(tmp_path, monkeypatch):
    """A deflate bomb is cut at its declared size."""
    with zipfile.ZipFile(tmp_path / "s.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(10**6))
    source = data.make(source="zip", path=str(tmp_path / "s.zip")).train
    source.where[0, 2] = 100
    with pytest.raises(decode.Broken, match="checksum"):
        source.read(0)
    monkeypatch.setattr("jaxssl.data.zip.MAX_BYTES", 50)
    with pytest.raises(decode.Broken, match="larger"):
        source.read(0)


def test_huge_files_are_broken(tmp_path, monkeypatch):
    source = data.make(source="folder", path=str(tree(tmp_path / "set", ["a.png"]))).train
    monkeypatch.setattr("jaxssl.data.folder.MAX_BYTES", 10)
    with pytest.raises(decode.Broken, match="larger"):
        source.read(0)


# Held-out sets

def test_hold_out_follows_the_id_alone(tmp_path):
    names = [f"{c}/{i:03d}.png" for c in "ab" for i in range(150)]
    root = tree(tmp_path / "set", names)
    whole = data.make(source="folder", path=str(root), holdout=.2)
    train, test = ({s.entry(i)[1] for i in range(len(s))} for s in (whole.train, whole.test))
    assert train | test == set(names) and not train & test and .12 < len(test) / len(names) < .28
    assert whole.train.read(5)[1:] == whole.train.entry(5)
    for name in names[::2]:
        os.unlink(root / name)
    half = data.make(source="zip", path=str(zipped(root)), holdout=.2)
    assert {half.test.entry(i)[1] for i in range(len(half.test))} == test & set(names[1::2])


def test_hold_out_share():
    share = np.mean([sources.held_out(f"class/{i}.jpg", .1) for i in range(20_000)])
    assert abs(share - .1) < 5 * (.09 / 20_000) ** .5


def test_names_that_are_no_text(tmp_path):
    root = tree(tmp_path / "set", ["a/1.png", "b/1.png"])
    os.rename(os.fsencode(root / "a/1.png"), os.fsencode(root) + b"/a/\xff.png")
    made = data.make(source="folder", path=str(root), holdout=.5)
    whole = data.make(source="folder", path=str(root), holdout=0.).train
    assert made.classes == ("a", "b") and decode.canvas(whole.read(0)[0], 8)[1].tolist() == [6, 5]


def test_nothing_is_held_out_without_labels(tmp_path):
    made = data.make(source="folder", path=str(tree(tmp_path / "set", [f"{i}.png" for i in range(30)])), holdout=.5)
    assert made.test is None and len(made.train) == 30 and made.classes == ()


# Digits

def test_digits_are_real_disjoint_and_fixed():
    from sklearn.datasets import load_digits
    real = load_digits()
    made = data.make()
    train, test = made.train, made.test
    assert made.classes == tuple("0123456789") and not set(train.glyph) & set(test.glyph)
    assert set(train.glyph) | set(test.glyph) == set(range(1797))
    for source in (train, test):
        assert np.array_equal(source.labels, real.target[source.glyph])
        assert len({source.entry(i)[1] for i in range(len(source))}) == len(source)
    assert np.bincount(test.labels).min() > 80
    clean = data.make(variant="clean", canvas=8)
    assert np.array_equal(clean.train.images, (real.images[clean.train.glyph] / 16 * 255 + .5).astype(np.uint8))
    assert data.make(variant="clean", canvas=20).train.read(0)[0].shape == (20, 20, 3)


def test_cluttered_digits_do_not_change():
    """A change here changes every number in the README."""
    image = data.make().train.images
    assert image.shape[1:] == (32, 32) and image.dtype == np.uint8
    assert image[::500].astype(int).mean((1, 2)).round(2).tolist() == pytest.approx([25.62, 68.1, 197.88, 217.04, 169.92, 168.34, 64.74, 146.74, 53.53, 95.88, 86.81, 210.52],
                                                                                    abs=.05)


def test_cluttered_digits_are_varied():
    made = data.make().train
    image, label, name = made.read(7)
    assert image.shape == (32, 32, 3) and (image[..., 0] == image[..., 1]).all() and (image[..., 0] == image[..., 2]).all()
    assert pickle.loads(pickle.dumps(made)).read(7)[0].tobytes() == image.tobytes() and len(pickle.dumps(made)) < 300_000
    images = made.images.astype(float)
    paper = np.median(images.reshape(len(images), -1), 1)
    ink = images.reshape(len(images), -1)[np.arange(len(images)), np.abs(images.reshape(len(images), -1) - paper[:, None]).argmax(1)]
    assert .4 < (ink > paper).mean() < .6                                       # either polarity
    assert np.std(paper) > 60 and np.percentile(np.abs(ink - paper), 1) > 90    # any grey, and always legible
    same = images[made.glyph == made.glyph[0]]
    assert len(same) == digits.TRAIN_RENDERS and np.abs(same[0] - same[1]).mean() > 5
    mass = np.abs(images - paper[:, None, None]) > 60
    rows = (mass * np.arange(32)[:, None]).sum((1, 2)) / mass.sum((1, 2))
    assert rows.std() > 2                                                       # the place varies


def test_raw_pixels_do_poorly():
    made = data.make()
    train, test = (s.images.reshape(len(s), -1).astype(np.float32) for s in (made.train, made.test))
    train, test = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, test))
    near = np.argpartition(-(test @ train.T), 20, 1)[:, :20]
    votes = np.stack([(made.train.labels[near] == c).sum(1) for c in range(10)], 1)
    accuracy = (votes.argmax(1) == made.test.labels).mean()
    assert .3 < accuracy < .7


def test_digits_are_drawn_fast():
    digits._draw.cache_clear()
    start = time.process_time()
    data.make().train.images
    data.make().test.images
    assert time.process_time() - start < 3


# Sizes

def test_sides_are_those_of_a_few_images_spread_over_the_set(tmp_path, monkeypatch):
    for i in range(100):
        picture(tmp_path / "set" / f"{'ab'[i // 50]}/{i:03d}.png", size=(10 + i, 200))
    (tmp_path / "set/a/000.png").write_bytes(b"broken")
    made = data.make(source="folder", path=str(tmp_path / "set"), holdout=0.)
    monkeypatch.setattr(decode, "rgb", lambda *_: pytest.fail("pixels were decoded"))
    assert len(made.sides) == 31 and made.sides[0] < 20 and made.sides[-1] == 109 and list(made.sides) == sorted(made.sides)
    assert made.sides is made.sides                         # looked at once
    assert data.make(source="zip", path=str(zipped(tmp_path / "set")), holdout=0.).sides == made.sides
    assert set(data.make().sides) == {32} and set(data.make(variant="clean", canvas=12).sides) == {12}
    assert data.declared(source="folder", path="/nowhere", examples=5, classes=2).sides == ()


# make

def test_defaults_and_residence(tmp_path):
    made = data.make()
    assert made.resident and made.canvas == 32 and made.workers >= 1 and made.decoded_bytes == 3072 * (len(made.train) + len(made.test))
    assert not data.make(resident="no").resident
    assert not data.make(resident_gb=.001).resident and data.make(resident_gb=.001, resident="yes").resident
    assert data.make(workers=0).workers == 0 and data.make(workers=3).workers == 3


def test_declared_sizes(tmp_path):
    names = [f"{c}/{i}.png" for c in "ab" for i in range(3)]
    path = str(tree(tmp_path / "set", names))
    assert len(data.make(source="folder", path=path, examples=6, classes=2, holdout=0.).train) == 6
    for wrong in (dict(examples=7), dict(classes=3)):
        with pytest.raises(UserError, match="was declared"):
            data.make(source="folder", path=path, holdout=0., **wrong)
    for absent in ("/nowhere/imagenet", ""):
        planned = data.declared(source="folder", path=absent, examples=1_281_167, classes=1000, canvas=288)
        assert len(planned.train) == 1_281_167 and len(planned.classes) == 1000 and not planned.resident and planned.canvas == 288
        with pytest.raises(UserError, match="not on this machine"):
            planned.train.read(0)
        with pytest.raises(UserError):
            data.declared(source="folder", path=absent)
        with pytest.raises(UserError):
            data.make(source="folder", path=absent, examples=5)
    assert len(data.declared(source="folder", path=path, examples=6, holdout=0.).train) == 6


def test_optional_packages_are_not_imported(tmp_path):
    import subprocess
    code = ("import sys; sys.modules['tensorflow_datasets'] = sys.modules['array_record'] = None\n"
            "from jaxssl import data\n"
            "made = data.make(); data.store(made, made.test); print(next(iter(data.batches(made, drawn=data.shuffled(0, 4, len(made.train)), batch_size=4, total_steps=1)))[0])\n"
            "assert not {'grain', 'jax', 'tensorflow', 'torch'} & set(sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "0\n", done.stderr


CIFAR = Path(__file__).resolve().parents[2] / "shared/data/cifar10"


@pytest.mark.skipif(not CIFAR.is_dir(), reason=f"CIFAR-10 is not at {CIFAR}")
def test_cifar10():
    made = data.make(source="zip", path=str(CIFAR / "train.zip"), test_path=str(CIFAR / "test.zip"), examples=50_000, classes=10)
    assert len(made.test) == 10_000 and made.resident and made.classes[3] == "cat"
    image, label, name = made.train.read(49_999)
    assert name == "truck/4999.jpg" and label == 9 and decode.canvas(image, 32)[1].tolist() == [32, 32]
