"""Distillation by DINOv2's own loss (arXiv 2304.07193, section 5; DINOv3, arXiv 2508.10104, section 6): a frozen, larger teacher and its heads stand where the slow copy does.

The loss is that of `dinov2`, DINO on images, iBOT on patches and KoLeo; nothing is hidden from the student, targets are equal shares of the teacher's prototypes (Sinkhorn),
and a moving average of the student, which teaches nobody, is what comes out. The student has heads of its own with as many prototypes. The teacher is a run of this program that
keeps its heads (dinov2, ibot); released encoders come without, for which `distill` needs none.
Written from the papers: of which patches the loss is in DINOv2 they do not say; here a share of them is drawn for each crop.

Expected: ViT-L/14 from ViT-g/14, ImageNet-22k: 83.5 % kNN, 86.3 % linear; ViT-S/14: 79.0 and 81.1 % (DINOv2, table 4 and its README).
"""
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxssl.errors import UserError
from jaxssl.losses.distillation import cross_entropy, distillation_metrics, prototypes_used, sinkhorn, token_cross_entropy
from jaxssl.losses.spread import koleo as koleo_loss
from jaxssl.methods.base import Method, Needs, all_crops, check_range, embedding, encoded, flat, nets, unchanged, with_teacher
from jaxssl.models import dense
from jaxssl.models.prototypes import PrototypeHead


def unread(*, patch_weight=1.0, **_):
    return {} if patch_weight else {"patch_weight": ("patch_share", "separate", "patch_prototypes")}


def make(*, encoder, net, frozen, teacher="", teacher_size=0, licence="", student_temp=0.1, teacher_temp=0.07, iterations=3, prototypes=65536, hidden=2048, bottleneck=256,
         layers=3, separate=False, patch_prototypes=0, patch_weight=1.0, patch_share=0.5, koleo=0.1, tau=0.994) -> Method:
    """Distillation by DINOv2's loss.

    Args:
      teacher: a run with heads, or its export with them (`--format safetensors`). teacher_size: side in pixels of what it sees, 0 for that which it was trained with.
      licence: of the teacher, for the student's card; "" is what its record says.
      student_temp, teacher_temp: of the softmaxes. iterations: of Sinkhorn-Knopp.
      prototypes, hidden, bottleneck, layers: of the student's head (`PrototypeHead`); prototypes are as many as the teacher's.
      separate: patches have a head of their own, as the teacher's have, with patch_prototypes (0: as many as the other).
      patch_weight: of the patches' loss, which needs the same grid on both sides. patch_share: of the patches of a crop that it is of, in (0, 1].
      koleo: weight of KoLeo. tau: decay of the average that comes out.
    """
    check_range(teacher_size=(teacher_size, "0 or more", teacher_size >= 0), student_temp=(student_temp, "above 0", student_temp > 0),
                teacher_temp=(teacher_temp, "above 0", teacher_temp > 0), iterations=(iterations, "at least 1", iterations >= 1),
                prototypes=(prototypes, "at least 2", prototypes >= 2), hidden=(hidden, "at least 1", hidden >= 1), bottleneck=(bottleneck, "at least 1", bottleneck >= 1),
                layers=(layers, "at least 1", layers >= 1), patch_weight=(patch_weight, "0 or more", patch_weight >= 0),
                patch_prototypes=(patch_prototypes, "0 or more, and 0 without method.separate", patch_prototypes >= 0 and (separate or not patch_prototypes)),
                patch_share=(patch_share, "above 0 and at most 1", 0 < patch_share <= 1), koleo=(koleo, "0 or more", koleo >= 0), tau=(tau, "in [0, 1]", 0 <= tau <= 1))
    of_patches = "patch_head" if separate and patch_weight else "head"
    counts = {"head": prototypes, of_patches: patch_prototypes or prototypes if of_patches == "patch_head" else prototypes}
    modules = {name: PrototypeHead((hidden,) * (layers - 1) + (bottleneck, count)) for name, count in counts.items()}
    heads, asked = {name: net(module) for name, module in modules.items()}, frozen(teacher)
    if asked.shapes is None:
        asked = asked._replace(heads=heads)
    check_heads(asked, modules, patch_weight)

    def init(key, batch):
        x, features = batch["views"][:, 0], jnp.zeros((2, encoder.features))
        params, stats = nets(key, encoder=(encoder, x), **{name: (head, features) for name, head in heads.items()})
        return params, {"batch_stats": stats, "frozen": {"teacher": asked.begin(jax.random.fold_in(key, 3), x, tuple(modules))}}

    def loss(params, aux, batch, key, step):
        views, (drop_key, draw_key) = batch["views"], jax.random.split(key)
        of, x = aux["frozen"]["teacher"], flat(views)                                                                      # [B, T, …] -> [R, …]
        shown = asked.seen(x, teacher_size)
        told = asked.net(of["params"]["encoder"], of["batch_stats"]["encoder"], shown, train=False)[0]                     # [R, E], [R, N, E]

        def target_of(name, rows):
            logits = asked.heads[name](of["params"][name], of["batch_stats"].get(name, {}), rows, train=False)[0]
            return stop_gradient(sinkhorn(logits, temp=teacher_temp, iterations=iterations))
        seen, in_encoder = encoder(params["encoder"], aux["batch_stats"]["encoder"], x, key=drop_key)                      # [R, D], [R, N, D]
        pooled, stats = seen.pooled.reshape(*views.shape[:2], -1), {**aux["batch_stats"], "encoder": in_encoder}
        if "local" in batch:
            local, stats = encoded(encoder, params, stats, all_crops(batch)[1:], jax.random.fold_in(drop_key, 1))
            pooled = jnp.concatenate([pooled, local], 1)                                                                   # [B, V, D]
        student, stats["head"] = heads["head"].per_view(params["head"], stats["head"], pooled)                             # [B, V, K]
        target = target_of("head", told.pooled).reshape(*views.shape[:2], -1)                                              # [B, T, K]
        value = cross_entropy(student, target, student_temp=student_temp)
        metrics = {**distillation_metrics(student, target, student_temp=student_temp), "dino": value, "prototypes_used": prototypes_used(target)}
        if patch_weight:
            grids = dense.grid(encoder.module, x.shape[1:3], seen.tokens.shape[1]), dense.grid(asked.net.module, shown.shape[1:3], told.tokens.shape[1])
            check_grids(*grids, shown.shape[1])
            at = places(draw_key, len(x), seen.tokens.shape[1], patch_share)                                               # [R, n]
            ours, theirs = (jnp.take_along_axis(tokens, at[..., None], 1).reshape(at.size, -1) for tokens in (seen.tokens, told.tokens))
            said, stats[of_patches] = heads[of_patches](params[of_patches], stats[of_patches], ours)                       # [R·n, K]
            metrics["ibot"] = token_cross_entropy(said, target_of(of_patches, theirs), jnp.full(at.size, 1 / at.size), student_temp=student_temp)
            value += patch_weight * metrics["ibot"]
        if koleo:
            spread, seen_of = koleo_loss(pooled[:, :views.shape[1]], ids=batch["id"], floor=1e-4)
            value += koleo * views.shape[1] * spread                                                                       # summed over crops, as in the code
            metrics |= {"koleo": spread, **seen_of}
        return value, ({**aux, "batch_stats": stats}, metrics, {"features": pooled[:, :views.shape[1]]})

    student = Method(init, loss, unchanged, embedding(encoder), heads={name: (module, "encoder") for name, module in modules.items()}, loads={"frozen/teacher": teacher},
                     licence=licence, needs=Needs(views=2, local=0))
    return with_teacher(student, ("encoder", *modules), lambda step: tau)


