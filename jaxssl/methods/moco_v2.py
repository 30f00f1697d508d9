"""MoCo v1 and v2 (arXiv 1911.05722, 2003.04297): a view attracts what a slow copy of the network says of the other; a queue of earlier images repels.

v2 is a head of two layers, temperature .2 and stronger views; v1 has one layer and .07 (`layers=1`, `temperature=0.07`). `symmetric` is v2+: both views ask and
both answer (official CIFAR-10 demo).
Differs from the official code (facebookresearch/moco): norms see the global batch, or `model.bn_groups` ghost groups, in which the copy meets other images than the
network, in place of shuffling between devices; the copy's running statistics are averaged with its weights; an image is never its own negative, since the queue knows
whose its keys are. What is evaluated is the average (`--use student` for the other).

Expected: ResNet-50, ImageNet, batch 256: v1 60.6 % linear after 200 epochs (paper), v2 67.5 % after 200 and 71.1 % after 800 (paper, table 1).
"""
import jax

from jaxssl.losses.dictionary import queue_nce, random_queue, refilled
from jaxssl.methods.base import Method, Needs, begin, check_queue, check_range, embedding, projected, told, unchanged, with_teacher
from jaxssl.models.heads import TORCH, Projector


def make(*, encoder, net, batch_size, temperature=0.2, queue=65536, tau=0.999, symmetric=False, hidden=2048, dim=128, layers=2, norm=False) -> Method:
    """MoCo.

    Args:
      temperature: of the softmax, > 0.
      queue: keys of earlier images, a multiple of what a step adds: the batch, twice that with `symmetric`.
      tau: decay of the average, throughout.
      symmetric: ask in both directions.
      hidden, dim, layers: the projector's width, output width and depth. norm: batch norm in its hidden layers.
    """
    check_range(temperature=(temperature, "above 0", temperature > 0), tau=(tau, "in [0, 1]", 0 <= tau <= 1), hidden=(hidden, "at least 1", hidden >= 1),
                dim=(dim, "at least 1", dim >= 1), layers=(layers, "at least 1", layers >= 1))
    check_queue(queue, batch_size * (1 + symmetric))
    head = Projector((hidden,) * (layers - 1) + (dim,), norm=norm, last_norm=False, last_bias=True, kernel_init=TORCH)
    projector = net(head)

    def init(key, batch):
        params, aux = begin(key, batch, encoder, projector=projector)
        return params, {**aux, "queue": random_queue(jax.random.fold_in(key, 2), queue, dim)}

    def loss(params, aux, batch, key, step):
        ask, answer = (batch["views"][:, :2], batch["views"][:, 1::-1]) if symmetric else (batch["views"][:, :1], batch["views"][:, 1:2])
        h, q, stats = projected(encoder, projector, params, aux["batch_stats"], ask, key)                                           # [B, 1 or 2, K]
        k = told(encoder, projector, aux["teacher"], answer)
        before = aux["queue"]
        value, accuracy = queue_nce(q, k, before["keys"], ids=batch["id"], queue_ids=before["ids"], temperature=temperature)
        aux = {**aux, "batch_stats": stats, "queue": refilled(before, k, batch["id"], step)}
        return value, (aux, {"contrast_accuracy": accuracy}, {"features": h, "embeddings": q})

    student = Method(init, loss, unchanged, embedding(encoder), heads={"projector": (head, "encoder")}, needs=Needs(views=2, most=2))
    return with_teacher(student, ("encoder", "projector"), lambda step: tau)
