"""RandAugment's operations against Pillow's, its table against torchvision's, what is drawn, and squashing."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from jaxssl import augment
from jaxssl.augment import randaugment as ra

N = 32
RNG = np.random.default_rng(0)
SMALL = Image.fromarray(RNG.integers(0, 256, (7, 7, 3), np.uint8)).resize((N, N), Image.BICUBIC)
NOISE = Image.fromarray(RNG.integers(30, 220, (N, N, 3), np.uint8))
FLAT = Image.fromarray(np.full((N, N, 3), (0, 90, 255), np.uint8))
IMAGES = np.stack([np.asarray(image) for image in (SMALL, NOISE, FLAT)])


def moved(image, op, sign, told):
    """What torchvision asks of Pillow."""
    shear, shift = sign * told.shear, sign * told.shift
    matrix = {ra.SHEAR_X: (1, shear, 0, 0, 1, 0), ra.SHEAR_Y: (1, 0, 0, shear, 1, 0), ra.TRANSLATE_X: (1, 0, -shift, 0, 1, 0), ra.TRANSLATE_Y: (1, 0, 0, 0, 1, -shift)}
    if op == ra.ROTATE:
        return image.rotate(sign * told.angle, Image.BILINEAR)
    return image.transform(image.size, Image.AFFINE, matrix[op], Image.BILINEAR)


def by_pillow(image, op, sign, magnitude):
    told = ra.strengths(magnitude, N)
    if ra.SHEAR_X <= op <= ra.ROTATE:
        return moved(image, op, sign, told)
    enhanced = {ra.BRIGHTNESS: ImageEnhance.Brightness, ra.COLOR: ImageEnhance.Color, ra.CONTRAST: ImageEnhance.Contrast, ra.SHARPNESS: ImageEnhance.Sharpness}
    if op in enhanced:
        return enhanced[op](image).enhance(1 + sign * told.factor)
    return {ra.IDENTITY: lambda i: i, ra.POSTERIZE: lambda i: ImageOps.posterize(i, told.bits), ra.SOLARIZE: lambda i: ImageOps.solarize(i, told.threshold),
            ra.AUTOCONTRAST: ImageOps.autocontrast, ra.EQUALIZE: ImageOps.equalize}[op](image)


@pytest.fixture(scope="module")
def ours():
    planes = jnp.moveaxis(jnp.asarray(IMAGES), -1, 1)[:, None] / 255                             # [3, 1, 3, n, n]
    call = jax.jit(ra.apply, static_argnames="magnitude")

    def f(ops, signs, magnitude):
        params = {"op": jnp.broadcast_to(jnp.asarray(ops), (3, 1, len(ops))), "sign": jnp.broadcast_to(jnp.float32(signs), (3, 1, len(ops)))}
        return np.moveaxis(np.asarray(call(planes, params, magnitude=magnitude)) * 255, 2, -1)[:, 0]
    return f


@pytest.mark.parametrize("magnitude", [9, 23])
@pytest.mark.parametrize("op", range(14), ids=lambda op: ra.NAMES[op].replace(" ", "_"))
def test_equals_pillow(ours, op, magnitude):
    """Level by level, but for pixels whose place or value is a tie within rounding."""
    for sign in (1, -1) if ra.SHEAR_X <= op <= ra.SHARPNESS else (1,):
        got = ours([op], [sign], magnitude)
        want = np.stack([np.asarray(by_pillow(Image.fromarray(image), op, sign, magnitude)) for image in IMAGES])
        off = np.abs(got - want)
        assert np.abs(got - got.round()).max() < 1e-3
        assert (off > .5).mean() < 3e-3, (sign, (off > .5).mean(), off.max())
        assert op == ra.IDENTITY or (np.abs(want[:2].astype(int) - IMAGES[:2]) > 0).any()


def test_one_after_another(ours):
    ops, signs = [ra.EQUALIZE, ra.ROTATE, ra.COLOR], [1, -1, 1]
    want = []
    for image in map(Image.fromarray, IMAGES):
        for op, sign in zip(ops, signs):
            image = by_pillow(image, op, sign, 9)
        want.append(np.asarray(image))
    off = np.abs(ours(ops, signs, 9) - np.stack(want))
    assert (off > 1.5).mean() < 3e-3


def test_the_table_is_torchvisions():
    peer = pytest.importorskip("torchvision.transforms.autoaugment").RandAugment()
    for size in (32, 224):
        table = {name: (values, signed) for name, (values, signed) in peer._augmentation_space(31, (size, size)).items()}
        assert [name.lower() for name in table] == [name.replace(" ", "") for name in ra.NAMES]
        assert [signed for _, signed in table.values()] == [ra.SHEAR_X <= op <= ra.SHARPNESS for op in range(14)]
        for magnitude in (0, 1, 9, 17, 30):
            told = ra.strengths(magnitude, size)
            want = {name: float(values[magnitude]) for name, (values, _) in table.items() if values.ndim}
            assert told.shear == pytest.approx(want["ShearX"]) == pytest.approx(want["ShearY"]) and told.angle == pytest.approx(want["Rotate"])
            assert told.shift == int(want["TranslateX"]) and told.factor == pytest.approx(want["Sharpness"]) == pytest.approx(want["Color"])
            assert told.bits == int(want["Posterize"]) and told.threshold == pytest.approx(want["Solarize"], abs=1e-3)


def test_every_operation_and_both_signs_are_drawn():
    drawn = ra.sample(jnp.asarray(RNG.random((5000, 2, ra.DRAWS)), jnp.float32), 2)
    counts = np.bincount(np.asarray(drawn["op"]).ravel(), minlength=14)
    assert drawn["op"].shape == (5000, 2) and len(counts) == 14 and abs(counts - 10_000 / 14).max() < 120
    assert abs(float(drawn["sign"].mean())) < .05 and set(np.unique(drawn["sign"])) == {-1, 1}


def batch(n, sides=(24, 12)):
    image = np.zeros((n, 24, 24, 3), np.uint8)
    image[:, :sides[0], :sides[1]] = RNG.integers(0, 256, (n, *sides, 3))
    return {"image": jnp.asarray(image), "size": jnp.full((n, 2), jnp.asarray(sides))}


def test_views_are_drawn_image_by_image_and_one_without_is_as_before():
    plain = dict(size=16, views=1, jitter=0., gray=0., blur=0.)
    data, key = batch(6), jax.random.key(0)
    with_, without = (jax.jit(augment.make(**plain, randaugment=ops, return_params=True))(key, data) for ops in (2, 0))
    assert with_["view_params"]["randaugment"]["op"].shape == (6, 1, 2) and "randaugment" not in without["view_params"]
    np.testing.assert_array_equal(with_["view_params"]["crop"]["top"], without["view_params"]["crop"]["top"])
    assert (np.abs(with_["views"] - without["views"]).max((1, 2, 3, 4)) > .1).any()
    first = jax.jit(augment.make(**plain, randaugment=2))(key, {name: part[:2] for name, part in data.items()})
    np.testing.assert_array_equal(first["views"], with_["views"][:2])


def test_squashed_views_are_whole_images_in_training_and_after():
    """As Pillow resizes the valid part, whatever its shape."""
    data, plain = batch(3), dict(mean=(0., 0., 0.), std=(1., 1., 1.))
    views = augment.make(size=16, views=1, squash=True, flip=0., jitter=0., gray=0., blur=0., **plain)(jax.random.key(1), data)["views"][:, 0]
    want = np.stack([np.asarray(Image.fromarray(np.asarray(image[:24, :12])).resize((16, 16), Image.BILINEAR)) for image in data["image"]]) / 255
    np.testing.assert_allclose(views, want, atol=1.01 / 255)
    np.testing.assert_allclose(augment.test_view(size=16, squash=True, **plain)(data), views, atol=1e-6)


@pytest.mark.parametrize("given, said", [({"randaugment": -1}, "randaugment=-1"), ({"randaugment": 2, "randaugment_magnitude": 31}, "from 0 to 30")])
def test_what_is_no_randaugment_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        augment.make(**given)
