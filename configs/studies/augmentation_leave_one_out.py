"""Each augmentation left out by itself (BYOL, arXiv 2006.07733, figure 3; cookbook, arXiv 2304.12210, section 3.1).

Command:  python -m jaxssl.study --preset augmentation_leave_one_out --workdir studies/augmentation_leave_one_out --config.data.path=train.zip --config.data.test_path=test.zip
Hardware: two CPU cores. Hours: not measured (15 runs of 3 epochs).
Expected: not measured.
"""
STUDY = {
    "config": "configs/cifar10/simclr.py:laptop", "needs": {"data.path": "train.zip"},
    "cases": {"all": {}, "no crop": {"augment.crop_scale": "(1.0, 1.0)", "augment.crop_ratio": "(1.0, 1.0)"}, "no colour": {"augment.jitter": "0.0"},
              "no grey": {"augment.gray": "0.0"}, "no flip": {"augment.flip": "0.0"}},
    "seeds": [0, 1, 2],
    "claim": {"text": "Contrastive learning loses most without crops, then without colour distortion.", "source": "cookbook, section 3.1; SimCLR, figure 5",
              "above": [[{"case": "all"}, {"case": "no crop"}], [{"case": "all"}, {"case": "no colour"}], [{"case": "no colour"}, {"case": "no crop"}]]},
}
