"""Published values beside ours: only for a recipe whose config documents one, and only under the protocol it was published for."""
from collections.abc import Mapping
from typing import Any

_RESNET18 = {"model.name": "resnet18", "model.width": 1.0, "model.stem": "cifar", "data.examples": 50_000, "data.classes": 10, "method.name": "simclr",
             "batch_size": 512}
_RESNET50 = {"model.name": "resnet50", "model.width": 1.0, "data.examples": 1_281_167, "data.classes": 1000, "augment.size": 224, "method.name": "simclr"}
_SGD = "SGD on augmented views"
_CIFAR, _IMAGENET = "100 epochs of batch 512", "90 epochs of batch 4096"

# How long a protocol runs where its values were published: the recipe, the protocol, and its options; the first that fits. lrs are for a batch of 256.
BUDGETS = (
    ({"model.stem": "cifar"}, "augmented", {"epochs": 100., "batch_size": 512, "lrs": (.1,)}),     # google-research/simclr README, its CIFAR-10 command
    ({}, "augmented", {"epochs": 90., "batch_size": 4096, "lrs": (.1,)}),                          # arXiv 2002.05709, appendix B.6
)
# The recipe (keys of the config), the protocol with what its setting must hold, the value, and where it is printed.
TABLE = (
    ({**_RESNET18, "optim.name": "lars", "total": "1000_epochs"}, "augmented", {}, .91,
     f"google-research/simclr README: about 91 % linear ({_SGD}, {_CIFAR}) after 1,000 epochs"),
    ({**_RESNET18, "optim.name": "sgd", "total": "200_epochs"}, "knn", {"k": 200, "temperature": .1}, .848,
     "lightly's CIFAR-10 benchmark: SimCLR, batch 512, 200 epochs, kNN k=200 T=.1, best of all epochs"),
    ({**_RESNET50, "batch_size": 4096, "total": "100_epochs"}, "augmented", {}, .645,
     f"google-research/simclr README: linear ({_SGD}, {_IMAGENET}) after 100 epochs of batch 4096"),
    ({**_RESNET50, "batch_size": 4096, "total": "1000_epochs"}, "augmented", {}, .693, f"arXiv 2002.05709, section 6: linear ({_SGD}, {_IMAGENET}) after 1,000 epochs"),
    ({**_RESNET50, "batch_size": 256, "total": "100_epochs", "optim.scaling": "sqrt"}, "augmented", {}, .628,
     f"arXiv 2002.05709, table B.1: linear ({_SGD}, {_IMAGENET}) after 100 epochs of batch 256, square-root rate"),
)


def value(config: Mapping[str, Any], row: Any) -> dict | None:
    """{"value", "source"} published for the recipe `config` (a resolved config as nested dicts) under the protocol of `row`, or None.

    row: has protocol, layer, metric, setting and selected; only accuracies of the backbone under a fixed or validated setting are matched.
    """
    if row.layer != "backbone" or row.metric != "accuracy" or row.protocol == "knn" and row.selected != "fixed":
        return None
    for recipe, protocol, setting, published, source in TABLE:
        if protocol == row.protocol and all(_get(config, path) == wanted for path, wanted in recipe.items()) and all(row.setting.get(k) == v for k, v in setting.items()):
            return {"value": published, "source": source}
    return None


def budget(config: Mapping[str, Any], protocol: str) -> dict:
    """Options of `protocol` as its values were published for encoders like that of `config` (nested dicts)."""
    return next(options for recipe, name, options in BUDGETS if name == protocol and all(_get(config, path) == wanted for path, wanted in recipe.items()))


def _get(config, path):
    for part in path.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config
