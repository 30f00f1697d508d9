"""NEPA (arXiv 2512.16922): an autoregressive transformer says of each patch what its own projection makes of the next one. No mask, no decoder, no teacher, no views.

In training a token attends to itself and to those before it (`ViT.causal`), class token first, patches row by row; features are those of the same network with attention
among all tokens, as the paper fine-tunes it, the mean of the patches. Differs from the official code (SihanXU/nepa): norms of queries and keys have factors, the class token
and the patches' projection are drawn as in the other ViTs here.

Expected: ViT-B/14, ImageNet, batch 4096, 1,600 epochs: 83.8 % fine-tuned; ViT-L/14: 85.3 % (paper, with SwiGLU; the official repository has 83.75 and 85.40 with GELU).
"""
import jax
import jax.numpy as jnp

from jaxssl.errors import UserError
from jaxssl.losses.masked import next_embedding
from jaxssl.methods.base import Method, Needs, all_tokens, check_pool, embedding, flat, nets, unchanged
from jaxssl.models.vit import Patch


def make(*, encoder, net) -> Method:
    """NEPA. It needs model.pool=mean and the class token, which says the first patch."""
    check_pool(encoder, "mean", "nepa")
    vit = encoder.module
    if not getattr(vit, "cls", True):
        raise UserError("model.cls is off, and nepa says the first patch from the class token; leave model.cls on")

    def init(key, batch):
        params, stats = nets(key, encoder=(encoder, batch["views"][:, 0]))
        return params, {"batch_stats": stats}

    def loss(params, aux, batch, key, step):
        views, stats = batch["views"], aux["batch_stats"]
        x = flat(views)                                                                                               # [B, V, H, W, C] -> [R, H, W, C]
        student = encoder._replace(module=vit.clone(causal=True, pool="cls"))                                         # gives the class token's output too
        seen, in_encoder = student(params["encoder"], stats["encoder"], x, key=key)
        embedded, _ = net(Patch(vit.width, vit.patch, vit.frozen_patch, vit.dtype))(jax.lax.stop_gradient(params["encoder"]["patch"]), {}, x)
        said = all_tokens(student, seen)[:, :-1]                                                                      # [R, N, D]: the last patch has none behind it
        value = next_embedding(said, embedded)
        target = embedded.astype(jnp.float32)
        seen = {"features": seen.tokens.mean(1).reshape(*views.shape[:2], -1), "predicted": said, "target": target}
        return value, ({**aux, "batch_stats": {**stats, "encoder": in_encoder}}, {"target_std": target.std((0, 1)).mean()}, seen)

    return Method(init, loss, unchanged, embedding(encoder), needs=Needs(views=1, patches=True))
