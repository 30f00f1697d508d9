"""SMoG (arXiv 2207.06167): a view predicts the group that a slow copy puts the other view into; groups move with the embeddings of every step.

Groups are moved before they are compared with, and gradient flows through what moved them. From time to time they are found anew by k-means over the projections of
the steps before, and the copy becomes the network again: else few groups would take all.
From the paper; what it leaves open (which view asks changes from step to step, reset every 300 steps, heads) is as lightly has it. Differs from there: embeddings have
unit length before groups move; running statistics of the copy are averaged with its weights.

Expected: lightly's CIFAR-10 benchmark: kNN 74.3 % after 200 epochs of batch 128 (68.6 % of batch 512). The paper says that linear evaluation on ImageNet surpasses supervised
learning; no value of a recipe that is here.
"""
import jax
import jax.numpy as jnp

from jaxssl.losses import bank as banks
from jaxssl.losses import clustering
from jaxssl.losses.dictionary import enqueue
from jaxssl.losses.distillation import entropy, information
from jaxssl.losses.unit import normalised
from jaxssl.methods.base import Method, Needs, begin, check_queue, check_range, embedding, projected, unchanged, with_teacher
from jaxssl.models.heads import TORCH, Projector


def make(*, encoder, net, batch_size, temperature=0.1, groups=3000, momentum=0.99, tau=0.99, reset=300, queue=65536, iterations=10, hidden=2048, dim=128) -> Method:
    """SMoG.

    Args:
      temperature: of the softmax over groups, > 0. groups: their number. momentum: decay of a group's moving average.
      tau: decay of the average network, throughout.
      reset: steps after which groups are found anew, by `iterations` of k-means over a queue of so many projections, a multiple of the batch.
      hidden, dim: hidden and output width of projector and predictor.
    """
    check_range(temperature=(temperature, "above 0", temperature > 0), groups=(groups, "at least 2", groups >= 2), momentum=(momentum, "in [0, 1)", 0 <= momentum < 1),
                tau=(tau, "in [0, 1]", 0 <= tau <= 1), reset=(reset, "at least 1", reset >= 1), queue=(queue, f"at least {groups}, a row a group", queue >= groups),
                iterations=(iterations, "at least 1", iterations >= 1), hidden=(hidden, "at least 1", hidden >= 1), dim=(dim, "at least 1", dim >= 1))
    check_queue(queue, batch_size, "projections")
    head = Projector((hidden, dim), last_scale=False, kernel_init=TORCH)
    top = Projector((hidden, dim), last_norm=False, last_bias=True, kernel_init=TORCH)
    projector, predictor = net(head), net(top)

    def anew(step):
        return (step > 0) & (step % reset == 0)

    def init(key, batch):
        params, aux = begin(key, batch, encoder, projector=projector, predictor=predictor)
        return params, {**aux, "groups": normalised(jax.random.normal(jax.random.fold_in(key, 2), (groups, dim))), "queue": jnp.zeros((queue, dim))}

    def loss(params, aux, batch, key, step):
        key, draw = jax.random.split(key)
        ask, answer = (jnp.take(batch["views"], (step + i) % 2, 1)[:, None] for i in (0, 1))                                  # [B, 1, …]
        h, z, stats = projected(encoder, projector, params, aux["batch_stats"], ask, key)                                    # [B, 1, D], [B, 1, K]
        p, stats["predictor"] = predictor.per_view(params["predictor"], stats["predictor"], z)
        _, target, _ = projected(encoder, projector, aux["teacher"]["params"], aux["teacher"]["batch_stats"], answer)

        def found(kept):
            rows, weight = aux["queue"], banks.written(aux["queue"]).astype(jnp.float32)
            return clustering.spherical_kmeans(rows, weight, clustering.drawn_rows(draw, rows, weight, kept), iterations=iterations)
        kept = jax.lax.cond(anew(step), found, lambda kept: kept, aux["groups"])
        z = normalised(z[:, 0])
        labels = clustering.nearest(normalised(target[:, 0]), normalised(kept))                                              # [B]
        moved = clustering.momentum_groups(kept, z, momentum=momentum)
        logits = jnp.einsum("bvk,ck->bvc", normalised(p), normalised(moved))[:, :, None]                                     # [B, 1, 1, C]
        value = clustering.hard_cross_entropy(logits, labels[:, None], temperature=temperature)
        metrics = {"clusters_in_effect": jnp.exp(entropy(jax.nn.one_hot(labels, groups).mean(0))), "student_information": information(jax.nn.softmax(logits / temperature)),
                   "group_accuracy": jnp.mean(logits[:, 0, 0].argmax(-1) == labels, dtype=jnp.float32)}
        left = {"groups": jax.lax.stop_gradient(moved), "queue": enqueue(aux["queue"], z, step)}
        return value, ({**aux, "batch_stats": stats, **left}, metrics, {"features": h, "embeddings": p})

    student = Method(init, loss, unchanged, embedding(encoder), heads={"projector": (head, "encoder"), "predictor": (top, "projector")}, needs=Needs(views=2, most=2))
    # What is left by the update before a reset step is the network itself.
    return with_teacher(student, ("encoder", "projector"), lambda step: jnp.where(anew(step + 1), 0.0, tau))
