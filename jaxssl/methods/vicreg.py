"""VICReg (arXiv 2105.04906): two views agree, every dimension varies over the batch, and no two vary together.

The projector as in the official code (facebookresearch/vicreg, main_vicreg.py): linear, batch norm, ReLU, twice, then linear without bias. Its hidden linear
layers have a bias there, which the norm takes out again, so here they have none.

Expected: ResNet-50, ImageNet, batch 2048: 73.2 % linear after 1,000 epochs (paper, table 1).
"""
from jaxssl.losses import redundancy
from jaxssl.methods.base import Method, Needs, begin, check_range, embedding, projected, rows_at_once, unchanged
from jaxssl.models.heads import TORCH, Projector


def make(*, encoder, net, mesh, sim=25.0, std=25.0, cov=1.0, hidden=8192, dim=8192, layers=3) -> Method:
    """VICReg.

    Args:
      sim, std, cov: weights of invariance, variance and covariance, 0 or more.
      hidden, dim, layers: the projector's width, output width and depth.
    """
    check_range(sim=(sim, "0 or more", sim >= 0), std=(std, "0 or more", std >= 0), cov=(cov, "0 or more", cov >= 0),
                hidden=(hidden, "at least 1", hidden >= 1), dim=(dim, "at least 1", dim >= 1), layers=(layers, "at least 1", layers >= 1))
    head = Projector((hidden,) * (layers - 1) + (dim,), last_norm=False, kernel_init=TORCH)
    projector = net(head)

    def init(key, batch):
        return begin(key, batch, encoder, projector=projector)

    def loss(params, aux, batch, key, step):
        h, z, stats = projected(encoder, projector, params, aux["batch_stats"], batch["views"], key)                     # [B, V, D], [B, V, K]
        terms = redundancy.vicreg(z, rows_at_once(mesh, z.size // len(z)))
        value = sim * terms["invariance"] + std * terms["variance"] + cov * terms["covariance"]
        metrics = {**terms, "off_diagonal": (terms["covariance"] / (2 * max(dim - 1, 1))) ** 0.5}      # root mean square of the covariances
        return value, ({**aux, "batch_stats": stats}, metrics, {"features": h, "embeddings": z})

    return Method(init, loss, unchanged, embedding(encoder), heads={"projector": (head, "encoder")}, needs=Needs(views=2))
