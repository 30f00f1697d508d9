"""SupCon (arXiv 2004.11362): all views of a class attract, those of other classes repel. It learns from labels; an image without one has its own other views alone.

Head as in the official code (HobbitLong/SupContrast, networks/resnet_big.py): two linear layers with bias, ReLU between, no batch norm.
Differs: the official loss is temperature / .07 times this, the paper's eq. 2, so a rate for its SGD is multiplied by that here.

Expected: ResNet-50, CIFAR-10 96.0 % and CIFAR-100 76.5 % linear after 1,000 epochs of batch 1,024 (official README; SimCLR 93.6 and 70.7 there).
"""
from jaxssl.losses.contrastive import contrastive_metrics, sup_con
from jaxssl.methods.base import Method, Needs, begin, check_range, embedding, projected, unchanged
from jaxssl.models.heads import TORCH, Projector


def make(*, encoder, net, mesh, classes, temperature=0.1, hidden=2048, dim=128, layers=2, norm=False, block=0) -> Method:
    """SupCon.

    Args:
      temperature: of the softmax, > 0.
      hidden, dim, layers: the projector's width, output width and depth. norm: batch norm in its hidden layers.
      block: rows of a tile of the blockwise loss, which never holds the full logits; 0 computes them at once.
    """
    check_range(temperature=(temperature, "above 0", temperature > 0), hidden=(hidden, "at least 1", hidden >= 1), dim=(dim, "at least 1", dim >= 1),
                layers=(layers, "at least 1", layers >= 1), block=(block, "0 or more", block >= 0))
    head = Projector((hidden,) * (layers - 1) + (dim,), norm=norm, last_norm=False, last_bias=True, kernel_init=TORCH)
    projector = net(head)

    def init(key, batch):
        return begin(key, batch, encoder, projector=projector)

    def loss(params, aux, batch, key, step):
        h, z, stats = projected(encoder, projector, params, aux["batch_stats"], batch["views"], key)                     # [B, V, D], [B, V, K]
        value = sup_con(z, batch["label"], classes=classes, temperature=temperature, block=block, mesh=mesh)
        metrics = contrastive_metrics(z, temperature=temperature, block=block, mesh=mesh)
        return value, ({**aux, "batch_stats": stats}, {f"contrast_{name}": v for name, v in metrics.items()}, {"features": h, "embeddings": z})

    return Method(init, loss, unchanged, embedding(encoder), heads={"projector": (head, "encoder")}, needs=Needs(views=2, labels=True))
