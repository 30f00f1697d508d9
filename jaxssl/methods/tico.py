"""TiCo (arXiv 2206.10698): views agree with what a slow copy of the network says of each other, and avoid the directions that recent embeddings share.

The average covariance of embeddings stands for all earlier images, as a queue would; it needs no negatives and no large batch.
Head as in the paper: linear, batch norm, ReLU, linear.
Differs: each view is asked in its turn, where the paper has one view for the network and one for the copy; the average, this batch's part included, is a constant for
the gradient (as in lightly); the copy's running statistics are averaged with its weights. What is evaluated is the average (`--use student` for the other).

Expected: ResNet-50, ImageNet, batch 256, 100 epochs: 49.7 % linear and 26.6 % kNN in lightly's benchmark, in which the covariance of the copy's embeddings is the
term, so that no gradient spreads the network's. Of the paper's 1,000 epochs at batch 4096 no value was checked.
"""
import jax.numpy as jnp

from jaxssl import schedules
from jaxssl.losses.redundancy import tico
from jaxssl.methods.base import Method, Needs, begin, check_range, embedding, projected, unchanged, with_teacher
from jaxssl.models.heads import TORCH, Projector


def make(*, encoder, net, total, contrast=8.0, decay=0.9, tau=0.99, hidden=4096, dim=256) -> Method:
    """TiCo.

    Args:
      contrast: weight of the covariance (ρ), 0 or more.
      decay: of its average (β).
      tau: decay of the network's average at the start; it grows to 1 along half a cosine.
      hidden, dim: of the projector.
    """
    check_range(contrast=(contrast, "0 or more", contrast >= 0), decay=(decay, "in [0, 1)", 0 <= decay < 1), tau=(tau, "in [0, 1]", 0 <= tau <= 1),
                hidden=(hidden, "at least 1", hidden >= 1), dim=(dim, "at least 1", dim >= 1))
    head = Projector((hidden, dim), last_norm=False, last_bias=True, kernel_init=TORCH)
    projector = net(head)
    slow = schedules.tau(tau, total)

    def init(key, batch):
        params, aux = begin(key, batch, encoder, projector=projector)
        return params, {**aux, "covariance": jnp.zeros((dim, dim))}

    def loss(params, aux, batch, key, step):
        h, p, stats = projected(encoder, projector, params, aux["batch_stats"], batch["views"], key)                                # [B, V, D], [B, V, K]
        _, z, _ = projected(encoder, projector, aux["teacher"]["params"], aux["teacher"]["batch_stats"], batch["views"])
        value, covariance = tico(p, z, aux["covariance"], contrast=contrast, decay=decay)
        rank = jnp.square(jnp.trace(covariance)) / jnp.square(covariance).sum()                                                     # 1: one direction, K: all alike
        return value, ({**aux, "batch_stats": stats, "covariance": covariance}, {"covariance_rank": rank, "tau": slow(step)}, {"features": h, "embeddings": p})

    student = Method(init, loss, unchanged, embedding(encoder), heads={"projector": (head, "encoder")}, needs=Needs(views=2))
    return with_teacher(student, ("encoder", "projector"), slow)
