"""write(): workdirs → runs → what their encoders make of some images → the page."""
import os
from collections.abc import Callable, Sequence

import jax

from jaxssl.workdir import folder as folders
from jaxssl.errors import UserError
from jaxssl.encoder import load as loading
from jaxssl.report import figures, kept, look, maps as mapping, page, patches, pictures, places, readings, read, seen as sections
from jaxssl.report.evaluations import command
from jaxssl.report.markup import Html, join, tag

MOST = 500_000     # images: half as many pictures of 32 pixels fill the largest WebP


def write(workdirs: Sequence[str], out: str | None, images: int, maps: Sequence[str] | None, weights: str, log: Callable[[str], None]) -> str:
    """See `jaxssl.report.write`."""
    if not 0 <= images <= MOST:
        raise UserError(f"images is {images}; it is the number of training images to embed, 0 for none, {MOST} at most")
    methods = mapping.installed() if maps is None else tuple(maps)
    mapping.check(methods)
    workdirs = [os.fspath(w) for w in workdirs]
    runs = read.runs(workdirs)
    looked, reasons = {}, {}
    for run in runs:
        try:
            looked[run.name] = _look(run, images, weights, log)
        except UserError as error:
            reasons[run.name] = str(error)
    charts, plotted, sheets = {}, {}, sections.Sheets()
    pictured = [] if not looked else _pictured(runs, looked, methods or ("pca",), charts, plotted, sheets, log)
    pictured += _kept(runs, charts)
    missing = _missing(runs, reasons)
    if missing:
        pictured.append(("images", "Images and features", missing) if not looked else ("absent", "Without images", missing))
    held_out = {run.name: _counted(run, looked[run.name]) for run in runs if run.name in looked and looked[run.name].apart}
    text = page.page(runs, pictured, {"charts": charts, "maps": plotted}, sheets.markup(), held_out)
    file = folders.path(out) if out else folders.path(workdirs[0]) / "report.html" if len(runs) == 1 else folders.path("report.html")
    try:
        folders.write(file, text)
    except OSError as error:
        raise UserError(f"cannot write {file} ({error.strerror or error}); give --out a writable file") from error
    return str(file)


def _counted(run, seen) -> int:
    """Held-out images that the run's own evaluation counts: all, or as many as eval.queries allows."""
    return min(len(seen.source), run.config["eval"]["queries"] or len(seen.source))


def _look(run, images, weights, log):
    if not images:
        raise UserError("no images were asked for")
    if jax.process_count() > 1:
        raise UserError("the report was written by one of several processes, which cannot read the checkpoint alone")
    return look.look(run, images=images, weights=weights, log=log)


def _pictured(runs, looked, methods, charts, plotted, sheets, log) -> list[tuple[str, str, Html]]:
    """The sections with images; fills `charts` and `plotted` with what the script draws."""
    found = [(run, looked[run.name]) for run in runs if run.name in looked]
    several = len(runs) > 1

    def side(make) -> Html:
        """`make(run, look)` of each run, side by side where the page is wide enough."""
        parts = [tag("div", tag("h3", run.name) if several else None, make(run, seen), class_="one") for run, seen in found]
        return tag("div", *parts, class_="side") if several else join(parts)

    def on_map(run, seen):
        key = f"map-{len(plotted)}"
        log(f"{run.name}: maps by {', '.join(methods)}")
        plotted[key] = sections.map_of(seen, methods, sheets)
        return join([tag("p", _sample(seen), class_="reading"), sections.map_markup(key, plotted[key], seen)])

    charts["spectrum"] = sections.spectrum_chart(found)
    rows = {run.name: look.layers(seen) for run, seen in found}
    lines = [tag("p", f"{run.name}: " if several else "", _dimensions(rows[run.name][0], seen), class_="reading") for run, seen in found]
    return [
        ("views", "What the network saw", _views(found, several)),
        *_masked(found, several),
        ("map", "Where images land", side(on_map)),
        ("neighbours", "Nearest neighbours", side(lambda run, seen: sections.gallery_markup(sections.gallery(seen), seen))),
        *_places(found, side),
        ("confusion", "What is taken for what", side(lambda run, seen: sections.confusion_markup(seen))),
        ("spectrum", "Dimensions in use", join([page.chart("spectrum", charts["spectrum"]), *lines])),
        ("layers", "Layer by layer", side(lambda run, seen: sections.layers_markup(run, seen, rows[run.name]))),
    ]


