"""I-JEPA (arXiv 2301.08243): from a large part of an image, say what a slow copy of the encoder, which sees all of it, gives for several blocks that are hidden.

Masks: `augment.masks.multi_block`. Each block is predicted by itself. Written from the paper and from descriptions of the official code, whose licence is not permissive;
differs from it in what is said at `multi_block`, and in that the loss is the mean over all predicted patches of the batch. No class token: an image is the mean of its patches.

Expected: ViT-H/14, ImageNet, batch 2048, 300 epochs: 79.3 % linear; ViT-B/16, 600 epochs: 72.9 %; ViT-L/16, 600 epochs: 77.5 % (paper, table 1).
"""
import jax
import jax.numpy as jnp

from jaxssl import schedules
from jaxssl.augment import masks
from jaxssl.losses.masked import latent_smooth_l1, standardised
from jaxssl.methods.base import Method, Needs, blamed, check_pool, check_range, embedding, flat, nets, on_grid, unchanged, with_teacher
from jaxssl.models.decoder import Predictor


def make(*, encoder, net, total, visible=0.4, targets=4, scale=(0.15, 0.2), aspect=(0.75, 1.5), context=(0.85, 1.0), tau=0.996, width=384, depth=6, heads=12) -> Method:
    """I-JEPA. It needs model.cls=False and model.pool=mean.

    Args:
      visible: share of the patches that the student sees at most, in (0, 1]. targets: blocks to predict.
      scale, context: ranges of the area of a block and of the part that is shown, as shares of the image's. aspect: range of a block's height / width.
      tau: decay of the average at the start; it grows to 1 in a straight line.
      width, depth, heads: of the predictor.
    """
    check_range(tau=(tau, "in [0, 1]", 0 <= tau <= 1), depth=(depth, "at least 1", depth >= 1), heads=(heads, "at least 1", heads >= 1),
                width=(width, f"a multiple of 4 and of the {heads} heads", width >= 1 and width % 4 == 0 and heads >= 1 and width % heads == 0))
    check_pool(encoder, "mean", "ijepa")
    vit, decay = encoder.module, schedules.linear(tau, 1.0, total)

    def predictor():
        return net(Predictor(width, depth, heads, vit.features, vit.kernel_init, vit.scan, vit.remat, vit.eps, vit.dtype))

    def drawn(key, x):
        """`masks.Blocks` of images [R, H, W, C], and which patches are not shown, bool [R, N]."""
        grid = x.shape[1] // vit.patch, x.shape[2] // vit.patch
        with blamed("targets"):
            found = masks.multi_block(jax.random.split(key)[0], len(x), grid, visible, targets=targets, scale=scale, aspect=aspect, context=context)
        n = grid[0] * grid[1]
        shown = jax.vmap(lambda keep, there: jnp.zeros(n, bool).at[jnp.where(there, keep, n)].set(True, mode="drop"))(found.keep, found.there)
        return found, ~shown

    def asked(found, mask):
        """What the predictor is given beside tokens, a row a block: [R·T, …]."""
        rows, blocks, _ = found.targets.shape
        return {**{name: jnp.repeat(x, blocks, 0) for name, x in (("keep", found.keep), ("there", found.there), ("grid", mask))},
                "asked": found.targets.reshape(rows * blocks, -1), "valid": jnp.broadcast_to(found.valid, (rows * blocks, len(found.valid)))}

    def init(key, batch):
        x = batch["views"][:, 0]
        how = asked(*drawn(key, x))
        tokens = jnp.zeros((*how["keep"].shape, encoder.features))
        params, stats = nets(key, encoder=(encoder, x), predictor=(predictor(), tokens, how))
        return params, {"batch_stats": stats}

    def loss(params, aux, batch, key, step):
        views = batch["views"]
        x = flat(views)                                                                                               # [B, V, H, W, C] -> [R, H, W, C]
        found, mask = drawn(key, x)
        seen, in_encoder = encoder(params["encoder"], aux["batch_stats"]["encoder"], x, key=jax.random.split(key)[1], keep=found.keep, there=found.there)
        how = asked(found, mask)
        y, _ = predictor()(params["predictor"], {}, jnp.repeat(seen.tokens, targets, 0), **how)                       # [R·T, M, D]
        whole = standardised(encoder(aux["teacher"]["params"]["encoder"], aux["teacher"]["batch_stats"]["encoder"], x)[0].tokens)     # [R, N, D]; no key: no block is left out
        target = jnp.take_along_axis(jnp.repeat(whole, targets, 0), how["asked"][..., None], 1)
        value = latent_smooth_l1(y, target, how["valid"], beta=1.0)
        metrics = {"tau": decay(step), "target_std": whole.std((0, 1)).mean(), "visible": jnp.mean(~mask, dtype=jnp.float32)}
        said = {"features": seen.pooled.reshape(*views.shape[:2], -1), "predicted": y, "target": whole}
        return value, ({**aux, "batch_stats": {**aux["batch_stats"], "encoder": in_encoder}}, metrics, said)

    student = Method(init, loss, unchanged, embedding(encoder), needs=Needs(views=1, patches=True), hidden=lambda key, views: on_grid(drawn(key, flat(views))[1], views, vit.patch))
    return with_teacher(student, ("encoder",), decay)
