"""PIRL (arXiv 1912.01991): an image and a jigsaw puzzle of it are both told from all other images by a memory bank of what was said of each.

Heads as in VISSL (pirl_jigsaw_4node_resnet50.yaml): one linear layer for the image; for the puzzle one for each of the nine patches, in the puzzle's order, and one
over all of them. The bank's rows move half the way to what is said of the image. The image is `augment`'s first view, puzzles are cut from `local` crops (255 pixels, of
which cells have 85 and patches 64).
Differs: noise is drawn as in NPID (`jaxssl/methods/npid.py`), as VISSL does and the paper's eq. 4 does not. Each patch is cropped once; there it is turned and jittered
by itself too, and two views of three are posterized, sharpened, solarized and stretched in contrast, which here no view is.

Expected: ResNet-50, ImageNet, 800 epochs of batch 1,024, 32,000 drawn: 63.6 % linear (paper, as quoted); 62.55 after 200 and 64.29 % after 800 epochs by VISSL.
"""
import jax
import jax.numpy as jnp

from jaxssl.augment import jigsaw
from jaxssl.errors import UserError
from jaxssl.losses import discrimination
from jaxssl.methods.base import Method, Needs, check_range, embedding, nets, projected, unchanged
from jaxssl.models.heads import TORCH, Projector


def make(*, encoder, net, examples, temperature=0.07, negatives=32000, momentum=0.5, weight=0.5, grid=3, share=64 / 85, hidden=2048, dim=128, layers=1) -> Method:
    """PIRL.

    Args:
      temperature: of the softmax, > 0.
      negatives: images drawn a step for noise-contrastive estimation; 0 is the softmax over all images.
      momentum: share of a row of the bank that stays, in [0, 1).
      weight: of the puzzle's loss, in [0, 1]; the image's has the rest.
      grid: cells of a puzzle's side. share: of a cell's side that a patch has, in (0, 1].
      hidden, dim, layers: width, output width and depth of the heads of image and patch.
    """
    check_range(temperature=(temperature, "above 0", temperature > 0), negatives=(negatives, "0 or more", negatives >= 0),
                momentum=(momentum, "at least 0 and below 1", 0 <= momentum < 1), weight=(weight, "in [0, 1]", 0 <= weight <= 1), grid=(grid, "at least 2", grid >= 2),
                share=(share, "above 0 and at most 1", 0 < share <= 1), hidden=(hidden, "at least 1", hidden >= 1), dim=(dim, "at least 1", dim >= 1),
                layers=(layers, "at least 1", layers >= 1))
    head = Projector((hidden,) * (layers - 1) + (dim,), last_norm=False, last_bias=True, kernel_init=TORCH)
    projector, of_patch, of_puzzle = net(head), net(head), net(Projector((dim,), last_norm=False, last_bias=True, kernel_init=TORCH))

    def puzzle(key, batch):
        try:
            side, patch = jigsaw.side(batch["local"].shape[2], grid, share), getattr(encoder.module, "patch", 1)
            if side % patch:
                raise ValueError(f"patches of the puzzle have {side} pixels a side, not a multiple of model.patch={patch}")
            return jigsaw.patches(key, batch["local"], grid=grid, share=share)                                           # [B, L, grid², p, p, C]
        except ValueError as error:
            raise UserError(f"{error}; change method.grid, method.share or local.size") from error

    def init(key, batch):
        views, h = batch["views"][:, 0], jnp.zeros((len(batch["views"]), encoder.features))
        params, stats = nets(key, encoder=(encoder, views), projector=(projector, h), patch=(of_patch, h), puzzle=(of_puzzle, jnp.zeros((len(h), grid**2 * dim))))
        return params, {"batch_stats": stats, "bank": discrimination.random_bank(jax.random.fold_in(key, 4), examples, dim), "log_z": jnp.zeros(())}

    def loss(params, aux, batch, key, step):
        drop_key, patch_key, cut_key, draw_key = jax.random.split(key, 4)
        h, f, stats = projected(encoder, projector, params, aux["batch_stats"], batch["views"][:, :1], drop_key)         # [B, 1, D], [B, 1, K]
        pieces = puzzle(cut_key, batch)
        B, L, n = pieces.shape[:3]
        of, stats["encoder"] = encoder.pooled.per_view(params["encoder"], stats["encoder"], pieces.reshape(B, L * n, *pieces.shape[3:]), key=patch_key)
        of, stats["patch"] = of_patch.per_view(params["patch"], stats["patch"], of)                                      # [B, L·n, K]
        g, stats["puzzle"] = of_puzzle.per_view(params["puzzle"], stats["puzzle"], of.reshape(B, L, -1))                 # [B, L, n·K] -> [B, L, K]
        how = dict(ids=batch["id"], key=draw_key, negatives=negatives, examples=examples, temperature=temperature, log_z=aux["log_z"], step=step)
        image, log_z = discrimination.contrast(f, aux["bank"], **how)
        cut, _ = discrimination.contrast(g, aux["bank"], **{**how, "log_z": log_z, "step": step + 1})
        aux = {**aux, "batch_stats": stats, "bank": discrimination.renewed(aux["bank"], f, batch["id"], momentum), "log_z": log_z}
        return (1 - weight) * image + weight * cut, (aux, {"image_loss": image, "puzzle_loss": cut}, {"features": h, "embeddings": f})

    return Method(init, loss, unchanged, embedding(encoder), heads={"projector": (head, "encoder")}, places=((r"^bank$", "rows"),), needs=Needs(most=1, local=1))
