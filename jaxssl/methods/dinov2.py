"""DINOv2 (arXiv 2304.07193): what a slow copy of the network says of an image's large crops is predicted from any crop, and what it says of patches where these are hidden.

DINO on the class token, iBOT on hidden patches, and KoLeo, which keeps the class tokens of a batch apart; with a center or with equal shares of the prototypes (Sinkhorn),
one head or two. From DINOv3 (arXiv 2508.10104), by the paper alone: masks of exact size, a weight of local crops, constant schedules (`tau_end`), Gram anchoring.

Faithful or fixed: where the released code (facebookresearch/dinov2, b8931f7) does what the paper does not say, a key has both.
  augment.blur: the code inverts the chance: of the first crop 0 and of the second .9 is what ran, 1 and .1 what was meant.
  koleo_groups: the code takes neighbours on one GPU (32 of them, 64 images each, in the short recipe); 1 is the whole batch. koleo_crops: "both", or the paper's "first".
  koleo_floor: 0 is the code's, where three equal images have all of the gradient; above it they have none.
  mask_exact: False hides as many patches as rectangles happen to cover, True the same number in every step (DINOv3's fix).
  norm_last_layer: False lets the lengths of prototypes learn, with weight decay where a rule of optim gives it to `gain`; True holds them at 1, as DINO does.
  patch_mean: "crops" divides the patches' loss by all large crops, so that it weighs half where half of them are masked; "masked" by those.
Differs: the center of patches is that of all hidden patches of the batch, where the code takes the mean of each GPU's; temperatures rise by step.

Expected: ViT-L/16, ImageNet-1k, batch 2048, 100 × 1,250 steps: 81.6 % kNN, 82.9 % linear (official README); ViT-L/14, ImageNet-22k, batch 3072, 500 × 1,250: 82.0 and 84.5 %.
"""
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxssl import schedules
from jaxssl.augment import ragged
from jaxssl.errors import UserError
from jaxssl.losses.distillation import centered, cross_entropy, distillation_metrics, prototypes_used, sinkhorn, token_cross_entropy, update_center
from jaxssl.losses.spread import gram, koleo as koleo_loss
from jaxssl.methods.base import Method, Needs, blamed, check_range, embedding, flat, nets, on_grid, unchanged, with_teacher
from jaxssl.models.net import Net
from jaxssl.models.prototypes import PrototypeHead

ASSIGNMENTS = ("center", "sinkhorn")


def unread(*, assignment="center", koleo=0.0, gram_weight=0.0, gram_renewals=1, mask_shape="block", **_):
    off = {"assignment": ("iterations",) if assignment == "center" else ("center_momentum",)}
    if not koleo:
        off["koleo"] = "koleo_groups", "koleo_crops", "koleo_floor", "koleo_queue"
    if not gram_weight:
        off["gram_weight"] = "gram_from", "gram_renewed", "gram_renewals", "gram_scale"
    elif not gram_renewals:
        off["gram_renewals"] = "gram_renewed",
    if mask_shape != "block":
        off["mask_shape"] = "mask_smallest",
    return off


def prototypes_for(examples: int) -> int:
    """Of a head for so many images: the power of two nearest to a twentieth of them, from 1,024 to 65,536. That is what the short recipe has on ImageNet-1k (65,536 for 1,281,167
    images); for fewer images it is a proportion and no measurement."""
    return 2 ** min(max(round(math.log2(max(examples, 1) / 20)), 10), 16)


def sized(config: Any, examples: int) -> dict:
    """{path of the config: value} of what is left to the number of training images, so that config.json holds the head as it is."""
    return {} if config.method.prototypes else {"method.prototypes": prototypes_for(examples)}


