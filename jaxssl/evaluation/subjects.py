"""What is evaluated: encoders with the images to try them on, opened and checked before anything is computed."""
import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxssl import data as datas, encoder as encoders, typed
from jaxssl.workdir import folder as workdir
from jaxssl.evaluation import protocols
from jaxssl.evaluation.features import cache
from jaxssl.evaluation.request import HOME, Request
from jaxssl.parallel import mesh as sharding
from jaxssl.encoder import load as loading
from jaxssl.encoder import preprocessing
from jaxssl.data import open as opening
from jaxssl.errors import UserError, nearest, shown

# Keys of a run's data that say how it was trained, not which images and labels there are.
OF_TRAINING = ("sampler", "per_class", "label_noise", "confusable", "class_share", "imbalance", "draw_seed", "manifest")
_SMALL = 64     # a run at fewer pixels was trained on a set of small images, which its own canvas holds as they are


class Subject(NamedTuple):
    """One encoder with its data. path: as given. folder: where its results go. contexts: of its protocols, one for every seed."""
    path: str
    encoder: encoders.Encoder
    data: datas.Data
    folder: Any
    contexts: list[protocols.Context]


def load(request: Request, *, log: Callable[[str], None]) -> list[Subject]:
    """The encoders that a request names, all opened with their data before the first is evaluated. Raises: UserError.

    log(sentence): progress for a person.
    """
    mesh, subjects, leader = sharding.make_mesh(devices=jax.local_devices()), [], jax.process_index() == 0
    given = [(path, True) for path in request.workdirs] + [(path, False) for path in request.weights]
    for path, is_run in given:
        if is_run:
            own = loading.from_workdir(path, weights=request.use, step=request.step, precision=request.precision)
        else:
            own = loading.load(path, weights=request.use, precision=request.precision)
        for sentence in own.origin.account():
            log(f"{path}: {sentence}")
        encoders.check_finite(own.name, own.variables)
        if request.layer:
            own.check_layer(request.layer)
        trained = own.config.get("data", {})
        named = request.data or request.gallery or request.data_keys.keys() & {"source", "path"} or os.path.exists(str(trained.get("path")))
        if own.origin.layout and trained.get("source") in set(opening.SOURCES) - {"digits"} and not named:
            raise UserError(f"{path} was trained on {trained.get('path')!r}, but a file of weights does not keep the folder of its images; give it with --data")
        resize = own.preprocessing["resize"]
        if request.gallery:
            data = open_gallery(own.config, request.gallery, request.query if request.apart else "", request.data_keys, resize=resize)
        else:
            data = open_data(own.config, request.data, request.data_keys, resize=resize)
        protocols.check_labels({name: request.of(name) for name in request.protocols}, data)
        root = workdir.path(path)
        folder = workdir.path(os.path.expanduser(request.out)) if request.out else root if root.is_dir() else root.parent
        features = os.path.expanduser(request.cache) or (str(root) if is_run and isinstance(root, Path) and os.access(root, os.W_OK) else os.path.expanduser(HOME))
        context = protocols.Context(own, data, mesh, features, select=request.select, budget=request.budget, log=log, results=folder)
        # Copies share features and decoded images.
        subjects.append(Subject(path, own, data, folder, [dataclasses.replace(context, seed=seed) for seed in request.seeds]))
    for subject in subjects if leader else []:
        check_writable(subject.folder / "evaluations", "--out")
        check_writable(Path(subject.contexts[0].folder) / "features", "--cache")
    return subjects


def embed_together(subjects: list[Subject]) -> None:
    """Features of the backbone of every subject, on the devices of all processes; then they part, and process 0 has them in its cache. All must call it alike."""
    mesh = sharding.make_mesh(devices=jax.devices())
    for subject in subjects:
        context = subject.contexts[0]
        for which in cache.SETS if subject.data.test is not None else cache.SETS[:1]:
            cache.embed_together(subject.encoder, subject.data, which, mesh=mesh, own=context.mesh, folder=context.folder, batch=context.batch,
                                 store=functools.partial(context.store, which, view=True))


def facts(subjects: list[Subject]) -> dict:
    """What must be the same in every process, as JSON."""
    return {subject.path: {"weights": subject.encoder.digest, "images": subject.contexts[0].digest, "canvas": subject.data.canvas} for subject in subjects}


def check_writable(place: Any, flag: str) -> None:
    """Makes the folder `place`. flag: that names another one. Raises: UserError when nothing can be written there."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        probe = place / f".writable.{os.getpid()}"
        workdir.write(probe, "")
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write to {place} ({error.strerror or error}); give another folder with {flag}") from error


def open_gallery(config: dict, gallery: str, query: str, keys: dict[str, str], *, resize: int) -> datas.Data:
    """The images to search as the training set of a `Data`, and those to search for as its test set: with "" the gallery itself. Raises: UserError."""
    keys = {"splits": "none", "holdout": "0", **keys} if opening.detect(gallery) in ("folder", "zip", "tar") else keys
    there = open_data(config, gallery, keys, resize=resize)
    asked = open_data(config, query, keys, resize=resize) if query else there
    return datas.against(there, asked)


def open_data(config: dict, source: str, keys: dict[str, str], *, resize: int) -> datas.Data:
    """The data to evaluate on: those of the config, with `keys` changed; or those at `source` with the keys' or training's defaults. Raises: UserError.

    Unless the keys say otherwise, the canvas is at least `preprocessing.LARGEST` · resize (of the test-time view: its target of the short side, pixels), so that
    each image is seen as the encoder alone would see it, and never enlarged again. A run's own small images stay on its canvas.
    """
    defaults = datas.make.__kwdefaults__
    unknown = [key for key in keys if key not in defaults]
    if unknown:
        raise UserError(f"--data.{unknown[0]}: there is no such key (there are {', '.join(defaults)}){nearest(unknown[0], defaults)}")
    changed = {key: typed.read(text, defaults[key], f"--data.{key}") for key, text in keys.items()}
    own = dict(config.get("data", {}))
    if not (source or own or changed):
        raise UserError("these weights do not say which images they were trained on; name some with --data")
    if source:
        kind = changed.get("source") or opening.detect(source)
        changed = {"source": kind, "path": "" if kind == "digits" else source, **changed}
    other = bool(changed.keys() & {"source", "path"})
    if changed.get("source", own.get("source")) != own.get("source") or source:
        own = {key: own[key] for key in ("canvas", "channels", "depth", "nodata") if key in own}      # what else the run says is of its own images
    if changed.keys() & {"source", "path", "split"}:
        own.update(examples=0, classes=0)           # declared for other images
    if own.get("class_share", 1) < 1:
        own.update(examples=0, classes=0)           # declared for those alone
    own = {key: value for key, value in own.items() if key not in OF_TRAINING}
    settings = {**own, **changed}
    drawn = settings.get("source", defaults["source"]) == "digits"      # in the size of the canvas
    if not drawn and "canvas" not in changed and (other or resize >= _SMALL):
        settings["canvas"] = max(settings.get("canvas", 0), preprocessing.LARGEST * resize)
    data = datas.make(**settings)
    if "augment" in config and data.pixels.channels != (wanted := preprocessing.channels(config)):
        raise UserError(f"the images of {shown(data.train.name)} have {data.pixels.channels} channels, and the encoder takes {wanted}; give it images such as it was trained on")
    return data
