"""CAPI (arXiv 2502.08769): the clusters that a slow copy of the network sees in hidden patches are predicted from the visible ones; no views are compared.

Clusters are trained beside it, by predicting their own assignments, which are used equally often at each place of the image by itself (Sinkhorn): else there would be clusters of
places. The predictor looks at the visible patches only and each question stands alone, so that few of the hidden patches need be asked.
Differs from the official code (facebookresearch/capi, 98b4fa1): layer norms and positions are those of the encoder here, and sine-cosine in the predictor, where it has
root-mean-square norms and rotary positions with registers on the edge; both heads' clusters have one optimizer, whose rate a rule of optim may scale.

Expected: ViT-L/14, ImageNet-1k: 82.9 % by an attentive probe, ADE20k 29.2 by kNN (paper). Clusters are many for a batch of 16,384; with smaller ones take fewer.
"""
import functools

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxssl import schedules
from jaxssl.augment import masks
from jaxssl.errors import UserError
from jaxssl.losses.distillation import entropy, prototypes_used, sinkhorn, token_cross_entropy
from jaxssl.losses.unit import normalised
from jaxssl.methods.base import Method, Needs, blamed, check_range, embedding, flat, nets, on_grid, unchanged, with_teacher
from jaxssl.models.asker import Asker
from jaxssl.models.prototypes import Clusters, Prototypes


def make(*, encoder, net, total, duration, mask_ratio=0.65, predicted=0.05, clusters=16384, target_temp=0.06, temperature=0.12, iterations=3, by_place=True, tau=0.999,
         tau_warmup="10_percent", depth=12, heads=16) -> Method:
    """CAPI.

    Args:
      mask_ratio: share of the patches that the student does not see, in [0, 1). predicted: share of those that it is asked for, at least one.
      clusters: their number. target_temp: of their assignments, temperature: of what is predicted.
      iterations: of Sinkhorn-Knopp; by_place: at each place of the image by itself, over the images; else over all patches.
      tau: decay of the average, reached from 1 over tau_warmup, from where it goes back to 1 along half a cosine.
      depth, heads: of the predictor, as wide as the encoder.
    """
    check_range(mask_ratio=(mask_ratio, "at least 0 and below 1", 0 <= mask_ratio < 1), predicted=(predicted, "above 0 and at most 1", 0 < predicted <= 1),
                clusters=(clusters, "at least 2", clusters >= 2), target_temp=(target_temp, "above 0", target_temp > 0), temperature=(temperature, "above 0", temperature > 0),
                iterations=(iterations, "at least 1", iterations >= 1), tau=(tau, "in [0, 1]", 0 <= tau <= 1), depth=(depth, "at least 1", depth >= 1),
                heads=(heads, "at least 1", heads >= 1))
    warm = schedules.make("cosine", base=1 - tau, total=total, warmup=duration(tau_warmup, "method.tau_warmup"))
    assign, guess = net(Clusters(clusters)), net(Prototypes(clusters, gain=True))

    def asker():                                                      # asked for once `needs` is known to be met
        vit = encoder.module
        if vit.width % heads or vit.width % 4:
            raise UserError(f"method.heads is {heads}; choose a divisor of the {vit.width} channels of the encoder, which are a multiple of 4")
        return net(Asker(vit.width, depth, heads, vit.kernel_init, vit.eps, vit.dtype))

    split = functools.partial(parted, encoder, mask_ratio=mask_ratio, predicted=predicted)

    def init(key, batch):
        x = batch["views"][:, 0]
        grid, keep, ask = split(key, x.shape)
        width = encoder.features
        tokens = jnp.zeros((len(x), keep.shape[1], width))
        params, stats = nets(key, encoder=(encoder, x), clusters=(assign, tokens), prototypes=(guess, tokens))
        params["predictor"], stats["predictor"] = asker().init(jax.random.fold_in(key, len(params)), tokens, ask=ask, places=jnp.zeros((len(x), grid[0] * grid[1]), bool))
        return params, {"batch_stats": stats}

    def loss(params, aux, batch, key, step):
        views, stats = batch["views"], dict(aux["batch_stats"])
        x = flat(views)                                                                             # [B, V, …] -> [R, …]
        mask_key, drop = jax.random.split(key)
        grid, keep, ask = split(mask_key, x.shape)
        teacher = aux["teacher"]
        whole = stop_gradient(encoder(teacher["params"]["encoder"], teacher["batch_stats"]["encoder"], x)[0].tokens)                                   # [R, N, D]
        logits = assign(params["clusters"], {}, normalised(whole))[0]                               # [R, N, K]
        equal = jax.vmap(lambda rows: sinkhorn(rows, temp=target_temp, iterations=iterations), 1, 1) if by_place else (
            lambda rows: sinkhorn(rows, temp=target_temp, iterations=iterations))
        target = equal(logits)                                                                      # [R, N, K]
        dealt = target.reshape(-1, clusters)
        clustering = token_cross_entropy(logits.reshape(-1, clusters), dealt, jnp.full(len(dealt), 1 / len(dealt)), student_temp=temperature)
        seen, stats["encoder"] = encoder(params["encoder"], stats["encoder"], x, key=drop, keep=keep)
        said = asker()(params["predictor"], {}, seen.tokens, ask=ask, places=jnp.zeros((len(x), grid[0] * grid[1]), bool))[0]                          # [R, m, D]
        told = jnp.take_along_axis(target, ask[..., None], 1).reshape(-1, clusters)
        answer = guess(params["prototypes"], {}, normalised(said))[0].reshape(-1, clusters)
        value = token_cross_entropy(answer, told, jnp.full(len(told), 1 / len(told)), student_temp=temperature)
        usage, sure = entropy(dealt.mean(0)), entropy(told).mean()
        metrics = {"prediction": value, "clustering": clustering, "teacher_entropy": sure, "usage_entropy": usage, "target_information": usage - sure,
                   "prototypes_used": prototypes_used(target), "tau": 1 - warm(step)}
        by_view = {name: x.reshape(*views.shape[:2], *x.shape[1:]) for name, x in (("features", seen.pooled), ("predicted", said), ("target", whole))}
        return value + clustering, ({**aux, "batch_stats": stats}, metrics, by_view)

    def hidden(key, views):
        x = flat(views)
        grid, keep, _ = split(jax.random.split(key)[0], x.shape)
        shown = jax.vmap(lambda keep: jnp.zeros(grid[0] * grid[1], bool).at[keep].set(True))(keep)
        return on_grid(~shown, views, encoder.module.patch)

    student = Method(init, loss, unchanged, embedding(encoder), needs=Needs(views=1, patches=True), hidden=hidden)
    return with_teacher(student, ("encoder",), lambda step: 1 - warm(step))


