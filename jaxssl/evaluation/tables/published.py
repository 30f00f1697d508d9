"""Published values beside ours: only for a recipe whose config documents one, and only under the protocol it was published for."""
from collections.abc import Callable, Mapping
from typing import Any

# Recipes as the shipped configs have them: what a section does not name here is at its default, and any other value is another recipe.
SECTIONS = ("model", "method", "optim", "augment")
FREE = {"model.remat", "method.block"}      # how something is computed, and not what
_CIFAR10 = {"batch_size": 512, "total": "1000_epochs", "warmup": "10_epochs", "ema": 0.0, "data": {"examples": 50_000, "classes": 10}, "model": {"name": "resnet18", "stem": "cifar"},
            "method": {"name": "simclr", "temperature": .5, "hidden": 512}, "optim": {"name": "lars", "lr": 1.0, "scaling": "linear", "weight_decay": 1e-4},
            "augment": {"size": 32, "brightness": .4, "contrast": .4, "saturation": .4, "hue": .1, "blur": 0.0, "mean": (.4914, .4822, .4465), "std": (.247, .2435, .2616)}}
_CIFAR10_SGD = {**_CIFAR10, "total": "200_epochs", "warmup": "0_steps", "optim": {"name": "sgd", "lr": .12, "scaling": "linear", "weight_decay": 5e-4}}
_IMAGENET1K = {"batch_size": 4096, "total": "100_epochs", "warmup": "10_epochs", "ema": 0.0, "data": {"examples": 1_281_167, "classes": 1000}, "model": {"name": "resnet50"},
               "method": {"name": "simclr", "temperature": .1}, "optim": {"name": "lars", "lr": .3, "scaling": "linear", "weight_decay": 1e-6},
               "augment": {"size": 224, "interpolation": "bicubic"}}
_SMALL_BATCH = {**_IMAGENET1K, "batch_size": 256, "optim": {**_IMAGENET1K["optim"], "lr": .075, "scaling": "sqrt"}}
_SGD = "SGD on augmented views"
_CIFAR, _IMAGENET = "100 epochs of batch 512", "90 epochs of batch 4096"

# How long a protocol runs where its values were published: the recipe, the protocol, and its options; the first that fits. lrs are for a batch of 256.
BUDGETS = (
    ({"model.stem": "cifar"}, "augmented", {"epochs": 100., "batch_size": 512, "lrs": (.1,)}),     # google-research/simclr README, its CIFAR-10 command
    ({}, "augmented", {"epochs": 90., "batch_size": 4096, "lrs": (.1,)}),                          # arXiv 2002.05709, appendix B.6
)
# The recipe, the protocol with what its setting must hold (besides a published budget, where one is listed above), the value, and where it is printed.
TABLE = (
    (_CIFAR10, "augmented", {}, .91, f"google-research/simclr README: about 91 % linear ({_SGD}, {_CIFAR}) after 1,000 epochs"),
    (_CIFAR10_SGD, "knn", {"k": 200, "temperature": .1}, .848, "lightly's CIFAR-10 benchmark: SimCLR, batch 512, 200 epochs, kNN k=200 T=.1, best of all epochs"),
    (_IMAGENET1K, "augmented", {}, .645, f"google-research/simclr README: linear ({_SGD}, {_IMAGENET}) after 100 epochs of batch 4096"),
    ({**_IMAGENET1K, "total": "1000_epochs"}, "augmented", {}, .693, f"arXiv 2002.05709, section 6: linear ({_SGD}, {_IMAGENET}) after 1,000 epochs"),
    (_SMALL_BATCH, "augmented", {}, .628, f"arXiv 2002.05709, table B.1: linear ({_SGD}, {_IMAGENET}) after 100 epochs of batch 256, square-root rate"),
)
METHODS = {recipe["method"]["name"] for recipe, *_ in TABLE}


def value(config: Mapping[str, Any], row: Any, defaults: Callable[[Mapping], Mapping[str, Mapping]]) -> dict | None:
    """{"value", "source"} published for the recipe `config` (a resolved config as nested dicts) under the protocol of `row`, or None.

    row: has protocol, layer, metric, setting and selected; only accuracies of the backbone under a fixed setting, trained as long as published, are matched.
    defaults(recipe): of the keys in each of `SECTIONS`, for the names that the recipe selects.
    """
    if row.layer != "backbone" or row.metric != "accuracy" or row.selected != "fixed" or not _by_budget(config, row):
        return None
    for recipe, protocol, setting, published, source in TABLE:
        if protocol == row.protocol and all(row.setting.get(k) == v for k, v in setting.items()) and _follows(config, recipe, defaults):
            return {"value": published, "source": source}
    return None


def _follows(config, recipe, defaults):
    """Whether every key that makes the recipe has its value in `config`."""
    defaults = defaults(recipe)
    for key, wanted in recipe.items():
        own = config.get(key)
        if isinstance(wanted, dict):
            own, wanted = own or {}, {**defaults.get(key, {}), **wanted}
            keys = own.keys() | wanted.keys() if key in SECTIONS else wanted.keys()
            same = all(_plain(own.get(k)) == _plain(wanted.get(k)) for k in keys if f"{key}.{k}" not in FREE)
        else:
            same = own == wanted
        if not same:
            return False
    return True


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def _by_budget(config, row):
    """Whether a protocol that has a published budget for such encoders was trained by it."""
    if row.protocol not in {protocol for _, protocol, _ in BUDGETS}:
        return True
    whole, own = budget(config, row.protocol), row.setting
    return (abs(own.get("epochs", 0) / whole["epochs"] - 1) < .01 and own.get("batch_size") == whole["batch_size"] and own.get("lr") == whole["lrs"][0]
            and own.get("weight_decay") == 0)


def budget(config: Mapping[str, Any], protocol: str) -> dict:
    """Options of `protocol` as its values were published for encoders like that of `config` (nested dicts)."""
    return next(options for recipe, name, options in BUDGETS if name == protocol and all(_get(config, path) == wanted for path, wanted in recipe.items()))


def _get(config, path):
    for part in path.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config
