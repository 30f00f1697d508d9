"""Logsumexp over the negatives of a similarity matrix, in tiles: the [n, n] logits never exist, forward or backward.

For u [n, D] with logits s_ij = u_i · u_j, where `group` consecutive rows are views of one image and the negatives N(i)
of row i are all rows of other images, this file computes lse_i = log sum_{j in N(i)} exp(s_ij) and, given the
cotangent g [n] of lse, the gradient

    du_i = sum_{j in N(i)} (g_i p_ij + g_j p_ji) u_j,      p_ij = exp(s_ij - lse_i),

whose bracket is symmetric in (i, j). Two schedules use that:

* one device: only tile pairs I <= J are visited. Each tile is one product u_I u_J^T that feeds the rows of I and the
  rows of J (its columns); backward recomputes it once and adds to both blocks' gradients. In units of n²D
  multiply-adds: 1/2 forward and 3/2 backward, 2 in all, against 3 for the dense form.
* several devices: local rows × gathered columns. Backward needs the gathered u and, gathered too, two numbers a row:
  every device then computes the whole gradient of its own rows and no reduction of gradients follows. 3 n²D over all
  devices.

Memory: O(n D + block²) a device. Any n works: the last block is padded and masked.
First derivatives only: the backward pass is not itself differentiable.
"""
import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxssl.losses.unit import EXACT

# A finite stand-in for "no maximum yet": exp(LOWEST - m) is 0 where exp(-inf - -inf) would be NaN.
LOWEST = -1e30


