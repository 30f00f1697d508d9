"""The feature cache: the right rows in order, computed once, resumed, and never trusted when weights, transform, images or its own bytes changed."""
import dataclasses
import errno
import json
import logging
import os
import shutil
import zipfile
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from jaxssl import config as configs, data as datas, encoder as encoders
from jaxssl.evaluation import protocols
from jaxssl.evaluation.features import cache
from jaxssl.training import job as jobs
from jaxssl.parallel import mesh as sharding
from jaxssl.data.sources import Subset
from jaxssl.errors import UserError
from tests.tiny import config_of


def drawn(seed: int) -> encoders.Encoder:
    """A tiny encoder with its projector and random weights; nothing is compiled."""
    config, rng = config_of("simclr", seed=str(seed)), np.random.default_rng(seed)
    state = jobs.prepare(config, sharding.make_mesh(devices=jax.devices()[:1]), jobs.Facts(1437, 10, 16, True)).state
    stats = state.aux["batch_stats"]
    shapes = {"params": {name: state.params[name] for name in stats}, "batch_stats": stats}
    variables = jax.tree.map(lambda s: (rng.normal(0, .2, s.shape) if len(s.shape) > 1 else rng.uniform(.5, 1.5, s.shape)).astype(np.float32), shapes)
    return encoders.build(json.loads(configs.describe(config)), variables, name=f"seed{seed}")


@dataclasses.dataclass(frozen=True)
class Pixels:
    """What the cache asks of an encoder, for as little work as possible: some pixels times a factor."""
    factor: float = 1.
    config: dict = dataclasses.field(default_factory=lambda: {"model": {"name": "pixels"}})
    preprocessing: dict = dataclasses.field(default_factory=lambda: {"size": 16, "resize": 16})
    module: Any = dataclasses.field(default_factory=lambda: np.zeros(0, np.float32))
    heads: tuple = ()
    width = 12

    @property
    def digest(self):
        return f"factor {self.factor}"

    def check_layer(self, layer):
        assert layer == "backbone"

    def embed(self, layer="backbone", *, place=None):
        return lambda batch: self.factor * batch["image"].reshape(len(batch["image"]), -1)[:, 300:312].astype("float32")


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh(devices=jax.devices(), fsdp=2)


@pytest.fixture
def encoder():
    return Pixels()


@pytest.fixture(scope="module")
def data():
    whole = datas.make(source="digits", variant="clean", canvas=16, workers=0)
    return dataclasses.replace(whole, train=Subset(whole.train, range(0, 300, 3)), test=Subset(whole.test, range(40)))


@pytest.fixture
def get(encoder, data, mesh, tmp_path):
    """get(…) -> Features, of batches of 16."""
    def call(encoder=encoder, data=data, which="train", **changes):
        return cache.features(encoder, data, which, mesh=mesh, folder=str(tmp_path), batch=16, **changes)
    return call


@pytest.fixture
def computed(monkeypatch):
    """The chunks that were computed, in order."""
    found, own = [], cache._Table.write
    monkeypatch.setattr(cache._Table, "write", lambda table, chunk, *arrays: (found.append(chunk), own(table, chunk, *arrays))[1])
    return found


def direct(encoder, data, which, layer="backbone"):
    """Features without any cache."""
    store = datas.store(data, getattr(data, which))
    return np.asarray(encoder.embed(layer)({k: store[k] for k in ("image", "size")})), store["label"]


def files(folder):
    return sorted((folder / "features").iterdir())


@pytest.mark.parametrize("resident", [True, False])
def test_every_image_once_in_order(get, encoder, data, computed, resident):
    store = (lambda: datas.store(data, data.train)) if resident else (lambda: None)
    found = get(store=store)
    x, labels = direct(encoder, data, "train")
    np.testing.assert_allclose(found.x, x, atol=1e-5 * np.abs(x).max())
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.ids, np.arange(100))
    assert isinstance(found.x, np.memmap) and found.x.dtype == np.float32 and found.names(7) == data.train.entry(7)[1]
    assert computed == list(range(7))                       # 100 images in chunks of 16
    again = get(store=lambda: pytest.fail("everything is there"))
    np.testing.assert_array_equal(again.x, found.x)
    assert len(computed) == 7


