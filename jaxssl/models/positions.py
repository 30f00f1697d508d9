"""Positions of patches: fixed sine-cosine tables, and learned tables resized to another grid. Grids are (rows, columns), row-major."""
import jax
import jax.numpy as jnp
import numpy as np

RESIZES = ("antialias", "torch")


def sincos(grid: tuple[int, int], width: int) -> np.ndarray:
    """Fixed two-dimensional sine-cosine positions `[rows · columns, width]` float32, as MAE has them (arXiv:2111.06377, appendix A.1).

    The first half of a vector encodes the column and the second the row; each half is sin then cos of the place times 10000^(-i / (width/4)),
    i < width/4. MoCo v3 (arXiv:2104.02057) has the same with the two halves exchanged. `width` is a multiple of four.
    """
    rows, columns = np.indices(grid).reshape(2, -1)
    quarter = width // 4
    omega = 10000.0 ** (-np.arange(quarter) / quarter)

    def wave(places):
        angle = places[:, None] * omega                                             # [N, D/4]
        return np.concatenate([np.sin(angle), np.cos(angle)], 1)

    return np.concatenate([wave(columns), wave(rows)], 1).astype(np.float32)


def rotations(grid: tuple[int, int], channels: int, base: float, *, shift=0.0, scale=1.0) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines `[rows · columns, channels]` float32 of axial rotary positions (DINOv3, arXiv:2508.10104, section 3.2), for heads of so many channels.

    A patch's centre lies in [-1, 1] along each axis, c = 2 (i + .5) / side - 1; times `scale` and plus `shift`, numbers or one an axis `[2]`, it is turned by
    2π c / base^(2 k / (channels / 2)), k < channels / 4: the row's angles, then the column's, and all of them twice, since channel j is turned with j + channels / 2.
    """
    centres = np.stack([a.reshape(-1) for a in np.meshgrid(*((np.arange(n) + 0.5) / n * 2 - 1 for n in grid), indexing="ij")], -1)       # [N, 2]
    period = base ** (2 * np.arange(channels // 4) / (channels // 2))
    moved = jnp.asarray(centres, jnp.float32) * scale + shift
    angle = (2 * np.pi * moved[..., None] / jnp.asarray(period, jnp.float32)).reshape(len(centres), -1)                                  # [N, 2, C/4] -> [N, C/2]
    angle = jnp.tile(angle, 2)
    return jnp.cos(angle), jnp.sin(angle)


def turned(x: jax.Array, turn: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Queries or keys `[B, N, heads, C]` turned by (cosines, sines) `[1 or B, N, C]`, computed in float32."""
    cos, sin = (a[:, :, None] for a in turn)                                        # [1 or B, N, 1, C]
    first, second = jnp.split(x.astype(jnp.float32), 2, -1)
    return (x * cos + jnp.concatenate([-second, first], -1) * sin).astype(x.dtype)


def resize(table: jax.Array, grid: tuple[int, int], kernel: str) -> jax.Array:
    """A square table `[m · m, D]` interpolated bicubically to `[rows · columns, D]`, in float32; on its own grid, the table itself.

    kernel: "antialias" is a cubic of a = -.5 that widens when it shrinks (torch's interpolate(size=…, antialias=True); DINOv2 with registers, timm);
            "torch" is torch's plain bicubic of a = -.75 at scale (n + .1) / m, which weights of DINOv2 without registers were trained through.
    """
    side = int(len(table) ** 0.5)
    if grid == (side, side):
        return table
    square = table.reshape(side, side, -1)                                          # [m·m, D] -> [m, m, D]
    if kernel == "antialias":
        square = jax.image.resize(square, (*grid, square.shape[-1]), "cubic", antialias=True)
    else:
        down, across = (jnp.asarray(torch_weights(side, n)) for n in grid)
        square = jnp.einsum("hm,mnd,wn->hwd", down, square, across, precision=jax.lax.Precision.HIGHEST)
    return square.reshape(grid[0] * grid[1], -1)                                    # [h, w, D] -> [h·w, D]


def torch_weights(m: int, n: int, offset: float = 0.1, a: float = -0.75) -> np.ndarray:
    """Weights `[n, m]` by which torch's bicubic interpolation makes n samples of m when it is given the scale (n + offset) / m.

    torch maps the centre of sample i to (i + .5) / scale - .5, takes the four nearest sources under the cubic convolution kernel of parameter a
    (Keys, 1981) and repeats the border. `offset` is DINOv2's `interpolate_offset`: it kept floor(m · scale) from rounding down to n - 1.
    """
    centre = (np.arange(n) + 0.5) * m / (n + offset) - 0.5
    first = np.floor(centre).astype(int)
    weights = np.zeros((n, m))
    for tap in range(-1, 3):
        distance = np.abs(centre - first - tap)
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = a * (((distance - 5) * distance + 8) * distance - 4)
        np.add.at(weights, (np.arange(n), np.clip(first + tap, 0, m - 1)), np.where(distance <= 1, near, far))
    return weights.astype(np.float32)
