"""Fine-tuning DINOv2's ViT-B/14 for retrieval by the recipe of "All you need to know about training image retrieval models" (Berton et al.): all layers, class token, no head.

Command:  python -m jaxssl.main --config configs/retrieval/finetune.py --workdir runs/finetune --config.data.path=IMAGES \
              --config.init_from=WEIGHTS
Data:     one folder of class/*.jpg, whose classes are parted: three eighths are trained on, an eighth is held out, half is for the end (--config.data.fold,
          val_classes). WEIGHTS: DINOv2's, as transformers or timm keep them (`python -m jaxssl.convert`).
Hardware: one GPU with 80 GB (less with --config.micro_batch). Hours: none measured, the recipe was not run by this project.
Expected: not run by this project, and no table of the paper's is verified. Its rule: from batches of 256 on pairs with a miner, four images of a class; below, weights of
          classes at a rate of 1, one image of a class. Views are squashed to a square and pass three operations of RandAugment; the run ends after three evaluations without a
          better precision@1 on held-out classes, and says which step was the best: evaluate and export that one (--step). Differs from its code: an evaluation stands for
          its "epoch" of 100,000 draws, 390 steps; it holds out the last fifth of the sorted classes, here a fold (--config.data.val_classes names others).
Variants: auto: chooses loss, miner and images of a class by --config.batch_size, says why, and refuses what contradicts it. small: what auto chooses for 64 images. laptop: a small
          ViT at 56 px, 20 steps: shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("auto", "small", "laptop")


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=256, total="39000_steps", warmup="0_steps", log_every=50, eval_every="390_steps", checkpoint_every="390_steps", precision="bf16",
        eval=dict(patience=3), checkpoint=dict(keep_last=4),
        data=dict(source="folder", path="", split="class_disjoint", canvas=288, sampler="m_per_class", per_class=4),
        augment=dict(views=1, size=224, squash=True, interpolation="bilinear", flip=0.0, randaugment=3, randaugment_magnitude=9, jitter=0.0, gray=0.0, blur=0.0,
                     mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        model=dict(name="vit_base", patch=14, image=518, layer_scale=1.0, mask_token=True),
        method=dict(name="metric", loss="multi_similarity", miner="multi_similarity"),
        optim=dict(name="adam", lr=1e-6, scaling="none", schedule="constant", weight_decay=0.0)))
    if variant == "auto":
        c.method = ConfigDict(dict(name="metric", loss="auto"))
    if variant == "small":
        c.batch_size, c.data.per_class = 64, 1
        c.method = ConfigDict(dict(name="metric", loss="cosface"))
        c.optim.rules = (("^classes/", dict(adam=1.0)),)
    if variant == "laptop":
        c.batch_size, c.total, c.log_every, c.eval_every, c.checkpoint_every, c.precision = 32, "20_steps", 1, "20_steps", "10_steps", "f32"
        c.augment.size, c.data.canvas, c.optim.lr, c.eval.patience = 56, 64, 1e-4, 0
        c.model = ConfigDict(dict(name="vit_tiny", patch=14, image=56, width=64, depth=2, heads=2))
    return c
