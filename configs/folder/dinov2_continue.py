"""DINOv2 goes on with your own images, from released weights, on one device: small batches, heads that learn alone at first, and a plain word when it ended below its start.

Command:  python -m jaxssl.main --config configs/folder/dinov2_continue.py:vitb14 --workdir runs/mine --config.data.path=images --config.init_from=dinov2_vitb14_pretrain.pth
Data:     a folder of JPEG, PNG, WebP, BMP, GIF or TIFF; with classes as sub-folders a tenth is held out and kNN tells whether the run is better than its start, without them
          only RankMe is reported, which does not tell. For a zip add --config.data.source=zip.
Weights:  Meta's files, timm's or transformers' folders, an export or a workdir of your own; safetensors, or .pth where torch is installed. Another
          architecture than the variant's is refused in a sentence with the flags that it takes.
Hardware: one GPU; batch 32 of ViT-B/14 was not measured. Hours: none measured.
Expected: depends on the images; not run at its size by this project (benchmarks/continued.py is a small one on CIFAR-10).
Rules:    rate: 2e-4 · √(batch / 1024), the long recipe's rate and rule (facebookresearch/dinov2, configs/train/vitl14.yaml), constant after its warm-up as in DINOv3
          (arXiv 2508.10104), layers below at .9 of the one above. Decay of the teacher: the short recipe's .992 at batch 2,048, raised to batch / 2,048 (the rule of arXiv
          2307.13813): a memory of 256,000 images at any batch, but at most of a tenth of the run, which is ours and not measured. Prototypes: one for about 20 images, as the short
          recipe has on ImageNet-1k, 1,024 to 65,536; a proportion, not a measurement. KoLeo: neighbours among 64, as on one GPU of the short recipe: the batch and a queue.
          Heads alone for the first tenth, at ten times the rate (the short recipe's, from scratch, is twenty times the long one's): without, kNN fell from 80 to 10
          (facebookresearch/dinov2 issue 204); then the encoder's rate rises as that of the heads did (FINO, arXiv 2606.05107: 1,000 to 10,000 and 1,000 to 3,000 steps
          of a run of 67,500). No stochastic depth, as the released S, B and L have none (paper, table 16).
Variants: vitb14, vitl14: larger ones; the plain config is ViT-S/14. vits14_reg, vitb14_reg, vitl14_reg: with registers. small: ViT-S/16 of DINO, MAE or timm at 224 px.
          laptop: a ViT of 64 channels at 64 px, batch 16, to begin with weights of its own size: shows that everything runs.
          --config.model.lora=8 trains additions of rank 8 to the linear layers in place of the encoder, merged in exports.
"""
from ml_collections import ConfigDict

VARIANTS = ("vitb14", "vitl14", "vits14_reg", "vitb14_reg", "vitl14_reg", "small", "laptop")
SIZES = {"s": "vit_small", "b": "vit_base", "l": "vit_large"}


def get_config(variant=""):
    colors = dict(interpolation="bicubic", jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, gray=0.2, blur_sigma=(0.1, 2.0), blur_kernel=9,
                  mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    c = ConfigDict(dict(
        batch_size=32, total="30_epochs", head_warmup="10_percent", warmup="3_percent", log_every=50, eval_every="5_percent", checkpoint_every="5_percent", precision="bf16",
        data=dict(source="folder", path="", canvas=288),
        augment=dict(size=224, crop_scale=(0.32, 1.0), blur=(1.0, 0.1), solarize=(0.0, 0.2), **colors),
        local=dict(views=8, size=98, crop_scale=(0.05, 0.32), blur=0.5, **colors),
        # Released tables have places for 518 px and are interpolated to every input, with registers by another kernel.
        model=dict(name=SIZES[(variant or "vits14")[3:4]] if variant[:3] in ("", "vit") else "vit_small", patch=14, image=518, mask_token=True, layer_scale=1e-5, resize="torch",
                   remat="dots"),
        method=dict(name="dinov2", prototypes=0, hidden=2048, bottleneck=256, assignment="sinkhorn", teacher_temp_warmup="30_percent", tau=0.992, tau_batch=2048,
                    koleo=0.1, koleo_queue=32, patch_mean="masked"),
        optim=dict(name="adamw", lr=2e-4, scaling="sqrt1024", schedule="constant", weight_decay=0.04, clip=3.0, clip_by="network", layer_decay=0.9,
                   rules=((r"^head/", dict(rate=10.0)), (r"/prototypes/", dict(frozen_until=0.01)), (r"/prototypes/gain$", dict(decay=1.0)),
                          (r"^encoder/patch/", dict(rate=0.2))))))
    if variant.endswith("_reg"):
        c.model.update(registers=4, resize="antialias")
    if variant == "small":
        c.local.size = 96
        c.model.update(patch=16, image=224, layer_scale=0.0, resize="antialias")
    if variant == "laptop":
        c.batch_size, c.total, c.log_every, c.eval_every, c.checkpoint_every, c.precision = 16, "40_steps", 1, "20_steps", "20_steps", "f32"
        c.augment.size, c.local.size, c.local.views, c.data.canvas = 64, 32, 2, 72
        c.model.update(name="vit_tiny", patch=16, image=64, width=64, depth=2, heads=1, layer_scale=0.0, remat="none")
        c.method.update(hidden=128, bottleneck=32, koleo_queue=48)
        c.eval = ConfigDict(dict(reference=1000, queries=500))
    return c
