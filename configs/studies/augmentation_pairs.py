"""Pairs of augmentations (SimCLR, arXiv 2002.05709, figure 5): crop and colour together.

Command:  python -m jaxssl.study --preset augmentation_pairs --workdir studies/augmentation_pairs --config.data.path=train.zip --config.data.test_path=test.zip
Hardware: two CPU cores. Hours: not measured (18 runs of 3 epochs).
Expected: not measured.
"""
# Every case begins with all of them off; a crop of one size and place is none.
STUDY = {
    "config": "configs/cifar10/simclr.py:laptop", "needs": {"data.path": "train.zip"},
    "set": {"augment.flip": "0.0"},
    "cases": {"crop": {"augment.jitter": "0.0", "augment.gray": "0.0"}, "crop, colour": {"augment.gray": "0.0"}, "crop, grey": {"augment.jitter": "0.0"},
              "colour": {"augment.crop_scale": "(1.0, 1.0)", "augment.crop_ratio": "(1.0, 1.0)", "augment.gray": "0.0"},
              "colour, grey": {"augment.crop_scale": "(1.0, 1.0)", "augment.crop_ratio": "(1.0, 1.0)"}, "crop, colour, grey": {}},
    "seeds": [0, 1, 2],
    "claim": {"text": "Crop with colour distortion is the best pair; either alone is far below it (linear, ImageNet: about 56 against 33 and 19 %).", "source": "SimCLR, figure 5",
              "above": [[{"case": "crop, colour"}, {"case": "crop"}], [{"case": "crop, colour"}, {"case": "colour"}]]},
}
