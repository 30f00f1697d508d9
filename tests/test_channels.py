"""Images of any channels and depth: read without loss, checked against one another, described by their own statistics, augmented, trained on and continued from RGB."""
import importlib.util
import io
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxssl import augment, config as configs, data as datas
from jaxssl.data import channels, decode, inspect, native
from jaxssl.encoder import initial, preprocessing
from jaxssl.errors import UserError
from jaxssl.training import job as jobs, pixels

SCIENCE = {name: pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is of the extra science") for name in ("tifffile", "pydicom")}


def folder(path, arrays, classes="ab"):
    for i, array in enumerate(arrays):
        where = path / classes[i % len(classes)]
        where.mkdir(parents=True, exist_ok=True)
        np.save(where / f"{i:02d}.npy", array)
    return path


def bands(count=8, shape=(6, 9), channels=5, dtype=np.uint16, top=4096, seed=0):
    rng = np.random.default_rng(seed)
    return [(rng.random((*shape, channels)) * top).astype(dtype) for _ in range(count)]


def made(path, **keys):
    return datas.make(**{"source": "folder", "path": str(path), "canvas": 12, "workers": 0, "holdout": 0., **keys})


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_canvases_hold_the_files_numbers_without_loss(tmp_path, dtype):
    arrays = bands(dtype=np.dtype(dtype), top=250)
    data = made(folder(tmp_path, arrays))
    assert data.pixels == decode.Pixels(5, dtype, None, True) and data.sides == (6,) * 8
    store = datas.store(data, data.train)
    assert store["image"].dtype == dtype and store["image"].shape == (8, 12, 12, 5)
    order = [int(data.train.id(i)[2:4]) for i in range(8)]
    assert all(np.array_equal(store["image"][row, :6, :9], arrays[i]) for row, i in enumerate(order))
    assert not store["image"][:, 6:].any() and data.decoded_bytes == store["image"].nbytes
    streamed = dict(datas.batches(made(tmp_path, resident="no"), drawn=data.order(0, 8), batch_size=8, total_steps=1))[0]
    assert np.array_equal(streamed["image"], store["image"][data.order(0, 8)(0)])


def test_larger_images_are_shrunk_channel_by_channel_as_floats(tmp_path):
    image = bands(1, (24, 24), 4)[0]
    small = native.resized(image, (12, 12))
    expected = np.stack([np.asarray(Image.fromarray(image[..., c].astype(np.float32)).resize((12, 12), Image.BICUBIC)) for c in range(4)], -1)
    assert small.dtype == np.uint16 and np.abs(small - np.clip(expected, 0, 65535)).max() <= .5
    assert np.array_equal(native.resized(image[..., :3].astype(np.uint8), (12, 12)), decode.canvas(image[..., :3].astype(np.uint8), 12)[0])


def test_pictures_are_rgb_unless_the_config_asks_for_their_channels(tmp_path):
    for i in range(4):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(np.full((5, 5), 257 * (i + 1), np.uint16)).save(tmp_path / "ab"[i % 2] / f"{i}.png")
        np.save(tmp_path / "ab"[i % 2] / f"{i}.npy", np.zeros((5, 5, 2)))        # beside images, arrays are files of another kind
    plain = made(tmp_path)
    assert plain.pixels == decode.RGB and datas.store(plain, plain.train)["image"][0, 0, 0].tolist() == [1, 1, 1] and any(".npy (4)" in line for line in plain.said)
    own = made(tmp_path, channels=1)
    assert own.pixels == decode.Pixels(1, "uint16", None, True) and datas.store(own, own.train)["image"][0, 0, 0].tolist() == [257]
    with pytest.raises(UserError, match=r"1 channel \(.*\) and 3 channels \(data.channels\)"):
        made(tmp_path, channels=3)


@pytest.mark.parametrize("change, sentence", [
    (lambda arrays: arrays[:-1] + [arrays[0][..., :4]], r"disagree: 4 channels \(.*\) and 5 channels"),
    (lambda arrays: arrays[:-1] + [arrays[0].astype(np.float32)], r"disagree: (float32|uint16) \(.*\) and (uint16|float32) \("),
    (lambda arrays: [np.zeros_like(a) for a in arrays], "no-data everywhere"),
    (lambda arrays: [np.concatenate([a[..., :4], 0 * a[..., :1]], -1) for a in arrays], "no-data everywhere in channel 4"),
    (lambda arrays: [a.astype(np.complex64) for a in arrays], "complex64")])
def test_sets_that_disagree_or_say_nothing_are_refused(tmp_path, change, sentence):
    with pytest.raises(UserError, match=sentence):
        made(folder(tmp_path, change(bands(8))), nodata="0")


def test_one_odd_file_among_many_is_broken_and_counted(tmp_path):
    arrays = bands(40, (3, 3))
    arrays[39] = arrays[39].astype(np.float32)
    data = made(folder(tmp_path, arrays), channels=5, depth="uint16", max_broken=.05)
    datas.store(data, data.train)
    assert [name for _, name in data.broken] == ["b/39.npy"]
    with pytest.raises(UserError, match="cannot be decoded"):
        datas.store(made(tmp_path, channels=5, depth="uint16", max_broken=.01), data.train)


def test_no_data_is_left_out_of_statistics_and_filled_with_its_channels_mean(tmp_path):
    arrays = bands(4, dtype=np.float32, top=1.)
    for array in arrays:
        array[:2, :, 1], array[0, 0, 2] = -99999, np.nan
    data = made(folder(tmp_path, arrays), nodata="-99999")
    said = np.stack(arrays)[:, 2:, :, 1]
    canvas = datas.store(data, data.train)["image"]
    assert np.isfinite(canvas).all() and np.allclose(canvas[0, 0, 0, 1], arrays[0][2:, :, 1].mean(), atol=1e-6)
    found = channels.statistics(data.train)
    low, high = np.percentile(said, channels.TAILS)
    unit = np.clip((said - low) / (high - low), 0, 1)
    assert np.allclose((found.low[1], found.high[1], found.mean[1], found.std[1]), (low, high, unit.mean(), unit.std()), rtol=1e-5)
    assert found.missing == pytest.approx(4 * (18 + 1) / (4 * 54 * 5)) and found.smallest[1] >= 0


def test_twelve_bits_are_stretched_by_their_range_which_is_said(tmp_path):
    found = channels.statistics(made(folder(tmp_path, bands(6))).train)
    whole = np.stack(bands(6)) / 4095
    assert found.high == (4095.,) * 5 and found.low == (0.,) * 5 and "12-bit data in 16-bit files" in found.how
    assert np.allclose(found.mean, whole.mean((0, 1, 2)), rtol=1e-5) and np.allclose(found.std, whole.std((0, 1, 2)), rtol=1e-5)
    report, broken = inspect.describe(made(tmp_path).train)
    assert broken == 0 and "12-bit data in 16-bit files" in report and f"--config.augment.mean={','.join(f'{m:g}' for m in found.mean)}" in report


@pytest.mark.parametrize("content, sentence", [
    (lambda good: good[:-5], "it is truncated"), (lambda good: good[:20], "ValueError|EOF"), (lambda good: good.replace(b"(6, 9, 5)", b"(6, 9)   "), "it is truncated"),
    (lambda good: good.replace(b"<u2", b"|O8"), "are not read"), (lambda good: good.replace(b"(6, 9, 5)", b"(10**9,)*2"), "ValueError|SyntaxError"),
    (lambda good: good.replace(b"(6, 9, 5)", b"(6,9,4**9)"), "ValueError"), (lambda good: good.replace(b"(6, 9, 5)", b"(0, 9, 5)"), "shape")])
def test_arrays_are_read_by_their_header_and_never_unpickled(content, sentence):
    out = io.BytesIO()
    np.save(out, bands(1)[0])
    with pytest.raises(decode.Broken, match=sentence):
        native.read(content(out.getvalue()))


def test_a_pickled_array_is_refused_and_sizes_are_limited():
    out = io.BytesIO()
    np.save(out, np.array([[object()]]), allow_pickle=True)
    with pytest.raises(decode.Broken, match="are not read"):
        native.read(out.getvalue())
    out = io.BytesIO()
    np.save(out, np.asfortranarray(bands(1)[0]))
    assert np.array_equal(native.read(out.getvalue()), bands(1)[0])
    with pytest.raises(decode.Broken, match="exceed data.max_pixels=50"):
        native.read(out.getvalue(), 50)


def test_views_of_any_channels_scale_by_their_range_and_leave_rgb_as_it_was():
    images = np.stack(bands(2, (8, 8), 5)).astype(np.float32)
    views = augment.make(size=4, views=2, jitter=0., gray=0., blur=0., mean=(.5,) * 5, std=(.2,) * 5, low=(0.,), high=(4095.,), channel_jitter=1., channel_drop=.4,
                         flip_vertical=.5, turns=.5, channel_keep=(1,), return_params=True)
    batch = jax.jit(views)(jax.random.key(0), {"image": images})
    drawn = jax.tree.map(np.asarray, batch["view_params"]["channels"])
    assert batch["views"].shape == (2, 2, 4, 4, 5) and not drawn["dropped"][..., 1].any() and drawn["dropped"].any()
    lost = np.broadcast_to(drawn["dropped"][:, :, None, None], batch["views"].shape)
    assert np.abs(np.asarray(batch["views"])[lost]).max() < 1e-6 and (drawn["gain"] >= .5).all()
    rgb = {"image": (255 * images[..., :3] / 4095).astype(np.uint8)}
    plain, again = (jax.jit(augment.make(size=4, **more))(jax.random.key(1), rgb)["views"] for more in ({}, {"turns": 1e-9}))
    assert np.array_equal(plain, again)                     # what is drawn for channels moves no other draw
    scaled = augment.test_view(size=8, mean=(0.,) * 5, std=(1.,) * 5, low=(0.,) * 5, high=(4095.,) * 5)({"image": images})
    assert np.allclose(scaled, images / 4095, atol=1e-6)


def test_each_operation_of_channels_does_what_it_says():
    from jaxssl.augment import channels as operations
    x = jax.random.uniform(jax.random.key(0), (1, 2, 3, 3))
    gain, slope = jnp.array([[1., .5]]), jnp.array([[1., 2.]])
    y = np.asarray(operations.jitter(x, gain, slope))
    half = .5 * np.asarray(x[:, 1])
    assert np.array_equal(y[:, 0], x[:, 0]) and np.allclose(y[:, 1], np.clip(half.mean() + 2 * (half - half.mean()), 0, 1), atol=1e-6)
    for turn in range(4):
        assert np.array_equal(operations.turned(x, jnp.array([False]), jnp.array([turn]))[0, 0], np.rot90(x[0, 0], turn))
    assert np.array_equal(operations.turned(x, jnp.array([True]), jnp.array([0]))[0, 0], x[0, 0, ::-1])
    drawn = operations.sample(jax.random.split(jax.random.key(2), 50), 2, 3, drop=1.)
    assert (np.asarray(drawn["dropped"]).sum(-1) == 2).all() and (np.asarray(drawn["gain"]) == 1).all()         # one is always left in


@pytest.mark.parametrize("own, sentence", [
    ({}, "5 channels, and colour jitter, grey, solarize and RandAugment are of RGB; set jitter=0, gray=0"),
    (dict(jitter=0., gray=0., solarize=(0., .2)), "set solarize=0"), (dict(jitter=0., gray=0., randaugment=2), "set randaugment=0"),
    (dict(jitter=0., gray=0., channel_keep=(5,), channel_drop=.1), "numbered from 0 to 4"),
    (dict(jitter=0., gray=0., low=(1., 2.), high=(3., 4.)), "one number each or one a channel"),
    (dict(jitter=0., gray=0., low=(1.,), high=(1.,)), "low below high")])
def test_keys_of_rgb_alone_are_refused_for_other_channels(own, sentence):
    with pytest.raises(ValueError, match=sentence):
        augment.make(**{"mean": (.5,) * 5, "std": (.2,) * 5, **own})


FLAGS = {"data.canvas": "12", "augment.size": "8", "model.name": "vit_tiny", "model.width": "16", "model.depth": "1", "model.heads": "2", "model.patch": "4", "model.image": "8",
         "batch_size": "4", "total": "2_steps", "warmup": "0", "data.workers": "0", "augment.jitter": "0", "augment.gray": "0"}


def config_of(path, **flags):
    return configs.load("configs/folder/simclr.py", {**FLAGS, "data.path": str(path), "data.holdout": "0", **flags})


def test_a_run_settles_what_it_leaves_to_its_images(tmp_path):
    folder(tmp_path, bands())
    config = config_of(tmp_path)
    data = datas.make(**config.data)
    own, said = pixels.settled(config, data)
    assert (own.data.channels, own.data.depth, own.model.channels, len(own.augment.mean), own.augment.high) == (5, "uint16", 5, 5, (4095.,) * 5)
    assert own.local.mean == own.augment.mean and any("12-bit" in line for line in said)
    assert pixels.settled(own, datas.make(**own.data))[0].to_dict() == own.to_dict()           # a resumed run finds the same
    shapes, _ = jobs.batch_shapes(4, jobs.Facts(8, 2, 12, False, channels=5, depth="uint16"), jobs.sharding.make_mesh(devices=jax.devices()[:1]))
    assert (shapes["image"].shape, shapes["image"].dtype) == ((4, 12, 12, 5), jnp.uint16)
    for flags, sentence in (({"model.channels": "4"}, "model.channels is 4 and the images have 5"),
                            ({"augment.mean": "(.1,.2)", "augment.std": "(1,1)"}, "augment.mean has 2 numbers"),
                            ({"augment.low": "0", "augment.high": "1000"}, "augment.mean and augment.std are not")):
        with pytest.raises(UserError, match=sentence):
            pixels.settled(config_of(tmp_path, **flags), data)


def test_a_run_of_rgb_is_as_it_was(tmp_path):
    for i in range(4):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(np.full((9, 9, 3), i, np.uint8)).save(tmp_path / "ab"[i % 2] / f"{i}.png")
    config = config_of(tmp_path)
    assert pixels.settled(config, datas.make(**config.data)) == (config, [])


def test_filters_of_rgb_become_those_of_other_channels():
    kernel = np.random.default_rng(0).normal(size=(4, 4, 3, 6)).astype(np.float32)
    mean = initial.expanded(kernel, ("mean",) * 5)
    grey = np.ones((4, 4, 1), np.float32)
    assert mean.shape == (4, 4, 5, 6)
    assert np.allclose(np.einsum("hwc,hwcd->d", grey.repeat(5, 2), mean), np.einsum("hwc,hwcd->d", grey.repeat(3, 2), kernel), atol=1e-4)      # what all channels say alike
    named = initial.expanded(kernel, ("b", "r", "mean"))
    assert np.array_equal(named[:, :, 0], kernel[:, :, 2]) and np.array_equal(named[:, :, 1], kernel[:, :, 0])
    found, wanted = {"params/encoder/patch/kernel": kernel}, {"params/encoder/patch/kernel": jax.ShapeDtypeStruct((4, 4, 5, 6), jnp.float32)}
    assert "5 channels from RGB" in initial._expanded(found, wanted, "w", "mean")[1][0]
    for words, sentence in (("", "takes RGB and the images have 5 channels; say whose filters each begins with: --config.init_channels=mean"), ("r,g", "names 2 channels")):
        with pytest.raises(UserError, match=sentence):
            initial._expanded(found, wanted, "w", words)
    with pytest.raises(UserError, match="leave it out"):
        initial._expanded(found, found, "w", "mean")
    with pytest.raises(UserError, match="init_channels names 'x'"):
        configs.load("configs/folder/simclr.py", {"init_from": "w", "init_channels": "r,x"})


def test_an_encoder_prepares_large_images_of_any_channels():
    p = {"size": 4, "resize": 4, "interpolation": "bilinear", "mean": (0.,) * 5, "std": (1.,) * 5, "low": (0.,), "high": (4095.,)}
    image = bands(1, (40, 20))[0]
    batch = preprocessing.placed([image, image[:4, :4]], p, 4)
    assert batch["image"].dtype == np.float32 and batch["image"].shape == (2, 4, 4, 5) and np.array_equal(batch["image"][1], image[:4, :4])
    middle = Image.fromarray(image[..., 2].astype(np.float32)).resize((4, 4), Image.BILINEAR, box=(0, 10, 20, 30))
    assert np.abs(batch["image"][0, :, :, 2] - np.asarray(middle)).max() <= .5


def test_a_tiff_says_by_its_tags_whether_it_is_rgb(tmp_path):
    def tiff(channels, bits, kind, order="<"):
        entries = [(258, 3, 1, bits), (277, 3, 1, channels), (339, 3, 1, kind)]
        head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
        return head + b"".join(struct.pack(f"{order}HHIHH", tag, of, count, value, 0) for tag, of, count, value in entries)
    assert native.tiff_facts(tiff(5, 32, 3)) == native.tiff_facts(tiff(5, 32, 3, ">")) == (5, 32, 3)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a.tif")
    assert native.tiff_facts((tmp_path / "a.tif").read_bytes()) == (3, 8, 1)
    assert made(tmp_path).pixels == decode.RGB                 # as ever


def test_without_its_package_a_kind_of_file_is_one_sentence(monkeypatch, tmp_path):
    import sys
    monkeypatch.setitem(sys.modules, "tifffile", None)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    for content, name in ((b"II*\0" + bytes(200), "tifffile"), (bytes(128) + b"DICM" + bytes(50), "pydicom")):
        (tmp_path / f"x.{'tif' if name == 'tifffile' else 'dcm'}").write_bytes(content)
        with pytest.raises(UserError, match=rf'{name}, which is not installed; pip install "jaxssl\[science\]"'):
            native.read(content)
    with pytest.raises(UserError, match="jaxssl"):
        made(tmp_path, channels=1)


@SCIENCE["tifffile"]
@pytest.mark.parametrize("shape, planar, dtype", [((6, 9, 5), "contig", np.uint16), ((5, 6, 9), "separate", np.float32), ((6, 9), None, np.uint16)])
def test_tiffs_are_what_tifffile_reads(tmp_path, shape, planar, dtype):
    import tifffile
    array = (np.random.default_rng(0).random(shape) * 4000).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack", **({"planarconfig": planar} if planar else {}))
    expected = array if array.ndim == 3 and planar == "contig" else np.moveaxis(array, 0, -1) if array.ndim == 3 else array[..., None]
    found = native.read((tmp_path / "a.tif").read_bytes())
    assert found.dtype == dtype and np.array_equal(found, expected)
    with pytest.raises(decode.Broken):
        native.read((tmp_path / "a.tif").read_bytes()[:150])


@SCIENCE["pydicom"]
@pytest.mark.parametrize("kind", ["MONOCHROME2", "MONOCHROME1"])
def test_dicoms_are_rescaled_and_their_lowest_is_dark(tmp_path, kind):
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian
    array = np.arange(12, dtype=np.uint16).reshape(3, 4)
    file = pydicom.Dataset()
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID, file.file_meta.MediaStorageSOPClassUID, file.file_meta.MediaStorageSOPInstanceUID = ExplicitVRLittleEndian, "1.2.3", "1.2.4"
    file.Rows, file.Columns, file.SamplesPerPixel, file.PhotometricInterpretation = 3, 4, 1, kind
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 12, 11, 0
    file.RescaleSlope, file.RescaleIntercept, file.PixelPaddingValue, file.PixelData = 2, -1024, 3, array.tobytes()
    out = io.BytesIO()
    pydicom.dcmwrite(out, file, enforce_file_format=True)
    found = native.read(out.getvalue())[..., 0]
    expected = 2. * array - 1024
    expected = expected if kind == "MONOCHROME2" else (4095 * 2 - 2 * 1024) - expected
    expected[0, 3] = np.nan
    assert found.dtype == np.float32 and np.array_equal(found, expected, equal_nan=True)
    with pytest.raises(decode.Broken):
        native.read(out.getvalue()[:-6])


def test_a_run_of_five_channels_begins_from_rgb_weights_and_a_set_must_agree_with_its_held_out_one(tmp_path):
    from jaxssl import encoder as encoders
    from jaxssl.encoder.formats import safetensors
    keys = dict(name="vit_tiny", width=16, depth=1, heads=2, patch=4, image=8)
    rgb = {"model": keys, "augment": {"size": 8, "interpolation": "bicubic", "mean": augment.MEAN, "std": augment.STD}}
    source = encoders.build(rgb, encoders.fill(rgb, {"params": {}, "batch_stats": {}}), name="rgb")
    safetensors.save(source, tmp_path / "rgb.safetensors")
    path = folder(tmp_path / "set", bands())
    config = config_of(path, init_from=str(tmp_path / "rgb.safetensors"), init_channels="b,g,r,mean,mean")
    config, _ = pixels.settled(config, datas.make(**config.data))
    mesh = jobs.sharding.make_mesh(devices=jax.devices()[:1])
    job = jobs.prepare(config, mesh, jobs.Facts(8, 2, 12, True, channels=5, depth="uint16"))
    assert job.seen["views"].shape == (4, 2, 8, 8, 5)
    start = initial.read(config.init_from, state=job.state, heads=tuple(job.method.heads), config=config, allow_missing="projector", channels=config.init_channels)
    kernel = source.variables["params"]["encoder"]["patch"]["kernel"]
    assert np.allclose(start.values["params/encoder/patch/kernel"][:, :, 0], kernel[:, :, 2] * 3 / 5) and "5 channels from RGB: 0 b, 1 g, 2 r, 3 mean, 4 mean" in start.note
    folder(tmp_path / "other", bands(channels=4))
    with pytest.raises(UserError, match="disagree: 4 channels .* and 5 channels"):
        made(path, test_path=str(tmp_path / "other"))
    stand_in = datas.declared(source="folder", path=str(tmp_path / "none"), examples=100, channels=7, depth="float32")
    planned, _ = pixels.settled(config_of(path, **{"data.examples": "8"}), stand_in)
    assert (planned.model.channels, len(planned.augment.mean)) == (7, 7)
