"""`python -m jaxssl.look --weights FILE | --workdir DIR --image FILE [--image2 FILE] [--out look.html]`: what an encoder says of the places of an image."""
import argparse

from jaxssl.command import guarded, local, number, place, process, whole
from jaxssl.errors import UserError


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m jaxssl.look", allow_abbrev=False,
                                description="Draw the principal components of an image's patches, what class token and registers attend to, and places matched between two images.",
                                epilog="The page needs no network. Exit code 2: wrong input.")
    p.add_argument("--weights", type=place, default="", metavar="FILE", help="an export or a file of weights")
    p.add_argument("--workdir", type=place, default="", metavar="DIR", help="a run")
    p.add_argument("--use", default="", metavar="student|teacher", help="which weights of a workdir (default: the teacher where there is one)")
    p.add_argument("--image", type=place, required=True, metavar="FILE", help="an image")
    p.add_argument("--image2", type=place, default="", metavar="FILE", help="another one, whose places are matched with those of the first")
    p.add_argument("--out", type=local, default="look.html", metavar="FILE", help="a page (.html) or a picture (.png) (default: %(default)s)")
    p.add_argument("--size", type=whole, default=0, metavar="PIXELS", help="of the short side that the network sees (default: the size it was trained at)")
    p.add_argument("--threshold", type=number, default=0., help="on the first component, in deviations, above which a place stands out (default: %(default)s)")
    p.add_argument("--all", action="store_true", help="colour every place, whether or not it stands out")
    p.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return p


def run(flags: argparse.Namespace) -> str:
    """Writes what is asked for and gives its path. Raises: UserError."""
    if bool(flags.weights) == bool(flags.workdir):
        raise UserError("give either --weights FILE (an export or a file of weights) or --workdir DIR (a run)")
    from jaxssl.encoder import load as loading
    from jaxssl.report import places
    encoder = loading.load(flags.weights or flags.workdir, weights=flags.use)
    return places.write(encoder, [path for path in (flags.image, flags.image2) if path], flags.out, size=flags.size, threshold=None if flags.all else flags.threshold)


def main(argv: list[str] | None = None) -> int:
    flags = parser().parse_args(argv)
    return guarded(lambda: print(f"written: {run(flags)}", flush=True), flags.debug)


if __name__ == "__main__":
    process(main)
