"""ISD (arXiv 2012.09259): a student should find an image as like earlier images as a slow copy finds its other view; none of them is told to repel.

Heads as in the official code's newer version (UMBCvision/ISD, train_isd_plus.py): linear, batch norm, ReLU, linear, for projector and predictor. The student sees the
first view and the copy the second. The first version has one temperature of .02 and equal views.
Differs: rows of the image itself are left out on both sides. The copy's running statistics are averaged with its weights.

Expected: ResNet-50, ImageNet, batch 256, 200 epochs: 69.8 % linear (paper, as quoted).
"""
import jax

from jaxssl.losses.dictionary import random_queue, refilled, relational
from jaxssl.methods.base import Method, Needs, asked_and_told, begin, check_queue, check_range, embedding, unchanged, with_teacher
from jaxssl.models.heads import TORCH, Projector


def make(*, encoder, net, batch_size, student_temp=0.1, teacher_temp=0.01, queue=128000, tau=0.99, hidden=4096, dim=512) -> Method:
    """ISD.

    Args:
      student_temp, teacher_temp: of the softmaxes over the queue, > 0.
      queue: what the copy said of earlier images, a multiple of the batch.
      tau: decay of the average, throughout.
      hidden, dim: hidden and output width of projector and predictor.
    """
    check_range(student_temp=(student_temp, "above 0", student_temp > 0), teacher_temp=(teacher_temp, "above 0", teacher_temp > 0), tau=(tau, "in [0, 1]", 0 <= tau <= 1),
                hidden=(hidden, "at least 1", hidden >= 1), dim=(dim, "at least 1", dim >= 1))
    check_queue(queue, batch_size)
    head = Projector((hidden, dim), last_norm=False, last_bias=True, kernel_init=TORCH)
    projector = predictor = net(head)

    def init(key, batch):
        params, aux = begin(key, batch, encoder, projector=projector, predictor=predictor)
        return params, {**aux, "queue": random_queue(jax.random.fold_in(key, 3), queue, dim)}

    def loss(params, aux, batch, key, step):
        h, q, k, stats = asked_and_told(encoder, projector, predictor, params, aux, {"views": batch["views"]}, key)
        before = aux["queue"]
        value, metrics = relational(q, k, before["keys"], ids=batch["id"], queue_ids=before["ids"], student_temp=student_temp, teacher_temp=teacher_temp)
        aux = {**aux, "batch_stats": stats, "queue": refilled(before, k, batch["id"], step)}
        return value - metrics["teacher_entropy"], (aux, metrics, {"features": h, "embeddings": q})                        # the divergence

    student = Method(init, loss, unchanged, embedding(encoder), heads={"projector": (head, "encoder"), "predictor": (head, "projector")}, needs=Needs(views=2, most=2))
    return with_teacher(student, ("encoder", "projector"), lambda step: tau)