def _kept(runs, charts) -> list[tuple[str, str, Html]]:
    """The section of the runs whose checkpoints were measured; fills `charts`."""
    parts = []
    for number, run in enumerate(runs):
        if kept.sound(run.kept):
            specs = {f"{key}-{number}": spec for key, spec in kept.charts(run.kept).items()}
            charts.update(specs)
            parts += [tag("h3", run.name) if len(runs) > 1 else None, kept.markup(run.kept, specs)]
    return [("checkpoints", "Which checkpoint", join(parts))] if parts else []


def _places(found, side) -> list[tuple[str, str, Html]]:
    """The section of what each place says, where a network has places enough."""
    if all(seen.places is None for _, seen in found):
        return []

    def of(_, seen):
        if seen.places is None:
            return tag("p", "This network's last map has too few places to look at.", class_="missing")
        return join([places.strip(row) for row in patches.rows(seen.places)])
    text = ("The network sees an image as places. Their vectors' principal components are drawn as colours, black what does not stand out from the rest in the first; "
            "beside them, where there are such tokens, what class token and registers attend to. Larger, and for two images: ")
    return [("places", "What each place says", join([tag("p", text, tag("code", "python -m jaxssl.look --workdir DIR --image FILE"), class_="reading"), side(of)]))]


def _views(found, several) -> Html:
    """The views of each run that has its own: runs with the same data, augmentation, seed and batch saw the same."""
    shown, parts = [], []
    for run, seen in found:
        same = [run.config[k] for k in ("augment", "data", "seed", "batch_size", "precision")]
        if same in shown:
            continue
        shown.append(same)
        parts.append(join([tag("h3", run.name) if several and len(found) > 1 else None, figures.views(pictures.views(run.config, seen.trained))]))
    text = "The first images of the first batch, each beside the views that step drew; under a view, what was drawn for it."
    if several and len(shown) < len(found):
        text += " Runs that are not named saw the same as one above."
    return join([tag("p", text, class_="reading"), *parts])


def _masked(found, several) -> list[tuple[str, str, Html]]:
    """The section of the runs whose methods hide patches; none where none does."""
    parts = []
    for run, seen in found:
        if loading.hides(run.config):
            method, params, aux = loading.trained(run.path, seen.step)
            more = "; the last picture is rebuilt by the weights of this page, hidden patches as they are predicted" if method.rebuilt is not None else ""
            parts += [tag("h3", run.name) if several else None,
                      tag("p", f"The first views of the first batch, what was hidden of each in that step, and how much{more}.", class_="reading"),
                      figures.views(pictures.masked(run.config, seen.trained, method, params, aux), first="view", each="")]
    return [("masked", "What was hidden", join(parts))] if parts else []


def _sample(seen: look.Look) -> str:
    which = f"{len(seen.queries.places):,} {'held-out' if seen.apart else seen.of} images, evenly spread over the set"
    return f"Each mark is one of {which}; near means that the encoder ({seen.weights}, step {seen.step:,}) finds them alike."


def _dimensions(backbone, seen) -> str:
    values = look.spectrum(seen.reference.features["backbone"])
    rank = readings.rank_sentence(backbone["rankme"], backbone["bound"], backbone["rankme_untrained"]) if values[0] else ""      # of zeros there is none
    return f"{rank} {readings.spectrum(values)}"


def _missing(runs, reasons) -> Html:
    """Why a run has no images here, and the command that adds them."""
    parts = []
    for run in runs:
        if run.name in reasons:
            why = reasons[run.name]
            parts += [tag("p", f"{run.name + ': ' if len(runs) > 1 else ''}no views, map, neighbours and spectrum: {why.rstrip('.')}. "
                               "Where the data and a checkpoint are at hand, this adds them:", class_="missing"), command("jaxssl.report", run.path)]
    return join(parts)