def check_heads(asked, modules, patch_weight):
    """Raises: UserError for a teacher without these heads, or with another number of prototypes."""
    lacking = [name for name in modules if name not in asked.heads]
    if lacking:
        raise UserError(f"method.teacher keeps no {' and '.join(lacking)}, whose prototypes distill_dinov2 asks (it has {', '.join(asked.heads) or 'no heads'}): give a run of "
                        f"dinov2 with method.separate={'True' if 'patch_head' in modules else 'False'}, or set method.name=distill, which needs none")
    if "patch_head" in asked.heads and "patch_head" not in modules and patch_weight:
        raise UserError("method.teacher has a head of its own for patches; set method.separate=True, or method.patch_weight=0")
    for name, module in modules.items():
        if (count := asked.heads[name].module.dims[-1]) != module.dims[-1]:
            key = "prototypes" if name == "head" else "patch_prototypes"
            raise UserError(f"method.{key} is {module.dims[-1]}, and the {name} of method.teacher has {count}; set method.{key}={count}")


def check_grids(ours, theirs, side):
    """Raises: UserError for a teacher of another grid of patches than the student's."""
    if ours != theirs:
        fits = side * ours[0] // theirs[0]
        raise UserError(f"the teacher sees {theirs[0]} × {theirs[1]} patches and the student {ours[0]} × {ours[1]}, and the patches' loss compares them one by one; "
                        f"set method.teacher_size={fits}, which gives the teacher as many, or method.patch_weight=0, or method.name=distill")


def places(key, rows, count, share):
    """int32 [rows, n]: of each row n places of `count`, drawn without repetition; a row's draw depends on the key and its place alone."""
    drawn = jax.vmap(lambda row: jax.random.uniform(jax.random.fold_in(key, row), (count,)))(jnp.arange(rows))
    return jnp.argsort(drawn, 1)[:, :max(round(count * share), 1)]
