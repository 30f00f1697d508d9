"""Barlow Twins (arXiv 2103.03230): dimension i of one view says what dimension i of the other says, and nothing of what dimension j does.

The projector as in the official code (facebookresearch/barlowtwins, main.py): linear without bias, batch norm, ReLU, twice, then linear without bias; the loss
norms its output over the batch.

Expected: ResNet-50, ImageNet, batch 2048: 73.2 % linear after 1,000 epochs (paper, table 1; 73.5 % in the official README).
"""
import jax.numpy as jnp

from jaxssl.losses import redundancy
from jaxssl.methods.base import Method, Needs, check_range, embedding, nets, unchanged
from jaxssl.models.heads import TORCH, Projector


def make(*, encoder, net, redundancy_weight=0.0051, hidden=8192, dim=8192, layers=3) -> Method:
    """Barlow Twins.

    Args:
      redundancy_weight: of the correlations of different dimensions (λ), 0 or more.
      hidden, dim, layers: the projector's width, output width and depth.
    """
    check_range(redundancy_weight=(redundancy_weight, "0 or more", redundancy_weight >= 0), hidden=(hidden, "at least 1", hidden >= 1),
                dim=(dim, "at least 1", dim >= 1), layers=(layers, "at least 1", layers >= 1))
    head = Projector((hidden,) * (layers - 1) + (dim,), last_norm=False, kernel_init=TORCH)
    projector = net(head)

    def init(key, batch):
        views = batch["views"][:, 0]
        params, stats = nets(key, encoder=(encoder, views), projector=(projector, jnp.zeros((len(views), encoder.features))))
        return params, {"batch_stats": stats}

    def loss(params, aux, batch, key, step):
        stats = dict(aux["batch_stats"])
        h, stats["encoder"] = encoder.pooled.per_view(params["encoder"], stats["encoder"], batch["views"], key=key)      # [B, V, D]
        z, stats["projector"] = projector.per_view(params["projector"], stats["projector"], h)                           # [B, V, K]
        value, metrics = redundancy.barlow_twins(z, redundancy=redundancy_weight)
        return value, ({**aux, "batch_stats": stats}, metrics, {"features": h, "embeddings": z})

    return Method(init, loss, unchanged, embedding(encoder), heads={"projector": (head, "encoder")}, needs=Needs(views=2))
