"""Batch size, length and the rule of the rate (SimCLR, arXiv 2002.05709, figure 9 and table B.1).

Command:  python -m jaxssl.study --preset simclr_batch_epochs --workdir studies/simclr_batch_epochs --config.data.path=train.zip --config.data.test_path=test.zip
Hardware: two CPU cores. Hours: not measured (36 runs of 1 to 4 epochs).
Expected: not measured.
"""
STUDY = {
    "config": "configs/cifar10/simclr.py:laptop", "needs": {"data.path": "train.zip"},
    "set": {"optim.name": "lars", "optim.weight_decay": "1e-6", "eval_every": "0"},
    "cases": {"linear": {"optim.scaling": "linear", "optim.lr": "0.3"}, "sqrt": {"optim.scaling": "sqrt", "optim.lr": "0.075"}},
    "grid": {"batch_size": "64,128,256", "total": "1_epoch,2_epochs,4_epochs"}, "seeds": [0, 1],
    "claim": {"text": "Larger batches are better while training is short, less so when it is long; the square-root rule helps small batches.",
              "source": "SimCLR, figure 9, table B.1",
              "above": [[{"batch_size": "256", "total": "1_epoch", "case": "linear"}, {"batch_size": "64", "total": "1_epoch", "case": "linear"}],
                        [{"batch_size": "64", "total": "1_epoch", "case": "sqrt"}, {"batch_size": "64", "total": "1_epoch", "case": "linear"}]]},
}
