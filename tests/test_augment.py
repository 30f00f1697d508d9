"""The whole pipeline: keys, devices, probabilities, valid regions, types, bad arguments, and the drawn parameters it returns."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from jaxssl.augment import make, test_view

KEY = jax.random.key(11)
NEVER = dict(flip=0.0, jitter=0.0, gray=0.0, blur=0.0)
PLAIN = dict(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
WHOLE = dict(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))


def batch(n=8, canvas=24, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 6, 6, 3))
    image = np.kron(coarse, np.ones((1, canvas // 6, canvas // 6, 1))).astype(np.uint8)
    return {"image": jnp.asarray(image), "size": jnp.full((n, 2), canvas), "label": jnp.arange(n), "id": jnp.arange(n) + 50}


@pytest.fixture(scope="module")
def full():
    return jax.jit(make(size=16, solarize=(0.0, 0.5), invert=0.2))


def test_shape_rest_and_type(full):
    out = full(KEY, batch())
    assert out["views"].shape == (8, 2, 16, 16, 3) and out["views"].dtype == jnp.float32
    assert set(out) == {"views", "label", "id"} and (out["id"] == batch()["id"]).all()


def test_same_key_same_view_other_key_other_view(full):
    a, b, c = (full(k, batch())["views"] for k in (KEY, KEY, jax.random.key(12)))
    assert (a == b).all()
    assert np.abs(a - c).reshape(8, 2, -1).max(-1).min() > 0.05


def test_every_image_and_view_draws_its_own(full):
    same = batch()
    same["image"] = jnp.broadcast_to(same["image"][:1], same["image"].shape)
    flat = np.asarray(full(KEY, same)["views"]).reshape(16, -1)
    distance = np.abs(flat[:, None] - flat[None]).max(-1)
    assert (distance[~np.eye(16, dtype=bool)] > 0.05).all()


def test_a_view_does_not_depend_on_the_rest_of_the_batch():
    views = jax.jit(make(size=16))
    big = batch()
    small = {k: v[:3] for k, v in big.items()}
    other = dict(big, image=big["image"].at[3:].set(0))
    expected = views(KEY, big)["views"][:3]
    np.testing.assert_allclose(views(KEY, small)["views"], expected, atol=1e-5)
    np.testing.assert_allclose(views(KEY, other)["views"][:3], expected, atol=1e-5)


@pytest.mark.parametrize("canvas", [24, 72], ids=["dense", "taps"])
def test_one_device_and_eight_give_the_same_views_without_communication(canvas):
    assert jax.device_count() == 8
    views = make(size=16, solarize=0.3, return_params=True)
    data = batch(16, canvas)
    one = jax.jit(views)(KEY, data)
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    split = NamedSharding(mesh, P(("data", "fsdp")))
    compiled = jax.jit(views, out_shardings=split).lower(KEY, jax.device_put(data, split)).compile()
    eight = compiled(KEY, jax.device_put(data, split))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one, eight)
    text = compiled.as_text()
    assert not [op for op in ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter") if op in text]


def test_works_under_vmap():
    views = make(size=8)
    data = batch(4)
    stacked = jax.tree.map(lambda x: jnp.stack([x, x[::-1]]), data)
    keys = jax.random.split(KEY, 2)
    out = jax.jit(jax.vmap(views))(keys, stacked)["views"]
    for i in range(2):
        one = jax.jit(views)(keys[i], jax.tree.map(lambda x: x[i], stacked))["views"]
        np.testing.assert_allclose(out[i], one, atol=1e-5)


def test_probability_zero_changes_nothing():
    data = batch()
    out = jax.jit(make(size=24, **WHOLE, **NEVER, **PLAIN))(KEY, data)["views"]
    np.testing.assert_allclose(out, jnp.broadcast_to(data["image"][:, None] / 255.0, out.shape), atol=1e-6)


def test_each_operation_with_probability_one_in_one_view_only():
    data = batch()
    x = np.asarray(data["image"], np.float32) / 255
    expected = {
        "flip": x[:, :, ::-1],
        "gray": np.repeat((x @ np.array([0.2989, 0.587, 0.114], np.float32))[..., None], 3, -1),
        "solarize": np.where(x >= 0.5, 1 - x, x),
        "invert": 1 - x,
    }
    for name, wanted in expected.items():
        views = make(size=24, **WHOLE, **PLAIN, **{**NEVER, name: (0.0, 1.0)})
        out = np.asarray(jax.jit(views)(KEY, data)["views"])
        np.testing.assert_allclose(out[:, 0], x, atol=1e-6)
        np.testing.assert_allclose(out[:, 1], wanted, atol=1e-5)


def test_pixels_outside_the_valid_part_are_never_seen():
    data = batch(8, 24)
    height, width = 13, 21
    dirty = data["image"].at[:, height:].set(255).at[:, :, width:].set(255)
    clean = data["image"].at[:, height:].set(0).at[:, :, width:].set(0)
    size = jnp.full((8, 2), jnp.array([height, width]))
    for f in (lambda b: make(size=16)(KEY, b)["views"], test_view(size=16)):
        a, b = (jax.jit(f)({"image": i, "size": size}) for i in (dirty, clean))
        np.testing.assert_array_equal(a, b)


def test_bfloat16_is_close_to_float32():
    data = batch()
    kwargs = dict(size=16, solarize=0.0, **PLAIN)
    exact = jax.jit(make(**kwargs))(KEY, data)["views"]
    half = jax.jit(make(**kwargs, dtype="bfloat16"))(KEY, data)["views"]
    assert half.dtype == jnp.bfloat16
    assert float(jnp.abs(half.astype(jnp.float32) - exact).max()) < 6 / 255
    assert test_view(size=16, dtype="bfloat16")(data).dtype == jnp.bfloat16


def test_returned_parameters_reproduce_the_crop():
    data = batch()
    out = jax.jit(make(size=8, return_params=True, **{**NEVER, "flip": 0.5}, **PLAIN))(KEY, data)
    params = out["view_params"]
    assert params["crop"]["top"].shape == params["blur"].shape == (8, 2)
    for i, v in ((0, 0), (3, 1), (7, 0)):
        top, left, h, w = (int(params["crop"][k][i, v]) for k in ("top", "left", "height", "width"))
        cut = np.asarray(data["image"][i, top : top + h, left : left + w])
        cut = cut[:, ::-1] if params["flip"][i, v] else cut
        expected = jax.image.scale_and_translate(
            cut.astype(np.float32) / 255, (8, 8, 3), (0, 1), np.array([8 / h, 8 / w]), np.zeros(2), "linear", antialias=True
        )
        np.testing.assert_allclose(out["views"][i, v], expected, atol=1e-4)


def test_test_view_of_a_square_of_its_size_is_the_image():
    data = batch()
    out = test_view(size=24, **PLAIN)(data)
    np.testing.assert_allclose(out, data["image"] / 255.0, atol=1e-6)


def test_normalise_uses_mean_and_std():
    data = batch()
    out = test_view(size=24, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))(data)
    np.testing.assert_allclose(out, (data["image"] / 255.0 - jnp.array([0.1, 0.2, 0.3])) / jnp.array([0.5, 0.25, 2.0]), atol=1e-5)


@pytest.mark.parametrize(
    "bad",
    [
        dict(views=0), dict(size=0), dict(crop_scale=(1.0, 0.08)), dict(crop_scale=(0.0, 1.0)), dict(crop_scale=(0.5, 1.5)),
        dict(crop_ratio=(2.0, 1.0)), dict(interpolation="nearest"), dict(flip=1.5), dict(blur=(0.5, 0.5, 0.5)), dict(jitter=-0.1),
        dict(hue=0.6), dict(brightness=-1.0), dict(blur_sigma=(2.0, 0.1)), dict(blur_kernel=4), dict(size=4, blur_kernel=9),
        dict(std=(1.0, 1.0, 0.0)), dict(mean=(0.5,)), dict(dtype="float16"), dict(solarize_threshold=2.0),
    ],
    ids=str,
)
def test_bad_arguments_are_one_sentence(bad):
    with pytest.raises(ValueError) as error:
        make(**bad)
    message = str(error.value)
    assert list(bad)[-1] in message and message.endswith(".") and "\n" not in message


def test_test_view_refuses_a_resize_below_its_size():
    with pytest.raises(ValueError, match="resize=20"):
        test_view(size=24, resize=20)
