"""`python -m jaxssl.curate STEP … --out DIR`: from a heap of images to a training set, a step at a time or all of a config at once.

Each step keeps a table and an entry of DIR/curation.json with its parameters and counts. The same command goes on where it was stopped, and does nothing where all is done.
"""
import argparse
import functools
import sys
from typing import Any

from jaxssl.command import guarded, jax_can_start, local, number, place, process, whole
from jaxssl.errors import UserError, shown

AUTO = "auto"


def cosine(text: str) -> float | str:
    """A threshold of the command line: a number, or `AUTO`."""
    return text if text == AUTO else number(text)


def many(text: str) -> float:
    """A large number of the command line, such as 1e9."""
    try:
        found = float(text)
    except ValueError:
        found = -1.
    if not 0 < found < 1e21:
        raise argparse.ArgumentTypeError(f"{shown(text[:40])!r} is no large number; write one such as 1000000 or 1e9")
    return found


def wholes(text: str) -> tuple[int, ...]:
    """`100,10`."""
    return tuple(whole(part.strip()) for part in text.split(",") if part.strip())


@functools.cache
def _encoder(weights, use, precision):
    from jaxssl import encoder as encoders
    from jaxssl.encoder import load as loading
    found = loading.load(weights, weights=use, precision=precision)
    encoders.check_finite(found.name, found.variables)
    return found


def _opened(flags):
    own = _encoder(flags.weights, flags.use, flags.precision)
    own.check_layer(flags.layer)
    return own


def _embed(book, flags, mesh):
    from jaxssl.curation import features
    keys = {}
    for pair in flags.data:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"--data {shown(pair)[:100]} is no key of the data with its value; write KEY=VALUE, such as split=train")
        keys[key] = value
    features.embed(book, _opened(flags), flags.source, name=flags.name, space=flags.features, layer=flags.layer, precision=flags.precision, part=flags.part, keys=keys,
                   shard=flags.shard)


def _pipelines(book, flags):
    from jaxssl.curation.beam import Beam
    return Beam(book, flags.beam) if flags.beam else None


def _knn(book, flags, mesh):
    from jaxssl.curation import graph
    graph.knn(book, space=flags.features, among=book.selection(flags.among, ""), k=flags.k, method=flags.method, mesh=mesh)


def _dedup(book, flags, mesh):
    from jaxssl.curation import copies, duplicates
    default = duplicates.SELF if flags.what == "self" else duplicates.AGAINST
    threshold = copies.calibrated(book, flags.features) if flags.threshold == AUTO else default if flags.threshold is None else flags.threshold
    how = {"space": flags.features, "among": flags.among, "threshold": threshold, "k": flags.k, "method": flags.method, "mesh": mesh, "beam": _pipelines(book, flags)}
    if (flags.what == "self") == bool(flags.reference):
        raise UserError("write `dedup self`, or `dedup against NAME` with the --name of a set that was embedded")
    if flags.what == "self":
        duplicates.dedup_self(book, keep=flags.keep, **how)
    else:
        duplicates.dedup_against(book, flags.reference, drop=flags.drop, **how)


def _calibrate(book, flags, mesh):
    from jaxssl.curation import copies
    kinds = tuple(filter(None, flags.kinds.split(","))) or tuple(copies.KINDS)
    copies.calibrate(book, _opened(flags), space=flags.features, layer=flags.layer, count=flags.count, precision=flags.at_precision, seed=flags.seed, among=flags.among,
                     kinds=kinds)


def _kmeans(book, flags, mesh):
    from jaxssl.curation import clusters
    clusters.kmeans(book, space=flags.features, among=flags.among, levels=(flags.clusters, *flags.levels), rounds=flags.rounds, sample=flags.sample, metric=flags.metric,
                    init=flags.init, iterations=flags.iterations, seed=flags.seed, mesh=mesh)


