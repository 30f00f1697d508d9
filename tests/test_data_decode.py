"""Decoding: every kind of file becomes the RGB canvas it should, and what cannot be decoded says so."""
import io

import numpy as np
import pytest
from PIL import Image

from jaxssl.data import decode
from jaxssl.errors import UserError


def encode(picture, form="PNG", **options):
    out = io.BytesIO()
    picture.save(out, form, **options)
    return out.getvalue()


def scene(height=20, width=30):
    """A smooth picture whose four corners differ."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([y * 255 // (height - 1), x * 255 // (width - 1), np.full_like(x, 90)], 2).astype(np.uint8)


def valid(image, size=32):
    pixels, (h, w) = decode.canvas(image, size)
    assert pixels.shape == (size, size, 3) and pixels.dtype == np.uint8
    assert not pixels[h:].any() and not pixels[:, w:].any()
    return pixels[:h, :w]


@pytest.mark.parametrize("form, options, tolerance", [("PNG", {}, 0), ("WEBP", {"lossless": True}, 0), ("JPEG", {"quality": 100, "subsampling": 0}, 3)])
def test_formats(form, options, tolerance):
    image = scene()
    assert np.abs(valid(encode(Image.fromarray(image), form, **options)).astype(int) - image).max() <= tolerance


def test_grey_and_one_bit():
    grey = np.arange(0, 250, 10, dtype=np.uint8).reshape(5, 5)
    for form in ("PNG", "WEBP"):
        assert np.array_equal(valid(encode(Image.fromarray(grey), form, lossless=True)), np.repeat(grey[..., None], 3, 2))
    assert np.abs(valid(encode(Image.fromarray(grey), "JPEG", quality=100)).astype(int) - grey[..., None]).max() <= 3
    bits = (grey > 100)
    assert np.array_equal(valid(encode(Image.fromarray(bits))), np.repeat(bits[..., None] * np.uint8(255), 3, 2))


def test_sixteen_bits_are_scaled_not_cut():
    deep = np.array([[0, 257, 1000, 65535], [128, 129, 32896, 40000]], np.uint16)
    expected = np.rint(deep / 257).astype(np.uint8)
    assert np.array_equal(valid(encode(Image.fromarray(deep))), np.repeat(expected[..., None], 3, 2))


def test_palette():
    image = Image.fromarray(scene()).quantize(16)
    assert np.array_equal(valid(encode(image)), np.asarray(image.convert("RGB")))


def test_transparency_shows_white():
    layer = np.zeros((4, 4, 4), np.uint8)
    layer[..., 0] = 200
    layer[0, :, 3], layer[1, :, 3], layer[2:, :, 3] = 0, 128, 255
    for form in ("PNG", "WEBP"):
        out = valid(encode(Image.fromarray(layer), form, lossless=True)).astype(int)
        assert np.array_equal(out[0], np.full((4, 3), 255)) and np.array_equal(out[3], np.tile((200, 0, 0), (4, 1)))
        assert np.abs(out[1] - np.array((228, 127, 127))).max() <= 1          # 200·128/255 + 255·127/255
    grey_alpha = np.stack([np.full((3, 3), 10, np.uint8), np.full((3, 3), 0, np.uint8)], 2)
    assert (valid(encode(Image.fromarray(grey_alpha))) == 255).all()
    palette = Image.fromarray(np.eye(4, dtype=np.uint8), "P")
    palette.putpalette([0, 0, 0, 50, 60, 70])
    out = valid(encode(palette, transparency=0))
    assert (out[0, 1] == 255).all() and tuple(out[0, 0]) == (50, 60, 70)
    keyed = Image.fromarray(scene())
    assert (valid(encode(keyed, transparency=tuple(int(v) for v in scene()[3, 4])))[3, 4] == 255).all()


def test_cmyk():
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert np.abs(valid(encode(cmyk, "JPEG", quality=100)).astype(int) - (255, 0, 0)).max() <= 4


UPRIGHT = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
           5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: lambda a: np.rot90(a)}


@pytest.mark.parametrize("orientation", sorted(UPRIGHT))
@pytest.mark.parametrize("form", ["PNG", "WEBP", "JPEG"])
def test_exif_orientation(orientation, form):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}, "PNG": {}}[form]
    out = valid(encode(Image.fromarray(scene()), form, exif=exif, **options))
    expected = UPRIGHT[orientation](scene())
    assert out.shape == expected.shape and np.abs(out.astype(int) - expected).max() <= 3


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_unreadable_exif_is_not_a_broken_image():
    data = encode(Image.fromarray(scene()), "JPEG", quality=100, subsampling=0, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\xff\xff")
    assert np.abs(valid(data).astype(int) - scene()).max() <= 3


@pytest.mark.parametrize("shape, expected", [((64, 64), (32, 32)), ((64, 128), (16, 32)), ((100, 64), (32, 20)), ((10, 12), (10, 12)),
                                             ((32, 33), (31, 32)), ((1, 400), (1, 32)), ((5, 32), (5, 32))])
def test_letterbox(shape, expected):
    image = scene(*[max(2, s) for s in shape])[:shape[0], :shape[1]]
    for given in (image, encode(Image.fromarray(image))):
        pixels, size = decode.canvas(given, 32)
        assert size.dtype == np.int32 and tuple(size) == expected
        assert valid(given).shape[:2] == expected


def test_shrinking_is_antialiased():
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 255
    inner = valid(stripes)[2:-2, 2:-2].astype(int)
    assert np.abs(inner - 127).max() <= 2       # without a filter: black, or white
    big = scene(96, 96)
    block = big.reshape(32, 3, 32, 3, 3).mean((1, 3))
    assert np.abs(valid(big).astype(float) - block)[2:-2, 2:-2].max() <= 2


def corrupt():
    png, jpeg = encode(Image.fromarray(scene())), encode(Image.fromarray(scene(64, 64)), "JPEG")
    return {"empty": b"", "text": b"hello, this is no image", "cut PNG": png[:len(png) // 2], "cut JPEG": jpeg[:len(jpeg) // 2],
            "header only": jpeg[:20], "PPM": encode(Image.fromarray(scene()), "PPM"), "ICO": encode(Image.fromarray(scene()), "ICO"),
            "floating-point TIFF": encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"),
            "32-bit TIFF": encode(Image.fromarray(np.full((4, 4), 70_000, np.int32)), "TIFF"), "damaged PNG": png[:60] + bytes(20) + png[80:]}


@pytest.mark.parametrize("name", sorted(corrupt()))
def test_broken(name):
    with pytest.raises(decode.Broken):
        decode.canvas(corrupt()[name], 32)


def test_wrong_arrays_are_broken():
    for bad in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(decode.Broken):
            decode.canvas(bad, 32)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("factor", [1.5, 3.])       # between Pillow's warning and its error, and beyond the error
def test_the_pixel_limit_holds(monkeypatch, factor):
    data = encode(Image.new("L", (100, 100)))
    decode.canvas(data, 32)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(10_000 / factor))
    with pytest.raises(decode.Broken, match="pixels|Bomb"):
        decode.canvas(data, 32)
    assert Image.MAX_IMAGE_PIXELS is not None


class Fake:
    """n images, of which some are broken; the label is the index."""
    name, classes = "fake", ()

    def __init__(self, n, broken):
        self.n, self.broken = n, broken

    def __len__(self):
        return self.n

    def read(self, index):
        if index in self.broken:
            raise decode.Broken("on purpose")
        return np.full((4, 4, 3), index % 256, np.uint8), index, self.entry(index)[1]

    def entry(self, index):
        return index, f"image {index}"


def test_substitutes_are_a_function_of_the_index():
    source = Fake(100, broken={3, 50})
    first, again = decode.sample(source, 3, 8), decode.sample(Fake(100, broken={3}), 3, 8)
    pixels, size, label, used, broken = first
    assert used not in (3, 50) and label == used and (pixels[:4, :4] == used).all() and tuple(size) == (4, 4)
    assert broken[0] == (3, "on purpose") and again[3] == used
    assert decode.sample(source, 4, 8)[3:] == (4, [])
    assert len({decode.sample(Fake(1000, {i}), i, 8)[3] for i in range(50)}) > 40      # not all the same one


def test_a_broken_substitute_is_passed_over():
    second = decode.sample(Fake(100, {3}), 3, 8)[3]
    _, _, _, used, broken = decode.sample(Fake(100, {3, second}), 3, 8)
    assert used not in (3, second) and [i for i, _ in broken] == [3, second]


def test_nothing_but_broken_images():
    with pytest.raises(UserError, match="image 0.*on purpose.*inspect"):
        decode.sample(Fake(5, set(range(5))), 0, 8)
