"""MSN (arXiv 2204.07141): what a slow copy of the network assigns a whole view to is assigned by the network to another view of which it sees some patches, and to small crops.

By the paper alone. Assignments are softmaxes of cosines with trained prototypes; the mean assignment of a batch is kept even (mean entropy maximised), and targets are
sharpened and, as the paper's appendix has it, used equally often (Sinkhorn). The first view is the target, the others lose patches, one choice of them for the whole batch.

Expected: ViT-S/16, ImageNet, batch 1024, 800 epochs: 76.9 % linear (paper, table 4); 75.7 % with 1 % of the labels (ViT-L/7).
"""
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxssl import schedules
from jaxssl.augment import masks
from jaxssl.losses.distillation import cross_entropy, distillation_metrics, prototypes_used, sinkhorn
from jaxssl.losses.spread import mean_prior, power_law
from jaxssl.methods.base import Method, Needs, blamed, check_range, embedding, flat, nets, unchanged, with_teacher
from jaxssl.models.heads import TORCH, Projector
from jaxssl.models.net import Net
from jaxssl.models.prototypes import Prototypes, unit


def unread(*, equal, **_):
    return {} if equal else {"equal": ("iterations",)}


def make(*, encoder, net, total, temperature=0.1, sharpen=0.25, tau=0.996, prototypes=1024, hidden=2048, dim=256, layers=3, prior_weight=1.0, equal=True, iterations=3,
         patch_drop=0.15, shared_drop=True) -> Method:
    """MSN.

    Args:
      temperature: of both softmaxes; sharpen: what the targets' is multiplied by, in (0, 1].
      tau: decay of the average at the start; it grows to 1 along half a cosine.
      prototypes: their number. hidden, dim, layers: of the projector, with batch norm and GELU.
      prior_weight: of the mean assignment's distance from the uniform one. equal: targets use prototypes equally often, by so many iterations of Sinkhorn-Knopp.
      patch_drop: share of the patches that the student does not see of whole views. shared_drop: the same for all images of a step, as in the paper; else drawn for each.
    """
    return siamese(encoder, net, total, temperature=temperature, sharpen=sharpen, tau=tau, prototypes=prototypes, hidden=hidden, dim=dim, layers=layers,
                   prior_weight=prior_weight, exponent=0.0, equal=equal, iterations=iterations, patch_drop=patch_drop, shared_drop=shared_drop)


def siamese(encoder, net, total, *, temperature, sharpen, tau, prototypes, hidden, dim, layers, prior_weight, exponent, equal, iterations, patch_drop, shared_drop) -> Method:
    """MSN whose mean assignment is drawn to a power law; keys as in `make`, exponent: of the prior (`power_law`), 0 is uniform."""
    check_range(temperature=(temperature, "above 0", temperature > 0), sharpen=(sharpen, "above 0 and at most 1", 0 < sharpen <= 1), tau=(tau, "in [0, 1]", 0 <= tau <= 1),
                prototypes=(prototypes, "at least 2", prototypes >= 2), hidden=(hidden, "at least 1", hidden >= 1), dim=(dim, "at least 1", dim >= 1),
                layers=(layers, "at least 1", layers >= 1), prior_weight=(prior_weight, "0 or more", prior_weight >= 0), exponent=(exponent, "0 or more", exponent >= 0),
                iterations=(iterations, "at least 1", iterations >= 1), patch_drop=(patch_drop, "at least 0 and below 1", 0 <= patch_drop < 1))
    module, directions = Projector((hidden,) * (layers - 1) + (dim,), last_norm=False, last_bias=True, gelu=True, kernel_init=TORCH), Prototypes(prototypes)
    projector, assign = Net(module), net(directions)                  # its norms see the whole batch, also where the encoder has it in parts
    decay, prior = schedules.tau(tau, total), power_law(prototypes, exponent)

    def init(key, batch):
        wanted = {"encoder": (encoder, batch["views"][:, 0]), "projector": (projector, jnp.zeros((2, encoder.features))), "prototypes": (assign, jnp.zeros((2, dim)))}
        params, stats = nets(key, **wanted)
        return params, {"batch_stats": stats}

    def kept(key, x):
        """Patches [R, n] that stay of images [R, H, W, C]."""
        n_patches = x.shape[1] // encoder.module.patch * (x.shape[2] // encoder.module.patch)
        with blamed("patch_drop"):
            keep = masks.random(key, 1 if shared_drop else len(x), n_patches, patch_drop)[0]
        return jnp.broadcast_to(keep, (len(x), keep.shape[1]))

    def projected(params, stats, crops, keys, drop=None):
        """Crops of several sizes, [B, V, …] each: features [B, V, D], unit vectors [B, V, K], new statistics; drop: key of the patches left out of the first of them."""
        stats, h = dict(stats), []
        for i, views in enumerate(crops):
            x = flat(views)
            part = {"keep": kept(drop, x)} if drop is not None and i == 0 and patch_drop else {}
            seen, stats["encoder"] = encoder.pooled(params["encoder"], stats["encoder"], x, key=keys[i], **part)
            h.append(seen.reshape(*views.shape[:2], -1))
        h = jnp.concatenate(h, 1)
        z, stats["projector"] = projector.per_view(params["projector"], stats["projector"], h)
        return h, unit(z, -1), stats

    def loss(params, aux, batch, key, step):
        drop, *keys = jax.random.split(key, 3)
        anchors = [batch["views"][:, 1:], *([batch["local"]] if "local" in batch else [])]
        h, z, stats = projected(params, aux["batch_stats"], anchors, keys, drop)
        teacher = stop_gradient(projected(aux["teacher"]["params"], aux["teacher"]["batch_stats"], [batch["views"][:, :1]], [None])[1])                # [B, 1, K]
        logits = assign.per_view(params["prototypes"], {}, z)[0] / temperature                      # [B, V - 1 + L, prototypes]
        target = jax.nn.log_softmax(stop_gradient(assign.per_view(params["prototypes"], {}, teacher)[0]) / (temperature * sharpen))
        target = sinkhorn(target, temp=1., iterations=iterations) if equal else jnp.exp(target)
        # The target's own view comes first among the student's, where the loss leaves it out.
        student = jnp.concatenate([jnp.zeros_like(logits[:, :1]), logits], 1)
        value = cross_entropy(student, target, student_temp=1.)
        far = mean_prior(jax.nn.softmax(logits), prior)
        metrics = {**distillation_metrics(logits, target, student_temp=1.), "prototypes_used": prototypes_used(target), "prior_divergence": far, "tau": decay(step)}
        return value + prior_weight * far, ({**aux, "batch_stats": stats}, metrics, {"features": h[:, :anchors[0].shape[1]], "embeddings": z[:, :anchors[0].shape[1]]})

    student = Method(init, loss, unchanged, embedding(encoder), heads={"projector": (module, "encoder"), "prototypes": (directions, "projector")},
                     needs=Needs(views=2, local=0, patches=True))
    return with_teacher(student, ("encoder", "projector"), decay)
