"""Positions against torch's interpolation and MAE's formula; stochastic depth, row by row and on a subset."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl.models import droppath, positions

# torch 2.13: interpolate(sin(arange(25)²) as 5 × 5 in float64, mode="bicubic"), with scale_factor=(7.1 / 5, 3.1 / 5) and with size=(7, 3), antialias=True
RESIZED = {
    "torch": [[0.374895, -0.680783, 0.129649], [-0.113633, -0.973718, 0.20671], [-0.327668, -0.94453, 0.266488], [0.01024, -0.40798, 0.223134],
              [-0.742834, -0.162146, 0.006067], [-0.859602, 0.06434, -0.068025], [-0.273905, 0.224935, 0.028718]],
    "antialias": [[0.415808, -0.09559, -0.015176], [-0.194584, -0.379883, 0.024373], [-0.407844, -0.488529, 0.128567], [0.168119, -0.203776, 0.249946],
                  [-0.741996, -0.365847, 0.086487], [-0.673217, 0.082449, -0.064592], [-0.064002, 0.692292, -0.136837]]}


@pytest.mark.parametrize("kernel", positions.RESIZES)
def test_resize_is_torchs(kernel):
    table = jnp.asarray(np.sin(np.arange(25.0)**2).reshape(25, 1), jnp.float32)
    np.testing.assert_allclose(positions.resize(table, (7, 3), kernel), np.reshape(RESIZED[kernel], (21, 1)), atol=3e-6)
    assert positions.resize(table, (5, 5), kernel) is table
    np.testing.assert_allclose(positions.resize(jnp.ones((25, 2)), (3, 9), kernel), 1, atol=1e-6)


def test_torch_weights_follow_the_scale():
    """Cubic convolution of a = -.5 reproduces what is linear, away from the border; so do the weights, at the scale with DINOv2's offset."""
    line = positions.torch_weights(20, 30, a=-0.5) @ np.arange(20)
    np.testing.assert_allclose(line[4:-4], ((np.arange(30) + 0.5) * 20 / 30.1 - 0.5)[4:-4], atol=1e-5)


def test_sincos():
    """The formula of MAE, place by place: column first, then row."""
    found = positions.sincos((3, 5), 16)
    for row in range(3):
        for column in range(5):
            vector = [wave(place / 10000**(i / 4)) for place in (column, row) for wave in (np.sin, np.cos) for i in range(4)]
            np.testing.assert_allclose(found[row * 5 + column], vector, atol=1e-6)


def test_rates():
    np.testing.assert_allclose(droppath.rates(4, 0.3, "linear"), [0, 0.1, 0.2, 0.3], rtol=1e-6)
    np.testing.assert_allclose(droppath.rates(3, 0.3, "uniform"), 0.3, rtol=1e-6)
    np.testing.assert_allclose(droppath.rates(1, 0.3, "linear"), 0)


def test_rows_are_dropped_at_the_rate_and_kept_in_the_mean():
    x, rows = jnp.zeros((4000, 1, 2)), jnp.arange(4000)
    y = jax.jit(lambda key: droppath.by_row(lambda x: x + 1, x, key, 0.25, rows))(jax.random.key(0))
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)} and (y[..., 0] == y[..., 1]).all()
    assert abs(float((y == 0).mean()) - 0.25) < 4 * (0.25 * 0.75 / 4000)**0.5


def test_subset_computes_the_rows_it_keeps():
    sizes = []

    def branch(x):
        sizes.append(len(x))
        return jnp.ones_like(x)
    for rate, kept in ((0.3, 7), (0.95, 1), (0.0, 10)):
        y = droppath.on_subset(branch, jnp.zeros((10, 2, 3)), jax.random.key(0), rate)
        assert sizes.pop() == kept and int((y[:, 0, 0] != 0).sum()) == kept
        np.testing.assert_allclose(y.mean(), 1, rtol=1e-6)                           # the mean over the batch is kept exactly
    first, second = (np.nonzero(droppath.on_subset(branch, jnp.zeros((10, 1, 1)), jax.random.key(key), 0.5))[0].tolist() for key in (1, 2))
    assert first != second


def test_rotary_positions_are_the_papers():
    """Angles and turns one by one, and that a product of two turned vectors depends on how far apart they are alone."""
    (rows, columns), C, base = (2, 3), 8, 100.
    cos, sin = positions.rotations((rows, columns), C, base, shift=.1, scale=1.5)
    x = np.random.default_rng(0).normal(size=(1, 6, 2, C)).astype(np.float32)
    got = positions.turned(x, (cos[None], sin[None]))
    for n, h in np.ndindex(6, 2):
        centre = [(2 * (n // columns + .5) / rows - 1) * 1.5 + .1, (2 * (n % columns + .5) / columns - 1) * 1.5 + .1]
        for j in range(C // 2):
            axis, k = divmod(j, C // 4)
            angle = 2 * np.pi * centre[axis] / base ** (2 * k / (C / 2))
            a, b = x[0, n, h, j], x[0, n, h, j + C // 2]
            np.testing.assert_allclose([got[0, n, h, j], got[0, n, h, j + C // 2]], [a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], atol=1e-5)
    same = np.asarray(positions.turned(np.broadcast_to(x[:, :1], x.shape), (cos[None], sin[None])))[0, :, 0]
    assert same[0] @ same[1] == pytest.approx(same[1] @ same[2], abs=1e-4) and same[0] @ same[1] == pytest.approx(same[3] @ same[4], abs=1e-4)
    np.testing.assert_allclose(np.linalg.norm(same, axis=-1), np.full(6, np.linalg.norm(x[0, 0, 0])), rtol=1e-5)
