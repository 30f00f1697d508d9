"""What fewer training classes cost metric learning.

Command:  python -m jaxssl.study --preset classes --workdir studies/classes --config.data.path=images_background_small1.zip
Hardware: one CPU core. Hours: 10 minutes on crowded cores (32 runs of 150 steps of a small network).
Expected: validation MAP@R 34.3 % with all 51 classes, 32.3, 35.5 and 31.0 % with three quarters, half and a quarter of them (benchmarks/results/study_classes.json): the claim
          is not confirmed at this size, where half of the classes cost nothing that can be told. Both seeds keep the same classes (data.draw_seed).
"""
STUDY = {
    "config": "configs/retrieval/omniglot.py:conv4", "needs": {"data.path": "images_background_small1.zip"},
    "set": {"eval_every": "50_percent", "checkpoint_every": "100_percent", "optim.lr": "6e-3"},
    "grid": {"data.class_share": "0.25,0.5,0.75,1.0"}, "folds": [0, 1, 2, 3], "seeds": [0, 1],
    "claim": {"text": "Accuracy falls about linearly with the share of classes that is left.",
              "source": "Berton et al., All you need to know about training image retrieval models",
              "above": [[{"data.class_share": "1.0"}, {"data.class_share": "0.75"}], [{"data.class_share": "0.75"}, {"data.class_share": "0.5"}],
                        [{"data.class_share": "0.5"}, {"data.class_share": "0.25"}]]},
}
