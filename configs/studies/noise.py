"""What wrong labels cost metric learning: 0 to 32 %, any other class.

Command:  python -m jaxssl.study --preset noise --workdir studies/noise --config.data.path=images_background_small1.zip
Hardware: two CPU cores. Hours: not measured (20 runs of 300 steps).
Expected: not measured.
"""
STUDY = {
    "config": "configs/retrieval/omniglot.py", "needs": {"data.path": "images_background_small1.zip"},
    "set": {"total": "300_steps", "eval_every": "20_percent", "method.dim": "0"},
    "grid": {"data.label_noise": "0.0,0.04,0.08,0.16,0.32"}, "folds": [0, 1, 2, 3],
    "claim": {"text": "Up to 32 % of wrong labels cost little.", "source": "Berton et al., All you need to know about training image retrieval models",
              "above": [[{"data.label_noise": "0.0"}, {"data.label_noise": "0.32"}]]},
}
