"""VIbCReg (arXiv 2109.00783): VICReg with correlations in place of covariances, and embeddings whitened in groups of channels (iterative normalisation).

The projector as in solo-learn (solo/methods/vibcreg.py): linear, batch norm, GELU, twice, linear, iterative normalisation in 64 groups.
Differs: variance is the mean over views, where theirs is the sum, so a weight of 25 there is 50 here. Biases that a norm takes out again are left out.

Expected: ResNet-18, CIFAR-10, batch 256, 1,000 epochs: 91.2 % by the online linear probe (solo-learn's README).
"""
from jaxssl.losses import redundancy
from jaxssl.methods.base import Method, Needs, begin, check_range, embedding, projected, unchanged
from jaxssl.models.heads import TORCH, Projector


def make(*, encoder, net, sim=25.0, std=50.0, cov=200.0, groups=64, hidden=2048, dim=2048, layers=3) -> Method:
    """VIbCReg.

    Args:
      sim, std, cov: weights of invariance, variance and correlation, 0 or more.
      groups: of channels that are whitened by themselves, a divisor of dim; 0 for no whitening.
      hidden, dim, layers: the projector's width, output width and depth.
    """
    check_range(sim=(sim, "0 or more", sim >= 0), std=(std, "0 or more", std >= 0), cov=(cov, "0 or more", cov >= 0),
                hidden=(hidden, "at least 1", hidden >= 1), dim=(dim, "at least 1", dim >= 1), layers=(layers, "at least 1", layers >= 1),
                groups=(groups, f"0 or a divisor of method.dim={dim}", groups == 0 or groups >= 1 and dim % groups == 0))
    head = Projector((hidden,) * (layers - 1) + (dim,), last_norm=False, gelu=True, whiten=groups, kernel_init=TORCH)
    projector = net(head)

    def init(key, batch):
        return begin(key, batch, encoder, projector=projector)

    def loss(params, aux, batch, key, step):
        h, z, stats = projected(encoder, projector, params, aux["batch_stats"], batch["views"], key)                                # [B, V, D], [B, V, K]
        terms = {"invariance": redundancy.invariance(z), "variance": redundancy.variance(z), "correlation": redundancy.correlation(z)}
        value = sim * terms["invariance"] + std * terms["variance"] + cov * terms["correlation"]
        metrics = {**terms, "off_diagonal": (terms["correlation"] / 2 * dim / max(dim - 1, 1)) ** 0.5}      # root mean square of the correlations
        return value, ({**aux, "batch_stats": stats}, metrics, {"features": h, "embeddings": z})

    return Method(init, loss, unchanged, embedding(encoder), heads={"projector": (head, "encoder")}, needs=Needs(views=2))
