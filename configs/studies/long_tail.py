"""A uniform prior where classes are of very different sizes: MSN against PMSN, on all images and on a long tail (arXiv 2210.07277; cookbook, arXiv 2304.12210, section 3).

Command:  python -m jaxssl.study --preset long_tail --workdir studies/long_tail --config.data.path=train.zip --config.data.test_path=test.zip
Hardware: two CPU cores. Hours: not measured (twelve runs of 3 epochs, of 50,000 images or of 12,406).
Expected: not measured.
"""
STUDY = {
    "config": "configs/cifar10/msn.py:laptop", "needs": {"data.path": "train.zip"},
    "cases": {"uniform": {}, "power law": {"method.name": "pmsn"}},
    "grid": {"data.imbalance": "1.0,100.0"}, "seeds": [0, 1, 2],
    "claim": {"text": "Methods that keep clusters of one size lose on images whose classes are not; a power law in place of the uniform prior is better there.",
              "source": "Assran et al. 2022, The hidden uniform cluster prior in self-supervised learning",
              "above": [[{"case": "power law", "data.imbalance": "100.0"}, {"case": "uniform", "data.imbalance": "100.0"}]]},
}