def negatives_logsumexp(u, *, group, block, bound=None, mesh=None, axes=()):
    """lse_i = log sum over rows j of other images of exp(u_i · u_j), by tiles of block × block.

    Args:
      u: [n, D] f32, n a multiple of group, n > group. With a mesh, rows sharded over `axes`, whole images a device.
      group: views of an image: rows k * group … (k + 1) * group - 1 belong to image k.
      block: rows per tile, ≥ 1; taken down to a multiple of group, so that no image straddles two tiles.
      bound: a static number with |s_ij| <= bound <= 40, or None. Known, it takes the place of the running maximum, so
        that one exponential per tile entry serves its row and its column (exp(-80) is still a normal f32). The
        sharded schedule has no columns to serve and does not need it.
      mesh, axes: the rows are sharded over these mesh axes; None for one device.
    Returns: [n] f32, sharded like the rows of u.
    """
    block = max(block // group, 1) * group
    if mesh is None:
        return _symmetric(u, group, min(block, len(u)), bound)
    return _sharded(u, group, block, mesh, axes)


# ---------------------------------------------------------------- tiles


def _split(x, block, fill=0.):
    """[n, ...] → [N, block, ...], padded with `fill`."""
    x = jnp.pad(x, [(0, -len(x) % block)] + [(0, 0)] * (x.ndim - 1), constant_values=fill)
    return x.reshape(-1, block, *x.shape[1:])


def _bias(n, block, value=0.):
    """[N, block]: `value` at the n real columns, -inf at the padding."""
    return _split(jnp.full(n, value, jnp.float32), block, -jnp.inf)


def _same_image(rows, columns, group):
    """[b], [c] → [b, c]: whether two row numbers are views of one image."""
    return rows[:, None] // group == columns // group


def _logits(rows, columns):
    """[b, D], [c, D] → [b, c]."""
    return lax.dot_general(rows, columns, (((1,), (1,)), ((), ())), precision=EXACT)


def _absorb(state, tile, axis):
    """Adds the entries of a tile of logits along `axis` to the running (maximum, sum of exponentials)."""
    m, total = state
    m_new = jnp.maximum(m, tile.max(axis))
    return m_new, total * jnp.exp(m - m_new) + jnp.exp(tile - jnp.expand_dims(m_new, axis)).sum(axis)


# ---------------------------------------------------------------- one device: tile pairs I <= J


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _symmetric(u, group, block, bound):
    return _symmetric_forward(u, group, block, bound)[0]


def _symmetric_forward(u, group, block, bound):
    bounded = bound is not None
    blocks = _split(u, block)                                       # [N, b, D]
    # With a bound the shift rides on the bias, which the padding needs anyway.
    bias = _bias(len(u), block, -bound if bounded else 0.)          # [N, b]
    kin = _same_image(jnp.arange(block), jnp.arange(block), group)

    def absorb(state, tile, axis):
        return (state[0] + jnp.exp(tile).sum(axis),) if bounded else _absorb(state, tile, axis)

    def row_block(i, everyone):
        tile = jnp.where(kin, -jnp.inf, _logits(blocks[i], blocks[i]) + bias[i])
        rows = absorb(jax.tree.map(lambda x: x[i], everyone), tile, 1)

        def column_block(j, carry):
            rows, everyone = carry
            tile = _logits(blocks[i], blocks[j]) + bias[j]          # [b, b]; only J can be the padded block
            columns = absorb(jax.tree.map(lambda x: x[j], everyone), tile, 0)
            return absorb(rows, tile, 1), jax.tree.map(lambda x, y: x.at[j].set(y), everyone, columns)

        rows, everyone = lax.fori_loop(i + 1, len(blocks), column_block, (rows, everyone))
        return jax.tree.map(lambda x, y: x.at[i].set(y), everyone, rows)

    zeros = jnp.zeros(bias.shape, jnp.float32)
    everyone = lax.fori_loop(0, len(blocks), row_block, (zeros,) if bounded else (zeros + LOWEST, zeros))
    m, total = (bound, *everyone) if bounded else everyone
    m, total = (jnp.broadcast_to(x, bias.shape).reshape(-1)[:len(u)] for x in (m, total))     # [n]
    return m + jnp.log(total), (u, m, total)


def _symmetric_backward(group, block, bound, saved, g):
    u, m, total = saved
    # g_i p_ij = exp(s_ij - m_i) * a_i. Not exp(s_ij - lse_i): near 1000, at temperature 1e-3, lse is good to 3e-5 only.
    blocks, m, a = _split(u, block), _split(m, block), _split(g / total, block)
    bias = _bias(len(u), block, 0. if bound is None else -bound)
    kin = _same_image(jnp.arange(block), jnp.arange(block), group)

    def weights(i, j):
        """[b, b]: g_i p_ij + g_j p_ji."""
        tile = _logits(blocks[i], blocks[j]) + bias[j]
        if bound is not None:
            return jnp.exp(tile) * (a[i][:, None] + a[j])           # one exponential serves both directions
        return a[i][:, None] * jnp.exp(tile - m[i][:, None]) + a[j] * jnp.exp(tile - m[j])

    def row_block(i, du):
        own = jnp.dot(jnp.where(kin, 0., weights(i, i)), blocks[i], precision=EXACT)

        def column_block(j, carry):
            own, du = carry
            w = weights(i, j)
            own += jnp.dot(w, blocks[j], precision=EXACT)           # [b, D]
            return own, du.at[j].add(lax.dot_general(w, blocks[i], (((0,), (0,)), ((), ())), precision=EXACT))

        own, du = lax.fori_loop(i + 1, len(blocks), column_block, (own, du))
        return du.at[i].add(own)

    du = lax.fori_loop(0, len(blocks), row_block, jnp.zeros_like(blocks))
    return (du.reshape(-1, u.shape[1])[:len(u)],)


_symmetric.defvjp(_symmetric_forward, _symmetric_backward)


# ---------------------------------------------------------------- several devices: local rows × gathered columns


def row_softmax(rows, columns, first, *, group, block):
    """The softmax of each row over its negatives, by tiles.

    Args:
      rows: [R, D] f32; columns: [n, D] f32, of which rows are first … first + R - 1; group, block as above.
    Returns, each [R]: the highest logit m; total = sum of exp(s - m); the expected logit, sum of s exp(s - m) / total.
    """
    height, block = min(block, len(rows)), min(block, len(columns))
    blocks, bias = _split(columns, block), _bias(len(columns), block)

    def row_block(args):
        own, index = args                                           # [b, D], [b]

        def column_block(j, carry):
            m, total, moment = carry
            tile, negative = _masked(own, index, blocks[j], j, bias[j], group)
            m_new, total = _absorb((m, total), tile, 1)
            weighted = jnp.where(negative, tile, 0.) * jnp.exp(tile - m_new[:, None])
            return m_new, total, moment * jnp.exp(m - m_new) + weighted.sum(1)

        zeros = own[:, 0] * 0.                                      # varies over the mesh as the tiles do
        m, total, moment = lax.fori_loop(0, len(blocks), column_block, (zeros + LOWEST, zeros, zeros))
        return m, total, moment / total

    # The loss does not read the expected logit, and the compiler then drops it from the loop.
    out = lax.map(row_block, (_split(rows, height), _split(first + jnp.arange(len(rows)), height)))
    return tuple(x.reshape(-1)[:len(rows)] for x in out)


def _masked(own, index, columns, j, bias, group):
    """Tile [b, c] of logits, -inf where the column is the row's own image or padding; and where it is neither."""
    other = j * len(columns) + jnp.arange(len(columns))             # [c]
    negative = ~_same_image(index, other, group) & (bias == 0)
    return jnp.where(negative, _logits(own, columns), -jnp.inf), negative


def _row_gradient(rows, own_softmax, columns, softmax, first, group, block):
    """du [R, D] of rows [R, D], both directions of every pair; softmax [n, 2]: m and a = g / total of each row."""
    height, block = min(block, len(rows)), min(block, len(columns))
    bias = _bias(len(columns), block)
    blocks, softmax = _split(columns, block), _split(softmax, block)

    def row_block(args):
        own, index, (m, a) = args[0], args[1], args[2].T                     # [b, D], [b], [b] each

        def column_block(j, du):
            tile, _ = _masked(own, index, blocks[j], j, bias[j], group)
            m_j, a_j = softmax[j].T                                          # [c] each
            w = a[:, None] * jnp.exp(tile - m[:, None]) + a_j * jnp.exp(tile - m_j)
            return du + jnp.dot(w, blocks[j], precision=EXACT)

        return lax.fori_loop(0, len(blocks), column_block, own * 0.)

    index = first + jnp.arange(len(rows))
    du = lax.map(row_block, tuple(_split(x, height) for x in (rows, index, own_softmax)))
    return du.reshape(-1, rows.shape[1])[:len(rows)]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _sharded(u, group, block, mesh, axes):
    return _sharded_forward(u, group, block, mesh, axes)[0]


# The derivative is taken outside shard_map: inside it, each device would differentiate its own copy of the mean.
def _sharded_forward(u, group, block, mesh, axes):
    def local(rows, everyone):
        return row_softmax(rows, everyone, lax.axis_index(axes) * len(rows), group=group, block=block)[:2]

    everyone = lax.with_sharding_constraint(u, NamedSharding(mesh, P()))     # [n, D] on every device
    m, total = jax.shard_map(local, mesh=mesh, in_specs=(P(axes), P()), out_specs=P(axes))(u, everyone)
    return m + jnp.log(total), (u, everyone, m, total)


def _sharded_backward(group, block, mesh, axes, saved, g):
    def local(rows, own, everyone, softmax):
        return _row_gradient(rows, own, everyone, softmax, lax.axis_index(axes) * len(rows), group, block)

    u, everyone, m, total = saved
    own = jnp.stack([m, g / total], 1)                                       # [n, 2]
    softmax = lax.with_sharding_constraint(own, NamedSharding(mesh, P()))
    specs = P(axes), P(axes), P(), P()
    return (jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P(axes))(u, own, everyone, softmax),)


_sharded.defvjp(_sharded_forward, _sharded_backward)
