"""DeepCluster v2 (arXiv 2006.09882, section 4.1): every crop predicts the cluster of its image; clusters are found anew every epoch, by k-means over all images.

A memory bank keeps the projections of the whole views of every image, as they were when it was last seen. Once an epoch spherical k-means, started from rows drawn at
random, gives the prototypes of each head (head h clusters view h modulo their number); they are not trained. The label of an image is the prototype nearest to
its row in the bank.
Differs from the official code (facebookresearch/swav, main_deepclusterv2.py): it fills the bank by a pass over the data before the first step. Here the first
`fill` steps do: their loss is 0, and configs freeze what is trained meanwhile, `("", dict(frozen_until=…))`, so that weight decay is off too. Between clusterings
a row of the bank is used before it is replaced, so labels need not be kept; an image whose row was not filled yet is labelled by its projections of the step. An
epoch of batches may end within a batch; then a few rows are a step newer than the others. Where clusters stay longer than an epoch, labels follow the newest rows.

Expected: ResNet-50, ImageNet, batch 4096: 75.2 % linear after 800 epochs of 2 + 6 crops, 74.3 % after 400 of 2 of 160 px + 4, 70.2 % after 400 of 2 (official README).
"""
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxssl.errors import UserError
from jaxssl.losses import bank as banks
from jaxssl.losses import clustering
from jaxssl.losses.distillation import entropy, information
from jaxssl.losses.unit import normalised
from jaxssl.methods.base import Method, Needs, Net, begin, check_range, crops_projected, embedding, unchanged
from jaxssl.models.heads import TORCH
from jaxssl.models.prototypes import PrototypeHead


def make(*, encoder, net, examples, duration, total, temperature=0.1, prototypes=3000, heads=3, iterations=10, hidden=2048, dim=128, fill="1_epochs", every="1_epochs") -> Method:
    """DeepCluster v2.

    Args:
      temperature: of the student's softmax, > 0.
      prototypes: of each head, at most the number of training images. heads: clusterings side by side. iterations: of k-means.
      hidden, dim: of the projector.
      fill: how long the bank is filled before anything is trained. every: how long clusters stay.
    """
    check_range(iterations=(iterations, "at least 1", iterations >= 1))

    def renew(key, rows, weight, clusters, params):
        start = clustering.drawn_rows(key, rows, weight, clusters["centroids"])
        return {**clusters, "centroids": clustering.spherical_kmeans(rows, weight, start, iterations=iterations)}

    return clustered(encoder, net, examples, total, temperature=temperature, prototypes=prototypes, heads=heads, hidden=hidden, dim=dim, renew=renew,
                     fill=duration(fill, "method.fill"), every=duration(every, "method.every"))


def clustered(encoder: Net, net: Callable, examples: int, total: int, *, temperature: float, prototypes: int, heads: int, hidden: int, dim: int, renew: Callable,
              fill: int, every: int, temp: float = 1.0, learned: Net | None = None) -> Method:
    """A method whose labels come from a memory bank, once in a while.

    renew(key, rows [N, K], weight [N], clusters of a head, its learned prototypes [C, K] or None): that head's
      new clusters, {"centroids": [C, K], "shift": [C], what is added to a row's cosines / temp}.
    fill, every: in steps. learned: the prototypes that are trained, [K] → [heads · C] logits; None where the centroids themselves are the prototypes.
    """
    check_range(temperature=(temperature, "above 0", temperature > 0), heads=(heads, "at least 1", heads >= 1), hidden=(hidden, "at least 1", hidden >= 1),
                dim=(dim, "at least 1", dim >= 1), every=(every, "at least a step", every >= 1),
                prototypes=(prototypes, "at least 2", prototypes >= 2))
    head = PrototypeHead((hidden, dim), norm=True, relu=True, kernel_init=TORCH, prototypes=False)
    projector = net(head)

    def init(key, batch):
        params, aux = begin(key, batch, encoder, projector=projector)
        if learned:
            params = {**params, "prototypes": learned.init(jax.random.fold_in(key, 3), jnp.zeros((1, dim)))[0]}
        centroids = normalised(jax.random.normal(jax.random.fold_in(key, 2), (heads, prototypes, dim)))
        return params, {**aux, "bank": {"rows": jnp.zeros((banks.rows(examples), batch["views"].shape[1], dim))},
                        "clusters": {"centroids": centroids, "shift": jnp.zeros((heads, prototypes))}}

    def loss(params, aux, batch, key, step):
        if prototypes > examples:       # known in training alone: an encoder is built again without its images and its length
            raise UserError(f"method.prototypes is {prototypes}, and there are {examples} training images; choose at most so many, or give more images")
        if fill >= total:
            raise UserError(f"method.fill is {fill} steps, in which nothing is trained, and the run has {total}; lower it, or lengthen total")
        key, draw = jax.random.split(key)
        whole, rows = batch["views"].shape[1], aux["bank"]["rows"]
        h, z, stats = crops_projected(encoder, projector, params, aux["batch_stats"], batch, key)                   # [B, V, D], [B, V, K] of unit length
        trained = None if learned is None else learned(params["prototypes"], {}, jnp.eye(dim))[0].T.reshape(heads, prototypes, dim)

        def renewed(clusters):
            weight = banks.written(rows).astype(jnp.float32)
            return jax.lax.map(lambda one: renew(one[0], jnp.take(rows, one[1], 1), weight, *one[2:]),
                               (jax.random.split(draw, heads), jnp.arange(heads) % whole, clusters, jax.lax.stop_gradient(trained)))
        clusters = jax.lax.cond((step >= fill) & ((step - fill) % every == 0), renewed, lambda clusters: clusters, aux["clusters"])
        own = banks.read(rows, batch["id"])                                                                         # [B, T, K]
        own = jnp.where(banks.written(own)[:, None, None], own, jax.lax.stop_gradient(z[:, :whole]))
        labels = jnp.stack([clustering.nearest(own[:, i % whole], clusters["centroids"][i], clusters["shift"][i], temp) for i in range(heads)], 1)      # [B, heads]
        logits = jnp.einsum("bvk,hck->bvhc", z, clusters["centroids"] if learned is None else trained)              # [B, V, heads, C]
        value = jnp.where(step < fill, 0., clustering.hard_cross_entropy(logits, labels, temperature=temperature))
        accuracy = jnp.mean(logits.argmax(-1) == labels[:, None], dtype=jnp.float32)
        used = jnp.exp(entropy(jax.nn.one_hot(labels, prototypes).mean(0))).mean()
        said = jnp.where(step < fill, jnp.log(prototypes), information(jax.nn.softmax(logits / temperature)))
        metrics = {"clusters_in_effect": jnp.where(step < fill, prototypes, used), "student_information": said, "cluster_accuracy": accuracy,
                   "filling": (step < fill).astype(jnp.float32)}
        kept = {"bank": {"rows": banks.write(rows, batch["id"], z[:, :whole])}, "clusters": clusters}
        return value, ({**aux, "batch_stats": stats, **kept}, metrics, {"features": h[:, :whole], "embeddings": z[:, :whole]})

    return Method(init, loss, unchanged, embedding(encoder), heads={"projector": (head, "encoder")}, needs=Needs(local=0))