def _retrieve(book, flags, mesh):
    from jaxssl.curation import picks
    if flags.what == "samples":
        if flags.beam:
            raise UserError("--beam draws from clusters; the images near each seed are found on the devices: leave it out")
        picks.retrieve_samples(book, flags.seeds, space=flags.features, among=flags.among, n=flags.n, mesh=mesh)
    else:
        picks.retrieve_clusters(book, flags.seeds, space=flags.features, min_hits=flags.min_hits, per_cluster=flags.per_cluster, cap=flags.cap, pick=flags.pick, seed=flags.seed,
                                mesh=mesh, beam=_pipelines(book, flags))


def _sample(book, flags, mesh):
    from jaxssl.curation import picks
    picks.sample(book, target=flags.target, pick=flags.pick, seed=flags.seed, beam=_pipelines(book, flags))


def _report(book, flags, mesh):
    from jaxssl.curation import page
    page.write(book)


def _manifest(book, flags, mesh):
    from jaxssl.curation import manifest
    manifest.write(book, steps=flags.steps, weights=flags.weight)


def _run(book, flags, mesh):
    from jaxssl.curation import pipeline
    table = pipeline.read(flags.config)
    steps, left_out = pipeline.steps(table, pipeline.given(flags.set, table))
    every = [parser().parse_args([*words, "--out", flags.out]) for words in steps]     # all are read before the first is run
    for kind, *missing in left_out:
        book.log(f"{kind}: left out, since {', '.join(missing)} is not given")
    for own in every:
        if "beam" in own:
            own.beam = own.beam or flags.beam
        STEPS[own.step](book, own, mesh)


def _plan(flags):
    """Prints what a curation takes on paper; makes and changes nothing."""
    import json
    from pathlib import Path
    from jaxssl.curation import book as books, plan
    from jaxssl.workdir import folder as folders
    known, width = {}, 0
    if flags.of:
        found = folders.read_json(Path(flags.of) / books.FILE)
        if found is None or found.get("format") != books.FORMAT:
            raise UserError(f"--of {shown(flags.of)} holds no {books.FILE} that this version reads; name the folder of a curation, or leave it out")
        known, width = plan.known(found["steps"])
    scale = plan.Scale(flags.images, flags.width or width or 768, flags.k, flags.clusters, flags.iterations, flags.machines, flags.linked)
    plan.check(scale)
    asked = {"embed": ("embed_rate", flags.embed_rate), "matrix": ("matrix_rate", flags.matrix_rate)}
    if wrong := next((flag for flag, value in asked.values() if value < 0), ""):
        raise UserError(f"--{wrong} is below 0; it is what one machine does in a second")
    given = {name: plan.Rate(value, f"as given with --{flag}") for name, (flag, value) in asked.items() if value}
    rates = {**plan.measured(scale.width), **known, **given}
    print(json.dumps(plan.as_dict(scale, rates), indent=1) if flags.json else plan.report(scale, rates, flags.memory * 1e9), flush=True)


