"""A projector, where views are augmentations and where they are other images of the class (cookbook, arXiv 2304.12210, section 3.2).

Command:  python -m jaxssl.study --preset oracle_views --workdir studies/oracle_views --config.data.path=train.zip --config.data.test_path=test.zip
Hardware: two CPU cores. Hours: not measured (twelve runs of 3 epochs).
Expected: not measured.
"""
STUDY = {
    "config": "configs/cifar10/simclr.py:laptop", "needs": {"data.path": "train.zip"},
    "cases": {"augmented": {}, "augmented, no projector": {"method.layers": "0"}, "of the class": {"method.name": "supcon"},
              "of the class, no projector": {"method.name": "supcon", "method.layers": "0"}},
    "seeds": [0, 1, 2],
    "claim": {"text": "A projector helps because augmentations change more than they should; with views that an oracle gives (other images of the class) it is not needed.",
              "source": "cookbook, section 3.2",
              "above": [[{"case": "augmented"}, {"case": "augmented, no projector"}], [{"case": "of the class, no projector"}, {"case": "of the class"}]]},
}
