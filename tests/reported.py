"""A small finished run on images whose folders have hostile names, its report, and a browser to open it in; shared by the tests of the report."""
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jaxssl import config as configs, report, tree
from jaxssl.workdir import checkpoint
from jaxssl.training import job as jobs
from jaxssl.parallel import mesh as sharding
from jaxssl.report import look, read
from tests.tiny import config_of

EVIL = ('<script>window.boom=1<', 'script>', '<img src=x onerror="window.boom=1">', "a&b 'c' \"d\"")
CLASSES = ((EVIL[0], EVIL[1]), (EVIL[2], "x"), (EVIL[3], "ü日本"))       # two folder levels make a class, so that one holds a closing tag


def images(folder, counts):
    """`counts` PNG files of noise around a mean a class, as <class>/<class>/i.png."""
    rng = np.random.default_rng(0)
    for number, (classes, count) in enumerate(zip(CLASSES, counts)):
        place = folder.joinpath(*classes)
        place.mkdir(parents=True)
        for i in range(count):
            pixels = np.clip(rng.normal(60 + 60 * number, 50, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{i:02d}.png")


def state_of(job, seed=1):
    """A train state of random weights, without compiling anything: normal kernels, norms that do nothing."""
    rng = np.random.default_rng(seed)

    def value(name, leaf):
        if name.endswith("kernel"):
            return rng.normal(0, (2 / max(np.prod(leaf.shape[:-1]), 1)) ** .5, leaf.shape).astype(leaf.dtype)
        return np.full(leaf.shape, name.endswith(("scale", "var")), leaf.dtype)
    leaves = [value(name, leaf) for name, leaf in tree.names(job.state).items()]
    return jax.tree.unflatten(jax.tree.structure(job.state), leaves)


def workdir(folder, config, classes, *, examples=60):
    """A workdir with a checkpoint of random weights and three logged steps, the last line torn."""
    folder.mkdir()
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    job = jobs.prepare(config, mesh, jobs.Facts(examples, classes, config.data.canvas, True))
    manager = checkpoint.open_manager(workdir=str(folder), asynchronous=False)
    manager.save(30, state_of(job), {})
    manager.wait()
    manager.close()
    (folder / "config.json").write_text(configs.describe(config))
    (folder / "environment.json").write_text(json.dumps({"python": "3", "argv": ["main.py", "--config", "c.py", "--workdir", "a folder/<b>"], "devices": 1, "device_kind": "cpu",
                                                         "packages": {"jax": "<u>1</u>"}}))
    lines = [{"step": s, "time": 0.0, "loss": 3.0 - s / 10, "lr": 1e-3 * s, "epoch": s / 4, "images_per_second": 100.0 + s, "collapse_std": 0.08, "ids_sha256": "ab"}
             for s in (10, 20, 30)]
    text = "\n".join(json.dumps(line) for line in [*lines, {"step": 20, "time": 0.0, "knn": 0.5, "rankme": 3.0}, {"step": 30, "time": 0.0, "knn": 0.625, "rankme": 4.0}])
    (folder / "metrics.jsonl").write_text(text + '\n{"step": 31, "lo')
    return folder


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A finished run on images in folders with hostile names, and two files of evaluations."""
    root = tmp_path_factory.mktemp("report")
    images(root / "data" / "train", (30, 20, 10))
    images(root / "data" / "test", (12, 10, 8))
    config = config_of("simclr", **{"data.source": "folder", "data.path": str(root / "data"), "data.class_depth": "2", "data.variant": "cluttered"})
    folder = workdir(root / "run", config, 3)
    (folder / "run.json").write_text(json.dumps({"steps": 30, "knn": 0.625, "linear": 0.75, "rankme": 4.0, "knn_untrained": 0.4, "images_per_second": 120.0, "wall_seconds": 90.0,
                                                 "parameters": 1000}))
    (folder / "evaluations").mkdir()
    (folder / "evaluations" / "untrained.json").write_text(json.dumps({"knn_untrained": 0.4, "knn_raw": 0.3, "rankme_untrained": 2.0}))
    (folder / "evaluations" / "test.json").write_text(json.dumps(evaluation(0.6, (0.5, 0.7))))
    return folder


def evaluation(value, interval, **more):
    row = {"protocol": "knn", "variant": "k=20 <b>T</b>", "layer": "backbone", "metric": "accuracy", "value": value, "n": 30, "interval": interval, "setting": {"k": 20, "T": 0.07},
           "note": "short </td>", "seconds": 1.0, "selected": "test", "published": {"value": 0.55, "source": "paper <1>"}}
    return {"version": 1, "created": "2026-01-01", "subject": {"name": "run", "weights": "student", "step": 30}, "data": {"name": "set", "test": "set/test"},
            "command": "evaluate <x>",
            "rows": [row | more]}


@pytest.fixture(scope="session")
def seen(run):
    return look.look(read.runs([str(run)])[0], images=50)


@pytest.fixture(scope="session")
def page(run, seen):
    """(file, text, the data that its script draws)."""
    with pytest.MonkeyPatch.context() as patch:        # what was embedded for `seen`
        patch.setattr(look, "look", lambda *_, **__: seen)
        file = report.write(str(run), images=50)
    assert file == str(run / "report.html")
    text = text_of(file)
    return run / "report.html", text, data_of(text)


def text_of(file):
    """Of a page, with plain spaces for those that do not break."""
    return Path(file).read_text().replace("\u00a0", " ")


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1].replace("\\u00a0", " "))
