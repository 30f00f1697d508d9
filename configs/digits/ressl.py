"""ReSSL on cluttered digits (embedded), with the encoder and the views of configs/digits/simclr.py.

Command:  python -m jaxssl.main --config configs/digits/ressl.py --workdir runs/digits_ressl
Hardware: two CPU cores. Hours: none measured on quiet cores; 217 seconds of processor time with evaluations.
Expected: it learns little here: kNN 20.1 % and linear 35.5 % on held-out images, against 28.2 % and 32.0 % untrained (seed 0, one run).
Variants: clean: the plain digits (not measured). multicrop: four crops of 16 px beside the student's view (not measured).
          laptop: 40 steps, shows that everything runs (hours not measured).
"""
from ml_collections import ConfigDict

VARIANTS = ("clean", "multicrop", "laptop")


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=128, total=700, warmup="5_percent", log_every=50, eval_every="25_percent", checkpoint_every="25_percent", precision="f32",
        data=dict(source="digits", variant="cluttered", canvas=32),
        # The student sees the strong view, the teacher the weak one.
        augment=dict(size=32, crop_scale=(0.5, 1.0), flip=0.0, jitter=(0.8, 0.0), brightness=0.6, contrast=0.6, saturation=0.0, hue=0.0, gray=0.0, blur=0.0, invert=(0.5, 0.0),
                     mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        # Blocks that start as identities learn nothing in so short a run, hence no zero_init.
        model=dict(name="resnet10", stem="imagenet", width=0.375, zero_init=False),
        method=dict(name="ressl", student_temp=0.1, teacher_temp=0.02, queue=1024, tau=0.995, norm=True, hidden=256, dim=128),
        optim=dict(name="adamw", lr=2e-3, scaling="none", weight_decay=1e-2)))
    if variant == "clean":
        c.data.variant = "clean"
    if variant == "multicrop":                       # strong views, as the student's is
        c.local = ConfigDict({**c.augment, **dict(views=4, size=16, crop_scale=(0.2, 0.5), jitter=0.8, invert=0.5)})
    if variant == "laptop":
        c.total = 40
    return c
