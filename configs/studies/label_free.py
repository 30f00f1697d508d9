"""Rates and temperatures chosen without labels, by RankMe (arXiv 2210.02885), and how far that and α-ReQ (Agrawal et al. 2022) agree with kNN.

Command:  python -m jaxssl.study --preset label_free --workdir studies/label_free --config.data.path=train.zip --config.data.test_path=test.zip
Hardware: two CPU cores. Hours: not measured (nine runs of 3 epochs).
          --objective alphareq chooses by how near α-ReQ is to 1.
Expected: not measured.
"""
STUDY = {
    "config": "configs/cifar10/simclr.py:laptop", "needs": {"data.path": "train.zip"}, "set": {"eval.alphareq": "true"},
    "grid": {"method.temperature": "0.1,0.5,1", "optim.lr": "3e-4,1e-3,3e-3"}, "objective": "rankme",
    "claim": {"text": "RankMe chooses hyper-parameters nearly as well as labels do; its rank correlation with linear accuracy is high.", "source": "RankMe, tables 1 and 2"},
}
