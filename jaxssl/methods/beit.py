"""BEiT (arXiv 2106.08254): a learned token stands for hidden patches, and what is predicted of each is the one of many tokens that a tokenizer gives it.

The tokenizer is an argument (the paper's, DALL-E's, is a file of a kind that is not read here):
  kmeans: the nearest of `tokens` centroids among a teacher's features of the patches, as BEiT v2 and iBOT have it in spirit. The teacher is the weights at `teacher`, or the
    moving average of the encoder where none is named. Centroids move with every batch; those that few patches are nearest to are put where one is.
  vq: a small vector-quantised autoencoder of a patch's pixels, trained beside by its own loss; no gradient of either reaches the other.
  pixels: centroids as with kmeans, of the patches' own pixels less their mean.
Differs from the official code (microsoft/unilm, beit): positions are those of `model.positions` (its position bias is relative), the number of hidden patches is exact, and the
mask token begins at zero.

Expected: ViT-B/16, ImageNet, 800 epochs with DALL-E's tokenizer: 83.2 % fine-tuned (paper, table 1); with a tokenizer of these: none published.
"""
import jax
import jax.numpy as jnp

from jaxssl import schedules
from jaxssl.augment import masks
from jaxssl.errors import UserError, nearest
from jaxssl.losses import clustering
from jaxssl.losses.distillation import entropy
from jaxssl.losses.masked import nearest_codes, patches, quantisation, token_cross_entropy
from jaxssl.losses.unit import normalised
from jaxssl.methods.base import Method, Needs, blamed, check_range, embedding, flat, nets, on_grid, unchanged, with_teacher
from jaxssl.models.decoder import Linear
from jaxssl.models.tokenizer import Tokenizer

TOKENIZERS = ("kmeans", "vq", "pixels")


def unread(*, tokenizer, teacher, **_):
    slow = {} if tokenizer == "kmeans" and not teacher else {"teacher" if teacher else "tokenizer": ("tau",)}
    return {**slow, "tokenizer": (*slow.get("tokenizer", ()), *(("momentum",) if tokenizer == "vq" else ("dim", "hidden", "commitment")))}


