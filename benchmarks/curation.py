"""Curation: planted near-duplicates, neighbours against faiss, k-means against scikit-learn and faiss, a million features, and kills.

    python benchmarks/curation.py --rows graph kmeans million           # made features
    python benchmarks/curation.py --rows planted --weights W --train train.zip        # W: a workdir or file of an encoder; and imagededup's hashes, where it is installed
    python benchmarks/curation.py --rows kills --kills 20

Writes benchmarks/results/curation.json, a row at a time. --scale .1 makes every row a tenth of its size, to try it out. faiss-cpu and imagededup are optional: what is not
installed has no figure. Each contender of `graph` and `kmeans` runs in turn for --rounds rounds in this process, with as many threads as there are cores.

Bars: planted pairs found with precision .95 at recall .9; the graph of 50,000 × 512 with k 64 at least as fast as faiss's exact index and the same; inertia within 1 % of
scikit-learn's and faiss's and at least as fast; a million features of 256 in minutes and below 8 GB; killed runs with the tables of one that was not, to the bit.
"""
import argparse
import io
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
from machine import machine, spread

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
OUT = ROOT / "benchmarks/results/curation.json"
PLANTED = 5000                                  # copies among the images of CIFAR-10
GRAPH, MILLION = (50_000, 512, 64), (1_000_000, 256, 64)
KMEANS = (100_000, 128, 200)                    # rows, width, clusters


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--rows", nargs="+", default=["graph", "kmeans"], choices=tuple(ROWS))
    flags.add_argument("--rounds", type=int, default=3)
    flags.add_argument("--scale", type=float, default=1.)
    flags.add_argument("--weights", default="")
    flags.add_argument("--train", default="train.zip")
    flags.add_argument("--kills", type=int, default=20)
    flags.add_argument("--out", default=str(OUT))
    args = flags.parse_args()
    out = Path(args.out)
    result = json.loads(out.read_text()) if out.exists() else {}
    for name in args.rows:
        found = ROWS[name](args)
        result[name] = {"command": f"python benchmarks/curation.py --rows {name}", "scale": args.scale,
                        "machine": machine("jax", "numpy", "scikit-learn", "faiss-cpu", "imagededup"), **found}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
        print(name, json.dumps(found, indent=1), flush=True)


