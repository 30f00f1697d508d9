"""dBOT (arXiv 2209.03917): a masked autoencoder that predicts the features of a teacher, in stages: the teacher is the student of the stage before.

Of the first stage the teacher is the network as it began. Where a stage ends the student becomes the teacher and training begins again from the weights that it began with.
Differs from the official code (liuxingbin/dbot): a stage begins with the weights of the first and not with new draws, and the optimizer's averages and the schedule of its rate go
on through all stages (there each stage is a run of its own).

Expected: ViT-B/16, ImageNet, batch 4096, 2 stages in 1,600 epochs: 84.5 % fine-tuned; ViT-L/16 86.6 %, ViT-H/14 87.4 % (paper, table 1).
"""
import jax
import jax.numpy as jnp

from jaxssl.augment import masks
from jaxssl.errors import UserError
from jaxssl.losses.masked import latent_smooth_l1, standardised
from jaxssl.methods.base import Method, Needs, all_tokens, blamed, check_range, embedding, flat, nets, on_grid
from jaxssl.models.decoder import Decoder


def make(*, encoder, net, total, duration, mask_ratio=0.75, stage="50_percent", beta=2.0, width=512, depth=8, heads=16) -> Method:
    """dBOT.

    Args:
      mask_ratio: share of the patches that the student does not see, in [0, 1); drawn for each view by itself.
      stage: how long a teacher teaches.
      beta: error above which the loss grows in a straight line, > 0.
      width, depth, heads: of the decoder.
    """
    check_range(mask_ratio=(mask_ratio, "at least 0 and below 1", 0 <= mask_ratio < 1), beta=(beta, "above 0", beta > 0), depth=(depth, "at least 1", depth >= 1),
                width=(width, f"a multiple of 4 and of the {heads} heads", width >= 1 and width % 4 == 0 and heads >= 1 and width % heads == 0),
                heads=(heads, "at least 1", heads >= 1))
    length = duration(stage, "method.stage")
    if length < 1:
        raise UserError(f"method.stage is {stage!r}, which is no step at all; give it one at least")
    vit = encoder.module

    def decoder():
        return net(Decoder(width, depth, heads, vit.features, vit.pool == "cls", vit.kernel_init, vit.scan, vit.remat, vit.eps, vit.dtype))

    def visible(key, x):
        with blamed("mask_ratio"):
            return masks.random(jax.random.split(key)[0], len(x), x.shape[1] // vit.patch * (x.shape[2] // vit.patch), mask_ratio)

    def init(key, batch):
        x = batch["views"][:, 0]
        tokens = jnp.zeros((2, (vit.pool == "cls") + visible(key, x)[1].shape[1], encoder.features))
        params, stats = nets(key, encoder=(encoder, x), decoder=(decoder(), tokens))
        copied = jax.tree.map(jnp.copy, params)
        teacher = {"params": {"encoder": jax.tree.map(jnp.copy, params["encoder"])}, "batch_stats": {"encoder": stats["encoder"]}}
        return params, {"batch_stats": stats, "frozen": {"start": copied, "teacher": teacher}}

    def loss(params, aux, batch, key, step):
        views, stats = batch["views"], aux["batch_stats"]
        x = flat(views)
        keep, mask = visible(key, x)                                                                                  # [R, n], [R, N]
        seen, in_encoder = encoder(params["encoder"], stats["encoder"], x, key=jax.random.split(key)[1], keep=keep)
        y, in_decoder = decoder()(params["decoder"], stats["decoder"], all_tokens(encoder, seen), mask=mask)          # [R, N, D]
        teacher = aux["frozen"]["teacher"]
        target = standardised(encoder(teacher["params"]["encoder"], teacher["batch_stats"]["encoder"], x)[0].tokens)  # [R, N, D]; no key: no block is left out
        metrics = {"stage": step // length, "target_std": target.std((0, 1)).mean()}
        said = {"features": seen.pooled.reshape(*views.shape[:2], -1), "predicted": y, "target": target}
        return latent_smooth_l1(y, target, mask, beta=beta), ({**aux, "batch_stats": {**stats, "encoder": in_encoder, "decoder": in_decoder}}, metrics, said)

    def post(params, aux, step):
        ends = ((step + 1) % length == 0) & (step + 1 < total)

        def renewed(new, old):
            return jax.tree.map(lambda a, b: jnp.where(ends, a, b), new, old)
        frozen = aux["frozen"]
        teacher = {**frozen["teacher"], "params": renewed({"encoder": params["encoder"]}, frozen["teacher"]["params"])}
        again = {name: renewed(start, params[name]) for name, start in frozen["start"].items()}
        return {**params, **again}, {**aux, "frozen": {**frozen, "teacher": teacher}}

    return Method(init, loss, post, embedding(encoder), needs=Needs(views=1, patches=True), hidden=lambda key, views: on_grid(visible(key, flat(views))[1], views, vit.patch))
