"""What evaluation protocols need to run in a second or two: a few labelled digits, contexts over a tiny encoder, and options of a tiny budget."""
import dataclasses
import functools

import jax
import numpy as np

from jaxssl import data as datas
from jaxssl.evaluation import protocols
from jaxssl.parallel import mesh as sharding
from jaxssl.data.sources import Subset
from tests.test_tuning import small

TINY = {
    "augmented": dict(layer="projector.1", lrs=(1e-3, 10.), batch_size=64, images=128), "fewshot": dict(n=(1, 2), tries=3), "finetune": dict(batch_size=32, images=64, lr=.1),
    "knn": dict(k=(1, 50), temperature=(.07,), majority=False), "labelfree": dict(layers=("backbone",)), "layers": dict(k=5),
    "lbfgs": dict(costs=(1e-6, 1e3), mean_per_class=True, steps=30), "linear": dict(lrs=(1e-3, 3.), forms=("raw",), steps=4, batch_size=64),
    "mlp": dict(hidden=16, epochs=2, batch_size=32, lr=1e-2), "retrieval": dict(recall=(1, 2)), "semi": dict(shares=(), per_class=(1,), batch_size=10, images=20)}


class Labelled:
    """A source with labels of one's own."""

    def __init__(self, source, labels):
        self.source, self.labels, self.name, self.classes = source, np.asarray(labels), source.name, source.classes

    def __len__(self):
        return len(self.source)

    def entry(self, index):
        return int(self.labels[index]), self.source.entry(index)[1]

    def read(self, index):
        return self.source.read(index)[0], *self.entry(index)


@functools.cache
def digits():
    """200 training and 84 test images, the first ten and the first four of them unlabelled."""
    everything = datas.make(source="digits", variant="clean", canvas=16, workers=0)

    def part(source, rows, unlabelled):
        source = Subset(source, rows)
        labels = np.array([source.entry(i)[0] for i in range(len(source))])
        labels[:unlabelled] = -1
        return Labelled(source, labels)
    return dataclasses.replace(everything, train=part(everything.train, range(0, 1400, 7), 10), test=part(everything.test, range(84), 4))


def context(folder, labels=None, **changes):
    """A context on two devices; labels: others for the 80 labelled test images. Features are cached in `folder`."""
    data = digits()
    if labels is not None:
        data = dataclasses.replace(data, test=Labelled(data.test, np.concatenate([data.test.labels[:4], labels])))
    mesh = sharding.make_mesh(devices=jax.devices()[:2])
    return protocols.Context(**{"encoder": small(), "data": data, "mesh": mesh, "folder": str(folder), "log": lambda _: None, **changes})


def run(name, context, **options):
    """Rows of a protocol with its tiny budget."""
    return protocols.find(name).run(context, **{**TINY[name], **options})
