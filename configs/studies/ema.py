"""The slow copy of BYOL: none, fast, slow (arXiv 2006.07733, table 5a).

Command:  python -m jaxssl.study --preset ema --workdir studies/ema --config.data.path=train.zip --config.data.test_path=test.zip
Hardware: two CPU cores. Hours: not measured (nine runs of 3 epochs).
Expected: not measured.
"""
STUDY = {
    "config": "configs/cifar10/byol.py:laptop", "needs": {"data.path": "train.zip"},
    "grid": {"method.tau": "0.0,0.9,0.99"}, "seeds": [0, 1, 2],
    "claim": {"text": "Without a slow copy (decay 0) BYOL collapses (.3 % on ImageNet); decays of .9 and .99 learn (68.4 and 72.5 %).", "source": "BYOL, table 5a",
              "above": [[{"method.tau": "0.9"}, {"method.tau": "0.0"}], [{"method.tau": "0.99"}, {"method.tau": "0.9"}]]},
}
