"""DINOv2 on ImageNet, ViT-L/16 from scratch: the official short recipe (arXiv 2304.07193; facebookresearch/dinov2, configs/train/vitl16_short.yaml).

Command:  python -m jaxssl.main --config configs/imagenet/dinov2.py --workdir gs://bucket/run --config.data.path=/data/tfds/imagenet2012/5.1.0   (on every worker)
Data:     as configs/imagenet/simclr.py says; of the long recipes, a folder of more images (they ran on ImageNet-22k and on 142 million curated ones).
Hardware: TPU v5e-256 (16x16). Hours: none measured; the official run took about a day on 32 A100s (README).
Expected: kNN 81.6 % and linear 82.9 % (published in the official README: 125,000 steps of 2,048, kNN of the teacher's class token; not run by this project).
Faithful or fixed, keys with both values (methods/dinov2.py says more), as these recipes have them:
          augment.blur (0, .9): what ran; (1, .1) is what the paper says. koleo_groups 32: one a GPU of theirs. koleo_crops "both", koleo_floor 0, norm_last_layer False,
          patch_mean "crops": the code's. mask_exact True: DINOv3's count, the same every step; mask_groups 256: no patch leaves its device up to 256 of them.
          `fixed` has the other values: neighbours over the whole batch, a floor, patches' mean over masked crops, blur as in the paper.
Variants: vits16_short, vitb16_short, vitg16_short: other encoders in the short recipe (no published value). fixed: see above.
          vits14, vitb14, vitl14, vitg14: the long recipes, 625,000 steps; L and g of batch 3,072 as in configs/train/vitl14.yaml and vitg14.yaml, with Sinkhorn, two heads of
          131,072 prototypes and SwiGLU; S and B from scratch with L's settings, where the released models are distilled (paper, table 16). Published for vitl14 on
          ImageNet-22k: kNN 82.0 %, linear 84.5 % (README).
          constant: the short recipe on DINOv3's constant schedules, with rotary positions, two heads and Sinkhorn. high_resolution: 10,000 steps at 512 px from trained weights
          (--config.init_from=…), whose rate was not published.
          high_resolution_mixed: the same with DINOv3's five pairs of sizes, one drawn for each step, KoLeo in groups of 16 and Gram anchoring to the network as it began, at
          the crops' own size (theirs: enlarged by half); local crops of 168, which 16 does not divide, are 176 here.
          laptop: a ViT of 64 channels at 64 px, batch 64, 20 steps, any number of images and classes: shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("vits16_short", "vitb16_short", "vitg16_short", "fixed", "vits14", "vitb14", "vitl14", "vitg14", "constant", "high_resolution", "high_resolution_mixed", "laptop")
LONG = VARIANTS[4:8]
SIZES = {"s": "vit_small", "b": "vit_base", "l": "vit_large", "g": "vit_giant"}
# Variant -> published values, each with the protocol and the setting of it by which it was measured.
PUBLISHED = {"": [dict(protocol="knn", setting=dict(temperature=0.07), weights="teacher", value=0.816, source="facebookresearch/dinov2 README: ViT-L/16, vitl16_short, kNN")]}
EPOCH = 1250          # steps, whatever the number of images


def get_config(variant=""):
    colors = dict(interpolation="bicubic", jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, gray=0.2, blur_sigma=(0.1, 2.0), blur_kernel=9,
                  mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    c = ConfigDict(dict(
        batch_size=2048, total=100 * EPOCH, warmup=10 * EPOCH, log_every=50, eval_every="10_percent", checkpoint_every=3 * EPOCH, precision="bf16",
        data=dict(source="tfds", path="", test_split="validation", canvas=288, examples=1281167, classes=1000),
        augment=dict(size=224, crop_scale=(0.32, 1.0), blur=(0.0, 0.9), solarize=(0.0, 0.2), **colors),
        local=dict(views=8, size=96, crop_scale=(0.05, 0.32), blur=0.5, **colors),
        model=dict(name="vit_large", patch=16, image=224, mask_token=True, layer_scale=1e-5, drop_path=0.3, drop_path_shape="uniform", resize="torch", remat="dots"),
        method=dict(name="dinov2", prototypes=65536, hidden=2048, bottleneck=256, norm_last_layer=False, assignment="center", teacher_temp_warmup=f"{30 * EPOCH}_steps", tau=0.992,
                    mask_exact=True, mask_groups=256, koleo=0.1, koleo_groups=32, koleo_crops="both", koleo_floor=0.0, patch_mean="crops"),
        optim=dict(name="adamw", lr=4e-3, scaling="sqrt1024", end_lr=1e-6, weight_decay=0.04, weight_decay_end=0.4, clip=3.0, clip_by="network", layer_decay=0.9,
                   # The last layer stands still for the first 1,250 steps; lengths of prototypes have weight decay as its matrix has; patches learn slowly.
                   rules=((r"/prototypes/", dict(frozen_until=EPOCH)), (r"/prototypes/gain$", dict(decay=1.0)), (r"^encoder/patch/", dict(rate=0.2))))))
    if variant.endswith("16_short"):
        c.model.name = SIZES[variant[3]]
        if variant == "vitg16_short":
            c.model.ffn = "swiglu"
    if variant == "fixed":
        c.augment.blur = (1.0, 0.1)
        c.method.update(koleo_groups=1, koleo_floor=1e-4, patch_mean="masked")
    if variant in LONG:
        c.batch_size, c.total, c.warmup = 3072 if variant[3] in "lg" else 2048, 500 * EPOCH, 80 * EPOCH
        c.local.size, c.model.patch, c.model.name, c.model.drop_path, c.model.ffn = 98, 14, SIZES[variant[3]], 0.4, "swiglu"
        c.method.update(prototypes=131072, bottleneck=384, separate=True, patch_bottleneck=256, assignment="sinkhorn", tau=0.994,
                        koleo_groups={"l": 96, "g": 256}.get(variant[3], 64))
        c.optim.update(lr=2e-4, weight_decay_end=0.2, layer_decay=1.0)
    if variant == "constant":
        c.model.update(positions="rope", registers=4)
        c.method.update(separate=True, assignment="sinkhorn", tau=0.994, tau_end=0.994, koleo_groups=1, koleo_floor=1e-4)
        c.optim.update(lr=1e-3, end_lr=0.0, schedule="constant", weight_decay_end=None)
    if variant.startswith("high_resolution"):
        c.total, c.warmup, c.data.canvas, c.augment.size, c.local.size, c.model.image = 10_000, 1_000, 640, 512, 224, 512
        c.method.update(teacher_temp_warmup="0_steps", tau=0.996)
        c.optim.update(lr=1e-4, rules=((r"/prototypes/", dict(frozen_until=100)), (r"/prototypes/gain$", dict(decay=1.0)), (r"^encoder/patch/", dict(rate=0.2))))
    if variant == "high_resolution_mixed":
        c.sizes, c.data.canvas = ((512, 112, 0.3), (768, 112, 0.3), (768, 176, 0.3), (768, 224, 0.05), (768, 336, 0.05)), 896
        c.method.update(koleo_groups=c.batch_size // 16, gram_weight=1.5, gram_from="1_steps", gram_renewals=0)
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every = 64, 20, 2, 1, "20_steps", 10
        c.augment.size, c.local.size, c.local.views, c.data.canvas, c.precision = 64, 32, 2, 96, "f32"
        c.data.examples = c.data.classes = 0
        c.eval = ConfigDict(dict(reference=1000, queries=500))
        c.model.update(name="vit_tiny", image=64, width=64, depth=2, heads=1, remat="none")
        c.method.update(prototypes=512, hidden=128, bottleneck=32, teacher_temp_warmup="2_steps", mask_groups=8, koleo_groups=2)
        c.optim.rules = ((r"/prototypes/", dict(frozen_until=2)), (r"/prototypes/gain$", dict(decay=1.0)), (r"^encoder/patch/", dict(rate=0.2)))
    return c
