"""`python -m jaxssl.report DIR [DIR …] [--out FILE]`: one self-contained page about one run, or several side by side."""
import argparse

from jaxssl import report
from jaxssl.command import guarded, place, process, whole


def main(argv: list[str] | None = None) -> int:
    flags = _parser().parse_args(argv)

    def body():
        maps = None if flags.maps is None else [name for name in flags.maps.split(",") if name]
        file = report.write(flags.workdirs, flags.out, images=flags.images, maps=maps, weights=flags.weights, log=lambda line: print(line, flush=True))
        print(f"report: {file}", flush=True)

    return guarded(body, flags.debug)


def _parser():
    p = argparse.ArgumentParser(prog="python -m jaxssl.report", allow_abbrev=False,
                                description="Write report.html: curves, views, map, neighbours, confusion, spectrum, evaluations, config.",
                                epilog="The page needs no network. It shows images and file names of the data; --images 0 leaves them out.")
    p.add_argument("workdirs", type=place, nargs="+", metavar="DIR", help="a workdir; several are shown side by side with their config differences")
    p.add_argument("--out", type=place, help="the file to write (default: report.html in the workdir, or in the current folder for several)")
    p.add_argument("--images", type=whole, default=report.write.__kwdefaults__["images"],
                   help="training images to embed, and half as many held-out ones; 0 shows no image (default: %(default)s)")
    p.add_argument("--maps", help="of the features: pca, tsne, umap, separated by commas (default: all that are installed)")
    p.add_argument("--weights", default="", help="student or teacher (default: the teacher where there is one)")
    p.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return p


if __name__ == "__main__":
    process(main)
