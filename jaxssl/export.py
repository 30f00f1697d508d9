"""`python -m jaxssl.export --workdir DIR | --weights PATH --format FORMAT --out DIR`: an encoder as files that other programs open.

What was written is opened again with the target library and applied to real images before the folder gets its name, so a folder that is
there has been checked.
"""
import argparse
import dataclasses
from pathlib import Path
from types import ModuleType

import jax
import numpy as np

import jaxssl
from jaxssl import data as datas, encoder as encoders
from jaxssl.encoder import formats as interop
from jaxssl.encoder import load as loading
from jaxssl.encoder import preprocessing
from jaxssl.data.decode import sample
from jaxssl.data.open import detect
from jaxssl.errors import UserError
from jaxssl.evaluation.tables import reading as results
from jaxssl.report import card
from jaxssl.workdir import folder as folders, published, sources
from jaxssl.command import guarded, local, place, process, whole

LIMIT = 1e-4          # largest feature difference, of an image's largest feature, in float32
VIEW_LIMIT = 0.05     # mean difference of preprocessed images in standard deviations: Pillow rounds to 8 bits after resizing, ours does not
_CHUNK = 21           # images at once, behind a first one alone: 64 come in two sizes of batch


def run(*, format: str, out: str, workdir: str = "", weights: str = "", use: str = "", step: int | None = None, images: int = 64, data: str = "",
        licence: str = "") -> dict:
    """Exports, checks and describes an encoder; returns {difference, images, source, folder, …}.

    workdir: of a run, or weights: anything that `jaxssl.load` opens. use: "student", "teacher" or "" (the teacher where there is one).
    images: how many the check uses. data: folder, zip or packed set they come from; "" is the run's own, else the embedded digits.
    Raises: UserError; nothing is left behind then.
    """
    target, folder = interop.target(format), Path(out)
    if bool(workdir) == bool(weights):
        raise UserError("give either --workdir DIR (a run) or --weights PATH (a file of weights or an export)")
    if images < 1:
        raise UserError(f"--images is {images}; at least one image is needed for the check")
    if step is not None and not workdir:
        raise UserError("--step names a checkpoint of a workdir; a file of weights holds one step only")
    with interop.files.fresh(folder) as partial:
        encoder = loading.from_workdir(workdir, weights=use, step=step) if workdir else loading.load(weights, weights=use)
        encoders.check_finite(encoder.name, encoder.variables)
        encoder = dataclasses.replace(encoder, origin=encoder.origin._replace(licence=licence or encoder.origin.licence))
        interop.target(format, encoder.module)
        seen = encoder.preprocessing
        if format in ("timm", "transformers", "torchvision") and (len(seen["mean"]) != 3 or "high" in seen):
            raise UserError(f"--format {format} says how images of RGB in 8 bits are prepared, and {encoder.name} takes {len(seen['mean'])} channels"
                            f"{' of a range of their own' if 'high' in seen else ''}; use --format safetensors, stablehlo or onnx")
        target.write(encoder, partial)
        check = compare(target, encoder, partial, *real_images(encoder, images, data))
        check |= {"folder": str(folder), "format": format, "notes": [*encoder.origin.notes, *(target.notes(encoder, partial) if hasattr(target, "notes") else [])]}
        if stated := published.read(workdir or weights, encoder.config):
            published.keep(str(partial), {"recipe": published.recipe(encoder.config), "values": stated}, new=True)
        (partial / interop.files.CARD).write_text(describe(target, encoder, check, workdir), encoding="utf-8", errors="replace")
    return check


