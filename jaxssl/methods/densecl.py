"""DenseCL (arXiv 2011.09157): MoCo v2 of images, and of places: a place of one view attracts the place of the other that the encoder finds most like it; a queue repels.

Heads as in the official code (WXinlong/DenseCL, DenseCLNeck): two linear layers with ReLU between them, for the image and, another one, for each place of the encoder's
last map. Places are compared by the encoder's own features, the student's and the copy's, never by what the head makes of them. What repels places is a queue of its
own: the mean of what the copy's head says of an image's places.
Differs from it as MoCo does (`jaxssl/methods/moco_v2.py`): ghost groups and dealt images in place of shuffling between devices, averaged running statistics, and no image
among its own negatives. Heads begin as torch's linear layers do, where it draws those of the image as He et al. do.

Expected: ResNet-50, ImageNet, batch 256, 200 epochs: detection on Pascal VOC 58.7 AP against MoCo v2's 57.0, and segmentation 69.4 mIoU against 67.5 (official README and
paper; no linear evaluation is published there).
"""
import jax
import jax.numpy as jnp

from jaxssl.losses.dictionary import queue_nce, random_queue, refilled
from jaxssl.losses.matching import corresponding
from jaxssl.methods.base import Method, Needs, among_others, check_places, check_queue, check_range, embedding, nets, unchanged, with_teacher
from jaxssl.models.heads import TORCH, Projector


def make(*, encoder, net, batch_size, temperature=0.2, queue=65536, tau=0.999, weight=0.5, hidden=2048, dim=128, norm=False) -> Method:
    """DenseCL.

    Args:
      temperature: of both softmaxes, > 0.
      queue: keys of earlier images, and as many means of their places; a multiple of the batch.
      tau: decay of the average, throughout.
      weight: of the places' loss, in [0, 1]; the image's has the rest.
      hidden, dim: hidden and output width of both heads. norm: batch norm in their hidden layers.
    """
    check_range(temperature=(temperature, "above 0", temperature > 0), tau=(tau, "in [0, 1]", 0 <= tau <= 1), weight=(weight, "in [0, 1]", 0 <= weight <= 1),
                hidden=(hidden, "at least 1", hidden >= 1), dim=(dim, "at least 1", dim >= 1))
    check_queue(queue, batch_size)
    head = Projector((hidden, dim), norm=norm, last_norm=False, last_bias=True, kernel_init=TORCH)
    projector = of_places = net(head)

    def init(key, batch):
        views = batch["views"][:, 0]
        rows = jnp.zeros((len(views), encoder.features))
        params, stats = nets(key, encoder=(encoder, views), projector=(projector, rows), places=(of_places, rows))
        first, second = (random_queue(jax.random.fold_in(key, i), queue, dim) for i in (3, 4))
        return params, {"batch_stats": stats, "queue": first, "places_queue": second}

    def seen(params, stats, views, key=None):
        """Of views [B, 1, …] the Features [B, 1, …], an embedding [B, 1, K] and one a place [B, N, K], and the statistics renewed."""
        stats = dict(stats)
        found, stats["encoder"] = encoder.per_view(params["encoder"], stats["encoder"], views, key=key)
        whole, stats["projector"] = projector.per_view(params["projector"], stats["projector"], found.pooled)
        places, stats["places"] = of_places.per_view(params["places"], stats["places"], found.tokens[:, 0])
        return found, whole, places, stats

    def loss(params, aux, batch, key, step):
        asked, q, q_places, stats = seen(params, aux["batch_stats"], batch["views"][:, :1], key)
        check_places(asked.tokens, "densecl")
        teacher = aux["teacher"]
        told, k, k_places, _ = among_others(encoder, batch["views"][:, 1:2], lambda views: (*seen(teacher["params"], teacher["batch_stats"], views)[:3], ()))
        how = dict(ids=batch["id"], temperature=temperature)
        whole, accuracy = queue_nce(q, k, aux["queue"]["keys"], queue_ids=aux["queue"]["ids"], **how)
        partners = corresponding(asked.tokens[:, 0], told.tokens[:, 0], k_places)                                          # [B, N, K]
        dense, of_place = queue_nce(q_places, partners, aux["places_queue"]["keys"], queue_ids=aux["places_queue"]["ids"], **how)
        kept = {"queue": refilled(aux["queue"], k, batch["id"], step), "places_queue": refilled(aux["places_queue"], k_places.mean(1, keepdims=True), batch["id"], step)}
        metrics = {"contrast_accuracy": accuracy, "place_accuracy": of_place, "whole": whole, "dense": dense}
        return (1 - weight) * whole + weight * dense, ({**aux, "batch_stats": stats, **kept}, metrics, {"features": asked.pooled, "embeddings": q})

    student = Method(init, loss, unchanged, embedding(encoder), heads={"projector": (head, "encoder")}, needs=Needs(views=2, most=2))
    return with_teacher(student, ("encoder", "projector", "places"), lambda step: tau)
