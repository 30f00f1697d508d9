"""Published values beside ours: those that a run's config file states for its recipe (`jaxssl.workdir.published`), under the protocol each was published for."""
from collections.abc import Mapping, Sequence
from typing import Any

from jaxssl.evaluation.protocols import Row


def value(stated: Sequence[Mapping[str, Any]], row: Row, weights: str) -> dict | None:
    """{"value", "source"} of the first value of `stated` (`config_file.PUBLISHED`) that is for the protocol of `row` and for these `weights`, or None.

    Only accuracies of the backbone under a fixed setting, which holds all that the value's own setting names, are matched.
    """
    if row.layer != "backbone" or row.metric != "accuracy" or row.selected != "fixed":
        return None
    for each in stated:
        if each["protocol"] == row.protocol and each.get("weights", weights) == weights and all(_same(key, row.setting.get(key), v) for key, v in each["setting"].items()):
            return {"value": each["value"], "source": each["source"]}
    return None


def _same(key, own, wanted):
    """Epochs come to whole steps, so that they may differ a little."""
    if key == "epochs" and isinstance(own, int | float):
        return abs(own - wanted) < .01 * wanted
    return own == wanted