def compare(target: ModuleType, encoder: encoders.Encoder, folder: Path, pixels: list[np.ndarray], source: str) -> dict:
    """Applies the encoder and what was written to the same images. Raises: UserError when they disagree."""
    x, ours = [], []
    with jax.default_matmul_precision("highest"):
        view, forward = jax.jit(encoder.view), jax.jit(lambda variables, x: encoder.forward(variables, x)[0])
        side = preprocessing.side(pixels, encoder.preprocessing)
        for chunk in chunks(pixels):
            x.append(np.asarray(view(preprocessing.placed(chunk, encoder.preprocessing, side))))
            ours.append(np.asarray(forward(encoder.variables, x[-1])))
        theirs, scope = reopened(target, encoder, folder, x, pixels)
    ours, x = np.concatenate(ours), np.concatenate(x)
    if theirs.shape != ours.shape:
        raise UserError(f"the exported encoder gives features of shape {theirs.shape}, ours {ours.shape}; the export was removed")
    difference = relative(ours, theirs)
    if not difference <= LIMIT:
        raise UserError(f"the exported encoder's features differ from ours by {difference:.1e} of an image's largest feature, more than {LIMIT:g}; "
                        "the export was removed")
    found = {"difference": difference, "limit": LIMIT, "images": len(pixels), "source": source}
    if hasattr(target, "view"):
        found["preprocessing"] = float(np.mean([np.abs(target.view(scope, image) - own).mean() for image, own in zip(pixels, x)]))
        if found["preprocessing"] > VIEW_LIMIT:
            raise UserError(f"the target library's preprocessing differs from ours by {found['preprocessing']:.3f} standard deviations, more than {VIEW_LIMIT}; "
                            "the export was removed")
    return found


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference of a feature over the largest feature of its image, over all images; [N, D] both."""
    return float((np.abs(ours - theirs).max(1) / np.maximum(np.abs(ours).max(1), np.finfo(np.float32).tiny)).max())


def reopened(target: ModuleType, encoder: encoders.Encoder, folder: Path, x: list[np.ndarray], pixels: list[np.ndarray]) -> tuple[np.ndarray, dict]:
    """Features by the very code that the model card shows, and the names it made."""
    load, use = target.usage(encoder, folder)
    scope, parts = {}, []
    try:
        exec(compile(load, "README.md", "exec"), scope)
        for images, chunk in zip(x, chunks(pixels)):
            scope["images"] = target.feed(images, chunk)
            exec(compile(use, "README.md", "exec"), scope)
            parts.append(np.asarray(scope["features"], np.float32))
    except ImportError as error:
        raise UserError(f"the export cannot be checked, and an unchecked one is not kept: {error}; pip install 'jaxssl[export]'") from error
    except UserError:
        raise
    except Exception as error:      # whatever another library raises for a file that it does not take
        raise UserError(f"the export cannot be used with the target library ({type(error).__name__}: {error}), so it was removed; see --debug, or try another release of that "
                        "library") from error
    return np.concatenate(parts), scope


def chunks(items: list) -> list[list]:
    """The first item alone, and the others in batches of `_CHUNK`: a file that takes one size of batch only must not pass."""
    return [items[:1], *(items[i:i + _CHUNK] for i in range(1, len(items), _CHUNK))]


def real_images(encoder: encoders.Encoder, count: int, path: str) -> tuple[list[np.ndarray], str]:
    """`count` images uint8 [h, w, 3], evenly spread, and where they are from: `path`, the run's data if they are here, else the embedded digits.

    They are as they lie on disk, not as they fit the run's canvas; only those above twice what the encoder takes as it is (`preprocessing.LARGEST`) come
    smaller, to spare memory.
    """
    config = encoder.config.get("data", {})
    if path:
        config = {"source": detect(path), "path": "" if path == "digits" else path, "canvas": config.get("canvas", encoder.preprocessing["resize"])}
    try:
        data = datas.make(**config)
    except UserError:
        if path:
            raise
        data = datas.make(source="digits", canvas=min(encoder.preprocessing["size"], 64))
    source, side, found = data.test or data.train, max(data.canvas, 2 * preprocessing.LARGEST * encoder.preprocessing["resize"]), []
    for index in datas.evenly(len(source), count):
        canvas, (height, width), *_ = sample(source, int(index), side)
        found.append(np.ascontiguousarray(canvas[:height, :width]))
    return found, results.last_part(source.name)


def describe(target: ModuleType, encoder: encoders.Encoder, check: dict, workdir: str) -> str:
    """The model card; of a run's results, those that belong to these weights."""
    run, evaluations = None, []
    if workdir and "://" not in workdir:
        files = sorted((Path(workdir) / "evaluations").glob("*.json"))
        readable = [found for found in map(folders.readable, files) if found and found.get("version") == 1 and isinstance(found.get("rows"), list)]
        evaluations = sorted((found for found in readable if results.table(found.get("subject")).get("digest") == encoder.digest), key=lambda found: str(found.get("created", "")))
        run = results.table(folders.readable(Path(workdir) / "run.json"))
        served = "teacher" if encoder.config.get("ema") else "student"      # what the run's own evaluation looked at
        run = run if run.get("steps") == encoder.step and encoder.weights == served else None
    return card.render(name=encoder.name, config=interop.records.public(encoder.config), weights=encoder.weights, step=encoder.step, digest=encoder.digest,
                       width=encoder.width, preprocessing=encoder.preprocessing, format=check["format"], code=target.usage(encoder, Path()), check=check,
                       licence=encoder.origin.licence, learned=folders.readable(folders.path(workdir) / sources.FILE) if workdir else None, run=run,
                       evaluations=evaluations, notes=check["notes"], version=jaxssl.__version__)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m jaxssl.export", allow_abbrev=False,
                                description="Write an encoder for other programs, open it there, and compare features on real images.",
                                epilog="Exit code 2: wrong input, or the features differ; nothing is left behind then.")
    p.add_argument("--workdir", type=place, default="", help="of a run; its newest checkpoint, or that of --step")
    p.add_argument("--weights", type=place, default="", metavar="PATH", help="instead of a workdir: an export, or a file of weights that jaxssl.load opens")
    p.add_argument("--format", required=True, help=", ".join(interop.WRITTEN))
    p.add_argument("--out", type=local, required=True, metavar="DIR", help="a new folder, or one that this very command made")
    p.add_argument("--use", default="", metavar="student|teacher", help="which weights of a workdir (default: the teacher where there is one)")
    p.add_argument("--step", type=whole, default=None, help="of the checkpoint; default: the newest")
    p.add_argument("--images", type=whole, default=64, help="how many images the check uses (default: %(default)s)")
    p.add_argument("--data", type=place, default="", metavar="PATH",
                   help="folder, zip or packed set that they come from; default: the run's data if they are here, else embedded digits")
    p.add_argument("--licence", default="", metavar="TEXT",
                   help="for the model card and the weights' record, for example apache-2.0 (default: what the weights, or those that they learned from, state)")
    p.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return p


def main(argv: list[str] | None = None) -> int:
    flags = vars(parser().parse_args(argv))
    debug = flags.pop("debug")

    def body():
        found = run(**flags)
        for note in found["notes"]:
            print(note)
        if "preprocessing" in found:
            print(f"preprocessing by the target library: {found['preprocessing']:.3f} standard deviations from ours on average")
        print(f"largest feature difference on {found['images']} images of {found['source']}: {found['difference']:.1e} (limit {found['limit']:g})")
        print(f"done: {found['folder']}", flush=True)

    return guarded(body, debug)


if __name__ == "__main__":
    process(main)
