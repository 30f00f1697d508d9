"""SimSiam (arXiv 2011.10566): from one view of an image predict what the same network says of the other, which gets no gradient; no teacher, no negatives.

Heads as in the official code (facebookresearch/simsiam, simsiam/builder.py): a projector of three layers, each with batch norm, the last norm without scale and
centre; a predictor with a narrow hidden layer. The predictor's rate stands still (`--fix-pred-lr`): a rule in the configs, `("^predictor/", dict(fixed=True))`.

Expected: ResNet-50, ImageNet, batch 256: 68.1 % linear after 100 epochs (paper, table 4; 68.3 % in the official README at batch 512).
"""
from jaxssl.losses.distillation import cosine_regression
from jaxssl.losses.redundancy import directions_used
from jaxssl.losses.unit import normalised
from jaxssl.methods.base import Method, Needs, begin, check_range, embedding, projected, unchanged
from jaxssl.models.heads import TORCH, Projector


def make(*, encoder, net, hidden=2048, dim=2048, predictor=512, layers=3) -> Method:
    """SimSiam.

    Args:
      hidden, dim, layers: the projector's width, output width and depth (2 layers on CIFAR-10).
      predictor: width of the predictor's hidden layer; 0: none, with which it collapses (table 1 of the paper).
    """
    check_range(hidden=(hidden, "at least 1", hidden >= 1), dim=(dim, "at least 1", dim >= 1), predictor=(predictor, "at least 1, or 0 for none", predictor >= 0),
                layers=(layers, "at least 1", layers >= 1))
    head = Projector((hidden,) * (layers - 1) + (dim,), last_scale=False, kernel_init=TORCH)
    tops = {"predictor": Projector((predictor, dim), last_norm=False, last_bias=True, kernel_init=TORCH)} if predictor else {}
    projector, above = net(head), {name: net(top) for name, top in tops.items()}

    def init(key, batch):
        return begin(key, batch, encoder, projector=projector, **above)

    def loss(params, aux, batch, key, step):
        h, z, stats = projected(encoder, projector, params, aux["batch_stats"], batch["views"], key)                     # [B, V, D], [B, V, K]
        p = z                                                                                                            # [B, V, K]
        if above:
            p, stats["predictor"] = above["predictor"].per_view(params["predictor"], stats["predictor"], z)
        value = cosine_regression(p, z) / 2 - 1                                     # the paper's -cos, whose gradient its rates are for; none flows to z as the target
        spread = normalised(z).std((0, 1)).mean() * dim ** 0.5                      # 1: projections spread evenly, 0: all the same (figure 2)
        metrics = {"target_std": spread, "predictor_rank": directions_used(p)}
        return value, ({**aux, "batch_stats": stats}, metrics, {"features": h, "embeddings": z})

    heads = {"projector": (head, "encoder"), **{name: (top, "projector") for name, top in tops.items()}}
    return Method(init, loss, unchanged, embedding(encoder), heads=heads, needs=Needs(views=2))
