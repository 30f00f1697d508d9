"""ReSSL (arXiv 2107.09282): a student should find a strong view as like earlier images as a slow copy finds a weak one; the copy's sharper softmax is the target.

Head as in the official code (mingkai-zheng/ReSSL, network/head.py): two linear layers with bias, ReLU between; no predictor. The student sees the first view and the
copy the second, which in the paper has crop and flip alone. With `local` views the student sees these too, and all are as likely as the copy finds its one view
(official ressl_multi.py, whose five crops have five sizes, 224 to 96 pixels; here local views have one).
Differs: rows of the image itself are left out on both sides. The copy's running statistics are averaged with its weights; norms see the global batch, or
`model.bn_groups` ghost groups, in which the copy meets other images than the network, in place of shuffling between devices.

Expected: ResNet-50, ImageNet, batch 256, 200 epochs: 69.9 % linear; 74.7 % with five crops of five sizes (official README).
"""
import jax

from jaxssl.losses.dictionary import random_queue, refilled, relational
from jaxssl.methods.base import Method, Needs, asked_and_told, begin, check_queue, check_range, embedding, unchanged, with_teacher
from jaxssl.models.heads import TORCH, Projector


def make(*, encoder, net, batch_size, student_temp=0.1, teacher_temp=0.04, queue=131072, tau=0.999, hidden=4096, dim=512, norm=False) -> Method:
    """ReSSL.

    Args:
      student_temp, teacher_temp: of the softmaxes over the queue, > 0; the teacher's is the lower one.
      queue: what the copy said of earlier images, a multiple of the batch.
      tau: decay of the average, throughout.
      hidden, dim: the projector's hidden and output width. norm: batch norm in its hidden layer.
    """
    check_range(student_temp=(student_temp, "above 0", student_temp > 0), teacher_temp=(teacher_temp, "above 0", teacher_temp > 0), tau=(tau, "in [0, 1]", 0 <= tau <= 1),
                hidden=(hidden, "at least 1", hidden >= 1), dim=(dim, "at least 1", dim >= 1))
    check_queue(queue, batch_size)
    head = Projector((hidden, dim), norm=norm, last_norm=False, last_bias=True, kernel_init=TORCH)
    projector = net(head)

    def init(key, batch):
        params, aux = begin(key, batch, encoder, projector=projector)
        return params, {**aux, "queue": random_queue(jax.random.fold_in(key, 2), queue, dim)}

    def loss(params, aux, batch, key, step):
        h, q, k, stats = asked_and_told(encoder, projector, None, params, aux, batch, key)
        before = aux["queue"]
        value, metrics = relational(q, k, before["keys"], ids=batch["id"], queue_ids=before["ids"], student_temp=student_temp, teacher_temp=teacher_temp)
        aux = {**aux, "batch_stats": stats, "queue": refilled(before, k, batch["id"], step)}
        return value, (aux, metrics, {"features": h[:, :1], "embeddings": q[:, :1]})

    student = Method(init, loss, unchanged, embedding(encoder), heads={"projector": (head, "encoder")}, needs=Needs(views=2, most=2, local=0))
    return with_teacher(student, ("encoder", "projector"), lambda step: tau)
