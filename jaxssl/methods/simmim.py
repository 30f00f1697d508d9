"""SimMIM (arXiv 2111.09886): a learned token stands for the hidden patches, the encoder sees all places, and one linear layer predicts the hidden pixels.

Differs from the official code (microsoft/SimMIM): its ViT has a relative position bias shared by all blocks, here positions are those of `model.positions`; its mask token is
drawn ±.02, here it begins at zero; it divides by the number of masked values plus 1e-5.

Expected: ViT-B/16, ImageNet, batch 2048, 800 epochs: 83.8 % fine-tuned (paper, table 6), 56.7 % linear (its table on linear probing, quoted at second hand).
"""
import jax
import jax.numpy as jnp

from jaxssl.augment import masks
from jaxssl.errors import UserError
from jaxssl.losses.masked import pixel_l1
from jaxssl.methods.base import Method, Needs, blamed, check_range, nets, of_pixels
from jaxssl.models.decoder import Linear


def make(*, encoder, net, mask_ratio=0.6, unit=2, normalise=False) -> Method:
    """SimMIM. It needs model.mask_token.

    Args:
      mask_ratio: share of the units that are hidden, in [0, 1); drawn for each view by itself.
      unit: side of what is hidden together, in patches; 32 pixels in the paper.
      normalise: the target of a patch is its pixels less their mean, over their standard deviation.
    """
    check_range(mask_ratio=(mask_ratio, "at least 0 and below 1", 0 <= mask_ratio < 1), unit=(unit, "at least 1", unit >= 1))
    vit = encoder.module

    def head():
        return net(Linear(vit.patch**2 * vit.channels, vit.kernel_init))

    def drawn(key, x):
        """bool [R, N]: hidden patches of images [R, H, W, C]."""
        rows, columns = (side // vit.patch for side in x.shape[1:3])
        if rows % unit or columns % unit:
            raise UserError(f"method.unit is {unit}, which does not divide {rows} × {columns} patches of a view; choose a divisor, such as 1")
        with blamed("mask_ratio"):
            mask = masks.random(jax.random.split(key)[0], len(x), rows // unit * (columns // unit), mask_ratio)[1]
        return masks.units(mask.reshape(-1, rows // unit, columns // unit), unit).reshape(len(x), -1)

    def init(key, batch):
        params, stats = nets(key, encoder=(encoder, batch["views"][:, 0]), head=(head(), jnp.zeros((2, 1, encoder.features))))
        return params, {"batch_stats": stats}

    def predicted(params, stats, x, key):
        seen, in_encoder = encoder(params["encoder"], stats["encoder"], x, key=jax.random.split(key)[1], mask=drawn(key, x))
        return seen, head()(params["head"], {}, seen.tokens)[0], {**stats, "encoder": in_encoder}

    return of_pixels(encoder, "patch", init, drawn, predicted, pixel_l1, normalise, Needs(views=1, patches=True))
