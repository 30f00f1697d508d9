"""NPID, instance discrimination (arXiv 1805.01978): each training image is a class of its own, whose weight is what was said of it an epoch ago (a memory bank).

Head as in the official code (zhirongw/lemniscate.pytorch): one linear layer; the bank's rows move half the way to what is said now.
Differs: the images that are drawn to repel are drawn once a step and serve the whole batch, and the image itself is left out of them; there each image draws its own,
itself perhaps included. The estimate of the softmax's denominator is that of the first step, as there.

Expected: ResNet-50, ImageNet, batch 256, 200 epochs, 4,096 drawn: 54.0 % linear (paper, as quoted), 46.8 % by neighbours (official README); 54.99 % linear by VISSL.
"""
import jax
import jax.numpy as jnp

from jaxssl.losses import discrimination
from jaxssl.losses.unit import normalised
from jaxssl.methods.base import Method, begin, check_range, embedding, projected, unchanged
from jaxssl.models.heads import TORCH, Projector


def make(*, encoder, net, examples, temperature=0.07, negatives=4096, momentum=0.5, proximal=0.0, hidden=2048, dim=128, layers=1) -> Method:
    """NPID.

    Args:
      temperature: of the softmax, > 0.
      negatives: images drawn a step for noise-contrastive estimation; 0 is the softmax over all images.
      momentum: share of a row of the bank that stays, in [0, 1).
      proximal: weight of the squared distance to what was said of the image before, 0 or more.
      hidden, dim, layers: the projector's width, output width and depth.
    """
    check_range(temperature=(temperature, "above 0", temperature > 0), negatives=(negatives, "0 or more", negatives >= 0),
                momentum=(momentum, "at least 0 and below 1", 0 <= momentum < 1), proximal=(proximal, "0 or more", proximal >= 0), hidden=(hidden, "at least 1", hidden >= 1),
                dim=(dim, "at least 1", dim >= 1), layers=(layers, "at least 1", layers >= 1))
    head = Projector((hidden,) * (layers - 1) + (dim,), last_norm=False, last_bias=True, kernel_init=TORCH)
    projector = net(head)

    def init(key, batch):
        params, aux = begin(key, batch, encoder, projector=projector)
        return params, {**aux, "bank": discrimination.random_bank(jax.random.fold_in(key, 2), examples, dim), "log_z": jnp.zeros(())}

    def loss(params, aux, batch, key, step):
        drop_key, draw_key = jax.random.split(key)
        h, z, stats = projected(encoder, projector, params, aux["batch_stats"], batch["views"], drop_key)                # [B, V, D], [B, V, K]
        bank, ids = aux["bank"], batch["id"]
        value, log_z = discrimination.contrast(z, bank, ids=ids, key=draw_key, negatives=negatives, examples=examples, temperature=temperature, log_z=aux["log_z"], step=step)
        before = jax.lax.stop_gradient(normalised(bank[ids]))[:, None]                                                        # [B, 1, K]
        away = jnp.square(normalised(z) - before).sum(-1).mean()
        aux = {**aux, "batch_stats": stats, "bank": discrimination.renewed(bank, z, ids, momentum), "log_z": log_z}
        return value + proximal * away, (aux, {"moved": jax.lax.stop_gradient(away)}, {"features": h, "embeddings": z})

    return Method(init, loss, unchanged, embedding(encoder), heads={"projector": (head, "encoder")}, places=((r"^bank$", "rows"),))
