"""Temperature of NT-Xent: neither the highest nor the lowest (SimCLR, arXiv 2002.05709, table 5).

Command:  python -m jaxssl.study --preset temperature --workdir studies/temperature --config.data.path=train.zip --config.data.test_path=test.zip
Hardware: two CPU cores. Hours: not measured (twelve runs of 3 epochs).
Expected: not measured.
"""
STUDY = {
    "config": "configs/cifar10/simclr.py:laptop", "needs": {"data.path": "train.zip"},
    "grid": {"method.temperature": "0.05,0.1,0.5,1"}, "seeds": [0, 1, 2],
    "claim": {"text": "With normalised embeddings .1 is best: 59.7, 64.4, 60.7 and 58.0 % for .05, .1, .5 and 1 (linear, ImageNet).", "source": "SimCLR, table 5",
              "above": [[{"method.temperature": "0.1"}, {"method.temperature": "1"}], [{"method.temperature": "0.1"}, {"method.temperature": "0.05"}]]},
}
