"""NNCLR (arXiv 2104.14548): the nearest neighbour of one view, among earlier images, and what is predicted from the other view attract; other images of the batch repel.

Heads as in the paper (section 4.1): three linear layers with batch norm each, the last one too, and a predictor of two. The support set is a queue of the first
views' projections. With `local` crops, the neighbours of both whole views attract what is predicted from every other crop; all these pairs count the same.
Differs from lightly and solo-learn: the neighbour is of another image, since the queue knows whose its rows are; there an image's row of an epoch ago is mostly its
nearest one once the set is smaller than the queue. The loss is the paper's pseudo-code's, one softmax over the predictions; lightly's is NT-Xent over neighbours and
predictions together.

Expected: ResNet-50, ImageNet, batch 4096: 75.6 % linear after 1,000 epochs (paper, abstract).
"""
import jax
import numpy as np

from jaxssl.losses.dictionary import nearest, neighbour_metrics, neighbour_nce, random_queue, refilled
from jaxssl.methods.base import Method, Needs, begin, check_queue, check_range, crops_projected, embedding, unchanged
from jaxssl.models.heads import TORCH, Projector


def make(*, encoder, net, batch_size, temperature=0.1, queue=98304, hidden=2048, dim=256, layers=3, predictor=4096) -> Method:
    """NNCLR.

    Args:
      temperature: of the softmax, > 0.
      queue: projections of earlier images, a multiple of the batch.
      hidden, dim, layers: the projector's width, output width and depth. predictor: width of the predictor's hidden layer.
    """
    check_range(temperature=(temperature, "above 0", temperature > 0), hidden=(hidden, "at least 1", hidden >= 1), dim=(dim, "at least 1", dim >= 1),
                layers=(layers, "at least 1", layers >= 1), predictor=(predictor, "at least 1", predictor >= 1))
    check_queue(queue, batch_size)
    head = Projector((hidden,) * (layers - 1) + (dim,), last_bias=True, kernel_init=TORCH)
    top = Projector((predictor, dim), last_norm=False, last_bias=True, kernel_init=TORCH)
    projector, predict = net(head), net(top)

    def init(key, batch):
        params, aux = begin(key, batch, encoder, projector=projector, predictor=predict)
        return params, {**aux, "queue": random_queue(jax.random.fold_in(key, 3), queue, dim)}

    def loss(params, aux, batch, key, step):
        h, z, stats = crops_projected(encoder, projector, params, aux["batch_stats"], batch, key)                          # [B, 2 + L, D], [B, 2 + L, K]
        p, stats["predictor"] = predict.per_view(params["predictor"], stats["predictor"], z)                               # [B, 2 + L, K]
        before, z = aux["queue"], z[:, :2]
        found, cosine = nearest(z, before["keys"], ids=batch["id"], queue_ids=before["ids"])                               # [B, 2, 1, K]
        of, by = np.array([(t, s) for t in range(2) for s in range(p.shape[1]) if s != t]).T                               # pairs of a whole view and another crop
        value, accuracy = neighbour_nce(found[:, of, 0], p[:, by], temperature=temperature)
        aux = {**aux, "batch_stats": stats, "queue": refilled(before, z[:, :1], batch["id"], step)}
        return value, (aux, {"contrast_accuracy": accuracy, **neighbour_metrics(z, before["keys"], cosine)}, {"features": h[:, :2], "embeddings": z})

    return Method(init, loss, unchanged, embedding(encoder), heads={"projector": (head, "encoder"), "predictor": (top, "projector")}, needs=Needs(views=2, most=2, local=0))
