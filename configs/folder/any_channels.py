"""SimCLR on images of any channels and any depth: microscopy, satellites, X-rays.

Command:  python -m jaxssl.main --config configs/folder/any_channels.py --workdir runs/mine --config.data.path=/path/to/images
Data:     .npy of [height, width, channels] in 8 or 16 bits or floats; TIFF and DICOM with the extra science; PNG and JPEG with --config.data.channels=1 or 3.
          Statistics of each channel and the range that becomes 0 to 1 are found by the run and said (python -m jaxssl.data inspect prints them too);
          --config.data.nodata=VALUE names what says nothing.
Hardware: one GPU with 24 GB or more. Hours: none measured.
Expected: depends on the images; watch knn rise, against knn_raw of the pixels themselves (eval.raw). benchmarks/any_channels.py: five-band Landsat patches of
          16 px, 300 steps of laptop, kNN (k 20) 85.1 %, untrained 68.1, raw patches 81.9, one seed. Colour jitter, grey and solarize are of RGB; here each
          channel has its own brightness and contrast, normal around 1 by .2 (at least .5), and is left out by chance .2 (augment.channel_keep spares some).
          Seen from above there is no upside down: all flips and quarter turns. No blur, which takes away what fluorescence shows.
Variants: xray: one channel and an upright body: no vertical flips, no turns, crops of at least .3 of the area, mild blur.
          laptop: ResNet-10 of quarter width at 64 px, batch 64, 5 epochs, for a laptop's CPU.
"""
from ml_collections import ConfigDict

VARIANTS = ("xray", "laptop")


def get_config(variant=""):
    c = ConfigDict(dict(
        batch_size=256, total="200_epochs", warmup="10_epochs", log_every=50, eval_every="5_percent", checkpoint_every="1_epoch", precision="bf16",
        data=dict(source="folder", path="", canvas=288),
        augment=dict(size=224, crop_scale=(0.08, 1.0), interpolation="bicubic", jitter=0., gray=0., blur=0., flip=0.5, flip_vertical=0.5, turns=0.75,
                     channel_jitter=0.8, channel_brightness=0.2, channel_contrast=0.2, channel_drop=0.2),
        model=dict(name="resnet50", stem="imagenet"),
        method=dict(name="simclr", temperature=0.2, hidden=2048, dim=128, layers=2),
        optim=dict(name="lars", lr=0.075, scaling="sqrt", weight_decay=1e-6, momentum=0.9),
        eval=dict(raw=True)))
    if variant == "xray":
        c.augment.update(flip_vertical=0., turns=0., channel_drop=0., blur=0.5, blur_sigma=(0.1, 1.0), crop_scale=(0.3, 1.0))
    if variant == "laptop":
        c.batch_size, c.total, c.warmup, c.log_every, c.precision = 64, "5_epochs", "10_percent", 10, "f32"
        c.augment.size, c.data.canvas = 64, 72
        c.model = ConfigDict(dict(name="resnet10", stem="imagenet", width=0.25))
        c.method.hidden = 256
        c.optim = ConfigDict(dict(name="adamw", lr=1e-3, scaling="none", weight_decay=1e-2))
    return c