def make(*, encoder, net, total, mask_ratio=75 / 196, smallest=16, tokenizer="kmeans", tokens=8192, teacher="", tau=0.996, momentum=0.99, dim=32, hidden=256,
         commitment=0.25) -> Method:
    """BEiT. It needs model.mask_token.

    Args:
      mask_ratio: share of the patches that are hidden, in [0, 1), by blocks of at least `smallest` patches.
      tokenizer: "kmeans", "vq" or "pixels", see above. tokens: their number.
      teacher: of kmeans, weights of an encoder like this one, but for its mask token (a workdir, an export or a file); "" is the moving average, which decays by tau at
        first and by 1 in the end, along half a cosine.
      momentum: of a centroid's moving average.
      dim, hidden, commitment: of vq, the width of a code, of its hidden layers, and the weight of its commitment loss.
    """
    if tokenizer not in TOKENIZERS:
        raise UserError(f"method.tokenizer is {tokenizer!r}{nearest(tokenizer, TOKENIZERS)}; choose one of {', '.join(TOKENIZERS)}")
    if teacher and tokenizer != "kmeans":
        raise UserError(f"method.teacher is {teacher!r}, which the tokenizer {tokenizer!r} does not read; leave it out, or set method.tokenizer=kmeans")
    check_range(mask_ratio=(mask_ratio, "at least 0 and below 1", 0 <= mask_ratio < 1), smallest=(smallest, "at least 1", smallest >= 1),
                tokens=(tokens, "at least 2", tokens >= 2), tau=(tau, "in [0, 1]", 0 <= tau <= 1), momentum=(momentum, "in [0, 1)", 0 <= momentum < 1),
                dim=(dim, "at least 2", dim >= 2), hidden=(hidden, "at least 1", hidden >= 1), commitment=(commitment, "0 or more", commitment >= 0))
    vit, head, vq, decay = encoder.module, net(Linear(tokens)), net(Tokenizer(tokens, dim, hidden)), schedules.tau(tau, total)
    averaged = tokenizer == "kmeans" and not teacher

    def drawn(key, x):
        """bool [R, N]: hidden patches of images [R, H, W, C]."""
        with blamed("mask_ratio"):
            return masks.block(jax.random.split(key, 3)[0], len(x), (x.shape[1] // vit.patch, x.shape[2] // vit.patch), mask_ratio, smallest=smallest)[1]

    def init(key, batch):
        x = batch["views"][:, 0]
        own = {"tokenizer": (vq, patches(x, vit.patch))} if tokenizer == "vq" else {}
        params, stats = nets(key, encoder=(encoder, x), head=(head, jnp.zeros((2, 1, encoder.features))), **own)
        aux = {"batch_stats": stats}
        if teacher:
            copied = {name: jax.tree.map(jnp.copy, part) for name, part in params["encoder"].items() if name != "mask"}
            aux["frozen"] = {"teacher": {"params": {"encoder": copied}, "batch_stats": {"encoder": stats["encoder"]}}}
        if tokenizer != "vq":
            width = encoder.features if tokenizer == "kmeans" else x.shape[-1] * vit.patch**2
            aux["codebook"] = {"centroids": normalised(jax.random.normal(jax.random.fold_in(key, 3), (tokens, width))), "share": jnp.full((tokens,), 1 / tokens, jnp.float32)}
        return params, aux

    def described(aux, x):
        """What kmeans looks at, [R, N, D] of unit length."""
        if tokenizer == "pixels":
            said = patches(x, vit.patch).astype(jnp.float32)
            return normalised(said - said.mean(-1, keepdims=True))
        whole, asked = (aux["frozen"]["teacher"], encoder._replace(module=vit.clone(mask_token=False))) if teacher else (aux["teacher"], encoder)
        said, _ = asked(whole["params"]["encoder"], whole["batch_stats"]["encoder"], x)                              # no key: no block is left out
        return normalised(jax.lax.stop_gradient(said.tokens))

    def loss(params, aux, batch, key, step):
        views, stats = batch["views"], aux["batch_stats"]
        x = flat(views)                                                                                               # [B, V, H, W, C] -> [R, H, W, C]
        mask, (_, drop_key, book_key) = drawn(key, x), jax.random.split(key, 3)
        seen, in_encoder = encoder(params["encoder"], stats["encoder"], x, key=drop_key, mask=mask)
        logits, _ = head(params["head"], {}, seen.tokens)                                                             # [R, N, tokens]
        kept, own = {}, 0.0
        if tokenizer == "vq":
            pixels = patches(x, vit.patch)
            said, _ = vq(params["tokenizer"], {}, pixels)
            labels, told, own = said.labels, said.labels, quantisation(pixels, said.pixels, said.z, said.codes, commitment=commitment)
        else:
            told = described(aux, x)
            labels, kept["codebook"] = tokenized(aux["codebook"], told, book_key, step, momentum)
        value = token_cross_entropy(logits, labels, mask)
        share = jnp.zeros(tokens).at[labels.reshape(-1)].add(1 / labels.size)
        accuracy = jnp.sum((logits.argmax(-1) == labels) & mask) / jnp.maximum(mask.sum(), 1)
        metrics = {"usage_entropy": entropy(share), "token_accuracy": accuracy, "tokenizer_loss": jnp.asarray(own, jnp.float32)}
        said = {"features": seen.pooled.reshape(*views.shape[:2], -1), "predicted": logits, "target": told}
        return value + own, ({**aux, "batch_stats": {**stats, "encoder": in_encoder}, **kept}, metrics, said)

    student = Method(init, loss, unchanged, embedding(encoder), loads={"frozen/teacher": teacher} if teacher else {}, needs=Needs(views=1, patches=True),
                     hidden=lambda key, views: on_grid(drawn(key, flat(views)), views, vit.patch))
    return with_teacher(student, ("encoder",), decay) if averaged else student


def tokenized(book, rows, key, step, momentum):
    """Labels int32 [R, N] of rows [R, N, D], and the codebook after them."""
    every, tokens = rows.reshape(-1, rows.shape[-1]), len(book["share"])                                              # [R·N, D]
    few = (step == 0) | (book["share"] < 0.1 / tokens)
    drawn = clustering.drawn_rows(key, every, jnp.ones(len(every)), book["centroids"])
    centroids = jnp.where(few[:, None], drawn, book["centroids"])
    labels = nearest_codes(rows, centroids)
    share = jnp.zeros(tokens).at[labels.reshape(-1)].add(1 / labels.size)
    moved = clustering.momentum_groups(centroids, every, momentum=momentum)
    return labels, {"centroids": moved, "share": momentum * jnp.where(few, 1 / tokens, book["share"]) + (1 - momentum) * share}
