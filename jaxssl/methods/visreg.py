"""VISReg (arXiv 2606.02572): all views of an image near the mean of its whole ones; the embeddings of a batch centred, of deviation 1, and normal along any direction.

LeJEPA's two terms with another second one, whose gradient does not vanish where all embeddings are equal: centre, scale and shape stand apart (section 3).
Written from the paper; the projector has GELU, as the paper's.
Quantiles and deviations are of the whole batch on any number of devices (lightly's, by default, are of each device with directions of its own).

Expected: ViT-B/16, ImageNet, batch 512, 400 epochs of 4 + 6 crops: 75.7 % linear (paper).
"""
import jax

from jaxssl.losses import redundancy
from jaxssl.methods.base import Method, Needs, begin, check_range, crops_projected, embedding, unchanged
from jaxssl.models.heads import TORCH, Projector


def make(*, encoder, net, weight=0.9, slices=4096, hidden=2048, dim=256, layers=3) -> Method:
    """VISReg.

    Args:
      weight: λ in [0, 1]: the loss is (1 - λ) · distance + λ · (center + scale + shape). .9 for a million images, .6 for few.
      slices: random directions, new ones every step; more than dim.
      hidden, dim, layers: the projector's width, output width and depth.
    """
    check_range(weight=(weight, "in [0, 1]", 0 <= weight <= 1), slices=(slices, "at least 1", slices >= 1), hidden=(hidden, "at least 1", hidden >= 1),
                dim=(dim, "at least 1", dim >= 1), layers=(layers, "at least 1", layers >= 1))
    head = Projector((hidden,) * (layers - 1) + (dim,), last_norm=False, last_bias=True, gelu=True, kernel_init=TORCH)
    projector = net(head)

    def init(key, batch):
        return begin(key, batch, encoder, projector=projector)

    def loss(params, aux, batch, key, step):
        drop_key, slice_key = jax.random.split(key)
        h, z, stats = crops_projected(encoder, projector, params, aux["batch_stats"], batch, drop_key)  # [B, V, D], [B, V, K]
        whole = batch["views"].shape[1]
        distance = redundancy.distance(z, whole)
        terms = redundancy.visreg(z, jax.random.normal(slice_key, (dim, slices)))
        value = (1 - weight) * distance + weight * (terms["center"] + terms["scale"] + terms["shape"])
        metrics = {"distance": distance, **{f"visreg_{name}": term for name, term in terms.items()}}
        return value, ({**aux, "batch_stats": stats}, metrics, {"features": h[:, :whole], "embeddings": z[:, :whole]})

    return Method(init, loss, unchanged, embedding(encoder), heads={"projector": (head, "encoder")}, needs=Needs(views=2, local=0))
