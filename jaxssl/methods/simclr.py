"""SimCLR (arXiv 2002.05709): two views of an image attract, all other images of the global batch repel.

Expected: ResNet-50, ImageNet, batch 4096: 64.5 % linear after 100 epochs, 69.3 % after 1,000 (paper, table B.1 and section 6).
"""
import jax
import jax.numpy as jnp

from jaxssl.errors import UserError
from jaxssl.losses.contrastive import contrastive_metrics, nt_xent
from jaxssl.methods.base import Method, apply, flat, init as init_module, unflat
from jaxssl.models.heads import Projector


def make(*, encoder, mesh, views, temperature=0.1, hidden=2048, dim=128, layers=2, block=0) -> Method:
    """SimCLR.

    Args:
      temperature: of the softmax, > 0.
      hidden, dim, layers: the projector's width, output width and depth (2 in v1, 3 in v2).
      block: rows of a tile of the blockwise loss, which never holds the full logits; 0 computes them at once.
    """
    if views < 2:
        raise UserError(f"augment.views is {views}; SimCLR contrasts views of the same image and needs at least 2")
    if temperature <= 0:
        raise UserError(f"method.temperature is {temperature}; it must be above 0")
    if layers < 1 or hidden < 1 or dim < 1 or block < 0:
        raise UserError(f"method.layers, hidden, dim and block are {layers}, {hidden}, {dim} and {block}; the first three must be at least 1, block at least 0")
    projector = Projector((hidden,) * (layers - 1) + (dim,))

    def init(key, batch):
        key_e, key_p = jax.random.split(key)
        x = flat(batch["views"])
        encoder_params, encoder_stats = init_module(encoder, key_e, x)
        projector_params, projector_stats = init_module(projector, key_p, jnp.zeros((x.shape[0], encoder.features)))
        return {"encoder": encoder_params, "projector": projector_params}, {"batch_stats": {"encoder": encoder_stats, "projector": projector_stats}}

    def loss(params, aux, batch, key, step):
        x = flat(batch["views"])                                                       # [B·V, H, W, 3]
        stats = aux["batch_stats"]
        h, encoder_stats = apply(encoder, params["encoder"], stats["encoder"], x, train=True)          # [B·V, D]
        z, projector_stats = apply(projector, params["projector"], stats["projector"], h, train=True)  # [B·V, K]
        h, z = unflat(h, views), unflat(z, views)
        value = nt_xent(z, temperature=temperature, block=block, mesh=mesh)
        contrast = contrastive_metrics(z, temperature=temperature, block=block, mesh=mesh)
        aux = {**aux, "batch_stats": {"encoder": encoder_stats, "projector": projector_stats}}
        return value, (aux, {**{f"contrast_{name}": v for name, v in contrast.items()}, "features": h, "embeddings": z})

    def post(aux, params, step):
        return aux

    def embed(params, aux, images):
        return apply(encoder, params["encoder"], aux["batch_stats"]["encoder"], images, train=False)[0]

    return Method(init, loss, post, embed, heads={"projector": projector})
