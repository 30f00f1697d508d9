"""MAE (arXiv 2111.06377): the encoder sees a quarter of the patches, and a small decoder predicts the pixels of the others.

Nothing is compared, so there are no embeddings. Expected: ViT-B/16, ImageNet, batch 4096, 1,600 epochs: 83.6 % fine-tuned and 68.0 % linear (paper).
"""
import jax
import jax.numpy as jnp

from jaxssl.augment import masks
from jaxssl.errors import UserError
from jaxssl.losses.masked import patches, pixel_mse
from jaxssl.methods.base import Method, Needs, check_range, embedding, nets, unchanged
from jaxssl.models.decoder import Decoder


def make(*, encoder, net, mask_ratio=0.75, normalise=True, width=512, depth=8, heads=16) -> Method:
    """MAE.

    Args:
      mask_ratio: share of the patches that the encoder does not see, in [0, 1); drawn for each view by itself.
      normalise: the target of a patch is its pixels less their mean, over their standard deviation.
      width, depth, heads: of the decoder. It takes the encoder's class token along where that is what the encoder gives for an image (model.pool).
    """
    check_range(mask_ratio=(mask_ratio, "at least 0 and below 1", 0 <= mask_ratio < 1), depth=(depth, "at least 1", depth >= 1), heads=(heads, "at least 1", heads >= 1),
                width=(width, f"a multiple of 4 and of the {heads} heads", width >= 1 and width % 4 == 0 and heads >= 1 and width % heads == 0))
    vit = encoder.module

    def decoder():                                                    # asked for once `needs` is known to be met
        return net(Decoder(width, depth, heads, vit.patch**2 * vit.channels, vit.pool == "cls", vit.kernel_init, vit.scan, vit.remat, vit.eps, vit.dtype))

    def hidden(key, x):
        """Visible patches [R, n] of images [R, H, W, C], and which of all [R, N] are hidden."""
        n_patches = x.shape[1] // vit.patch * (x.shape[2] // vit.patch)
        try:
            return masks.random(key, len(x), n_patches, mask_ratio)
        except ValueError as error:
            raise UserError(f"method.mask_ratio: {error}") from error

    def init(key, batch):
        x = batch["views"][:, 0]
        mask = hidden(key, x)[1]
        tokens = jnp.zeros((2, (vit.pool == "cls") + mask.shape[1], encoder.features))
        params, stats = nets(key, encoder=(encoder, x), decoder=(decoder(), tokens))
        return params, {"batch_stats": stats}

    def loss(params, aux, batch, key, step):
        stats, views = dict(aux["batch_stats"]), batch["views"]
        mask_key, drop_key = jax.random.split(key)
        x = views.reshape(-1, *views.shape[2:])                                                                       # [B, V, H, W, C] -> [B·V, H, W, C]
        keep, mask = hidden(mask_key, x)                                                                              # [B·V, n], [B·V, N]
        seen, stats["encoder"] = encoder(params["encoder"], stats["encoder"], x, key=drop_key, keep=keep)
        tokens = jnp.concatenate([seen.pooled[:, None], seen.tokens], 1) if vit.pool == "cls" else seen.tokens        # [B·V, 1 + n, D]
        y, stats["decoder"] = decoder()(params["decoder"], stats["decoder"], tokens, mask=mask)                       # [B·V, N, P]
        value = pixel_mse(y, patches(x, vit.patch), mask, normalise=normalise)
        return value, ({**aux, "batch_stats": stats}, {}, {"features": seen.pooled.reshape(*views.shape[:2], -1)})

    return Method(init, loss, unchanged, embedding(encoder), needs=Needs(views=1, patches=True))
