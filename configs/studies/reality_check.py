"""Which metric-learning loss is better on your data: the protocol of "A metric learning reality check", eight losses searched for on disjoint classes, tested once.

Command:  python -m jaxssl.study --preset reality_check --workdir studies/reality --config.data.path=images_background_small1.zip
          Any config of images with classes: --config configs/retrieval/folder.py, with the sizes of its batches and its steps by --config.KEY=VALUE.
          The loss compares the encoder's features (method.dim=0), which are also what is validated and tested.
Hardware: any; more workers are started with the same command. Hours: not measured.
Expected: by the paper, differences after equal tuning are small against what papers of losses claim.
"""
# Ranges of the paper where it gives them (powerful-benchmarker's configs), around the usual values else. Losses with class weights search for their rate too.
STUDY = {
    "config": "configs/retrieval/omniglot.py:conv4",
    "needs": {"data.path": "images_background_small1.zip"},
    "set": {"total": "80_steps", "warmup": "5_percent", "eval_every": "50_percent", "checkpoint_every": "50_percent", "log_every": "100", "method.dim": "0", "method.miner": "",
            "optim.name": "adamw", "optim.lr": "6e-3"},
    "trials": 15, "sampler": "tpe", "folds": [0, 1, 2, 3],
    "reality": {"reproductions": 10, "losses": {
        "contrastive": {"set": {"method.loss": "contrastive"},
            "search": {"method.pos_margin": "lin:0:0.6", "method.neg_margin": "lin:0.2:1.4"}},
        "triplet": {"set": {"method.loss": "triplet"},
            "search": {"method.margin": "lin:0.01:0.5"}},
        "nt_xent": {"set": {"method.loss": "nt_xent_labelled"},
            "search": {"method.temperature": "log:0.01:1"}},
        "proxy_nca": {"set": {"method.loss": "proxy_nca", "data.sampler": "shuffled"},
            "search": {"method.scale": "log:1:50", "optim.rules": "log:0.05:50|(('^classes/', {'rate': @, 'decay': 0.0}),)"}},
        "cosface": {"set": {"method.loss": "cosface", "data.sampler": "shuffled"},
            "search": {"method.margin": "lin:0:0.8", "method.scale": "log:4:200", "optim.rules": "log:0.05:50|(('^classes/', {'rate': @, 'decay': 0.0}),)"}},
        "arcface": {"set": {"method.loss": "arcface", "data.sampler": "shuffled"},
            "search": {"method.margin": "lin:0:50", "method.scale": "log:4:200", "optim.rules": "log:0.05:50|(('^classes/', {'rate': @, 'decay': 0.0}),)"}},
        "multi_similarity": {"set": {"method.loss": "multi_similarity", "method.miner": "multi_similarity"},
            "search": {"method.alpha": "log:0.1:30", "method.beta": "log:5:150", "method.base": "lin:0:1", "method.epsilon": "lin:0:0.8"}},
        "soft_triple": {"set": {"method.loss": "soft_triple", "data.sampler": "shuffled"},
            "search": {"method.scale": "log:4:100", "method.gamma": "log:0.01:50", "method.margin": "lin:0:0.7",
                       "optim.rules": "log:0.05:50|(('^classes/', {'rate': @, 'decay': 0.0}),)"}},
    }},
    "claim": {"text": "Losses of the last years are hardly better than contrastive and triplet losses once all are tuned alike.",
              "source": "Musgrave, Belongie, Lim 2020, section 4"},
}
