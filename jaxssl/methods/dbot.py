"""dBOT (arXiv 2209.03917): a masked autoencoder that predicts the features of a teacher, in stages: the teacher is the student of the stage before.

Of the first stage the teacher is the network as it began. Where a stage ends the student becomes the teacher and training begins again from the weights that it began with.
Differs from the official code (liuxingbin/dbot): a stage begins with the weights of the first and not with new draws, and the optimizer's averages and the schedule of its rate go
on through all stages (there each stage is a run of its own).

Expected: ViT-B/16, ImageNet, batch 4096, 2 stages in 1,600 epochs: 84.5 % fine-tuned; ViT-L/16 86.6 %, ViT-H/14 87.4 % (paper, table 1).
"""
import jax
import jax.numpy as jnp

from jaxssl.errors import UserError
from jaxssl.losses.masked import latent_smooth_l1, standardised
from jaxssl.methods import mae
from jaxssl.methods.base import Method, Needs, check_range, embedding, flat, on_grid


def make(*, encoder, net, total, duration, mask_ratio=0.75, stage="50_percent", beta=2.0, width=512, depth=8, heads=16) -> Method:
    """dBOT.

    Args:
      mask_ratio: share of the patches that the student does not see, in [0, 1); drawn for each view by itself.
      stage: how long a teacher teaches.
      beta: error above which the loss grows in a straight line, > 0.
      width, depth, heads: of the decoder.
    """
    check_range(beta=(beta, "above 0", beta > 0))
    length = duration(stage, "method.stage")
    if length < 1:
        raise UserError(f"method.stage is {stage!r}, which is no step at all; give it one at least")
    begin, visible, predicted = mae.networks(encoder, net, lambda vit: vit.features, mask_ratio=mask_ratio, width=width, depth=depth, heads=heads)

    def init(key, batch):
        params, aux = begin(key, batch)
        copied = jax.tree.map(jnp.copy, params)
        teacher = {"params": {"encoder": jax.tree.map(jnp.copy, params["encoder"])}, "batch_stats": {"encoder": aux["batch_stats"]["encoder"]}}
        return params, {**aux, "frozen": {"start": copied, "teacher": teacher}}

    def loss(params, aux, batch, key, step):
        views, x = batch["views"], flat(batch["views"])
        seen, y, stats = predicted(params, aux["batch_stats"], x, key)                                                # y [R, N, D]
        teacher = aux["frozen"]["teacher"]
        target = standardised(encoder(teacher["params"]["encoder"], teacher["batch_stats"]["encoder"], x)[0].tokens)  # [R, N, D]; no key: no block is left out
        metrics = {"stage": step // length, "target_std": target.std((0, 1)).mean()}
        said = {"features": seen.pooled.reshape(*views.shape[:2], -1), "predicted": y, "target": target}
        return latent_smooth_l1(y, target, visible(key, x)[1], beta=beta), ({**aux, "batch_stats": stats}, metrics, said)

    def post(params, aux, step):
        ends = ((step + 1) % length == 0) & (step + 1 < total)

        def renewed(new, old):
            return jax.tree.map(lambda a, b: jnp.where(ends, a, b), new, old)
        frozen = aux["frozen"]
        teacher = {**frozen["teacher"], "params": renewed({"encoder": params["encoder"]}, frozen["teacher"]["params"])}
        again = {name: renewed(start, params[name]) for name, start in frozen["start"].items()}
        return {**params, **again}, {**aux, "frozen": {**frozen, "teacher": teacher}}

    return Method(init, loss, post, embedding(encoder), needs=Needs(views=1, patches=True),
                  hidden=lambda key, views: on_grid(visible(key, flat(views))[1], views, encoder.module.patch))
