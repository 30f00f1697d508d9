"""SimCLR (arXiv 2002.05709): two views of an image attract, all other images of the global batch repel. With it what changes one thing of it:

`objective="dcl"`, `"dclw"`: the positive is left out of the denominator, and pairs that are alike already count less (DCL, arXiv 2110.06848).
`objective="triplet"`, `"soft_triplet"`, `"tuplet"`, `"lifted"`: other members of the φ/ψ family (arXiv 2201.12680).
`layers=0`: no projector, the loss sees the first `dim` features (DirectCLR, arXiv 2110.09348). `layers=3`: SimCLRv2's head (arXiv 2006.10029).
`tau`: the other side of each pair is what a slow copy of the projector says of the same features (Pham et al. 2022, arXiv 2208.05744). As in MoCo v3, the images
that repel are seen from the other view alone, and only the asking side has a gradient.

Expected: ResNet-50, ImageNet, batch 4096: 64.5 % linear after 100 epochs, 69.3 % after 1,000 (paper, table B.1 and section 6).
"""
from functools import partial

from jaxssl.errors import UserError
from jaxssl.losses import unified
from jaxssl.losses.contrastive import contrastive_metrics, dcl, nt_xent
from jaxssl.losses.dictionary import batch_nce
from jaxssl.methods.base import Method, Needs, begin, check_range, embedding, encoded, projected, unchanged, with_teacher
from jaxssl.models.heads import Projector

OBJECTIVES = ("nt_xent", "dcl", "dclw", "triplet", "soft_triplet", "tuplet", "lifted")


def make(*, encoder, net, mesh, temperature=0.1, hidden=2048, dim=128, layers=2, block=0, objective="nt_xent", sigma=0.5, margin=0.2, tau=0.0) -> Method:
    """SimCLR.

    Args:
      temperature: of the softmax, > 0; triplet, tuplet and lifted have none.
      hidden, dim, layers: the projector's width, output width and depth (2 in v1, 3 in v2; 0 is no projector, and the loss sees the first `dim` features).
      block: rows of a tile of the blockwise loss, which never holds the full logits, or anchors at a time for the others of the family; 0 computes all at once.
      objective: what is minimised, see above. sigma: of dclw's weights, > 0. margin: of triplet, soft_triplet and lifted.
      tau: decay of a moving average of the projector, in [0, 1); 0 is none.
    """
    widest = f"at least 1{'' if layers else f' and at most {encoder.features}, the features that there are'}"
    check_range(temperature=(temperature, "above 0", temperature > 0), hidden=(hidden, "at least 1", hidden >= 1),
                dim=(dim, widest, dim >= 1 and (layers > 0 or dim <= encoder.features)), layers=(layers, "0 or more", layers >= 0),
                block=(block, "0 or more", block >= 0), sigma=(sigma, "above 0", sigma > 0), objective=(objective, f"one of {', '.join(OBJECTIVES)}", objective in OBJECTIVES),
                tau=(tau, "at least 0 and below 1", 0 <= tau < 1))
    for key, value, readers in (("sigma", sigma, ("dclw",)), ("margin", margin, ("triplet", "soft_triplet", "lifted"))):
        if objective not in readers and value != make.__kwdefaults__[key]:
            raise UserError(f"method.{key} is {value}, which {objective} does not read; leave it out, or choose method.objective among {', '.join(readers)}")
    if tau and (objective != "nt_xent" or block or not layers):
        raise UserError(f"method.tau is {tau}: a slow projector takes objective=nt_xent, block=0 and layers of at least 1, not {objective}, {block} and {layers}; "
                        "or set method.tau=0")
    head, how = Projector((hidden,) * (layers - 1) + (dim,)), dict(temperature=temperature, block=block, mesh=mesh)
    projector, heads = net(head), {"projector": (head, "encoder")} if layers else {}
    compared = {"nt_xent": partial(nt_xent, **how), "dcl": partial(dcl, **how), "dclw": partial(dcl, sigma=sigma, **how)}.get(objective)
    if compared is None:
        compared = partial(unified.phi_psi, pair=unified.FAMILY[objective](temperature, margin), block=block, mesh=mesh)

    def init(key, batch):
        return begin(key, batch, encoder, **({"projector": projector} if layers else {}))

    def loss(params, aux, batch, key, step):
        if layers:
            h, z, stats = projected(encoder, projector, params, aux["batch_stats"], batch["views"], key)                 # [B, V, D], [B, V, K]
        else:
            h, stats = encoded(encoder, params, aux["batch_stats"], [batch["views"]], key)
            z = h[..., :dim]
        if tau:
            slow, _ = projector.per_view(aux["teacher"]["params"]["projector"], aux["teacher"]["batch_stats"]["projector"], h)
            value, _ = batch_nce(z[:, :2], slow[:, 1::-1], temperature=temperature)
        else:
            value = compared(z)
        metrics = contrastive_metrics(z, **how)
        return value, ({**aux, "batch_stats": stats}, {f"contrast_{name}": v for name, v in metrics.items()}, {"features": h, "embeddings": z})

    method = Method(init, loss, unchanged, embedding(encoder), heads=heads, needs=Needs(views=2, most=2 if tau else 0))
    return with_teacher(method, ("projector",), lambda step: tau) if tau else method