def parted(encoder, key, shape, *, mask_ratio, predicted):
    """Of images [R, H, W, C]: grid, visible patches [R, n] and hidden ones that are asked for [R, m]."""
    grid = shape[1] // encoder.module.patch, shape[2] // encoder.module.patch
    N, (block_key, roll_key, ask_key) = grid[0] * grid[1], jax.random.split(key, 3)
    with blamed("mask_ratio"):
        n = masks.visible(N, mask_ratio)
        if n == N:
            raise ValueError(f"a ratio of {mask_ratio} hides none of {N} patches")
        inside = masks.block(block_key, shape[0], grid, 1 - n / N)[1]                           # [R, N], True for n of them
    each = jax.vmap(jax.random.fold_in, (None, 0))(roll_key, jnp.arange(shape[0]))
    turn = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, jnp.asarray(grid)))(each)
    inside = jax.vmap(lambda m, t: jnp.roll(m.reshape(grid), t, (0, 1)).reshape(-1))(inside, turn)
    keep = jax.vmap(lambda m: jnp.nonzero(m, size=n)[0])(inside)
    asked = max(int((N - n) * predicted), 1)
    rank = jnp.where(inside, 2., jax.vmap(lambda key: jax.random.uniform(key, (N,)))(jax.vmap(jax.random.fold_in, (None, 0))(ask_key, jnp.arange(shape[0]))))
    return grid, keep.astype(jnp.int32), jnp.argsort(rank)[:, :asked].astype(jnp.int32)
