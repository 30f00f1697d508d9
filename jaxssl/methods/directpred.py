"""DirectPred (arXiv 2102.06810): BYOL whose predictor is not learned but set, every step, from the correlation of what it predicts from.

The predictor is linear and shares its eigenvectors with the moving average of the projections' correlation; its eigenvalues are those to a power: ½ is DirectPred;
1 is DirectCopy of DirectSet (arXiv 2110.04947; `configs/*/directset.py`). Only the correlation is kept: the predictor follows from it on every device.
Differs from the official code (facebookresearch/luckmatters, ssl/real-dataset/byol_trainer.py): it begins with a random predictor, here with the identity; it does
not scale the spectrum at power 1; its teacher's decay stands still. The loss is the mean over both directions, half of BYOL's. What is evaluated is the average
(`--use student` for the other).

Expected: ResNet-50, ImageNet, BYOL's recipe: 64.4 % linear after 60 epochs and 72.4 % after 300 (paper, table 6, as quoted; a predictor of two layers 64.7 and
72.5, a linear one 59.4 and 69.9).
"""
import jax
import jax.numpy as jnp

from jaxssl import schedules
from jaxssl.losses.distillation import cosine_regression
from jaxssl.losses.correlation import direct_predictor, update_correlation
from jaxssl.losses.unit import normalised
from jaxssl.methods.base import Method, Needs, begin, check_range, embedding, projected, unchanged, with_teacher
from jaxssl.models.heads import Projector


def make(*, encoder, net, total, tau=0.996, hidden=4096, dim=256, power=0.5, epsilon=0.01, rho=0.3) -> Method:
    """DirectPred.

    Args:
      tau: decay of the average network at the start; it grows to 1 along half a cosine.
      hidden, dim: hidden and output width of the projector.
      power: of the predictor's eigenvalues, > 0. epsilon: what each of them has at least, of the largest.
      rho: decay of the moving average of the correlation.
    """
    check_range(tau=(tau, "in [0, 1]", 0 <= tau <= 1), hidden=(hidden, "at least 1", hidden >= 1), dim=(dim, "at least 1", dim >= 1), power=(power, "above 0", power > 0),
                epsilon=(epsilon, "0 or more", epsilon >= 0), rho=(rho, "in [0, 1)", 0 <= rho < 1))
    head = Projector((hidden, dim), last_norm=False, kernel_init=jax.nn.initializers.lecun_normal())
    projector = net(head)
    decay = schedules.tau(tau, total)

    def init(key, batch):
        params, aux = begin(key, batch, encoder, projector=projector)
        return params, {**aux, "correlation": jnp.eye(dim)}

    def loss(params, aux, batch, key, step):
        h, z, stats = projected(encoder, projector, params, aux["batch_stats"], batch["views"], key)
        predictor, rank = direct_predictor(aux["correlation"], power=power, epsilon=epsilon)                                  # [K, K]
        p = z @ predictor                                                                                                     # [B, V, K]
        _, target, _ = projected(encoder, projector, aux["teacher"]["params"], aux["teacher"]["batch_stats"], batch["views"])
        correlation = update_correlation(aux["correlation"], z, momentum=jnp.where(step == 0, 0., rho))                       # the identity does not count
        metrics = {"tau": decay(step), "predictor_rank": rank, "target_std": normalised(target).std((0, 1)).mean() * dim ** 0.5}
        return cosine_regression(p, target), ({**aux, "batch_stats": stats, "correlation": correlation}, metrics, {"features": h, "embeddings": p})

    student = Method(init, loss, unchanged, embedding(encoder), heads={"projector": (head, "encoder")}, needs=Needs(views=2))
    return with_teacher(student, ("encoder", "projector"), decay)
