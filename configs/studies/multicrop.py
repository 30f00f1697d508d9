"""More small crops (SwAV, arXiv 2006.09882, figure 3; DINO, arXiv 2104.14294, table 8).

Command:  python -m jaxssl.study --preset multicrop --workdir studies/multicrop --config.data.path=train.zip --config.data.test_path=test.zip
Hardware: two CPU cores. Hours: not measured (nine runs of 3 epochs).
Expected: not measured.
"""
STUDY = {
    "config": "configs/cifar10/dino.py:laptop", "needs": {"data.path": "train.zip"},
    "grid": {"local.views": "1,2,4"}, "seeds": [0, 1, 2],
    "claim": {"text": "More small crops of each image are better for the same number of epochs.", "source": "SwAV, figure 3; DINO, table 8",
              "above": [[{"local.views": "4"}, {"local.views": "1"}]]},
}
