"""W-MSE (arXiv 2007.06346): views agree once the embeddings of a sub-batch are white, so that no two dimensions can say the same and none can fall silent.

Head as in the official code (htdt/self-supervised): linear, batch norm, ReLU, linear. Each view is whitened by itself, in sub-batches of images that are drawn anew
every step; every two views of an image are compared, both with gradient.
Differs: the head's first layer has no bias, which the norm takes out again.

Expected: ResNet-18, CIFAR-10, 1,000 epochs, 4 views: 92.0 % linear and 89.9 % by 5-NN (paper, table 1, from memory); 88.7 % by the online linear probe of solo-learn,
whose loss gives one of the two views no gradient.
"""
import jax

from jaxssl.errors import UserError
from jaxssl.losses.spectral import wmse
from jaxssl.methods.base import Method, Needs, begin, check_range, embedding, projected, unchanged
from jaxssl.models.heads import TORCH, Projector


def make(*, encoder, net, batch_size, subbatch=128, draws=1, shrink=0.0, hidden=1024, dim=64) -> Method:
    """W-MSE.

    Args:
      subbatch: images that are whitened together, a divisor of the batch and more than dim; twice dim in the paper.
      draws: how often the images are dealt to sub-batches; the loss is their mean.
      shrink: share of the identity in the covariance, in [0, 1); above 0 where embeddings use few dimensions and the loss is not finite.
      hidden, dim: of the projector.
    """
    check_range(draws=(draws, "at least 1", draws >= 1), shrink=(shrink, "in [0, 1)", 0 <= shrink < 1), hidden=(hidden, "at least 1", hidden >= 1),
                dim=(dim, "at least 1", dim >= 1), subbatch=(subbatch, f"more than method.dim={dim}, whose covariance it gives", subbatch > dim))
    if batch_size % subbatch:
        raise UserError(f"method.subbatch is {subbatch}, which does not divide the batch; choose a divisor of batch_size={batch_size} above method.dim={dim}")
    head = Projector((hidden, dim), last_norm=False, last_bias=True, kernel_init=TORCH)
    projector = net(head)

    def init(key, batch):
        return begin(key, batch, encoder, projector=projector)

    def loss(params, aux, batch, key, step):
        drop_key, order_key = jax.random.split(key)
        h, z, stats = projected(encoder, projector, params, aux["batch_stats"], batch["views"], drop_key)                           # [B, V, D], [B, V, K]
        groups = [jax.random.permutation(k, batch_size) // subbatch for k in jax.random.split(order_key, draws)]                    # [B] each
        value = sum(wmse(z, group, size=subbatch, shrink=shrink) for group in groups) / draws
        return value, ({**aux, "batch_stats": stats}, {}, {"features": h, "embeddings": z})

    return Method(init, loss, unchanged, embedding(encoder), heads={"projector": (head, "encoder")}, needs=Needs(views=2))
