"""MAE (arXiv 2111.06377): the encoder sees a quarter of the patches, and a small decoder predicts the pixels of the others.

Nothing is compared, so there are no embeddings. Expected: ViT-B/16, ImageNet, batch 4096, 1,600 epochs: 83.6 % fine-tuned and 68.0 % linear (paper).
"""
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxssl.augment import masks
from jaxssl.losses.masked import pixel_mse
from jaxssl.methods.base import Method, Needs, all_tokens, blamed, check_range, nets, of_pixels
from jaxssl.models.decoder import Decoder
from jaxssl.models.net import Net


def make(*, encoder, net, mask_ratio=0.75, normalise=True, width=512, depth=8, heads=16) -> Method:
    """MAE.

    Args:
      mask_ratio: share of the patches that the encoder does not see, in [0, 1); drawn for each view by itself.
      normalise: the target of a patch is its pixels less their mean, over their standard deviation.
      width, depth, heads: of the decoder. It takes the encoder's class token along where that is what the encoder gives for an image (model.pool).
    """
    init, visible, predicted = networks(encoder, net, lambda vit: vit.patch**2 * vit.channels, mask_ratio=mask_ratio, width=width, depth=depth, heads=heads)
    return of_pixels(encoder, "patch", init, lambda key, x: visible(key, x)[1], predicted, pixel_mse, normalise, Needs(views=1, patches=True))


def networks(encoder: Net, net: Callable, values: Callable, *, mask_ratio: float, width: int, depth: int, heads: int) -> tuple[Callable, Callable, Callable]:
    """A masked autoencoder that predicts values(vit) numbers for each patch: `Method.init`, and with loss's key visible(key, images) and
    predicted(params, stats, images, key)."""
    check_range(mask_ratio=(mask_ratio, "at least 0 and below 1", 0 <= mask_ratio < 1), depth=(depth, "at least 1", depth >= 1), heads=(heads, "at least 1", heads >= 1),
                width=(width, f"a multiple of 4 and of the {heads} heads", width >= 1 and width % 4 == 0 and heads >= 1 and width % heads == 0))
    vit = encoder.module

    def decoder():                                                    # asked for once `needs` is known to be met
        return net(Decoder(width, depth, heads, values(vit), vit.pool == "cls", vit.kernel_init, vit.scan, vit.remat, vit.eps, vit.dtype))

    def visible(key, x):
        """Visible patches [R, n] of images [R, H, W, C], and which of all [R, N] are hidden."""
        with blamed("mask_ratio"):
            return masks.random(jax.random.split(key)[0], len(x), x.shape[1] // vit.patch * (x.shape[2] // vit.patch), mask_ratio)

    def init(key, batch):
        x = batch["views"][:, 0]
        tokens = jnp.zeros((2, (vit.pool == "cls") + visible(key, x)[1].shape[1], encoder.features))
        params, stats = nets(key, encoder=(encoder, x), decoder=(decoder(), tokens))
        return params, {"batch_stats": stats}

    def predicted(params, stats, x, key):
        """(Features of what is not hidden, predictions [R, N, values] of all patches, new statistics)."""
        keep, mask = visible(key, x)                                                                                  # [R, n], [R, N]
        seen, in_encoder = encoder(params["encoder"], stats["encoder"], x, key=jax.random.split(key)[1], keep=keep)
        y, in_decoder = decoder()(params["decoder"], stats["decoder"], all_tokens(encoder, seen), mask=mask)          # [R, N, values]
        return seen, y, {**stats, "encoder": in_encoder, "decoder": in_decoder}
    return init, visible, predicted
