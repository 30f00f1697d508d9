"""Depth and width of the projector, and none (SimCLR, arXiv 2002.05709, figure 8; cookbook, arXiv 2304.12210, section 3.2).

Command:  python -m jaxssl.study --preset projector --workdir studies/projector --config.data.path=train.zip --config.data.test_path=test.zip
Hardware: two CPU cores. Hours: not measured (21 runs of 3 epochs).
Expected: not measured.
"""
STUDY = {
    "config": "configs/cifar10/simclr.py:laptop", "needs": {"data.path": "train.zip"},
    "cases": {"none": {"method.layers": "0"}, "linear": {"method.layers": "1"}, "2 × 64": {"method.hidden": "64"}, "2 × 256": {}, "2 × 1024": {"method.hidden": "1024"},
              "3 × 256": {"method.layers": "3"}, "3 × 1024": {"method.layers": "3", "method.hidden": "1024"}},
    "seeds": [0, 1, 2],
    "claim": {"text": "A projector of two layers is better than a linear one (+3 %), and both than none (more than 10 %).", "source": "SimCLR, section 4.2",
              "above": [[{"case": "2 × 256"}, {"case": "linear"}], [{"case": "linear"}, {"case": "none"}]]},
}
