"""Two SimCLR views an image on the CPU: images per second against lightly's SimCLRTransform in a DataLoader of two workers.

    python benchmarks/augment.py train.zip     # CIFAR-10 as JPEG files in a zip; writes benchmarks/results/augment.json; needs lightly

32 px is SimCLR's chain for CIFAR-10 (crop .08-1, flip .5, jitter at strength .5 with p .8, grey .2, no blur); 224 px its chain for ImageNet
(jitter at strength 1, Gaussian blur p .5) on JPEGs of 288 px, made from the same images. Both sides normalise, both read the same bytes.

Rows: "decode": reading and decoding included: DataLoader(num_workers=2) for lightly, jaxssl's own loader with two workers and the jitted views
in the main process for us. "memory": decoded images held in memory, lightly's transform in the same DataLoader; ours from arrays on the
device, which is how jaxssl trains on a set of this size (decoded once a run). Every measurement is a process of its own; the contenders take
turns. Rates start after the workers have delivered and XLA has compiled. The machine may be shared: the CPU seconds an image of this process
and its workers are reported beside the wall clock, and do not suffer from neighbours as it does.
"""
import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from machine import machine


ROOT = Path(__file__).resolve().parent.parent
BATCH = {32: 256, 224: 32}
CANVAS = {32: 32, 224: 288}
STRENGTH = {32: 0.5, 224: 1.0}
BLUR = {32: 0.0, 224: 0.5}
SETS = {32: 16384, 224: 1024}  # images that are read
COUNT = {("jaxssl", 32): 16384, ("lightly", 32): 4096, ("jaxssl", 224): 768, ("lightly", 224): 768}  # images that are timed


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("images", help="zip of class/*.jpg")
    flags.add_argument("--rounds", type=int, default=5)
    flags.add_argument("--out", default=str(ROOT / "benchmarks/results/augment.json"))
    flags.add_argument("--worker", nargs=3, metavar=("WHO", "SIZE", "FROM"), help="one measurement, as JSON")
    args = flags.parse_args()
    if args.worker:
        who, size, origin = args.worker
        print(json.dumps(measure(who, int(size), origin, args.images)))
        return
    before = os.getloadavg()[0]
    rows = {f"{who} {size} {origin}": (who, size, origin) for size in (32, 224) for origin in ("decode", "memory") for who in ("jaxssl", "lightly")}
    runs = {name: [] for name in rows}
    with tempfile.TemporaryDirectory() as folder:
        zips = {size: subset(args.images, Path(folder) / f"{size}.zip", size) for size in (32, 224)}
        for _ in range(args.rounds):
            for name, (who, size, origin) in rows.items():
                runs[name].append(worker(who, size, origin, zips[size]))
    result = {"command": f"python benchmarks/augment.py {Path(args.images).name} --rounds {args.rounds}",
              "machine": machine("jax", "jaxlib", "torch", "torchvision", "lightly", "pillow", "grain", "numpy") | {"load_average_at_start": before},
              "rows": {name: {key: spread([r[key] for r in run]) for key in run[0]} for name, run in runs.items()}}
    result["against_bars"] = bars(result["rows"])
    Path(args.out).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def subset(images, path, size):
    """A zip of JPEGs: some of `images` as they are, or enlarged to the canvas of 224 px views."""
    from PIL import Image

    with zipfile.ZipFile(images) as source, zipfile.ZipFile(path, "w") as target:
        names = sorted(n for n in source.namelist() if n.lower().endswith((".jpg", ".jpeg")))
        names = names[:: max(1, len(names) // SETS[size])][: SETS[size]]
        for name in names:
            data = source.read(name)
            if size == 224:
                side = CANVAS[size]
                data = io.BytesIO()
                Image.open(io.BytesIO(source.read(name))).resize((side, side), Image.BICUBIC).save(data, "JPEG", quality=90)
                data = data.getvalue()
            target.writestr(name, data)
    return str(path)


def worker(who, size, origin, images):
    command = [sys.executable, __file__, images, "--worker", who, str(size), origin]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    run = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment).stdout)
    print(who, size, origin, run, file=sys.stderr, flush=True)
    return run


