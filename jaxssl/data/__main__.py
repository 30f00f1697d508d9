"""Command line: `python -m jaxssl.data pack SRC DST`, `python -m jaxssl.data inspect SRC`."""
import argparse
import logging
import os
import sys
import time

from jaxssl.command import guarded, local, number, place, process, whole
from jaxssl.data import channels, layout, open as opening
from jaxssl.data.decode import MAX_PIXELS
from jaxssl.errors import UserError, shown


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m jaxssl.data", description="Look at a set of images, or pack it for training.")
    commands = top.add_subparsers(dest="command", required=True)
    pack = commands.add_parser("pack", help="pack a set into ArrayRecord shards", description=(
        "Packs any source into ArrayRecord shards with an index and a manifest.json. Encoded images are kept bit for bit unless --size shrinks them."))
    pack.add_argument("source_path", type=place, metavar="SRC", help="folder, zip, prepared TFDS directory, packed set, or the word digits")
    pack.add_argument("destination", type=local, metavar="DST", help="folder to make; must not exist, or be empty")
    pack.add_argument("--size", type=whole, default=0, help="shrink images whose longer side exceeds this many pixels (default: keep all as they are)")
    pack.add_argument("--shards", type=whole, default=1, help="files a split is divided into (default: %(default)s)")
    inspect = commands.add_parser("inspect", help="print what a set holds", description=(
        "Prints counts, sizes, classes, kinds and broken files of a set, and draws a contact sheet."))
    inspect.add_argument("source_path", type=place, metavar="SRC", help="folder, zip, prepared TFDS directory, packed set, or the word digits")
    inspect.add_argument("--out", type=local, default="contact.png", help="where the contact sheet goes; '' for none (default: %(default)s)")
    inspect.add_argument("--limit", type=whole, default=0, help="look only at this many images, spread evenly (default: all)")
    for command in (pack, inspect):
        command.add_argument("--source", default="auto", choices=("auto", *opening.SOURCES), help="kind of SRC (default: %(default)s)")
        command.add_argument("--test_path", type=place, default="", help="held-out set that lies elsewhere; none = leave out the one in SRC")
        command.add_argument("--split", default="train", help="TFDS split (default: %(default)s)")
        command.add_argument("--test_split", default="", help="held-out TFDS split (default: test or validation)")
        command.add_argument("--variant", default="cluttered", help="of the digits: cluttered or clean (default: %(default)s)")
        command.add_argument("--class_depth", type=whole, default=1, help="folder levels that make a class name (default: %(default)s)")
        command.add_argument("--splits", default="auto", choices=layout.SPLITS, help="none = every folder is a class, whatever it is called (default: %(default)s)")
        command.add_argument("--outside_links", action="store_true", help="follow links that lead out of SRC")
        command.add_argument("--channels", type=whole, default=0, help="of each image, read as its file has them (default: RGB, or what such files say that are no RGB)")
        command.add_argument("--nodata", default="", help="the value that says nothing")
        command.add_argument("--max_pixels", type=whole, default=MAX_PIXELS, help="an image of more is broken (default: %(default)s)")
        command.add_argument("--max_broken", type=number, default=.01, help="share of a set that may be broken in training (default: %(default)s)")
    return top


class Progress:
    """A line on stderr: rewritten on a terminal, otherwise printed every ten seconds and at the end."""

    def __init__(self, what: str):
        self.what, self.start, self.last = what, time.monotonic(), 0.
        self.terminal = sys.stderr.isatty()

    def __call__(self, done: int, total: int):
        now = time.monotonic()
        if done < total and now - max(self.last, self.start) < (.2 if self.terminal else 10):
            return
        self.last = now
        line = f"{self.what} {done:,}/{total:,} ({done / total:.0%}), {done / max(now - self.start, 1e-9):,.0f} images/s"
        print(f"\r{line}" if self.terminal else line, end="\n" if not self.terminal or done == total else "", file=sys.stderr, flush=True)


