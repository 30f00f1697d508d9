"""What wrong labels cost metric learning: 0 to 32 %, any other class.

Command:  python -m jaxssl.study --preset noise --workdir studies/noise --config.data.path=images_background_small1.zip
Hardware: one CPU core. Hours: not measured (40 runs of 150 steps of a small network).
Expected: not measured.
"""
STUDY = {
    "config": "configs/retrieval/omniglot.py:conv4", "needs": {"data.path": "images_background_small1.zip"},
    "set": {"eval_every": "50_percent", "checkpoint_every": "100_percent", "optim.lr": "6e-3"},
    "grid": {"data.label_noise": "0.0,0.04,0.08,0.16,0.32"}, "folds": [0, 1, 2, 3], "seeds": [0, 1],
    "claim": {"text": "Up to 32 % of wrong labels cost little.", "source": "Berton et al., All you need to know about training image retrieval models",
              "above": [[{"data.label_noise": "0.0"}, {"data.label_noise": "0.04"}], [{"data.label_noise": "0.0"}, {"data.label_noise": "0.16"}],
                        [{"data.label_noise": "0.0"}, {"data.label_noise": "0.32"}]]},
}
