"""BYOL (arXiv 2006.07733): from one view of an image predict what a slow copy of the network says of the other; no negatives.

What keeps it from collapse: the predictor, no gradient through the copy, and the copy's slowness.
Heads as in the official code (deepmind-research/byol, utils/networks.py, MLP): linear, batch norm (decay .9, eps 1e-5), ReLU, linear without bias. Its first
linear layer has a bias too, which the norm takes out again, so here it has none.
Differs: the loss is the mean over both directions, half of theirs (rates for LARS do not notice). Their target network keeps running statistics of its own,
here they are averaged with its weights. They evaluate the online network, here what is evaluated is the average (`--use student` for the other). They norm
each view by itself: `model.bn_groups=2` does, 1 norms both views together.

Expected: ResNet-50, ImageNet, batch 4096: 74.3 % linear after 1,000 epochs (paper, table 1).
"""
import jax

from jaxssl import schedules
from jaxssl.losses.distillation import cosine_regression
from jaxssl.losses.redundancy import directions_used
from jaxssl.losses.unit import normalised
from jaxssl.methods.base import Method, Needs, begin, check_range, embedding, projected, unchanged, with_teacher
from jaxssl.models.heads import Projector


def make(*, encoder, net, total, tau=0.996, hidden=4096, dim=256) -> Method:
    """BYOL.

    Args:
      tau: decay of the average at the start; it grows to 1 along half a cosine.
      hidden, dim: hidden and output width of projector and predictor.
    """
    check_range(tau=(tau, "in [0, 1]", 0 <= tau <= 1), hidden=(hidden, "at least 1", hidden >= 1), dim=(dim, "at least 1", dim >= 1))
    head = Projector((hidden, dim), last_norm=False, kernel_init=jax.nn.initializers.lecun_normal())
    projector = predictor = net(head)
    decay = schedules.tau(tau, total)

    def init(key, batch):
        return begin(key, batch, encoder, projector=projector, predictor=predictor)

    def loss(params, aux, batch, key, step):
        h, z, stats = projected(encoder, projector, params, aux["batch_stats"], batch["views"], key)
        p, stats["predictor"] = predictor.per_view(params["predictor"], stats["predictor"], z)                 # [B, V, K]
        # The teacher norms by its own batch, as the student does; what it finds is left out, since `with_teacher` averages the student's.
        _, target, _ = projected(encoder, projector, aux["teacher"]["params"], aux["teacher"]["batch_stats"], batch["views"])      # [B, V, K]
        spread = normalised(target).std((0, 1)).mean() * dim ** 0.5                                                             # 1: targets spread evenly, 0: all the same
        metrics = {"tau": decay(step), "target_std": spread, "predictor_rank": directions_used(p)}
        return cosine_regression(p, target), ({**aux, "batch_stats": stats}, metrics, {"features": h, "embeddings": p})

    student = Method(init, loss, unchanged, embedding(encoder), heads={"projector": (head, "encoder"), "predictor": (head, "projector")}, needs=Needs(views=2))
    return with_teacher(student, ("encoder", "projector"), decay)
