"""LeJEPA (arXiv 2511.08544): all views of an image near the mean of its whole ones, and the embeddings of a batch distributed as a standard normal.

No teacher, predictor, stopped gradient or negatives: one encoder, one projector, two terms. The weight of the second, λ, is for a statistic that grows with the
batch: when the batch changes, λ · batch is what stays.

Expected: ResNet-18, CIFAR-10, 300 epochs, batch 256: 91.0 % by the online linear probe (facebookresearch/eb_jepa, whose 10 is λ = .0097 here).
"""
import jax

from jaxssl.losses import redundancy
from jaxssl.methods.base import Method, Needs, begin, check_range, crops_projected, embedding, rows_at_once, unchanged
from jaxssl.models.heads import TORCH, Projector


def make(*, encoder, net, mesh, weight=0.02, slices=1024, hidden=2048, dim=128, layers=3) -> Method:
    """LeJEPA.

    Args:
      weight: λ in [0, 1]: the loss is (1 - λ) · distance + λ · SIGReg. .01 to .1 in the paper.
      slices: random directions, new ones every step; 256 are enough.
      hidden, dim, layers: the projector's width, output width and depth.
    """
    check_range(weight=(weight, "in [0, 1]", 0 <= weight <= 1), slices=(slices, "at least 1", slices >= 1), hidden=(hidden, "at least 1", hidden >= 1),
                dim=(dim, "at least 1", dim >= 1), layers=(layers, "at least 1", layers >= 1))
    head = Projector((hidden,) * (layers - 1) + (dim,), last_norm=False, last_bias=True, kernel_init=TORCH)
    projector = net(head)

    def init(key, batch):
        return begin(key, batch, encoder, projector=projector)

    def loss(params, aux, batch, key, step):
        drop_key, slice_key = jax.random.split(key)
        h, z, stats = crops_projected(encoder, projector, params, aux["batch_stats"], batch, drop_key)  # [B, V, D], [B, V, K]
        whole = batch["views"].shape[1]
        distance = redundancy.distance(z, whole)
        normality = redundancy.sigreg(z, jax.random.normal(slice_key, (dim, slices)), rows_at_once(mesh, z.shape[1] * slices * len(redundancy.KNOTS)))
        metrics = {"distance": distance, "sigreg_over_floor": normality / redundancy.FLOOR}         # 1: normal; .38 · batch: collapsed
        return (1 - weight) * distance + weight * normality, ({**aux, "batch_stats": stats}, metrics, {"features": h[:, :whole], "embeddings": z[:, :whole]})

    return Method(init, loss, unchanged, embedding(encoder), heads={"projector": (head, "encoder")}, needs=Needs(views=2, local=0))
