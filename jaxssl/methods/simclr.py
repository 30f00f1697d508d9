"""SimCLR (arXiv 2002.05709): two views of an image attract, all other images of the global batch repel.

Expected: ResNet-50, ImageNet, batch 4096: 64.5 % linear after 100 epochs, 69.3 % after 1,000 (paper, table B.1 and section 6).
"""
from jaxssl.losses.contrastive import contrastive_metrics, nt_xent
from jaxssl.methods.base import Method, Needs, begin, check_range, embedding, projected, unchanged
from jaxssl.models.heads import Projector


def make(*, encoder, net, mesh, temperature=0.1, hidden=2048, dim=128, layers=2, block=0) -> Method:
    """SimCLR.

    Args:
      temperature: of the softmax, > 0.
      hidden, dim, layers: the projector's width, output width and depth (2 in v1, 3 in v2).
      block: rows of a tile of the blockwise loss, which never holds the full logits; 0 computes them at once.
    """
    check_range(temperature=(temperature, "above 0", temperature > 0), hidden=(hidden, "at least 1", hidden >= 1), dim=(dim, "at least 1", dim >= 1),
                layers=(layers, "at least 1", layers >= 1), block=(block, "0 or more", block >= 0))
    head = Projector((hidden,) * (layers - 1) + (dim,))
    projector = net(head)

    def init(key, batch):
        return begin(key, batch, encoder, projector=projector)

    def loss(params, aux, batch, key, step):
        h, z, stats = projected(encoder, projector, params, aux["batch_stats"], batch["views"], key)                     # [B, V, D], [B, V, K]
        value = nt_xent(z, temperature=temperature, block=block, mesh=mesh)
        metrics = contrastive_metrics(z, temperature=temperature, block=block, mesh=mesh)
        return value, ({**aux, "batch_stats": stats}, {f"contrast_{name}": v for name, v in metrics.items()}, {"features": h, "embeddings": z})

    return Method(init, loss, unchanged, embedding(encoder), heads={"projector": (head, "encoder")}, needs=Needs(views=2))