def _open(args):
    kind = opening.detect(args.source_path) if args.source == "auto" else args.source
    path = "" if kind == "digits" else args.source_path
    if args.class_depth < 1 or args.max_pixels < 1 or not 0 <= args.max_broken <= 1:
        raise UserError(f"--class_depth {args.class_depth}, --max_pixels {args.max_pixels} and --max_broken {args.max_broken} make no sense; "
                        "the first two are at least 1, and the third is a share between 0 and 1.")
    folders = {"depth": args.class_depth, "splits": args.splits, "outside_links": args.outside_links} if kind in ("folder", "zip", "tar") else {}
    folders |= {"outside_links": args.outside_links} if kind == "dense" else {}
    train, test = opening.open_source(kind, path, test_path=args.test_path, variant=args.variant, split=args.split, test_split=args.test_split, **folders)
    for source in filter(None, (train, test)):
        source.max_pixels = args.max_pixels
    found = channels.found(train, args.channels, "", args.nodata)
    for source in filter(None, (train, test)) if found.native else ():
        source.pixels = found
    return kind, (train, test)


def _pack(args):
    from jaxssl.data.pack import pack
    kind, (train, test) = _open(args)
    if test is not None:
        opening.same_classes(train, test)
    content = pack(train, test, args.destination, size=args.size, shards=args.shards, max_broken=args.max_broken,
                   options={"source": kind, "path": os.path.basename(os.path.abspath(args.source_path))}, progress=Progress("packed"))
    if kind == "dense":
        print(f"the {train.targets} are not packed, only the images")
    for split, facts in content["splits"].items():
        print(f"{split}: {facts['examples']:,} images in {facts['shards']} shard(s), {len(facts['broken'])} broken left out, sha256 {facts['sha256'][:16]}")
    print(f"{shown(args.destination)}: use it with data.source=array_record data.path={shown(args.destination)}")


def _inspect(args):
    from jaxssl.data.inspect import contact_sheet, describe
    if args.limit < 0:
        raise UserError(f"--limit {args.limit} makes no sense; it is a number of images to look at (0 = all).")
    out = _outside(args) if args.out else ""
    _, (train, test) = _open(args)
    for sentence in getattr(train, "said", ()):
        print(f"read as     {sentence}")
    for source in filter(None, (train, test)):
        print(describe(source, limit=args.limit, max_broken=args.max_broken, progress=Progress("decoded"))[0])
    if test is not None:
        try:
            opening.same_classes(train, test)
        except UserError as error:
            print(f"warning     training would refuse this set: {error}")
    if out:
        try:
            contact_sheet(train).save(out)
        except (OSError, ValueError) as error:
            raise UserError(f"Cannot write the contact sheet {shown(args.out)} ({error}); choose another --out, ending in .png.") from error
        print(f"contact sheet: {shown(args.out)}")


def _outside(args) -> str:
    """Where --out goes, which is not into the sets that are looked at, nor in the place of what is no file. Raises UserError."""
    out = os.path.realpath(os.path.expanduser(args.out))
    for path in (args.source_path, args.test_path):
        root = os.path.realpath(os.path.expanduser(path))
        if path not in ("", "digits", opening.NO_TEST) and os.path.exists(root) and os.path.commonpath([root, out]) == root:
            raise UserError(f"The contact sheet {shown(args.out)} would lie in {shown(path)}, among the images that are looked at; choose another --out, or --out '' for none.")
    if os.path.exists(out) and not os.path.isfile(out):
        raise UserError(f"The contact sheet {shown(args.out)} would take the place of something that is no file; choose another --out, ending in .png.")
    return out


def main(argv=None) -> int:
    args = parser().parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    return guarded(lambda: {"pack": _pack, "inspect": _inspect}[args.command](args), debug=False)


if __name__ == "__main__":
    process(main)