def make(*, encoder, net, batch_size, examples, total, duration, student_temp=0.1, teacher_temp=0.07, teacher_temp_start=0.04, teacher_temp_warmup="30_percent", tau=0.992,
         tau_end=1.0, tau_batch=0, assignment="center", center_momentum=0.9, iterations=3, prototypes=65536, hidden=2048, bottleneck=256, layers=3, norm_last_layer=False,
         separate=False, patch_prototypes=0, patch_hidden=0, patch_bottleneck=0, patch_weight=1.0, patch_mean="crops", local_weight=1.0,
         mask_share=0.5, mask_ratios=(0.1, 0.5), mask_shape="block", mask_smallest=4, mask_exact=True, mask_groups=1,
         koleo=0.1, koleo_groups=1, koleo_crops="both", koleo_floor=1e-4, koleo_queue=0,
         gram_weight=0.0, gram_from="80_percent", gram_renewed="1_percent", gram_renewals=3, gram_scale=1) -> Method:
    """DINOv2.

    Args:
      student_temp: of the student's softmax. teacher_temp: of the teacher's, reached from teacher_temp_start in a straight line over teacher_temp_warmup.
      tau: decay of the average at the start; it goes to tau_end along half a cosine, and stays where both are equal (DINOv3: .994).
      tau_batch: the batch that they are meant for; with one of B images both are raised to the power B / tau_batch (arXiv 2307.13813), and tau remembers no more than a
        tenth of the run's steps, 1 / (1 - tau) of them. 0: they are as they are.
      assignment: "center", whose mean decays by center_momentum, or "sinkhorn", of so many iterations.
      prototypes, hidden, bottleneck, layers: of the head (`PrototypeHead`); prototypes 0: by the number of images (`prototypes_for`). norm_last_layer: see above.
      separate: patches have a head of their own, with patch_prototypes, patch_hidden and patch_bottleneck, each that of the other head where it is 0.
      patch_weight: of the patches' loss. patch_mean: see above. local_weight: of local crops in the other one (DINOv3: .5 in the end).
      mask_share: of the large crops that are masked, mask_ratios: to which shares of their patches (`ragged.draw`), mask_shape: "block" or "random", mask_smallest: patches
        of the smallest rectangle. mask_groups: of crops that are masked together; a multiple of the number of devices keeps patches where they are. mask_exact: see above.
      koleo: weight of KoLeo. koleo_groups, koleo_crops, koleo_floor: see above. koleo_queue: so many class tokens of earlier images are neighbours too, without a gradient.
      gram_weight: of Gram anchoring, 0 for none. From gram_from on the cosines of patches keep to those of a copy of the teacher, taken then and so often again
        (gram_renewals) every gram_renewed; it sees the crop enlarged gram_scale times. (In the paper it is cut anew at twice the size, which has more detail.)
    """
    _check(locals())
    prototypes, tau, tau_end, chosen = by_size(prototypes, tau, tau_end, tau_batch, batch_size=batch_size, examples=examples, total=total)

    def head_of(*dims):
        return PrototypeHead((dims[0],) * (layers - 1) + dims[1:], gain=not norm_last_layer)
    modules = {"head": head_of(hidden, bottleneck, prototypes)}
    if separate:
        modules["patch_head"] = head_of(patch_hidden or hidden, patch_bottleneck or bottleneck, patch_prototypes or prototypes)
    heads = {name: net(module) for name, module in modules.items()}
    patch_name = "patch_head" if separate else "head"
    decay = schedules.cosine(tau, tau_end, total)
    temperature = schedules.linear(teacher_temp_start, teacher_temp, duration(teacher_temp_warmup, "method.teacher_temp_warmup"))
    how = dict(share=mask_share, ratios=mask_ratios, groups=mask_groups, exact=mask_exact, shape=mask_shape, smallest=mask_smallest,
               multiple=heads["head"].parts)
    starts = max(duration(gram_from, "method.gram_from"), 1)                                        # a copy is taken behind a step
    again = [starts + i * duration(gram_renewed, "method.gram_renewed") for i in range(gram_renewals + 1)]

    def init(key, batch):
        features = jnp.zeros((2, encoder.features))
        params, stats = nets(key, encoder=(encoder, batch["views"][:, 0]), **{name: (head, features) for name, head in heads.items()})
        aux = {"batch_stats": stats}
        if assignment == "center":
            aux |= {"center": jnp.zeros((prototypes,)), "center_patch": jnp.zeros((modules[patch_name].dims[-1],))}
        if gram_weight:
            aux["gram"] = jax.tree.map(jnp.copy, {"params": params["encoder"], "batch_stats": stats["encoder"]})
        if koleo and koleo_queue:
            crops = batch["views"].shape[1] if koleo_crops == "both" else 1
            aux["earlier"] = {"rows": jnp.zeros((koleo_queue, crops, encoder.features)), "ids": jnp.full((koleo_queue,), -1, jnp.int32)}
        return params, aux

    def said(params, stats, pooled, tokens):
        """Logits of class tokens [B, V, D] and of patches [M, D]."""
        return heads["head"].per_view(params["head"], stats["head"], pooled)[0], heads[patch_name](params[patch_name], stats[patch_name], tokens)[0]

    def loss(params, aux, batch, key, step):
        mask_key, drop_key = jax.random.split(key)
        gone = drawn(encoder, mask_key, batch["views"], **how)
        pooled, tokens, stats = seen_masked(encoder, params, aux["batch_stats"], batch, gone.mask, drop_key)
        whole, their_tokens = seen_whole(encoder, aux["teacher"], batch["views"])                   # [B, T, D], [B·T, N, D]
        student, student_patch = said(params, stats, pooled, gone.taken(tokens))                    # [B, V, K], [M, K']
        target, target_patch = stop_gradient(said(aux["teacher"]["params"], aux["teacher"]["batch_stats"], whole, gone.taken(their_tokens)))
        temp, here, kept = temperature(step), (gone.weight > 0).reshape(-1), {}
        if assignment == "center":
            kept = {"center": update_center(aux["center"], target, center_momentum), "center_patch": update_center(aux["center_patch"], target_patch, center_momentum, here)}
            target, target_patch = centered(target, aux["center"], temp), centered(target_patch, aux["center_patch"], temp)
        else:
            target = sinkhorn(target, temp=temp, iterations=iterations)
            target_patch = sinkhorn(target_patch, temp=temp, iterations=iterations, weight=here.astype(jnp.float32))
        n = whole.shape[1]
        weights = None if local_weight == 1 else [1.] * n + [local_weight] * (pooled.shape[1] - n)
        image = cross_entropy(student, target, student_temp=student_temp, weights=weights)
        patch = token_cross_entropy(student_patch, target_patch, gone.weight.reshape(-1), student_temp=student_temp)
        patch /= jnp.maximum(gone.weight.sum(), 1) if patch_mean == "masked" else len(gone.mask)    # the weights of a crop sum to 1
        said_of = distillation_metrics(student, target, student_temp=student_temp)
        metrics = {**said_of, "dino": image, "ibot": patch, "prototypes_used": prototypes_used(target), "masked_patches": here.sum(), "teacher_temp": temp, "tau": decay(step)}
        value = image + patch_weight * patch
        if koleo:
            rows, old = pooled[:, :n if koleo_crops == "both" else 1], aux.get("earlier", {})
            spread, seen = koleo_loss(rows, ids=batch["id"], groups=koleo_groups, floor=koleo_floor, earlier=old.get("rows"), earlier_ids=old.get("ids"))
            if old:
                new = {"rows": stop_gradient(rows).astype(jnp.float32), "ids": batch["id"].astype(jnp.int32)}
                kept["earlier"] = jax.tree.map(lambda now, before: jnp.concatenate([now, before])[:koleo_queue], new, dict(old))
            value += koleo * (n if koleo_crops == "both" else 1) * spread                           # summed over crops, as in the code
            metrics |= {"koleo": spread, **seen}
        if gram_weight:
            metrics["gram"] = jax.lax.cond(step >= starts, lambda: anchored(encoder, aux["gram"], flat(batch["views"]), tokens, gram_scale), lambda: jnp.zeros(()))
            value += gram_weight * metrics["gram"]
        seen = {"features": pooled[:, :n], "predicted": by_view(tokens, batch["views"]), "target": by_view(their_tokens, batch["views"])}
        return value, ({**aux, "batch_stats": stats, **kept}, metrics, seen)

    def post(params, aux, step):
        if not gram_weight:
            return params, aux
        now = (step + 1 == jnp.asarray(again)).any()                                                # the teacher as the step at gram_from finds it, but for one update
        taken = {"params": aux["teacher"]["params"]["encoder"], "batch_stats": aux["teacher"]["batch_stats"]["encoder"]}
        return params, {**aux, "gram": jax.tree.map(lambda new, old: jnp.where(now, new, old), taken, aux["gram"])}

    student = Method(init, loss, post if gram_weight else unchanged, embedding(encoder), heads={name: (module, "encoder") for name, module in modules.items()},
                     places=((r"^gram/", "slices"),), needs=Needs(views=2, local=0, patches=True),
                     hidden=lambda key, views: masked_on_grid(encoder, key, views, **how), said="; ".join(chosen))
    return with_teacher(student, ("encoder", *modules), decay)


