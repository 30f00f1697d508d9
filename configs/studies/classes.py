"""What fewer training classes cost metric learning.

Command:  python -m jaxssl.study --preset classes --workdir studies/classes --config.data.path=images_background_small1.zip
Hardware: two CPU cores. Hours: not measured (16 runs of 300 steps).
Expected: not measured.
"""
STUDY = {
    "config": "configs/retrieval/omniglot.py", "needs": {"data.path": "images_background_small1.zip"},
    "set": {"total": "300_steps", "eval_every": "20_percent", "method.dim": "0", "batch_size": "48"},
    "grid": {"data.class_share": "0.25,0.5,0.75,1.0"}, "folds": [0, 1, 2, 3],
    "claim": {"text": "Accuracy falls about linearly with the share of classes that is left.",
              "source": "Berton et al., All you need to know about training image retrieval models",
              "above": [[{"data.class_share": "1.0"}, {"data.class_share": "0.5"}], [{"data.class_share": "0.5"}, {"data.class_share": "0.25"}]]},
}