def test_layers_of_a_network_over_eight_devices(get, data, tmp_path):
    """Those of the head come from the backbone's features, which are computed once."""
    encoder = drawn(0)
    for count, layer in ((1, "backbone"), (2, "projector.1"), (3, "projector.2")):
        x, _ = direct(encoder, data, "test", layer)
        np.testing.assert_allclose(get(encoder=encoder, which="test", layer=layer).x, x, atol=1e-5 * np.abs(x).max())
        assert len(files(tmp_path)) == count
    with pytest.raises(UserError, match="did you mean 'projector.1'"):
        get(encoder=encoder, which="test", layer="projektor.1")


def test_an_interrupted_one_goes_on_where_it_stopped(get, encoder, data, computed, monkeypatch):
    monkeypatch.setattr(cache, "_SAVE_EVERY", -1.)
    own = cache.extraction.extract

    def killed(*arguments):
        if len(computed) == 3:
            raise KeyboardInterrupt
        return own(*arguments)
    monkeypatch.setattr(cache.extraction, "extract", killed)
    with pytest.raises(KeyboardInterrupt):
        get()
    monkeypatch.setattr(cache.extraction, "extract", own)
    x, labels = direct(encoder, data, "train")
    found = get()
    assert computed == [0, 1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(found.x, x, atol=1e-5 * np.abs(x).max())
    np.testing.assert_array_equal(found.labels, labels)


def flip(folder, at=2000):
    file = folder / "features.f32"
    content = bytearray(file.read_bytes())
    content[at] ^= 255
    file.write_bytes(content)


def cut(folder):
    os.truncate(folder / "features.f32", 1000)


def lose_labels(folder):
    (folder / "labels.i32").unlink()


def tear_state(folder):
    file = folder / "state.json"
    file.write_text(file.read_text()[:40])


def foreign_labels(folder):
    labels = np.memmap(folder / "labels.i32", "<i4", "r+")
    labels[99] += 1
    labels.flush()


@pytest.mark.parametrize("damage, chunks", [(flip, 1), (cut, 7), (lose_labels, 7), (tear_state, 7), (foreign_labels, 1)])
def test_damage_is_noticed_and_mended(get, computed, tmp_path, caplog, damage, chunks):
    good = np.array(get().x)
    damage(files(tmp_path)[0])
    computed.clear()
    with caplog.at_level(logging.WARNING):
        found = get()
    assert len(computed) == chunks and (chunks == 7 or "1 of 7 chunks" in caplog.text)
    np.testing.assert_array_equal(found.x, good)
    np.testing.assert_array_equal(found.labels, get().labels)
    assert len(computed) == chunks


def test_other_weights_transform_or_images_are_another_cache(get, encoder, data, tmp_path):
    get(which="test")
    for count, changed in enumerate((dict(encoder=Pixels(2.)), dict(encoder=Pixels(preprocessing={"size": 16, "resize": 16, "mean": .1})),
                                     dict(encoder=Pixels(config={"model": {"name": "pixels", "bn_eps": 1e-3}})), dict(encoder=Pixels(module=np.zeros(0, np.float16))),
                                     dict(data=dataclasses.replace(data, test=Subset(data.test, range(39)))), dict(data=dataclasses.replace(data, canvas=17))), 2):
        get(which="test", **changed)
        assert len(files(tmp_path)) == count
    get(which="test")
    assert len(files(tmp_path)) == 7


@pytest.fixture
def folder(tmp_path):
    """20 images of two classes, and one file that is no image."""
    rng = np.random.default_rng(0)
    for i in range(20):
        file = tmp_path / "images" / ("a", "b")[i % 2] / f"{i:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(file)
    (tmp_path / "images" / "a" / "04.png").write_bytes(b"not an image")
    return tmp_path / "images"


def open_folder(folder):
    return datas.make(source="folder", path=str(folder), canvas=16, holdout=0., workers=0, max_broken=.5)


def test_copies_of_the_same_images_are_the_same_wherever_they_lie(folder, tmp_path):
    """For comparisons; a cache of features belongs to these very files."""
    first = open_folder(folder).train
    shutil.copytree(folder, tmp_path / "elsewhere")
    for file in (tmp_path / "elsewhere").rglob("*.png"):
        os.utime(file, (1, 1))
    second = open_folder(tmp_path / "elsewhere").train
    parts = [Subset(source, range(7)) for source in (first, second)]
    for one, other in ((first, second), parts):
        assert cache.identity(one, here=False) == cache.identity(other, here=False) != cache.identity(one)
        assert cache.identity(one) != cache.identity(other)
    assert cache.identity(parts[0], here=False) != cache.identity(first, here=False)
    zips = []
    for name, stored in (("x.zip", folder), ("y.zip", tmp_path / "elsewhere")):
        with zipfile.ZipFile(tmp_path / name, "w") as file:
            for path in sorted(stored.rglob("*.png")):
                file.writestr(str(path.relative_to(stored)), path.read_bytes())
        zips.append(datas.make(source="zip", path=str(tmp_path / name), canvas=16, holdout=0., workers=0, max_broken=.5).train)
    assert cache.identity(zips[0], here=False) == cache.identity(zips[1], here=False) and cache.identity(zips[0]) != cache.identity(zips[1])
    (tmp_path / "elsewhere" / "b" / "01.png").rename(tmp_path / "elsewhere" / "b" / "001.png")
    assert cache.identity(open_folder(tmp_path / "elsewhere").train, here=False) != cache.identity(first, here=False)


def test_broken_images_are_left_out(get, folder, encoder, tmp_path):
    data = open_folder(folder)
    found = get(data=data)
    broken = next(i for i in range(20) if data.train.entry(i)[1] == "a/04.png")
    np.testing.assert_array_equal(found.ids, np.delete(np.arange(20), broken))
    np.testing.assert_array_equal(found.labels, np.delete([data.train.entry(i)[0] for i in range(20)], broken))
    assert found.x.shape == (19, encoder.width) and found.names(broken) == data.train.entry(broken + 1)[1]
    x, _ = direct(encoder, data, "train")
    np.testing.assert_allclose(found.x, np.delete(x, broken, axis=0))
    headed = cache._headed(drawn(0), "projector.1", found._replace(x=np.ones((19, drawn(0).width), np.float32)), [0, 1], cache._Table(tmp_path, {"rows": 20, "chunk": 16}))
    kept = np.concatenate([chunk[2] for chunk in headed])
    np.testing.assert_array_equal(np.flatnonzero(kept), found.ids)
    for file in folder.rglob("*.png"):
        file.write_bytes(b"none of them")
    with pytest.raises(UserError, match="cannot be decoded"):
        get(data=dataclasses.replace(open_folder(folder), max_broken=1.))


def test_a_link_to_nowhere_is_a_broken_image(get, folder):
    (folder / "a" / "zz.png").symlink_to("nothing.png")
    found = get(data=open_folder(folder))
    assert len(found.ids) == 19 and all(found.names(row) != "a/zz.png" for row in range(19))


def test_a_full_disk_is_said_at_once(get, monkeypatch):
    """A memory map of it would end the process without a word."""
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(UserError, match="no room for features .* --cache"):
        get()

    def cannot(*_):
        raise OSError(errno.EOPNOTSUPP, "not here")
    monkeypatch.setattr(os, "posix_fallocate", cannot)
    assert len(get().x)


def test_a_changed_file_is_noticed(get, folder, computed):
    first = np.array(get(data=open_folder(folder)).x)
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(folder / "b" / "19.png")
    computed.clear()
    second = get(data=open_folder(folder)).x
    assert len(computed) == 2 and not np.array_equal(first, second)
    np.testing.assert_array_equal(first[:18], second[:18])
    os.utime(folder / "b" / "17.png", (1, 1))
    get(data=open_folder(folder))
    assert len(computed) == 4


def test_sets_that_are_not_there_or_have_no_labels(get, data, encoder, mesh, tmp_path):
    with pytest.raises(UserError, match="has no test images; give"):
        get(data=dataclasses.replace(data, test=None), which="test")
    found = get(which="test")
    some = cache.labelled(found._replace(labels=np.where(np.arange(40) % 2, found.labels, -1)), "test images")
    np.testing.assert_array_equal(some.x, found.x[1::2])
    assert (some.labels >= 0).all() and some.names(3) == found.names(7)
    with pytest.raises(UserError, match="no labels"):
        cache.labelled(found._replace(labels=np.full(40, -1)), "test images")
    context = protocols.Context(encoder, data, mesh, str(tmp_path))
    assert context.features("test") is context.features("test") and context.store("test") is context.store("test")
