"""One self-contained page about one run or several: `python -m jaxssl.report DIR [DIR …]`, or `write`."""
from collections.abc import Callable, Sequence


def write(workdirs: str | Sequence[str], out: str | None = None, *, images: int = 2000, maps: Sequence[str] | None = None, weights: str = "",
          log: Callable[[str], None] = lambda line: None) -> str:
    """Writes the report on finished or unfinished runs, and returns its path.

    workdirs: one folder or several. out: the file; None is `report.html` in the workdir, or here for several.
    images: training images to embed (and half as many held-out ones); 0 shows no image and opens no data. Takes seconds at 2,000.
    maps: of the features, of "pca", "tsne", "umap"; None is all that are installed (UMAP's start takes half a minute).
    weights: "student", "teacher", or "" for the teacher where there is one.
    Raises: UserError for a folder that is not a workdir. Data that are gone, or a missing checkpoint, are said on the page.
    """
    from jaxssl.report import compose
    return compose.write([workdirs] if isinstance(workdirs, (str, bytes)) or hasattr(workdirs, "__fspath__") else list(workdirs), out, images, maps, weights, log)