def made(rows, width, classes=200, seed=0):
    """Unit features about random centres of very different sizes."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, classes + 1)
    centres = rng.standard_normal((classes, width), np.float32)
    x = centres[rng.choice(classes, rows, p=share / share.sum())] + 1.2 * rng.standard_normal((rows, width), np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def in_turns(contenders, rounds):
    """name → {"seconds", "cpu_seconds"} spreads, and the last results; the first round of each is not timed."""
    times, last = {name: ([], []) for name in contenders}, {}
    for turn in range(rounds + 1):
        for name, run in contenders.items():
            start, cpu = time.perf_counter(), time.process_time()
            last[name] = run()
            if turn:
                times[name][0].append(time.perf_counter() - start)
                times[name][1].append(time.process_time() - cpu)
    return {name: {"seconds": spread(wall), "cpu_seconds": spread(cpu)} for name, (wall, cpu) in times.items()}, last


def graph(args):
    from jaxssl.curation import graph as graphs
    rows, width, k = GRAPH
    x = made(int(rows * args.scale), width)
    contenders = {"jaxssl": lambda: graphs.others(x, k)}
    try:
        import faiss
    except ImportError:
        pass
    else:
        faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))

        def exact():
            index = faiss.IndexFlatIP(width)
            index.add(x)
            return index.search(x, k + 1)
        contenders["faiss"] = exact
    times, last = in_turns(contenders, args.rounds)
    found = {"rows": len(x), "width": width, "k": k, "contenders": times}
    if "faiss" in last:
        score, place = last["faiss"]
        theirs = [np.array([j for j in own if j != i])[:k] for i, own in enumerate(place)]
        ours = last["jaxssl"][1]
        lists = [i for i in range(len(x)) if not np.array_equal(np.sort(ours[i]), np.sort(theirs[i]))]
        gap = max((float(np.abs(np.sort(x[ours[i]] @ x[i]) - np.sort(x[theirs[i]] @ x[i])).max()) for i in lists), default=0.)
        found |= {"images_with_other_neighbours": len(lists), "largest_similarity_gap_there": gap,
                  "times_as_fast (bar 1)": round(times["faiss"]["seconds"]["median"] / times["jaxssl"]["seconds"]["median"], 2)}
    return found


def kmeans(args):
    from sklearn.cluster import KMeans
    from jaxssl.curation import clusters
    rows, width, count = KMEANS
    x = made(int(rows * args.scale), width)
    count = max(2, int(count * args.scale**.5))
    contenders = {"jaxssl": lambda: clusters.k_means(x, count, spherical=False, iterations=50, rng=np.random.default_rng(0)).inertia,
                  "scikit-learn": lambda: float(KMeans(count, n_init=1, max_iter=50, random_state=0).fit(x).inertia_)}
    try:
        import faiss
    except ImportError:
        pass
    else:
        def theirs():
            own = faiss.Kmeans(width, count, niter=50, seed=1, max_points_per_centroid=10**9)
            own.train(x)
            return float(own.index.search(x, 1)[0].astype(np.float64).sum())
        contenders["faiss"] = theirs
    times, inertia = in_turns(contenders, args.rounds)
    others = [own for name, own in inertia.items() if name != "jaxssl"]
    return {"rows": len(x), "width": width, "clusters": count, "contenders": times, "inertia": inertia,
            "inertia_over_the_best_other (bar 1.01)": round(inertia["jaxssl"] / min(others), 4)}


def million(args):
    """Components, 1,000 clusters, retrieval for 10,000 seeds and balanced sampling."""
    from jaxssl.curation import clusters, duplicates, graph as graphs, picks
    from jaxssl.evaluation.features.search import neighbours
    rows, width, k = MILLION
    rows, count = int(rows * args.scale), max(2, int(1000 * args.scale**.5))
    x, minutes = made(rows, width, 2000), {}

    def timed(name, run):
        start = time.perf_counter()
        found = run()
        minutes[name] = round((time.perf_counter() - start) / 60, 3)
        return found
    parts = timed("neighbours", lambda: [graphs.others(x, k, low=at, high=min(at + graphs.BLOCK, rows)) for at in range(0, rows, graphs.BLOCK)])
    score, place = (np.concatenate(each) for each in zip(*parts))
    timed("components", lambda: duplicates.components(score, place, .6))
    found = timed("kmeans", lambda: clusters.k_means(x, count, spherical=True, iterations=50, rng=np.random.default_rng(0)))
    timed("retrieval", lambda: neighbours(made(max(1, rows // 100), width, 2000, seed=1), x, k=4))
    timed("sampling", lambda: picks.balanced([found.own], found.distance, rows // 10))
    return {"rows": rows, "width": width, "k": k, "clusters": count, "iterations": found.iterations, "minutes": minutes,
            "peak_gb (bar 8)": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2)}


def planted(args):
    """Copies of CIFAR-10's training images among them: pairs above the threshold that `calibrate` recommends, against those that were planted."""
    from jaxssl import encoder as encoders
    from jaxssl.curation import book as books, copies, features, graph as graphs
    from jaxssl.encoder import load as loading
    from PIL import Image
    if not args.weights:
        raise SystemExit("--rows planted needs --weights W, an encoder trained on CIFAR-10")
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(args.train) as archive:
        names = sorted(name for name in archive.namelist() if name.lower().endswith((".png", ".jpg")))
        names = [names[i] for i in np.sort(rng.permutation(len(names))[:int(len(names) * args.scale)])]
        pool, pairs = Path(folder) / "pool.zip", []
        with zipfile.ZipFile(pool, "w") as made_zip:
            for i, name in enumerate(names):
                made_zip.writestr(f"{i:06d}.png", archive.read(name))
            for j, i in enumerate(rng.permutation(len(names))[:int(PLANTED * args.scale)]):
                kind, file = list(copies.KINDS)[j % 6], io.BytesIO()
                copies.KINDS[kind](Image.open(io.BytesIO(archive.read(names[i]))).convert("RGB"), rng).save(file, "PNG")
                made_zip.writestr(f"{i:06d}-{kind}.png", file.getvalue())
                pairs.append((f"{i:06d}.png", f"{i:06d}-{kind}.png"))
        book, encoder = books.Book(str(Path(folder) / "out"), log=print), loading.load(args.weights)
        encoders.check_finite(encoder.name, encoder.variables)
        features.embed(book, encoder, str(pool))
        copies.calibrate(book, encoder, space=features.SPACE, seed=1)
        rows, score, place = graphs.knn(book, space=features.SPACE, among=book.selection("", ""), k=64)
        ids = features.ids(book, features.POOL)
        threshold = book.steps["calibrate main"]["counts"].get("threshold")
        curve = {f"{t:.2f}": agreement(ids, rows, score, place, t, pairs) for t in sorted({*(np.arange(50, 100, 5) / 100), *([threshold] if threshold else [])})}
        found = {"images": len(ids), "planted": len(pairs), "recommended": threshold, "by_threshold": curve}
        return found | {"imagededup": hashes(pool, Path(folder), pairs)}


