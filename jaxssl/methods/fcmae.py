"""FCMAE (arXiv 2301.00808): a masked autoencoder of convolutions that go around what is hidden, as sparse ones do, and one block that predicts the hidden pixels.

What is hidden are cells of the encoder's last map, 32 pixels a side of a ConvNeXt of four stages; made for ConvNeXt V2, whose response norm keeps features of such training
from dying out. Differs from the official code (facebookresearch/ConvNeXt-V2): its sparse response norm sums over the visible places of all images of a device, here over
those of each image, as in fine-tuning; and the encoder's last norm, which there is new in fine-tuning, stands before the decoder, so that features are normed by what was trained.

Expected: ConvNeXt V2, ImageNet, batch 4096, 1,600 epochs: Atto 76.7 %, Base 84.9 %, Large 85.8 %, Huge 86.3 % fine-tuned (official README).
"""
import jax
import jax.numpy as jnp

from jaxssl.augment import masks
from jaxssl.losses.masked import pixel_mse
from jaxssl.methods.base import Method, Needs, blamed, check_range, nets, of_pixels
from jaxssl.models.decoder import MapDecoder


def make(*, encoder, net, mask_ratio=0.6, normalise=True, width=512, depth=1) -> Method:
    """FCMAE.

    Args:
      mask_ratio: share of the cells that the encoder does not see, in [0, 1); drawn for each view by itself.
      normalise: the target of a cell is its pixels less their mean, over their standard deviation.
      width, depth: of the decoder.
    """
    check_range(mask_ratio=(mask_ratio, "at least 0 and below 1", 0 <= mask_ratio < 1), width=(width, "at least 1", width >= 1), depth=(depth, "at least 1", depth >= 1))
    module = encoder.module

    def decoder(x):
        return net(MapDecoder(width, depth, x.shape[-1] * module.cell**2, module.eps, module.dtype))

    def drawn(key, x):
        """bool [R, N]: hidden cells of images [R, H, W, C]."""
        with blamed("mask_ratio"):
            return masks.random(jax.random.split(key)[0], len(x), x.shape[1] // module.cell * (x.shape[2] // module.cell), mask_ratio)[1]

    def init(key, batch):
        x = batch["views"][:, 0]
        mask = drawn(key, x)
        params, stats = nets(key, encoder=(encoder, x), decoder=(decoder(x), jnp.zeros((*mask.shape, encoder.features)), {"mask": mask}))
        return params, {"batch_stats": stats}

    def predicted(params, stats, x, key):
        mask = drawn(key, x)
        seen, in_encoder = encoder(params["encoder"], stats["encoder"], x, key=jax.random.split(key)[1], mask=mask)
        return seen, decoder(x)(params["decoder"], {}, seen.tokens, mask=mask)[0], {**stats, "encoder": in_encoder}

    return of_pixels(encoder, "cell", init, drawn, predicted, pixel_mse, normalise, Needs(views=1, maps=True))
