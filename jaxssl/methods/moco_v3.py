"""MoCo v3 (arXiv 2104.02057): predict what a slow copy of the network says of the other view, and of no other image of the batch; no queue.

For ViTs `projector_layers=3`, `predictor_norm=True`, and the patch projection stays as it is drawn (`model.frozen_patch`), which keeps training stable (section 4).
Heads as in the official code (facebookresearch/moco-v3, moco/builder.py): linear layers without bias, each with batch norm, the last norm without scale and centre.
Differs: the copy's running statistics are averaged with its weights. What is evaluated is the average (`--use student` for the other).

Expected: ResNet-50, ImageNet, batch 4096: 68.9, 72.8 and 74.6 % linear after 100, 300 and 1,000 epochs; ViT-S/16 73.2 %, ViT-B/16 76.7 % after 300 (paper, official README).
"""
from jaxssl import schedules
from jaxssl.losses.dictionary import batch_nce
from jaxssl.methods.base import Method, Needs, begin, check_range, embedding, projected, unchanged, with_teacher
from jaxssl.models.heads import TORCH, Projector


def make(*, encoder, net, total, temperature=1.0, tau=0.99, hidden=4096, dim=256, projector_layers=2, predictor_norm=False) -> Method:
    """MoCo v3.

    Args:
      temperature: of the softmax, > 0; 1 for ResNets, .2 for ViTs.
      tau: decay of the average at the start; it grows to 1 along half a cosine.
      hidden, dim: hidden and output width of projector and predictor. projector_layers: depth of the projector.
      predictor_norm: batch norm after the predictor's last layer too.
    """
    check_range(temperature=(temperature, "above 0", temperature > 0), tau=(tau, "in [0, 1]", 0 <= tau <= 1), hidden=(hidden, "at least 1", hidden >= 1),
                dim=(dim, "at least 1", dim >= 1), projector_layers=(projector_layers, "at least 1", projector_layers >= 1))
    head = Projector((hidden,) * (projector_layers - 1) + (dim,), last_scale=False, kernel_init=TORCH)
    top = Projector((hidden, dim), last_norm=predictor_norm, last_scale=False, kernel_init=TORCH)
    projector, predictor = net(head), net(top)
    decay = schedules.tau(tau, total)

    def init(key, batch):
        return begin(key, batch, encoder, projector=projector, predictor=predictor)

    def loss(params, aux, batch, key, step):
        views = batch["views"][:, :2]
        h, z, stats = projected(encoder, projector, params, aux["batch_stats"], views, key)
        q, stats["predictor"] = predictor.per_view(params["predictor"], stats["predictor"], z)                 # [B, 2, K]
        _, k, _ = projected(encoder, projector, aux["teacher"]["params"], aux["teacher"]["batch_stats"], views)
        value, accuracy = batch_nce(q, k[:, ::-1], temperature=temperature)
        # The paper adds both directions, each times 2 · temperature.
        return 4 * temperature * value, ({**aux, "batch_stats": stats}, {"contrast_accuracy": accuracy, "tau": decay(step)}, {"features": h, "embeddings": q})

    student = Method(init, loss, unchanged, embedding(encoder), heads={"projector": (head, "encoder"), "predictor": (top, "projector")}, needs=Needs(views=2, most=2))
    return with_teacher(student, ("encoder", "projector"), decay)
