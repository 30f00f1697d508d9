"""SimDINOv2 (arXiv 2502.10385): SimDINO, and hidden patches that agree with what a slow copy of the network, which sees the whole crop, says of them.

DINOv2 without prototypes, centers, temperatures and KoLeo: one head for class tokens and patches ends at the bottleneck, of unit length, and a coding rate of the class
tokens keeps it from collapse.
Differs: as methods/simdino.py says; `groups` of 8 is what eight devices of the official code (RobinWu218/SimDINO, simdinov2) computed, 1 is the paper's formula.
patch_mean: "crops" divides the patches' agreement by all large crops, of which half are masked, as that code does; "masked" by those.

Expected: ViT-B/16, ImageNet, 100 epochs of 2 + 10 crops: 78.1 % kNN, 79.7 % linear; ViT-L/16 81.1 and 82.4 % (official README; its DINOv2 reaches 80.8 and 82.0 % with L/16).
"""
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxssl import schedules
from jaxssl.augment import ragged
from jaxssl.errors import UserError
from jaxssl.losses.correlation import coding_rate
from jaxssl.losses.distillation import cosine_regression
from jaxssl.methods.base import Method, Needs, begin, check_range, embedding, unchanged, with_teacher
from jaxssl.methods.dinov2 import by_view, drawn, masked_on_grid, seen_masked, seen_whole, unread  # noqa: F401: its masks' keys are turned off alike
from jaxssl.models.prototypes import PrototypeHead


def make(*, encoder, net, batch_size, total, tau=0.9, weight=1.0, patch_weight=1.0, patch_mean="crops", epsilon=0.05, groups=1, hidden=2048, dim=256, layers=3,
         mask_share=0.5, mask_ratios=(0.1, 0.5), mask_shape="block", mask_smallest=4, mask_exact=True, mask_groups=1) -> Method:
    """SimDINOv2.

    Args:
      tau: decay of the average at the start; it grows to 1 along half a cosine.
      weight, patch_weight: of the agreement of class tokens and of patches, 0 or more, beside the coding rate. patch_mean: see above.
      epsilon: squared precision of the coding rate. groups: parts of the batch, each with a coding rate of its own.
      hidden, dim, layers: the head's width, output width and depth.
      mask_share, mask_ratios, mask_shape, mask_smallest, mask_exact, mask_groups: as in `dinov2.make`.
    """
    check_range(tau=(tau, "in [0, 1]", 0 <= tau <= 1), weight=(weight, "0 or more", weight >= 0), patch_weight=(patch_weight, "0 or more", patch_weight >= 0),
                epsilon=(epsilon, "above 0", epsilon > 0), groups=(groups, "at least 1", groups >= 1), hidden=(hidden, "at least 1", hidden >= 1),
                dim=(dim, "at least 1", dim >= 1), layers=(layers, "at least 1", layers >= 1), patch_mean=(patch_mean, "crops or masked", patch_mean in ("crops", "masked")),
                mask_shape=(mask_shape, f"one of {', '.join(ragged.SHAPES)}", mask_shape in ragged.SHAPES))
    if batch_size % groups:
        raise UserError(f"method.groups is {groups}, which does not divide the batch of {batch_size}; choose a divisor")
    module = PrototypeHead((hidden,) * (layers - 1) + (dim,), prototypes=False)
    head = net(module)
    decay = schedules.tau(tau, total)
    balance = (dim + batch_size) / (dim * batch_size)
    how = dict(share=mask_share, ratios=mask_ratios, groups=mask_groups, exact=mask_exact, shape=mask_shape, smallest=mask_smallest, multiple=head.parts)

    def init(key, batch):
        return begin(key, batch, encoder, head=head)

    def said(params, stats, pooled, tokens):
        """Unit vectors of class tokens [B, V, D] and of patches [M, D]."""
        return head.per_view(params["head"], stats["head"], pooled)[0], head(params["head"], stats["head"], tokens)[0]

    def loss(params, aux, batch, key, step):
        mask_key, drop_key = jax.random.split(key)
        gone = drawn(encoder, mask_key, batch["views"], **how)
        pooled, tokens, stats = seen_masked(encoder, params, aux["batch_stats"], batch, gone.mask, drop_key)
        whole, their_tokens = seen_whole(encoder, aux["teacher"], batch["views"])                   # [B, T, D], [B·T, N, D]
        student, patch = said(params, stats, pooled, gone.taken(tokens))                            # [B, V, K], [M, K]
        teacher, their_patch = stop_gradient(said(aux["teacher"]["params"], aux["teacher"]["batch_stats"], whole, gone.taken(their_tokens)))
        agreement = 1 - cosine_regression(student, teacher) / 2                                     # mean cosine over pairs of different crops
        rate = coding_rate((student[:, :whole.shape[1]] + teacher) / 2, epsilon=epsilon, groups=groups)
        of_patches = jnp.sum((patch * their_patch).sum(-1) * gone.weight.reshape(-1))               # the weights of a masked crop sum to 1
        of_patches /= jnp.maximum(gone.weight.sum(), 1) if patch_mean == "masked" else len(gone.mask)
        metrics = {"agreement": agreement, "patch_agreement": of_patches, "coding_rate": rate, "tau": decay(step)}
        value = -weight * agreement - balance * rate - patch_weight * of_patches
        seen = {"features": pooled[:, :whole.shape[1]], "embeddings": student[:, :whole.shape[1]],
                "predicted": by_view(tokens, batch["views"]), "target": by_view(their_tokens, batch["views"])}
        return value, ({**aux, "batch_stats": stats}, metrics, seen)

    student = Method(init, loss, unchanged, embedding(encoder), heads={"head": (module, "encoder")}, needs=Needs(views=2, local=0, patches=True),
                     hidden=lambda key, views: masked_on_grid(encoder, key, views, **how))
    return with_teacher(student, ("encoder", "head"), decay)