STEPS = {"embed": _embed, "knn": _knn, "dedup": _dedup, "calibrate": _calibrate, "kmeans": _kmeans, "retrieve": _retrieve, "sample": _sample, "report": _report,
         "manifest": _manifest, "run": _run}


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m jaxssl.curate", allow_abbrev=False, description="From a heap of images to a training set. The same command resumes. Exit code 2: "
                                "wrong input, 75: try again later.",
                                epilog="STEP --help has the flags of a step. In order: embed, calibrate, dedup, kmeans, retrieve or sample, report, manifest.")
    steps = p.add_subparsers(dest="step", metavar="STEP", required=True)

    def step(name, said, *, features=True, among=True, out=True):
        own = steps.add_parser(name, allow_abbrev=False, help=said, description=said[0].upper() + said[1:] + ".")
        if out:
            own.add_argument("--out", type=local, required=True, metavar="DIR", help="the folder of the curation, on a disk; made where it is not there")
        own.add_argument("--debug", action="store_true", help="show the traceback of an error")
        if features:
            own.add_argument("--features", default="main", metavar="NAME", help="which features, where there are some of several encoders (default: %(default)s)")
        if among:
            own.add_argument("--among", default="", metavar="STEP", help="the step whose images are looked at (default: the last that dropped some)")
        return own

    def encoder(own):
        own.add_argument("--weights", type=place, required=True, metavar="W", help="a workdir, an export, or a file of weights that jaxssl.load opens")
        own.add_argument("--layer", default="backbone", help="of the encoder (default: %(default)s)")
        own.add_argument("--use", default="", metavar="student|teacher", help="which weights of a workdir (default: the teacher where there is one)")
        own.add_argument("--precision", default="f32", choices=("f32", "bf16"), help="of the arithmetic (default: %(default)s)")

    def near(own):
        own.add_argument("--k", type=whole, default=64, help="neighbours of each image (default: %(default)s)")
        own.add_argument("--method", default="exact", metavar="exact|faiss",
                         help="exact, or faiss's IVF-PQ from 100,000 images on, which misses some: how many is measured (default: %(default)s)")

    def draws(own, pick=True):
        own.add_argument("--seed", type=whole, default=0, help="of what is drawn (default: %(default)s)")
        if pick:
            own.add_argument("--pick", default="random", metavar="random|closest", help="which images of a cluster (default: %(default)s)")

    def pipelines(own):
        own.add_argument("--beam", nargs="+", action="extend", default=[], metavar="NAME=VALUE",
                         help="join and draw by Apache Beam with these flags of its own, as runner=DirectRunner; the same rows (its workers must see --out)")
    _features(step, encoder, near, draws, pipelines)
    _choices(step, draws, pipelines)
    return p


def _features(step: Any, encoder: Any, near: Any, draws: Any, pipelines: Any) -> None:
    """The steps that look at features."""
    p = step("embed", "features of a set of images by an encoder", among=False)
    p.add_argument("source", type=place, metavar="SRC", help="a folder, a zip, a prepared TFDS directory or a packed set")
    encoder(p)
    p.add_argument("--name", default="pool", help="of the set: pool is what is curated, others are references and seeds (default: %(default)s)")
    p.add_argument("--part", default="all", choices=("all", "held_out"), help="all images, or those that the source holds out (default: %(default)s)")
    p.add_argument("--data", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="keys of the data, as of a run: split=train")
    p.add_argument("--shard", type=whole, default=4096, help="images of a shard (default: %(default)s)")
    near(step("knn", "the nearest others of every image"))
    p = step("dedup", "drop near-duplicates: of the images among themselves, or of a reference")
    p.add_argument("what", choices=("self", "against"))
    p.add_argument("reference", nargs="?", default="", metavar="NAME", help="of against: the --name of an embedded set")
    p.add_argument("--threshold", type=cosine, default=None,
                   help="the cosine above which images are the same, or auto: what calibrate recommends (default: .6, against .45, as DINOv2)")
    p.add_argument("--keep", default="first", metavar="first|largest|sharpest", help="of self: which image of a component stays (default: %(default)s)")
    p.add_argument("--drop", default="component", metavar="images|component", help="of against: images above the threshold, or all that are linked to them (default: %(default)s)")
    near(p)
    pipelines(p)
    p = step("calibrate", "plant copies of the images and count what each threshold finds")
    encoder(p)
    p.add_argument("--count", type=whole, default=500, help="images of which copies are made (default: %(default)s)")
    p.add_argument("--kinds", default="", metavar="A,B", help="of copies (default: resize,jpeg,crop,colour,blur,flip)")
    p.add_argument("--at_precision", type=number, default=.95, help="share of pairs above the threshold that must be copies (default: %(default)s)")
    draws(p, pick=False)
    p = step("kmeans", "cluster the images, and the clusters, level by level")
    p.add_argument("--clusters", type=whole, required=True, metavar="K", help="clusters of the images")
    p.add_argument("--levels", type=wholes, default=(), metavar="K2,K3", help="clusters of the centroids, and of theirs")
    p.add_argument("--rounds", type=whole, default=0, help="of resampling (default: %(default)s)")
    p.add_argument("--sample", type=whole, default=10, help="images of each cluster that a round looks at (default: %(default)s)")
    p.add_argument("--metric", default="spherical", metavar="spherical|euclidean", help="(default: %(default)s)")
    p.add_argument("--init", default="plus_plus", metavar="plus_plus|sample", help="k-means++, or rows drawn at random (default: %(default)s)")
    p.add_argument("--iterations", type=whole, default=50, help="at most (default: %(default)s)")
    draws(p, pick=False)


