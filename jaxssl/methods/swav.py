"""SwAV (arXiv 2006.09882): the prototypes that one view is assigned to are predicted from every other view; all prototypes are used equally often.

Head as in the official code (facebookresearch/swav, src/resnet50.py): linear, batch norm, ReLU, linear, unit length, prototypes. Where the batch is small beside
the number of prototypes, a queue of earlier projections takes part in the assignment.
Differs: prototypes count by their direction alone, where the official code scales them to unit length after every step. The queue is filled from the first step and
takes part once it is full and `queue_from` is reached; there it is filled from then on.

Expected: ResNet-50, ImageNet, batch 4096, 2 + 6 crops: 72.1, 74.6, 75.3 % linear after 100, 400 and 800 epochs (official README).
"""
import jax.numpy as jnp

from jaxssl.losses.dictionary import enqueue
from jaxssl.losses.distillation import prototype_shifts, swapped
from jaxssl.methods.base import Method, Needs, all_crops, begin, check_queue, check_range, embedding, encoded, rows_at_once, unchanged
from jaxssl.models.heads import TORCH
from jaxssl.models.prototypes import PrototypeHead, Prototypes


def unread(*, queue, **_):
    return {} if queue else {"queue": ("queue_from",)}


def make(*, encoder, net, mesh, batch_size, duration, temperature=0.1, epsilon=0.05, iterations=3, prototypes=3000, hidden=2048, dim=128, queue=0,
         queue_from="0_steps") -> Method:
    """SwAV.

    Args:
      temperature: of the student's softmax, > 0. epsilon, iterations: of the assignment (Sinkhorn-Knopp).
      prototypes: their number. hidden, dim: of the projector.
      queue: projections of earlier images kept for each whole view, a multiple of the batch, 0 for none; they count from queue_from on.
    """
    check_range(temperature=(temperature, "above 0", temperature > 0), epsilon=(epsilon, "above 0", epsilon > 0), iterations=(iterations, "at least 1", iterations >= 1),
                prototypes=(prototypes, "at least 2", prototypes >= 2), hidden=(hidden, "at least 1", hidden >= 1), dim=(dim, "at least 1", dim >= 1),
                queue=(queue, "0 or more", queue >= 0))
    if queue:
        check_queue(queue, batch_size, "projections a view")
    head = PrototypeHead((hidden, dim, prototypes), norm=True, relu=True, kernel_init=TORCH)
    whole_head, projector, assign = net(head), net(head.clone(depth=2)), net(Prototypes(prototypes))
    begins = max(duration(queue_from, "method.queue_from"), queue // batch_size)

    def init(key, batch):
        params, aux = begin(key, batch, encoder, head=whole_head)
        kept = {"queue": [jnp.zeros((queue, dim)) for _ in range(batch["views"].shape[1])]} if queue else {}
        return params, {**aux, **kept}

    def loss(params, aux, batch, key, step):
        h, stats = encoded(encoder, params, aux["batch_stats"], all_crops(batch), key)              # [B, V, D]
        whole = batch["views"].shape[1]
        z, stats["head"] = projector.per_view(params["head"], stats["head"], h)                     # [B, V, K], of unit length
        logits = assign.per_view(params["head"]["prototypes"], {}, z)[0]                            # [B, V, prototypes]
        parts, queues = [(logits[:, :whole], None)], []
        if queue:
            earlier = jnp.stack([assign(params["head"]["prototypes"], {}, old)[0] for old in aux["queue"]], 1)        # [Q, T, prototypes]
            parts.append((earlier, jnp.full(queue, step >= begins, jnp.float32)))
            queues = [enqueue(old, z[:, v], step) for v, old in enumerate(aux["queue"])]
        block = rows_at_once(mesh, logits.size // len(logits))
        shifts = prototype_shifts(parts, temp=epsilon, iterations=iterations, block=block)                            # each whole view is assigned by itself
        value, metrics = swapped(logits, shifts, temp=epsilon, student_temp=temperature, block=block)
        kept = {"queue": queues} if queue else {}
        return value, ({**aux, "batch_stats": stats, **kept}, metrics, {"features": h[:, :whole], "embeddings": z[:, :whole]})

    return Method(init, loss, unchanged, embedding(encoder), heads={"head": (head, "encoder")}, needs=Needs(views=2, local=0))
