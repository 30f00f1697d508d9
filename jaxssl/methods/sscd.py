"""SSCD (arXiv 2202.10261), descriptors that find copies of an image: SimCLR at a low temperature, with every image kept away from its nearest neighbour in the batch.

The head is one linear layer, and its output over its length is the descriptor (`head.projector` in evaluation). A few views show another image beside their own, half of
them blended and half as a patch, and are copies of both (`mixup`).
Differs from the paper: the encoder pools by the mean, where the paper pools by the mean of third powers (GeM). There mixed views are compared with the images of their
GPU's share of the batch as copies, and with all others as strangers; here with all, by the images' ids. Its advanced views (text, emoji, turns, JPEG) are not there; what
the configs have are those of its "strong blur".

Expected: ResNet-50, ImageNet or DISC's training images, batch 4096, 100 epochs: on DISC's copies µAP 61.4, and 72.4 with scores normalised (paper, as quoted; of the model
with advanced views, mixup and whitened descriptors).
"""
import jax
import jax.numpy as jnp

from jaxssl.augment import mix
from jaxssl.losses.copies import copies
from jaxssl.methods.base import Method, Needs, begin, check_range, embedding, projected, unchanged
from jaxssl.models.heads import TORCH, Projector


def make(*, encoder, net, temperature=0.05, entropy=30.0, mixup=0.05, dim=512) -> Method:
    """SSCD.

    Args:
      temperature: of the softmax, > 0.
      entropy: weight of the distance to the nearest other image, 0 or more. 30 is the paper's, with blocks that start as identities; its authors advise 10 to begin with.
      mixup: chance that a view shows two images, in [0, 1].
      dim: of the descriptor.
    """
    check_range(temperature=(temperature, "above 0", temperature > 0), entropy=(entropy, "0 or more", entropy >= 0), mixup=(mixup, "in [0, 1]", 0 <= mixup <= 1),
                dim=(dim, "at least 1", dim >= 1))
    head = Projector((dim,), last_norm=False, last_bias=True, kernel_init=TORCH)
    projector = net(head)

    def init(key, batch):
        return begin(key, batch, encoder, projector=projector)

    def loss(params, aux, batch, key, step):
        key, drawn = jax.random.split(key)
        views, two = mix.mixed(drawn, batch["views"][:, :2], chance=mixup)
        ids = jnp.broadcast_to(batch["id"][:, None], two.shape)                                                     # [B, 2]
        shows = jnp.stack([ids, jnp.where(two, ids[::-1], ids)], -1)
        h, z, stats = projected(encoder, projector, params, aux["batch_stats"], views, key)                         # [B, 2, D], [B, 2, K]
        contrast, spread, metrics = copies(z, shows, temperature=temperature)
        return contrast + entropy * spread, ({**aux, "batch_stats": stats}, {"contrast": contrast, "entropy": -spread, **metrics}, {"features": h, "embeddings": z})

    return Method(init, loss, unchanged, embedding(encoder), heads={"projector": (head, "encoder")}, needs=Needs(views=2, most=2))
