"""Width of what the loss compares (SimCLR, arXiv 2002.05709, figure 8).

Command:  python -m jaxssl.study --preset dimension --workdir studies/dimension --config.data.path=train.zip --config.data.test_path=test.zip
Hardware: two CPU cores. Hours: not measured (twelve runs of 3 epochs).
Expected: not measured.
"""
STUDY = {
    "config": "configs/cifar10/simclr.py:laptop", "needs": {"data.path": "train.zip"},
    "grid": {"method.dim": "16,32,128,512"}, "seeds": [0, 1, 2],
    "claim": {"text": "The output dimension of the projector hardly matters (32 to 2,048).",
              "source": "SimCLR, figure 8", "above": [[{"method.dim": "512"}, {"method.dim": "32"}]]},
}
