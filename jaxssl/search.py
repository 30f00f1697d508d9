"""`python -m jaxssl.search --weights W --gallery DIR [--query FILE|DIR] [--k 20] [--out page.html]`: the images of a folder that are most like others.

The folder is indexed once (`gallery.index`): later calls embed what is new or changed, drop what is gone, and answer at once. What is found goes to the terminal, or with
--out to a page with pictures and scores, or to a JSON file.
"""
import argparse
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from jaxssl.command import guarded, jax_can_start, local, place, process, whole
from jaxssl.errors import UserError, shown

HOME = os.path.join("~", ".cache", "jaxssl", "search")


def run(*, weights: str, gallery: str, query: str = "", k: int = 20, out: str = "", index: str = "", layer: str = "backbone", use: str = "",
        precision: str = "f32", approximate: bool = False, as_it_is: bool = False, log: Any = lambda sentence: None) -> dict:
    """Indexes `gallery`, and answers for every image of `query` ("" only indexes); -> {"images", "index", "queries": [{"query", "results": [{"name", "score"}]}], …}.

    weights: anything that `jaxssl.load` opens. index: its folder, "" for one of `HOME`. as_it_is: do not look at what has changed in the gallery since.
    Raises: UserError: nothing is lost then.
    """
    from jaxssl import encoder as encoders
    from jaxssl.data.sources import Subset
    from jaxssl.encoder import load as loading
    from jaxssl.gallery import answer, images
    from jaxssl.gallery.index import Index
    if k < 1:
        raise UserError(f"--k is {k}; it is the number of images to find for each query, at least 1")
    if out and not query:
        raise UserError(f"--out {out} is for answers; name the images to search for with --query")
    encoder = loading.load(weights, weights=use, precision=precision)
    encoders.check_finite(encoder.name, encoder.variables)
    encoder.check_layer(layer)
    root = images.folder(gallery, "--gallery")
    what = {"weights": encoder.digest, "model": encoder.config["model"], "layer": layer, "precision": precision, "transform": encoder.preprocessing, "gallery": str(root)}
    key = hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:24]
    table = Index(os.path.expanduser(index) or os.path.join(os.path.expanduser(HOME), key), what)
    known = None
    if as_it_is:
        table.open()
    else:
        known, data = images.listed(root, encoder)
        places = {name: i for i, name in enumerate(data.train.paths)}
        counts = table.update(known, lambda files: images.embedded(encoder, data, Subset(data.train, [places[file.name] for file in files]), layer),
                              lambda done, total: log(f"indexed {done:,} of {total:,} images"))
        log(f"{root}: {len(known):,} images; {counts['new']:,} new or changed, {counts['gone']:,} gone, {counts['broken']:,} that cannot be decoded")
    rows, names = table.rows(known)
    if not len(rows):
        raise UserError(f"{shown(str(root))} has no image in the index" + ("; leave --as_it_is out, so that it is made" if as_it_is else " that can be decoded; see them with "
                                                                           "`python -m jaxssl.data inspect`"))
    document = {"gallery": str(root), "encoder": encoder.name, "weights": encoder.digest, "layer": layer, "images": len(rows), "index": str(table.folder), "queries": []}
    if not query:
        return document
    asked = images.queries(query)
    x = images.normalised(encoder, asked, layer)
    places = {name: i for i, name in enumerate(names)}
    more = min(k + 1, len(rows))                # a query that lies in the gallery finds itself, which is no answer
    version = hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape") + str(len(table.files)).encode()).hexdigest()
    score, at = answer.approximate(x, rows, more, table.folder, version) if approximate else answer.exact(x, rows, more)
    for file, own_scores, own_places in zip(asked, score, at):
        itself = places.get(os.path.relpath(os.path.realpath(file), root), -1)
        results = [{"name": names[i], "score": round(float(s), 6)} for s, i in zip(own_scores, own_places) if i != itself and i >= 0][:k]
        document["queries"].append({"query": file, "results": results})
    return document


def write(document: dict, out: str) -> None:
    """The answers as a page, or as JSON for a name that ends so. Raises: UserError."""
    from jaxssl.gallery import images, page
    from jaxssl.workdir import folder as folders

    def picture(kind, name):
        return images.picture(name if kind == "query" else os.path.join(document["gallery"], name), 2 * page.SIDE)
    text = json.dumps(document, indent=1) if out.endswith(".json") else page.render(document, picture)
    try:
        folders.write(Path(out), text)
    except OSError as error:
        raise UserError(f"cannot write {shown(out)} ({error.strerror or error}); give another file with --out") from error


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m jaxssl.search", allow_abbrev=False, description="Find the images of a folder that are most like others. Exit code 2: wrong input.",
                                epilog="The first call indexes the folder; an interrupted one goes on where it stopped.")
    p.add_argument("--weights", type=place, required=True, metavar="W", help="a workdir, an export, or a file of weights that jaxssl.load opens")
    p.add_argument("--gallery", type=place, required=True, metavar="DIR", help="the folder of images to search, with all that is in it")
    p.add_argument("--query", type=place, default="", metavar="FILE|DIR", help="an image to search for, or a folder of them (default: only index)")
    p.add_argument("--k", type=whole, default=20, help="images to find for each (default: %(default)s)")
    p.add_argument("--out", type=local, default="", metavar="FILE", help="a page with pictures and scores, or JSON for a name that ends in .json (default: print)")
    p.add_argument("--json", action="store_true", help="print JSON")
    p.add_argument("--index", type=place, default="", metavar="DIR", help=f"where the index is kept (default: a folder of {HOME})")
    p.add_argument("--layer", default="backbone", help="of the encoder (default: %(default)s)")
    p.add_argument("--use", default="", metavar="student|teacher", help="which weights of a workdir (default: the teacher where there is one)")
    p.add_argument("--precision", default="f32", choices=("f32", "bf16"), help="of the arithmetic (default: %(default)s)")
    p.add_argument("--approximate", action="store_true", help="search faiss's inverted lists, which may miss some, beyond a million images")
    p.add_argument("--as_it_is", action="store_true", help="do not look at what has changed in the gallery since it was indexed")
    p.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return p


def main(argv: list[str] | None = None) -> int:
    flags = vars(parser().parse_args(argv))
    debug, as_json, out = flags.pop("debug"), flags.pop("json"), flags["out"]

    def body():
        with jax_can_start():
            found = run(**flags, log=lambda sentence: print(sentence, file=sys.stderr, flush=True))
        if out:
            write(found, out)
            print(f"written: {out}", flush=True)
        elif as_json:
            print(json.dumps(found, indent=1), flush=True)
        else:
            for each in found["queries"]:
                print(shown(each["query"]))
                print("\n".join(f"  {own['score']:.4f}  {shown(own['name'])}" for own in each["results"]), flush=True)
    return guarded(body, debug)


if __name__ == "__main__":
    process(main)
