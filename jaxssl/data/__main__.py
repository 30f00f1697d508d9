"""Command line: `python -m jaxssl.data pack SRC DST`, `python -m jaxssl.data inspect SRC`."""
import argparse
import logging
import os
import sys
import time

from jaxssl.data import open as opening
from jaxssl.errors import UserError


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m jaxssl.data", description="Look at a set of images, or pack it for training.")
    commands = top.add_subparsers(dest="command", required=True)
    pack = commands.add_parser("pack", help="pack a set into ArrayRecord shards", description=(
        "Packs any source into ArrayRecord shards with an index and a manifest.json. Encoded images are kept bit for bit unless --size shrinks them."))
    pack.add_argument("source_path", metavar="SRC", help="folder, zip, prepared TFDS directory, packed set, or the word digits")
    pack.add_argument("destination", metavar="DST", help="folder to make; must not exist, or be empty")
    pack.add_argument("--size", type=int, default=0, help="shrink images whose longer side exceeds this many pixels (default: keep all as they are)")
    pack.add_argument("--shards", type=int, default=1, help="files a split is divided into (default: %(default)s)")
    pack.add_argument("--max_broken", type=float, default=.01, help="stop above this share of images that cannot be decoded (default: %(default)s)")
    inspect = commands.add_parser("inspect", help="print what a set holds", description=(
        "Prints counts, sizes, classes, kinds and broken files of a set, and draws a contact sheet."))
    inspect.add_argument("source_path", metavar="SRC", help="folder, zip, prepared TFDS directory, packed set, or the word digits")
    inspect.add_argument("--out", default="contact.png", help="where the contact sheet goes; '' for none (default: %(default)s)")
    inspect.add_argument("--limit", type=int, default=0, help="look only at this many images, spread evenly (default: all)")
    for command in (pack, inspect):
        command.add_argument("--source", default="auto", choices=("auto", *opening.SOURCES), help="kind of SRC (default: %(default)s)")
        command.add_argument("--test_path", default="", help="held-out set that lies elsewhere; none = leave out the one in SRC")
        command.add_argument("--split", default="train", help="TFDS split (default: %(default)s)")
        command.add_argument("--test_split", default="", help="held-out TFDS split (default: test or validation)")
        command.add_argument("--variant", default="cluttered", help="of the digits: cluttered or clean (default: %(default)s)")
        command.add_argument("--class_depth", type=int, default=1, help="folder levels that make a class name (default: %(default)s)")
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
    return kind, opening.open_source(kind, path, test_path=args.test_path, variant=args.variant, split=args.split,
                                     test_split=args.test_split, depth=args.class_depth)


def _pack(args):
    from jaxssl.data.pack import pack
    kind, (train, test) = _open(args)
    if test is not None:
        opening.same_classes(train, test)
    content = pack(train, test, args.destination, size=args.size, shards=args.shards, max_broken=args.max_broken,
                   options={"source": kind, "path": os.path.basename(os.path.abspath(args.source_path))}, progress=Progress("packed"))
    for split, facts in content["splits"].items():
        print(f"{split}: {facts['examples']:,} images in {facts['shards']} shard(s), {len(facts['broken'])} broken left out, sha256 {facts['sha256'][:16]}")
    print(f"{args.destination}: use it with data.source=array_record data.path={args.destination}")


def _inspect(args):
    from jaxssl.data.inspect import contact_sheet, describe
    if args.limit < 0:
        raise UserError(f"--limit {args.limit} makes no sense; it is a number of images to look at (0 = all).")
    _, sources = _open(args)
    for source in filter(None, sources):
        print(describe(source, limit=args.limit, progress=Progress("decoded"))[0])
    if args.out:
        try:
            contact_sheet(sources[0]).save(args.out)
        except (OSError, ValueError) as error:
            raise UserError(f"Cannot write the contact sheet {args.out} ({error}); choose another --out, ending in .png.") from error
        print(f"contact sheet: {args.out}")


def main(argv=None) -> int:
    args = parser().parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        {"pack": _pack, "inspect": _inspect}[args.command](args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")      # names of files need not be text
    sys.exit(main())
