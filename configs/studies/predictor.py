"""SimSiam with its predictor and without (arXiv 2011.10566, table 1; cookbook, arXiv 2304.12210, section 2.3).

Command:  python -m jaxssl.study --preset predictor --workdir studies/predictor --config.data.path=train.zip --config.data.test_path=test.zip
Hardware: two CPU cores. Hours: not measured (six runs of 3 epochs).
Expected: not measured.
"""
STUDY = {
    "config": "configs/cifar10/simsiam.py:laptop", "needs": {"data.path": "train.zip"},
    "set": {"optim.rules": "()"},
    "cases": {"predictor": {}, "none": {"method.predictor": "0"}}, "seeds": [0, 1, 2],
    "claim": {"text": "Without a predictor SimSiam collapses (.1 % on ImageNet, 67.7 % with it).", "source": "SimSiam, table 1",
              "above": [[{"case": "predictor"}, {"case": "none"}]]},
}
