"""data2vec 2.0 (arXiv 2212.07525): from the fifth of the patches that is visible, say what the last blocks of a slow copy, which sees all, give for the others.

The copy passes over an image once and teaches `clones` masks of it. A small convolutional decoder predicts; the class token predicts the mean of the targets.
Written from the paper and from descriptions of the official code, whose vision part is not under a permissive licence. Differs: blocks norm before their branches, theirs
behind; the class token's loss is a mean over masks like the rest; exactly a fifth is visible, where theirs first hides .07 more and then shows single patches.

Expected: ViT-B/16, ImageNet, 200 epochs: 85.5 % fine-tuned, ViT-L/16, 150 epochs: 86.8 % (the latter in the paper's abstract, the former at second hand).
"""
import jax
import jax.numpy as jnp

from jaxssl import schedules
from jaxssl.augment import masks
from jaxssl.losses.masked import latent_mse, layers_target
from jaxssl.methods.base import Method, Needs, blamed, check_pool, check_range, embedding, flat, nets, on_grid, unchanged, with_teacher
from jaxssl.models.decoder import ConvDecoder


def make(*, encoder, net, duration, mask_ratio=0.8, side=3, clones=16, top_layers=10, cls_weight=0.01, tau=0.9998, tau_end=0.99999, tau_warmup="100000_steps",
         noise=0.01, width=768, depth=6, kernel=3, groups=16) -> Method:
    """data2vec 2.0. It needs model.pool=cls.

    Args:
      mask_ratio: share of the patches that are hidden, in [0, 1); visible are squares of `side` patches.
      clones: masks of each view that share the teacher's pass.
      top_layers: of the teacher's blocks the last so many give the targets.
      cls_weight: of the class token's loss.
      tau: decay of the average at the start; it goes to tau_end in a straight line over tau_warmup.
      noise: deviation of what stands in the decoder for hidden patches.
      width, depth, kernel, groups: of the decoder's convolutions.
    """
    check_range(mask_ratio=(mask_ratio, "at least 0 and below 1", 0 <= mask_ratio < 1), clones=(clones, "at least 1", clones >= 1),
                tau=(tau, "in [0, 1]", 0 <= tau <= 1), tau_end=(tau_end, "in [0, 1]", 0 <= tau_end <= 1), cls_weight=(cls_weight, "0 or more", cls_weight >= 0),
                noise=(noise, "0 or more", noise >= 0), depth=(depth, "at least 1", depth >= 1), kernel=(kernel, "odd and at least 1", kernel >= 1 and kernel % 2 == 1),
                width=(width, f"a multiple of the {groups} groups", width >= 1 and groups >= 1 and width % groups == 0))
    check_pool(encoder, "cls", "data2vec2")
    vit, decay = encoder.module, schedules.linear(tau, tau_end, duration(tau_warmup, "method.tau_warmup"))

    def decoder():
        return net(ConvDecoder(width, depth, kernel, groups, vit.features, vit.kernel_init, vit.eps, vit.dtype))

    def teacher():
        check_range(top_layers=(top_layers, f"from 1 to the {vit.depth} blocks of the encoder", 1 <= top_layers <= vit.depth))
        return encoder._replace(module=vit.clone(told=top_layers))

    def drawn(key, x):
        """Visible patches [R·M, n] and hidden ones [R·M, N] of M masks of each image, which follow one another."""
        with blamed("mask_ratio"):
            return masks.inverse_block(jax.random.split(key, 3)[0], len(x) * clones, (x.shape[1] // vit.patch, x.shape[2] // vit.patch), mask_ratio, side=side)

    def init(key, batch):
        x = batch["views"][:, 0]
        keep, mask = drawn(key, x)
        filler = jnp.zeros((*mask.shape, encoder.features))
        params, stats = nets(key, encoder=(encoder, x), decoder=(decoder(), filler[:, :keep.shape[1]], {"mask": mask, "filler": filler}))
        return params, {"batch_stats": stats}

    def loss(params, aux, batch, key, step):
        views = batch["views"]
        x = flat(views)                                                                                               # [B, V, H, W, C] -> [R, H, W, C]
        _, drop_key, noise_key = jax.random.split(key, 3)
        keep, mask = drawn(key, x)
        seen, in_encoder = encoder(params["encoder"], aux["batch_stats"]["encoder"], jnp.repeat(x, clones, 0), key=drop_key, keep=keep)       # [R·M, n, D]
        filler = noise * jax.random.normal(noise_key, (*mask.shape, encoder.features))
        y, _ = decoder()(params["decoder"], {}, seen.tokens, mask=mask, filler=filler)                                # [R·M, N, D]
        told, _ = teacher()(aux["teacher"]["params"]["encoder"], aux["teacher"]["batch_stats"]["encoder"], x)         # once for all masks; no key: no block is left out
        target = layers_target(told.tokens)                                                                           # [R, N, top_layers, D] -> [R, N, D]
        many = jnp.repeat(target, clones, 0)
        of_image = latent_mse(seen.pooled[:, None], many.mean(1, keepdims=True), jnp.ones((len(many), 1)))
        of_patches = latent_mse(y, many, mask)
        metrics = {"tau": decay(step), "patch_loss": of_patches, "cls_loss": of_image, "target_std": target.std((0, 1)).mean(), "prediction_std": y.std((0, 1)).mean()}
        said = {"features": seen.pooled.reshape(len(views), -1, encoder.features), "predicted": y, "target": target}
        return of_patches + cls_weight * of_image, ({**aux, "batch_stats": {**aux["batch_stats"], "encoder": in_encoder}}, metrics, said)

    student = Method(init, loss, unchanged, embedding(encoder), needs=Needs(views=1, patches=True), hidden=lambda key, views: on_grid(drawn(key, flat(views))[1], views, vit.patch))
    return with_teacher(student, ("encoder",), decay)