def measure(who, size, origin, images):
    batches = {"jaxssl": ours, "lightly": peer}[who](size, origin, images)
    for _ in range(3):
        next(batches)
    wall, cpu, done = time.perf_counter(), cpu_seconds(), 0
    while done < COUNT[who, size]:
        done += next(batches)
    return {"images_per_second": done / (time.perf_counter() - wall), "cpu_ms_per_image": (cpu_seconds() - cpu) / done * 1e3}


def ours(size, origin, images):
    """Yields the number of images after each batch of views is ready."""
    import jax
    from jaxssl import augment, data

    s = STRENGTH[size]
    views = jax.jit(augment.make(size=size, brightness=0.8 * s, contrast=0.8 * s, saturation=0.8 * s, hue=0.2 * s, blur=BLUR[size]))
    key, size_of_batch = jax.random.key(0), BATCH[size]
    facts = data.make(source="zip", path=images, canvas=CANVAS[size], resident="no", workers=2, holdout=0.0)
    stream = data.batches(facts, seed=0, batch_size=size_of_batch, total_steps=10**6)
    if origin == "memory":
        held = [jax.device_put({k: b[k] for k in ("image", "size")}) for _, (_, b) in zip(range(8), stream)]
        stream.close()
        stream = ((step, held[step % len(held)]) for step in range(10**9))
    for step, batch in stream:
        batch = {k: batch[k] for k in ("image", "size")}
        jax.block_until_ready(views(jax.random.fold_in(key, step), batch)["views"])
        yield size_of_batch


def peer(size, origin, images):
    import torch
    from PIL import Image

    try:
        import torchvision  # noqa: F401
    except RuntimeError:  # built for another torch: the operator its import looks for is declared; no transform uses it
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from jaxssl import data
    from lightly.transforms import SimCLRTransform

    transform = SimCLRTransform(input_size=size, cj_strength=STRENGTH[size], gaussian_blur=BLUR[size])
    source = data.make(source="zip", path=images, canvas=CANVAS[size], holdout=0.0).train

    def decode(i):
        return Image.open(io.BytesIO(source.read(i)[0])).convert("RGB")

    held = [decode(i) for i in range(min(len(source), 8 * BATCH[size]))] if origin == "memory" else None

    class Images(torch.utils.data.Dataset):
        def __len__(self):
            return len(source)

        def __getitem__(self, i):
            return transform(held[i % len(held)] if held else decode(i))

    loader = torch.utils.data.DataLoader(Images(), batch_size=BATCH[size], shuffle=True, num_workers=2, drop_last=True)
    while True:
        for views in loader:
            yield len(views[0])


def cpu_seconds():
    """User and system seconds of this process and its living descendants (Linux)."""
    ticks, parents = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended
            ticks[int(entry.name)], parents[int(entry.name)] = int(fields[11]) + int(fields[12]), int(fields[1])

    def descends(pid):
        while pid and pid != os.getpid():
            pid = parents.get(pid, 0)
        return bool(pid)

    return sum(t for pid, t in ticks.items() if descends(pid)) / os.sysconf("SC_CLK_TCK")


def spread(values):
    return {"median": round(statistics.median(values), 4), "min": round(min(values), 4), "max": round(max(values), 4)}


def bars(rows):
    """The figures that were asked for, from medians, beside what was asked."""
    def rate(name):
        return rows[name]["images_per_second"]["median"]

    def cpu(name):
        return rows[name]["cpu_ms_per_image"]["median"]

    return {
        "32 px, times lightly incl. decode; ours from resident arrays, as it trains (bar 10)": round(rate("jaxssl 32 memory") / rate("lightly 32 decode"), 2),
        "32 px, times lightly, both incl. decode": round(rate("jaxssl 32 decode") / rate("lightly 32 decode"), 2),
        "32 px, times lightly, both from memory": round(rate("jaxssl 32 memory") / rate("lightly 32 memory"), 2),
        "224 px, images/s, both incl. decode (bar: lightly's)": [rate("jaxssl 224 decode"), rate("lightly 224 decode")],
        "224 px, images/s, both from memory": [rate("jaxssl 224 memory"), rate("lightly 224 memory")],
        "times less CPU than lightly": {f"{s} {o}": round(cpu(f"lightly {s} {o}") / cpu(f"jaxssl {s} {o}"), 2) for s in (32, 224) for o in ("decode", "memory")},
    }


if __name__ == "__main__":
    main()
