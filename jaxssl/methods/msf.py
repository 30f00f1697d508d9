"""Mean shift (arXiv 2105.07269): from a strong view, predict what a slow copy says of a weak one and of its nearest neighbours among earlier images; no negatives.

Heads as in the official code (UMBCvision/MSF, train_msf.py, get_mlp): linear, batch norm, ReLU, linear, for projector and predictor; their first linear layer has a
bias too, which the norm takes out again. The student sees the first view and the copy the second: the paper's weak view has crop and flip alone.
Differs: of the `topk` targets the first is always the image's own and the others are of other images, since the queue knows whose its rows are; there rows of the
image itself from earlier epochs count among them. The copy's running statistics are averaged with its weights.

Expected: ResNet-50, ImageNet, batch 256, 200 epochs: 72.4 % linear, 65.7 % kNN (official README).
"""
import jax

from jaxssl.losses.dictionary import mean_shift, nearest, neighbour_metrics, random_queue, refilled
from jaxssl.methods.base import Method, Needs, asked_and_told, begin, check_queue, check_range, embedding, unchanged, with_teacher
from jaxssl.models.heads import TORCH, Projector


def make(*, encoder, net, batch_size, topk=10, queue=128000, tau=0.99, hidden=4096, dim=512) -> Method:
    """Mean shift.

    Args:
      topk: targets of an image: the copy's own and topk - 1 neighbours; 1 is BYOL in one direction.
      queue: targets of earlier images, a multiple of the batch.
      tau: decay of the average, throughout.
      hidden, dim: hidden and output width of projector and predictor.
    """
    check_range(topk=(topk, f"at least 1 and at most {queue}, the queue", 1 <= topk <= queue), tau=(tau, "in [0, 1]", 0 <= tau <= 1), hidden=(hidden, "at least 1", hidden >= 1),
                dim=(dim, "at least 1", dim >= 1))
    check_queue(queue, batch_size)
    head = Projector((hidden, dim), last_norm=False, last_bias=True, kernel_init=TORCH)
    projector = predictor = net(head)

    def init(key, batch):
        params, aux = begin(key, batch, encoder, projector=projector, predictor=predictor)
        return params, {**aux, "queue": random_queue(jax.random.fold_in(key, 3), queue, dim)}

    def loss(params, aux, batch, key, step):
        h, q, target, stats = asked_and_told(encoder, projector, predictor, params, aux, {"views": batch["views"]}, key)
        kept = refilled(aux["queue"], target, batch["id"], step)                                                           # before the search, as in the official code
        metrics, neighbours = {}, target[:, :, None][:, :, :0]
        if topk > 1:
            neighbours, cosine = nearest(target, kept["keys"], ids=batch["id"], queue_ids=kept["ids"], count=topk - 1)      # [B, 1, topk - 1, K]
            metrics = neighbour_metrics(target, kept["keys"], cosine)
        return mean_shift(q, target, neighbours), ({**aux, "batch_stats": stats, "queue": kept}, metrics, {"features": h, "embeddings": q})

    student = Method(init, loss, unchanged, embedding(encoder), heads={"projector": (head, "encoder"), "predictor": (head, "projector")}, needs=Needs(views=2, most=2))
    return with_teacher(student, ("encoder", "projector"), lambda step: tau)
