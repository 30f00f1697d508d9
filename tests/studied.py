"""Studies whose trials train nothing: what stands in for `train.run` writes what a run leaves behind, from a function of its config."""
import json
from pathlib import Path

from jaxssl import config as configs
from jaxssl.errors import NonFiniteError

CLASSES = [f"c{i:02d}" for i in range(16)]
STEPS = 4


def split(fold):
    """Classes of a fold: two of the first eight validate."""
    val = CLASSES[2 * fold:2 * fold + 2]
    return {"rule": "", "images": {"train": 6, "val": 2}, "train": [name for name in CLASSES[:8] if name not in val], "val": val, "test": CLASSES[8:]}


class Runs:
    """Stands in for `train.run`. value(config) -> what the run reaches, None for one that is not finite; asked: workdirs, in order; died: an exception to raise before the
    run with this number."""

    def __init__(self, value, died=None):
        self.value, self.asked, self.died = value, [], died or {}

    def __call__(self, spec, overrides, workdir, *, varied=(), kept=None):
        config, folder = configs.load(spec, overrides), Path(workdir)
        if error := self.died.pop(len(self.asked), None):
            raise error
        self.asked.append(folder.name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(configs.describe(config))
        if config.data.split == "class_disjoint":
            (folder / "split.json").write_text(json.dumps(split(config.data.fold)))
        value = self.value(config)
        if value is None:
            raise NonFiniteError("the loss is not finite")
        name = "map_at_r" if config.data.split == "class_disjoint" else "knn"
        rows = [{"step": STEPS // 2, name: value + .01}, {"step": STEPS - 1, name: value + .5}, {"step": STEPS, name: value}]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for step in (STEPS // 2, STEPS):             # of the one between there is no checkpoint
            (folder / "checkpoints" / str(step)).mkdir(parents=True, exist_ok=True)
        result = {"steps": STEPS, name: value, "rankme": 10 * value, "wall_seconds": 2.}
        (folder / "run.json").write_text(json.dumps(result))
        return result
