"""ReSSL on ImageNet, ResNet-50, the published recipe (arXiv 2107.09282; mingkai-zheng/ReSSL, ressl.py).

Command:  python -m jaxssl.main --config configs/imagenet/ressl.py --workdir gs://bucket/run --config.data.path=/data/tfds/imagenet2012/5.1.0   (on every worker)
Data:     as configs/imagenet/simclr.py says.
Hardware: eight GPUs or TPU v5e-16. Hours: none measured, the recipe was not run by this project.
Expected: linear evaluation 69.9 % after 200 epochs at batch 256 (official README; not run by this project).
Variants: multicrop: the student sees four crops of 144 px beside its view, where the official code has one of 192, 160, 128 and 96 px each and reaches 74.7 %.
          laptop: ResNet-10 of an eighth width at 64 px, batch 64, 20 steps, any number of images and classes: shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("multicrop", "laptop")


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=256, total="200_epochs", warmup="5_epochs", log_every=50, eval_every="10_epochs", checkpoint_every="1_epoch", precision="bf16",
        data=dict(source="tfds", path="", test_split="validation", canvas=288, examples=1281167, classes=1000),
        # The student sees the strong view, the copy the weak one of crop and flip alone.
        augment=dict(size=224, crop_scale=(0.2, 1.0), jitter=(0.8, 0.0), brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, gray=(0.2, 0.0), blur=(0.5, 0.0),
                     blur_sigma=(0.1, 2.0), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        model=dict(name="resnet50", stem="imagenet", bn_groups=8),
        method=dict(name="ressl", student_temp=0.1, teacher_temp=0.04, queue=131072, tau=0.999, hidden=4096, dim=512),
        # Eight ghost groups are the eight GPUs between which the official code shuffles.
        optim=dict(name="sgd", lr=0.05, scaling="linear", schedule="cosine", weight_decay=1e-4, momentum=0.9)))
    if variant == "multicrop":                       # scales from the smallest to the largest of the four
        c.local = ConfigDict({**c.augment, **dict(views=4, size=144, crop_scale=(0.086, 0.86), jitter=0.8, gray=0.2, blur=0.5)})
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.eval_every, c.checkpoint_every = 64, "20_steps", "2_steps", 1, "20_steps", "10_steps"
        c.augment.size, c.data.canvas, c.precision = 64, 96, "f32"
        c.data.examples = c.data.classes = 0
        c.eval = ConfigDict(dict(reference=1000, queries=500))
        c.model = ConfigDict(dict(name="resnet10", stem="imagenet", width=0.125))
        c.method.update(hidden=128, dim=64, queue=1024)
    return c