def _choices(step: Any, draws: Any, pipelines: Any) -> None:
    """The steps that choose images, and tell of them."""
    p = step("retrieve", "choose the images near curated seeds")
    p.add_argument("what", choices=("samples", "clusters"))
    p.add_argument("seeds", metavar="NAME", help="the --name of an embedded set")
    p.add_argument("--n", type=whole, default=4, help="of samples: images for each seed (default: %(default)s)")
    p.add_argument("--min_hits", type=whole, default=4, help="of clusters: seeds that one must hold (default: %(default)s)")
    p.add_argument("--per_cluster", type=whole, default=10_000, help="of clusters: images of each, at most (default: %(default)s)")
    p.add_argument("--cap", type=whole, default=1_000_000, help="of clusters: images in all, at most (default: %(default)s)")
    draws(p)
    pipelines(p)
    p = step("sample", "choose as many images of every cluster, top-down", features=False, among=False)
    p.add_argument("--target", type=whole, required=True, metavar="N", help="images in all")
    draws(p)
    pipelines(p)
    step("report", "write report.html of what was made so far", features=False, among=False)
    p = step("manifest", "write manifest.jsonl, which data.manifest trains on", features=False, among=False)
    p.add_argument("--steps", nargs="+", default=[], metavar="STEP", help="whose images (default: all that were chosen, or else all that were not dropped)")
    p.add_argument("--weight", default="one", metavar="one|hits", help="times that an image stands in an epoch: one, or as often as it was found (default: %(default)s)")
    p = step("plan", "price a curation on paper: hours, storage, memory and shuffle of each step", features=False, among=False, out=False)
    p.add_argument("--images", type=many, required=True, metavar="N", help="how many, such as 1e9")
    p.add_argument("--of", type=place, default="", metavar="DIR", help="a finished curation, whose rates are taken (default: measure here what needs no encoder)")
    p.add_argument("--embed_rate", type=number, default=0., metavar="IMAGES", help="a second that one machine embeds (default: of --of)")
    p.add_argument("--matrix_rate", type=many, default=0., metavar="OPERATIONS", 
                   help="a second that one machine multiplies and adds, such as 1e14 (default: of --of, or measured here)")
    p.add_argument("--machines", type=whole, default=1, help="that share the work (default: %(default)s)")
    p.add_argument("--memory", type=number, default=0., metavar="GB", help="of each, to say what does not fit")
    p.add_argument("--width", type=whole, default=0, help="numbers of a feature (default: of --of, or 768)")
    p.add_argument("--k", type=whole, default=64, help="neighbours (default: %(default)s)")
    p.add_argument("--clusters", type=whole, default=0, help="of k-means (default: the square root of the images)")
    p.add_argument("--iterations", type=whole, default=50, help="of k-means (default: %(default)s)")
    p.add_argument("--linked", type=number, default=.05, help="share of the neighbours that are above the threshold (default: %(default)s)")
    p.add_argument("--json", action="store_true", help="print JSON")
    p = step("run", "all steps of a config", features=False, among=False)
    p.add_argument("--config", type=place, required=True, metavar="FILE", help="of configs/curation")
    p.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="what the config leaves open")
    pipelines(p)


def main(argv: list[str] | None = None) -> int:
    flags = parser().parse_args(argv)

    def body():
        if flags.step == "plan":
            return _plan(flags)
        with jax_can_start():
            import jax
            from jaxssl.curation.book import Book
            from jaxssl.parallel import mesh as sharding
            mesh = sharding.make_mesh(devices=jax.local_devices())
        book = Book(flags.out, log=lambda sentence: print(shown(sentence), file=sys.stderr, flush=True))
        with book.withdrawn(), book.alone():
            STEPS[flags.step](book, flags, mesh)
    return guarded(body, flags.debug)


if __name__ == "__main__":
    process(main)