def agreement(ids, rows, score, place, threshold, pairs):
    """Of the pairs above the threshold: how many are planted (CIFAR-10's own duplicates count against), and how many of the planted ones are there."""
    at, near = np.nonzero(score > threshold)
    found = {tuple(sorted((ids[rows[i]], ids[rows[place[i, n]]]))) for i, n in zip(at, near)}
    hits = sum(tuple(sorted(pair)) in found for pair in pairs)
    return {"pairs": len(found), "precision": round(hits / max(len(found), 1), 4), "recall": round(hits / len(pairs), 4)}


def hashes(pool, folder, pairs):
    """imagededup's perceptual hashes at its limits (Hamming distance 0 to 10) on the same files; None where it is not installed."""
    try:
        from imagededup.methods import PHash
    except ImportError:
        return None
    with zipfile.ZipFile(pool) as archive:
        archive.extractall(folder / "files")
    hasher, found = PHash(), {}
    codes = hasher.encode_images(image_dir=str(folder / "files"))
    for most in (0, 2, 5, 10):
        near = hasher.find_duplicates(encoding_map=codes, max_distance_threshold=most)
        said = {tuple(sorted((name, other))) for name, others in near.items() for other in others}
        hits = sum(tuple(sorted(pair)) in said for pair in pairs)
        found[most] = {"pairs": len(said), "precision": round(hits / max(len(said), 1), 4), "recall": round(hits / len(pairs), 4)}
    return found


def kills(args):
    """A whole config killed at random moments and begun again by the same command, against one that was left alone."""
    from jaxssl.curation import book as books
    from jaxssl.data.digits import Digits
    from PIL import Image
    digits, drawn = Digits("clean", 16, test=False), random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        pool = Path(folder) / "pool"
        pool.mkdir()
        for i in range(int(1400 * args.scale)):
            Image.fromarray(digits.read(i % len(digits))[0]).save(pool / f"{i:05d}.png")
        weights = args.weights or random_encoder(Path(folder))
        config = Path(folder) / "config.py"                     # of a weak encoder no threshold is calibrated
        config.write_text((ROOT / "configs/curation/balanced.py").read_text().replace('"auto"', '"0.999"'))

        def command(out):
            return [sys.executable, "-m", "jaxssl.curate", "run", "--config", str(config), "--out", str(Path(folder) / out), "--set", f"pool={pool}",
                    f"weights={weights}", f"clusters={max(4, int(50 * args.scale))}", "above=2", f"target={max(4, int(200 * args.scale))}"]

        def tables(out):
            return {str(file.relative_to(Path(folder) / out)): books.digest(books.read(file, "")) for file in sorted((Path(folder) / out).rglob("*.npz"))}
        start = time.perf_counter()
        subprocess.run(command("alone"), check=True, cwd=ROOT)
        whole, done, out, same = time.perf_counter() - start, 0, 0, True

        def equal(out):
            return tables("alone") == tables(out) and (Path(folder) / "alone/manifest.jsonl").read_bytes() == (Path(folder) / out / "manifest.jsonl").read_bytes()
        while done < args.kills:                                # after some of its lines; one that came to its end is compared, and the next begins in another folder
            process = subprocess.Popen(command(f"killed{out}"), cwd=ROOT, stderr=subprocess.PIPE, text=True)
            for _ in range(drawn.randint(1, 12)):
                if not process.stderr.readline():
                    break
            time.sleep(drawn.uniform(0, .3))
            if process.poll() is None:
                process.kill()
                done += 1
            process.communicate()
            if process.returncode == 0:
                same, out = same and equal(f"killed{out}"), out + 1
        subprocess.run(command(f"killed{out}"), check=True, cwd=ROOT)
        same = same and equal(f"killed{out}")
        return {"seconds_alone": round(whole, 1), "kills": done, "folders": out + 1, "same_tables_to_the_bit": same, "tables": len(tables("alone"))}


def random_encoder(folder):
    """The workdir of a digits run of two steps: an encoder for what does not ask for a good one."""
    subprocess.run([sys.executable, "-m", "jaxssl.main", "--config", "configs/digits/simclr.py:laptop", "--workdir", str(folder / "run"), "--config.total=2_steps",
                    "--config.warmup=0_steps", "--config.batch_size=32", "--config.eval_every=2_steps"], check=True, cwd=ROOT)
    return folder / "run"


ROWS = {"graph": graph, "kmeans": kmeans, "million": million, "planted": planted, "kills": kills}

if __name__ == "__main__":
    main()
