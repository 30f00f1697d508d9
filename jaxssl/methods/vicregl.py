"""VICRegL (arXiv 2210.01571): VICReg of whole images, and of places in their feature maps: those that show the same spot, and those that say the same.

Projectors as in the official code (facebookresearch/VICRegL): VICReg's for vectors, linear, batch norm, ReLU, twice, and linear for each place of the map.
The global loss is of every pair of a whole view and any other, the covariance the mean over views, half of VICReg's.
Differs from the official code: places of mirrored views are mirrored (by default it leaves them as they were, `--no-flip-grid 1`); both kinds of match keep the best
20 of a whole view and 4 of a local one, as in the paper (it keeps all places by embeddings, and 20 one way and 4 back by place); all pairs of views count (its loop
keeps the last pair's local loss alone).

Expected: ResNet-50, ImageNet, batch 2048, 300 epochs: 70.4 % linear, 55.9 mIoU linear segmentation of Pascal VOC with alpha .75; 71.2 and 54.0 with .9 (official README).
"""
import jax
import jax.numpy as jnp

from jaxssl.losses import matching, redundancy
from jaxssl.methods.base import Method, Needs, check_places, check_range, embedding, nets, unchanged
from jaxssl.models.heads import TORCH, Projector


def make(*, encoder, net, alpha=0.75, sim=25.0, std=25.0, cov=1.0, matches=20, local_matches=4, hidden=8192, dim=8192, layers=3, maps_hidden=512, maps_dim=512) -> Method:
    """VICRegL.

    Args:
      alpha: weight of the global loss, in [0, 1]; the local one has the rest.
      sim, std, cov: weights of invariance, variance and covariance in both, 0 or more.
      matches, local_matches: pairs of places kept of a whole and of a local view.
      hidden, dim, layers: the projector's width, output width and depth. maps_hidden, maps_dim: of the one for places, which has three layers.
    """
    check_range(alpha=(alpha, "in [0, 1]", 0 <= alpha <= 1), sim=(sim, "0 or more", sim >= 0), std=(std, "0 or more", std >= 0), cov=(cov, "0 or more", cov >= 0),
                **{name: (value, "at least 1", value >= 1) for name, value in dict(matches=matches, local_matches=local_matches, hidden=hidden, dim=dim, layers=layers,
                                                                                    maps_hidden=maps_hidden, maps_dim=maps_dim).items()})
    head = Projector((hidden,) * (layers - 1) + (dim,), last_norm=False, kernel_init=TORCH)
    projector, places = net(head), net(Projector((maps_hidden, maps_hidden, maps_dim), last_norm=False, kernel_init=TORCH))

    def init(key, batch):
        views = batch["views"][:, 0]
        rows = jnp.zeros((len(views), encoder.features))
        params, stats = nets(key, encoder=(encoder, views), projector=(projector, rows), places=(places, rows))
        return params, {"batch_stats": stats}

    def loss(params, aux, batch, key, step):
        stats, whole = dict(aux["batch_stats"]), batch["views"].shape[1]
        h, z, maps, boxes, flips = [], [], [], [], []
        for i, (crops, drawn) in enumerate((("views", "view_params"), ("local", "local_params"))):
            if crops not in batch:
                continue
            seen, stats["encoder"] = encoder.per_view(params["encoder"], stats["encoder"], batch[crops], key=jax.random.fold_in(key, i))        # Features of [B, V, …]
            if crops == "views":
                check_places(seen.tokens, "vicregl")
            embedded, stats["projector"] = projector.per_view(params["projector"], stats["projector"], seen.pooled)                 # [B, V, K]
            local, stats["places"] = places.per_view(params["places"], stats["places"], seen.tokens)                                # [B, V, N, M]
            h, z = [*h, seen.pooled], [*z, embedded]
            for v in range(batch[crops].shape[1]):
                maps.append(local[:, v])
                boxes.append({name: side[:, v] for name, side in batch[drawn]["crop"].items()})
                flips.append(batch[drawn]["flip"][:, v])
        z = jnp.concatenate(z, 1)
        terms = {"invariance": redundancy.invariance(z, whole), "variance": redundancy.variance(z), "covariance": redundancy.covariance(z) / 2}
        counts = [matches] * whole + [local_matches] * (len(maps) - whole)
        terms["local"] = matching.vicregl(maps, boxes, flips, whole, matches=counts, sim=sim, std=std, cov=cov)
        value = alpha * (sim * terms["invariance"] + std * terms["variance"] + cov * terms["covariance"]) + (1 - alpha) * terms["local"]
        metrics = {**terms, "off_diagonal": (terms["covariance"] / max(dim - 1, 1)) ** 0.5}                  # root mean square of the covariances
        return value, ({**aux, "batch_stats": stats}, metrics, {"features": h[0], "embeddings": z[:, :whole]})

    return Method(init, loss, unchanged, embedding(encoder), heads={"projector": (head, "encoder")}, needs=Needs(views=2, local=0, drawn=True))
