"""Masked image modelling: what is hidden, predicted from what is visible: pixels, features of a teacher, or tokens.

MAE: He et al. 2021, "Masked autoencoders are scalable vision learners", section 3. SimMIM: Xie et al. 2021, "SimMIM: a simple framework for masked image
modeling", section 3.4, eq. 1. I-JEPA: Assran et al. 2023, "Self-supervised learning from images with a joint-embedding predictive architecture", section 3. data2vec 2.0:
Baevski et al. 2022, "Efficient self-supervised learning with contextualized target representations for vision, speech and language", section 3. dBOT: Liu et al. 2022,
"Exploring target representations for masked autoencoders". BEiT: Bao et al. 2021, "BEiT: BERT pre-training of image transformers", section 2.3, eq. 2. NEPA: Xu et al. 2025,
"Next-embedding prediction makes strong vision learners", whose mask is a transformer's causal one.
"""
import jax
import jax.numpy as jnp
from jax import lax

from jaxssl.losses.unit import EXACT, normalised


def patches(x, size):
    """Images as rows of patches, in raster order: [B, H, W, C] → [B, N, size² C] with N = (H / size) (W / size); the type stays.

        patches(x, size)[b, i * (W // size) + j] = x[b, i * size:(i + 1) * size, j * size:(j + 1) * size].reshape(-1)

    so the values of a patch are ordered row, column, channel, channel fastest: MAE's p, q, c. A convolution's kernel [size, size, C, D] flattened to
    [size² C, D] has the same order.
    Raises: ValueError where `size` does not divide the height and the width.
    """
    B, H, W, C = x.shape
    if size < 1 or H % size or W % size:
        raise ValueError(f"a patch has {size} pixels a side, which do not divide images of {H} × {W}")
    x = x.reshape(B, H // size, size, W // size, size, C)                                   # [B, rows, p, columns, q, C]
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(B, -1, size * size * C)                    # [B, N, size² C]


def unpatched(x, size, *, shape=None):
    """The inverse of `patches`: [B, N, size² C] → [B, H, W, C]. `shape` is (H, W); None says that the images are square.

    Raises: ValueError where the patches do not fill the image.
    """
    B, N, P = x.shape
    rows, columns = (round(N ** .5),) * 2 if shape is None else (side // size for side in shape)
    if rows * columns != N or P % size ** 2 or shape is not None and tuple(shape) != (rows * size, columns * size):
        image = "a square image" if shape is None else f"an image of {shape[0]} × {shape[1]}"
        raise ValueError(f"{N} patches of {P} values, {size} pixels a side, do not fill {image}")
    x = x.reshape(B, rows, columns, size, size, -1).transpose(0, 1, 3, 2, 4, 5)             # [B, rows, p, columns, q, C]
    return x.reshape(B, rows * size, columns * size, -1)


def pixel_mse(prediction, target, mask, *, normalise=True):
    """MAE's loss: squared error of the pixels of masked patches, mean over the values of a patch and over all masked patches of the batch.

    The naive loop:

        total = 0
        for b, n in masked:                                                 # the (b, n) where mask[b, n]
            y = target[b, n]
            if normalise:
                y = (y - mean(y)) / sqrt(var(y) + 1e-6)                     # var divides by P - 1
            total += mean((prediction[b, n] - y) ** 2)
        loss = total / len(masked)

    The paper (section 3, "Reconstruction target") says "mean and standard deviation of all pixels in an image patch"; the divisor P - 1 is what torch's
    `var` does, so the official numbers carry it. An all-equal patch has the target 0.

    Args:
      prediction: [B, N, P], any float type.
      target: [B, N, P] pixels as `patches` gives them, in the encoder's scale; no gradient flows to it.
      mask: [B, N], bool or 0 and 1: 1 where the patch was hidden. Fractions weigh the patches. The mean is over the whole batch: images with more hidden
        patches count more, and a batch with none gives 0.
      normalise: by each patch's own mean and variance.
    Returns: scalar f32, ≥ 0.
    Raises: ValueError for shapes that do not fit.
    """
    return _masked_mean(jnp.square(_error(prediction, target, mask, normalise)), mask)


def pixel_l1(prediction, target, mask, *, normalise=False):
    """SimMIM's loss: as `pixel_mse` with the absolute error, mean(|prediction[b, n] - y|), and pixels in the encoder's scale.

    The mean over masked values is the paper's eq. 1; the official code adds 1e-5 to their number. SimMIM hides units of 32 pixels and predicts all pixels
    of each: `patches(x, 32)`. The gradient at an error of exactly 0 is 0.
    """
    return _masked_mean(jnp.abs(_error(prediction, target, mask, normalise)), mask)


def repainted(x, prediction, mask, size, *, normalise):
    """Images [B, H, W, C] whose hidden patches (mask [B, N]) are those predicted, [B, N, size² C]; with `normalise` the prediction is of patches less their mean over
    their deviation, and gets both from the patch that it stands for, as is usual where such predictions are shown: contrast and brightness are not predicted then."""
    own = patches(x, size).astype(jnp.float32)
    if normalise:
        prediction = prediction * jnp.sqrt(own.var(-1, keepdims=True, ddof=1) + 1e-6) + own.mean(-1, keepdims=True)
    return unpatched(jnp.where(mask[..., None] > 0, prediction, own), size, shape=x.shape[1:3])


def latent_smooth_l1(prediction, target, mask, *, beta):
    """I-JEPA's loss, with beta 1, and dBOT's, with 2: as `pixel_mse` with the smooth absolute error, of features.

        e = |prediction[b, n, d] - target[b, n, d]|
        value = e ** 2 / (2 * beta) if e < beta else e - beta / 2

    Args: prediction, target: [B, N, D], the target a constant (`standardised` features of a teacher). mask: [B, N], what counts. beta: > 0.
    Returns: scalar f32: mean over all d and over what counts.
    """
    e = jnp.abs(_error(prediction, target, mask, False))
    return _masked_mean(jnp.where(e < beta, jnp.square(e) / (2 * beta), e - beta / 2), mask)


def latent_mse(prediction, target, mask):
    """data2vec 2.0's loss: as `pixel_mse` of features, with the sum over the D values of a token divided by the root of D."""
    return pixel_mse(prediction, target, mask, normalise=False) * prediction.shape[-1] ** .5


def next_embedding(said, embedded):
    """NEPA's loss: −cos of what is said at a token and the embedding of the patch behind it, mean over tokens and images.

        loss = -mean(cos(said[b, n], embedded[b, n]) for b in range(B) for n in range(N))

    Args:
      said: [B, N, D], any float type: row n is said by those who have seen the patches before the n-th alone.
      embedded: [B, N, D], what the network's own projection makes of the patches; no gradient flows to it. Both are normalised as x / max(|x|, 1e-6).
    Returns: scalar f32 in [-1, 1]; a zero vector counts as 0.
    Raises: ValueError for shapes that do not fit.
    """
    if said.ndim != 3 or said.shape != embedded.shape:
        raise ValueError(f"what is said has the shape {said.shape} and the embeddings {embedded.shape}; expected [B, N, D] of both")
    return -jnp.sum(normalised(said) * lax.stop_gradient(normalised(embedded)), -1).mean()


def standardised(x, eps=1e-5):
    """Vectors [..., D] less their mean over their deviation, f32: a layer norm without factors; no gradient."""
    x = lax.stop_gradient(x.astype(jnp.float32))
    return (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + eps)


def layers_target(x):
    """data2vec 2.0's targets of what L blocks say: [B, N, L, D] → [B, N, D] f32; no gradient.

        for l, d: x[b, :, l, d] = (x[b, :, l, d] - mean over patches) / sqrt(variance over patches + 1e-5)
        target[b, n] = standardised(mean of x[b, n, l] over l)
    """
    x = lax.stop_gradient(x.astype(jnp.float32))
    x = (x - x.mean(1, keepdims=True)) * lax.rsqrt(x.var(1, keepdims=True) + 1e-5)
    return standardised(x.mean(2))


def token_cross_entropy(logits, labels, mask):
    """BEiT's loss: mean over masked patches of -log softmax(logits[b, n])[labels[b, n]].

    Args: logits: [B, N, K], any float type. labels: [B, N] int. mask: as in `pixel_mse`. Returns: scalar f32.
    """
    logits = logits.astype(jnp.float32)
    own = jnp.take_along_axis(logits, labels[..., None], -1)[..., 0]
    return _masked_mean((jax.nn.logsumexp(logits, -1) - own)[..., None], mask)


def quantisation(target, pixels, z, codes, *, commitment):
    """The loss of a vector-quantised autoencoder (van den Oord et al. 2017, "Neural discrete representation learning", eq. 3), mean over all patches.

        loss = mean((pixels - target) ** 2)                                  # over patches and values
        loss += mean over patches of |code - stop(z)| ** 2 + commitment * |z - stop(code)| ** 2

    Args: target, pixels: [B, N, P]. z, codes: [B, N, K], what was quantised and the code it got.
    """
    pixels, z, codes = (x.astype(jnp.float32) for x in (pixels, z, codes))
    error = jnp.square(pixels - lax.stop_gradient(target.astype(jnp.float32))).mean()

    def apart(a, b):
        return jnp.square(a - lax.stop_gradient(b)).sum(-1).mean()
    return error + apart(codes, z) + commitment * apart(z, codes)


def nearest_codes(x, codes):
    """[B, N, D] and [K, D] → [B, N] int32: of the largest cosine."""
    return jnp.argmax(jnp.einsum("bnd,kd->bnk", normalised(x), normalised(codes), precision=EXACT), -1).astype(jnp.int32)


def _error(prediction, target, mask, normalise):
    """[B, N, P] f32; the target is a constant."""
    if prediction.ndim != 3 or prediction.shape != target.shape or mask.shape != prediction.shape[:2]:
        raise ValueError(f"prediction, target and mask have shapes {prediction.shape}, {target.shape} and {mask.shape}; expected [B, N, P] twice and [B, N]")
    target = lax.stop_gradient(target.astype(jnp.float32))
    if normalise:
        mean = target.mean(-1, keepdims=True)
        target = (target - mean) * lax.rsqrt(target.var(-1, keepdims=True, ddof=1) + 1e-6)
    return prediction.astype(jnp.float32) - target


def _masked_mean(error, mask):
    """[B, N, P] and [B, N] → scalar: each masked patch's mean, weighed by the mask."""
    mask = lax.stop_gradient(mask.astype(jnp.float32))
    total = mask.sum()
    return jnp.sum(error.mean(-1) * mask) / jnp.where(total > 0, total, 1.)
