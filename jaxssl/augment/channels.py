"""Views of any channels: each channel's own brightness and contrast, channels left out, vertical flips and quarter turns. Planes [..., C, n, n] in [0, 1].

Every operation takes explicit parameters; its sampler maps keys to them. Parameters that change nothing leave an image exactly as it was.
"""
import jax
import jax.numpy as jnp

LEAST = 0.5  # of a factor


def sample(keys, views, channels, *, jitter=0.0, brightness=0.2, contrast=0.2, drop=0.0, keep=(), flip=0.0, turns=0.0):
    """Draws the parameters of one operation after another, of probabilities `jitter`, `drop`, `flip` and `turns`: floats, or float32 [V].

    Args:
      keys: [B] keys, one an image.
      views, channels: V and C.
      brightness, contrast: standard deviations of the factors, which are normal around 1 and at least `LEAST`.
      keep: numbers of the channels that are never left out; at least one channel is left in, whatever is drawn.

    Returns:
      dict of gain and contrast float32 [B, V, C] (1: unchanged), dropped bool [B, V, C], flip_vertical bool [B, V] and turn int32 [B, V], quarter turns to the left.
    """
    def one(key):
        apply, gain, slope, lost, spared, over, turned, which = jax.random.split(key, 8)
        shape = (views, channels)
        due = jax.random.uniform(apply, (views, 1)) < jnp.broadcast_to(jnp.asarray(jitter), (views,))[:, None]
        factors = [jnp.where(due, jnp.maximum(1 + s * jax.random.normal(k, shape), LEAST), 1.0) for k, s in ((gain, brightness), (slope, contrast))]
        chance = jnp.broadcast_to(jnp.asarray(drop), (views,))[:, None]
        stays = jnp.isin(jnp.arange(channels), jnp.asarray(keep, jnp.int32)) if keep else jax.random.randint(spared, (views, 1), 0, channels) == jnp.arange(channels)
        turn = jnp.where(jax.random.uniform(turned, (views,)) < turns, jax.random.randint(which, (views,), 1, 4), 0)
        return {"gain": factors[0], "contrast": factors[1], "dropped": (jax.random.uniform(lost, shape) < chance) & ~stays,
                "flip_vertical": jax.random.uniform(over, (views,)) < flip, "turn": turn}
    return jax.vmap(one)(keys)


def jitter(planes, gain, contrast):
    """x·gain, then around the mean of each channel by `contrast`, each clipped to [0, 1]; gain, contrast: [..., C]."""
    gain, contrast = (x[..., None, None].astype(jnp.float32) for x in (gain, contrast))
    x = jnp.where(gain == 1, planes, jnp.clip(planes * gain, 0.0, 1.0))
    mean = x.mean((-2, -1), keepdims=True)
    return jnp.where(contrast == 1, x, jnp.clip(mean + (x - mean) * contrast, 0.0, 1.0)).astype(planes.dtype)


def dropped(planes, lost, mean):
    """Planes in which the channels `lost` [..., C] are their set's mean [C] everywhere, which is 0 once normalised; the others are as they were."""
    return jnp.where(lost[..., None, None], jnp.asarray(mean, planes.dtype)[:, None, None], planes)


def turned(planes, flip, turn):
    """Planes mirrored top to bottom where `flip` [...], then turned to the left by `turn` [...] quarters."""
    x = jnp.where(flip[..., None, None, None], planes[..., ::-1, :], planes)
    turn = turn[..., None, None, None]
    return jnp.select([turn == k for k in (1, 2, 3)], [jnp.rot90(x, k, (-2, -1)) for k in (1, 2, 3)], x)
