"""Barlow Twins (arXiv 2103.03230): dimension i of one view says what dimension i of the other says, and nothing of what dimension j does.

The projector as in the official code (facebookresearch/barlowtwins, main.py): linear without bias, batch norm, ReLU, twice, then linear without bias; the loss
norms its output over the batch.

Expected: ResNet-50, ImageNet, batch 2048: 73.2 % linear after 1,000 epochs (paper, table 1; 73.5 % in the official README).
"""
from jaxssl.losses import redundancy
from jaxssl.methods.base import Method, Needs, begin, check_range, embedding, projected, rows_at_once, unchanged
from jaxssl.models.heads import TORCH, Projector


def make(*, encoder, net, mesh, redundancy_weight=0.0051, hidden=8192, dim=8192, layers=3) -> Method:
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
        return begin(key, batch, encoder, projector=projector)

    def loss(params, aux, batch, key, step):
        h, z, stats = projected(encoder, projector, params, aux["batch_stats"], batch["views"], key)                     # [B, V, D], [B, V, K]
        value, metrics = redundancy.barlow_twins(z, redundancy=redundancy_weight, block=rows_at_once(mesh, z.size // len(z)))
        return value, ({**aux, "batch_stats": stats}, metrics, {"features": h, "embeddings": z})

    return Method(init, loss, unchanged, embedding(encoder), heads={"projector": (head, "encoder")}, needs=Needs(views=2))