def by_size(prototypes, tau, tau_end, tau_batch, *, batch_size, examples, total):
    """(prototypes, tau, tau_end, what is said of them: sentences) for a run of `total` steps of this batch on so many images; see `make`."""
    told, start = bool(tau_batch or not prototypes), tau
    if tau_batch:
        tau, tau_end = (value ** (batch_size / tau_batch) for value in (tau, tau_end))
        tau = min(tau, max(1 - 10 / total, 0.0))
    prototypes = prototypes or prototypes_for(examples)
    chosen = [f"{prototypes:,} prototypes for {examples:,} images, one for about {examples / prototypes:.3g} (20 in the short recipe on ImageNet-1k)"] if told else []
    chosen += [f"decay of the teacher {tau:.6g}, the least of {start:g}^({batch_size}/{tau_batch}) (arXiv 2307.13813) and 1 - 10 / {total:,} steps"] if tau_batch else []
    return prototypes, tau, tau_end, chosen


def _check(settings: dict) -> None:
    """Raises: UserError for arguments of `make` that are out of range or contradict one another."""
    positive = ("student_temp", "teacher_temp", "teacher_temp_start")
    counts = ("iterations", "hidden", "bottleneck", "layers", "mask_smallest", "mask_groups", "koleo_groups", "gram_scale")
    weights = ("patch_weight", "local_weight", "koleo", "koleo_floor", "gram_weight", "gram_renewals", "patch_prototypes", "patch_hidden", "patch_bottleneck", "koleo_queue",
               "tau_batch")
    among = {"assignment": ASSIGNMENTS, "mask_shape": ragged.SHAPES}
    given = settings.__getitem__
    check_range(**{name: (given(name), "above 0", given(name) > 0) for name in positive},
                **{name: (given(name), "at least 1", given(name) >= 1) for name in counts},
                **{name: (given(name), "0 or more", given(name) >= 0) for name in weights},
                **{name: (given(name), "in [0, 1]", 0 <= given(name) <= 1) for name in ("tau", "tau_end", "mask_share")},
                **{name: (given(name), f"one of {', '.join(names)}", given(name) in names) for name, names in among.items()},
                **{name: (given(name), " or ".join(names), given(name) in names) for name, names in (("patch_mean", ("crops", "masked")), ("koleo_crops", ("both", "first")))},
                center_momentum=(given("center_momentum"), "in [0, 1)", 0 <= given("center_momentum") < 1),
                prototypes=(given("prototypes"), "at least 2, or 0 for as many as the number of images asks for", given("prototypes") >= 2 or given("prototypes") == 0))
    groups, batch_size = given("koleo_groups"), given("batch_size")
    if given("koleo") and (batch_size % groups or batch_size // groups < 2):
        raise UserError(f"method.koleo_groups is {groups}; it must divide the batch of {batch_size} and leave two images in a group, each the other's neighbour: "
                        f"choose 1, or {batch_size // 2} at most, or method.koleo=0")
    if not given("separate") and (given("patch_prototypes") or given("patch_hidden") or given("patch_bottleneck")):
        raise UserError("method.patch_prototypes, patch_hidden and patch_bottleneck are of a head of its own; set method.separate, or leave them 0")


def anchored(encoder: Net, copy: dict, x: jax.Array, tokens: jax.Array, scale: int) -> jax.Array:
    """Gram anchoring of the student's patches tokens [R, N, D] of x [R, H, W, C] to what a kept copy of the teacher says of x, enlarged `scale` times."""
    side, patch = x.shape[1] * scale, encoder.module.patch
    large = x if scale == 1 else jax.image.resize(x, (len(x), side, side, x.shape[-1]), "cubic")
    kept = encoder(copy["params"], copy["batch_stats"], large)[0].tokens
    if scale > 1:
        rows, columns = x.shape[1] // patch, x.shape[2] // patch
        square = kept.reshape(len(x), rows * scale, columns * scale, -1)
        kept = jax.image.resize(square, (len(x), rows, columns, square.shape[-1]), "cubic", antialias=False).reshape(len(x), rows * columns, -1)
    return gram(tokens, kept)


def drawn(encoder: Net, key: jax.Array, views: jax.Array, **how: Any) -> ragged.Hidden:
    """What is hidden of the crops of views [B, V, H, W, C], row by row; how: as `ragged.draw` takes it. Raises: UserError."""
    _, _, height, width, _ = views.shape
    patch = encoder.module.patch
    with blamed("mask_share, mask_ratios or mask_groups"):
        return ragged.draw(key, views.shape[0] * views.shape[1], (height // patch, width // patch), **how)


def masked_on_grid(encoder: Net, key: jax.Array, views: jax.Array, **how: Any) -> jax.Array:
    """`Method.hidden` of a loss that begins by splitting its key, the first half for `drawn`."""
    return on_grid(drawn(encoder, jax.random.split(key)[0], views, **how).mask, views, encoder.module.patch)


def by_view(tokens: jax.Array, views: jax.Array) -> jax.Array:
    """Tokens [B · V, N, D] of views [B, V, …] as [B, V, N, D]."""
    return tokens.reshape(*views.shape[:2], *tokens.shape[1:])


def seen_masked(encoder: Net, params: dict, stats: dict, batch: dict, mask: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array, dict]:
    """All crops of a batch as a student sees them, the large ones with a mask [B · V, N]: class tokens [B, V + L, D], patches of the large ones [B · V, N, D], and the
    statistics with the encoder's renewed."""
    views, stats = batch["views"], dict(stats)
    keys = jax.random.split(key)
    seen, stats["encoder"] = encoder(params["encoder"], stats["encoder"], flat(views), key=keys[0], mask=mask)
    pooled = seen.pooled.reshape(*views.shape[:2], -1)                                              # [B·V, D] -> [B, V, D]
    if "local" in batch:
        local, stats["encoder"] = encoder.pooled.per_view(params["encoder"], stats["encoder"], batch["local"], key=keys[1])
        pooled = jnp.concatenate([pooled, local], 1)
    return pooled, seen.tokens, stats


def seen_whole(encoder: Net, teacher: dict, views: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What a teacher sees of views [B, V, …], nothing hidden and no block left out: class tokens [B, V, D] and patches [B · V, N, D]; no gradient."""
    seen = stop_gradient(encoder(teacher["params"]["encoder"], teacher["batch_stats"]["encoder"], flat(views))[0])
    return seen.pooled.reshape(*views.shape[:2], -1), seen.tokens
