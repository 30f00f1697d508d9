"""Tiny versions of every method, built by listing the folders: a new method or config is covered by existing."""
import functools
from pathlib import Path

import jax
import numpy as np

from jaxssl import config as configs, data as datas
from jaxssl.training import job as jobs
from jaxssl.parallel import mesh as sharding
from jaxssl.data import pipeline

ROOT = Path(__file__).parent.parent
METHODS = sorted(p.stem for p in (ROOT / "jaxssl" / "methods").glob("*.py") if p.stem not in ("__init__", "base"))
CONFIGS = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "configs").glob("*/*.py"))
SMALL = {"batch_size": "16", "total": "30", "warmup": "3", "model.name": "resnet10", "model.width": "0.0625", "model.stem": "cifar", "augment.size": "16",
         "data.canvas": "16", "data.variant": "clean"}


def config_of(method: str, **changes):
    """The tiny config of `method`: digits/<method>.py where it exists, else SimCLR's with the method's name and its own defaults."""
    own = ROOT / "configs" / "digits" / f"{method}.py"
    spec, name = (own, {}) if own.exists() else (ROOT / "configs" / "digits" / "simclr.py", {"method.name": method})
    return configs.load(str(spec), {**name, **SMALL, **changes})


@functools.cache
def digits():
    data = datas.make(source="digits", variant="clean", canvas=16)
    return data, datas.store(data, data.train)


class Tiny:
    """A job on `data × fsdp` devices with its state and its batches."""

    def __init__(self, config, devices: int, fsdp: int = 1):
        self.config, (self.data, store) = config, digits()
        self.mesh = sharding.make_mesh(devices=jax.devices()[:devices], fsdp=fsdp)
        self.job = jobs.prepare(config, self.mesh, jobs.Facts(len(self.data.train), len(self.data.classes), self.data.canvas, True))
        self.store = sharding.put({k: store[k] for k in self.job.batch["store"]}, sharding.replicated(self.mesh))
        self.state = self.job.init(np.asarray(jax.random.key_data(jax.random.key(config.seed))))

    def batch(self, step: int):
        split = sharding.batch(self.mesh)
        rows = pipeline.rows_of(self.config.batch_size, jax.process_index(), jax.process_count())
        index = self.job.order(step, rows).astype(np.int32)
        return {"index": sharding.put(index, split), "stop": sharding.put(np.zeros(self.mesh.size // jax.process_count(), np.int32), split), "store": self.store}

    def run(self, steps: int, start: int = 0) -> list[dict]:
        """Metrics of the steps [start, start + steps)."""
        found = []
        for step in range(start, start + steps):
            self.state, metrics = self.job.step(self.state, self.batch(step))
            found.append({k: float(v) for k, v in metrics.items()})
        return found
