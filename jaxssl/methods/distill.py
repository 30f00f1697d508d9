"""Distillation of a trained encoder into another of any family: a student should find an image as like other images as the teacher finds it, and its patches as like each other.

The feature way of small encoders: similarities with a queue of the teacher's features, as in SEED (arXiv 2101.04731), and of patches with each other, as in relational
distillation (arXiv 1904.05068). Only similarities are matched, so that widths, families and sizes of the two may differ; the teacher sees the student's own views, at the size and
by the mean and deviation that it was trained with. Beside them, or in place of them, the student's linear head may be drawn to the teacher's feature itself (`regression`).
Differs from SEED: rows of the image itself are left out on both sides, and the teacher's features are taken less their running mean, since those behind a ReLU share a direction.

Expected: none published for these recipes; `benchmarks/distill.py` measures ViT → ResNet-10 and EfficientNet-Lite0 → ResNet-10 on CIFAR-10.
"""
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxssl.augment import mix as mixing
from jaxssl.losses.dictionary import random_queue, refilled, relational
from jaxssl.losses.spread import patch_relations
from jaxssl.losses.unit import normalised
from jaxssl.methods.base import Method, Needs, check_places, check_queue, check_range, embedding, flat, nets, unchanged
from jaxssl.models import dense
from jaxssl.models.heads import TORCH, Projector


def unread(*, weight=1.0, patch_weight=1.0, **_):
    return {**({} if weight else {"weight": ("queue", "temperature")}), **({} if patch_weight else {"patch_weight": ("patch_temp",)})}


def make(*, encoder, net, batch_size, frozen, teacher="", teacher_size=0, licence="", weight=1.0, queue=4096, temperature=0.07, regression=0.0, patch_weight=1.0, patch_temp=0.07,
         center_momentum=0.99, mix=0.0) -> Method:
    """Distillation by features.

    Args:
      teacher: weights of an encoder of any family, a workdir, an export or a file (`jaxssl.load`); a plan without one reckons with a copy of the student.
      teacher_size: side in pixels of what the teacher sees, 0 for the side that it was trained with. licence: of the teacher, for the student's card; "" is what its record says.
      weight: of the image's similarities with the queue. queue: features of earlier images, a multiple of the batch. temperature: of both softmaxes.
      regression: weight of the squared distance between what the student's head says and the teacher's feature, both of unit length.
      patch_weight, patch_temp: weight and temperature of the patches' similarities with each other, on the coarser of the two maps.
      center_momentum: decay of the running mean that is taken from the teacher's features.
      mix: chance that a view shows another image too, for both (mixup or CutMix).
    """
    check_range(teacher_size=(teacher_size, "0 or more", teacher_size >= 0), weight=(weight, "0 or more", weight >= 0), temperature=(temperature, "above 0", temperature > 0),
                regression=(regression, "0 or more", regression >= 0), patch_weight=(patch_weight, "0 or more", patch_weight >= 0),
                patch_temp=(patch_temp, "above 0", patch_temp > 0), center_momentum=(center_momentum, "in [0, 1)", 0 <= center_momentum < 1),
                mix=(mix, "in [0, 1]", 0 <= mix <= 1))
    check_queue(queue, batch_size)
    asked = frozen(teacher)
    projector = net(Projector((asked.net.features,), last_norm=False, last_bias=True, kernel_init=TORCH))

    def init(key, batch):
        x = batch["views"][:, 0]
        params, stats = nets(key, encoder=(encoder, x), projector=(projector, jnp.zeros((len(x), encoder.features))))
        kept = {"frozen": {"teacher": asked.begin(jax.random.fold_in(key, 2), x)}, "center": jnp.zeros((asked.net.features,))}
        if weight:
            kept["queue"] = random_queue(jax.random.fold_in(key, 3), queue, asked.net.features)
        return params, {"batch_stats": stats, **kept}

    def loss(params, aux, batch, key, step):
        mix_key, drop_key = jax.random.split(key)
        views, stats, of = batch["views"], dict(aux["batch_stats"]), aux["frozen"]["teacher"]
        x = flat(mixing.mixed(mix_key, views, chance=mix)[0] if mix else views)                                                # [B, V, …] -> [R, …]
        shown = asked.seen(x, teacher_size)
        told = asked.net(of["params"]["encoder"], of["batch_stats"]["encoder"], shown, train=False)[0]                         # [R, E], [R, M, E]
        seen, stats["encoder"] = encoder(params["encoder"], stats["encoder"], x, key=drop_key)                                 # [R, D], [R, N, D]
        said, stats["projector"] = projector(params["projector"], stats["projector"], seen.pooled)                             # [R, E]
        mean = told.pooled.mean(0)
        center = jnp.where(step == 0, mean, center_momentum * aux["center"] + (1 - center_momentum) * mean)
        h, s, t = (a.reshape(*views.shape[:2], -1) for a in (seen.pooled, said, stop_gradient(told.pooled - center)))                # [B, V, …]
        value, metrics, kept = jnp.zeros(()), {}, {"batch_stats": stats, "center": center}
        if weight:
            before = aux["queue"]
            crossed, metrics = relational(s, t, before["keys"], ids=batch["id"], queue_ids=before["ids"], student_temp=temperature, teacher_temp=temperature)
            metrics["similarities"] = crossed - metrics["teacher_entropy"]
            value += weight * metrics["similarities"]
            kept["queue"] = refilled(before, t[:, :1], batch["id"], step)
        metrics["regression"] = jnp.square(normalised(s) - normalised(t)).sum(-1).mean()
        value += regression * metrics["regression"]
        if patch_weight:
            ours, theirs = on_one_grid(encoder.module, x, seen.tokens, asked.net.module, shown, told.tokens)
            check_places(ours, "distill (method.patch_weight)")
            metrics["patches"] = patch_relations(ours, theirs, temperature=patch_temp)
            value += patch_weight * metrics["patches"]
        return value, ({**aux, **kept}, metrics, {"features": h, "embeddings": s})

    return Method(init, loss, unchanged, embedding(encoder), loads={"frozen/teacher": teacher}, licence=licence, needs=Needs(views=1))


def on_one_grid(ours, x, tokens, theirs, shown, told):
    """Tokens [R, N, D] of our module on images x and [R, M, E] of theirs on `shown`, both on the coarser of the two grids, [R, K, D] and [R, K, E]."""
    grids = dense.grid(ours, x.shape[1:3], tokens.shape[1]), dense.grid(theirs, shown.shape[1:3], told.shape[1])
    rows, columns = (min(sides) for sides in zip(*grids))

    def on(a, grid):
        if grid == (rows, columns):
            return a
        square = a.reshape(len(a), *grid, a.shape[-1])
        return jax.image.resize(square, (len(a), rows, columns, a.shape[-1]), "linear").reshape(len(a), rows * columns, -1)
    return on(tokens, grids[0]), on(told, grids[1])
