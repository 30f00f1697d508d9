"""The page: sections in order, the data its script draws, and a policy that lets nothing else in."""
import base64
import hashlib
import json
import shlex
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jaxssl
from jaxssl import durations
from jaxssl.errors import UserError
from jaxssl.report import curves, evaluations, figures, readings
from jaxssl.report.markup import Html, join, tag
from jaxssl.report.read import Run, differences, flat

HERE = Path(__file__).parent
SCRIPTS = ("charts.js", "map.js")


def page(runs: Sequence[Run], pictured: Sequence[tuple[str, str, Html]], data: dict, sheets: Html, images: dict[str, int]) -> str:
    """The whole document.

    pictured: (id, title, markup) of the sections that show images and features. data: what the script draws, plain JSON values;
    its charts of curves are added here. sheets: hidden pictures of maps. images: see `evaluations.section`.
    """
    known, others = curves.charts(runs)
    specs = {f"curve-{i}": spec for i, spec in enumerate([*known, *others])}
    data = {**data, "charts": {**specs, **data.get("charts", {})}}
    sections = [("runs", "Runs compared", _compared(runs))] if len(runs) > 1 else []
    sections.append(("training", "Training", _training(specs, len(known))))
    sections += pictured
    sections += [("evaluations", "Evaluations", evaluations.section(runs, images)), ("config", "Configuration", _config(runs)),
                 ("environment", "Environment", _environment(runs))]
    body = join([
        tag("header", tag("p", "jaxssl report", class_="kicker"), tag("h1", " and ".join(run.name for run in runs) if len(runs) < 3 else f"{len(runs)} runs"),
            *(tag("p", _subtitle(run, len(runs) > 1), class_="subtitle") for run in runs), _headline(runs[0]) if len(runs) == 1 else None, _notes(notes(runs)),
            tag("nav", *(tag("a", title, href=f"#{name}") for name, title, _ in sections), aria_label="sections")),
        tag("main", *(tag("section", tag("h2", title), content, id=name) for name, title, content in sections)),
        tag("footer", tag("p", f"Written by jaxssl {jaxssl.__version__} on {datetime.now().astimezone():%d %B %Y, %H:%M %Z}. This file needs no network.")), sheets])
    return document(" and ".join(run.name for run in runs), body, data)


def document(title: str, body: Html, data: dict) -> str:
    style = (HERE / "page.css").read_text()
    script = "\n".join((HERE / name).read_text() for name in SCRIPTS)
    allowed = f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"
    head = join([tag("meta", charset="utf-8"), tag("meta", http_equiv="Content-Security-Policy", content=allowed),
                 tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
                 tag("meta", name="color-scheme", content="light dark"), tag("meta", name="referrer", content="no-referrer"), tag("title", f"{title} · jaxssl"),
                 tag("link", rel="icon", href="data:,"), tag("style", Html(style))])
    unscripted = tag("noscript", tag("p", "Charts and maps are drawn by a script of this file, which is switched off."))
    scripts = join([tag("script", Html(as_json(data)), type="application/json", id="data"), tag("script", Html(script))])
    return "<!doctype html>\n" + tag("html", tag("head", head), tag("body", body, unscripted, scripts), lang="en")


def as_json(data: Any) -> str:
    """JSON that may stand inside a script element: no "<" can end it, whatever a class is called. Raises: ValueError for what is not finite."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _subtitle(run: Run, named: bool) -> str:
    c = run.config
    data, model = c["data"], c["model"]
    source = f"digits ({data['variant']})" if data["source"] == "digits" else data["path"] or data["source"]
    width = "" if model.get("width", 1) == 1 else f" × {model['width']:g}"
    length = f"{run.step:,} steps" if run.result else f"unfinished, {run.step:,} of {_total(run)} steps"
    text = f"{c['method']['name']} on {source}; {model['name']}{width}; {length}; {c['batch_size']:,} images a step; seed {c['seed']}"
    return f"{run.name}: {text}" if named else text


def _total(run: Run) -> str:
    """Steps of the whole run, or its length as the config gives it where that counts in something unknown here."""
    c = run.config
    try:
        return f"{durations.steps(c['total'], 'total', examples=c['data']['examples'], batch_size=c['batch_size']):,}"
    except (UserError, KeyError, TypeError):
        return str(c.get("total", "?")).replace("_", " ")


def results(run: Run) -> list[tuple[str, str, str]]:
    """(what, value, comparison) of the headline numbers that the run has."""
    found = []
    for metric, what in (("knn", "kNN, held-out"), ("linear", "linear, held-out"), ("map_at_r", "MAP@R, held-out classes")) if not _one_class(run) else ():
        value = run.last(metric)
        if metric in run.result and value is None:
            found.append((what, "–", "not finite"))
        elif value is not None:
            others = ((run.before(f"{metric}_untrained"), "untrained"), (run.before(f"{metric}_raw"), "raw pixels"))
            against = [readings.since(value, run.before(f"{metric}_start")), *(f"{readings.percent(v)} {name}" for v, name in others if v is not None)]
            found.append((what, readings.percent(value), ", ".join(filter(None, against))))
    rank = run.last("rankme")
    if rank is not None:
        others = ((run.before("rankme_start"), "it began with"), (run.before("rankme_untrained"), "untrained"))
        against = [f"of {run.width}" if run.width else "", *(f"{v:.0f} {name}" for v, name in others if v is not None)]
        found.append(("RankMe", f"{rank:.0f}", ", ".join(filter(None, against))))
    speed = readings.throughput(run)
    if speed is not None:
        devices = run.environment.get("devices")
        found.append(("images a second", readings.number(round(speed)), f"on {devices} × {run.environment.get('device_kind')}" if devices else ""))
    if run.result.get("wall_seconds"):
        r = run.result
        found.append(("wall time", durations.spoken(r["wall_seconds"]), f"{durations.spoken(r['train_seconds'])} of it training" if r.get("train_seconds") else ""))
    return found


def _one_class(run: Run) -> bool:
    return run.config.get("data", {}).get("classes") == 1


def _headline(run: Run) -> Html:
    parts = [tag("div", tag("dt", what), tag("dd", value), tag("dd", against, class_="against")) for what, value, against in results(run)]
    return tag("dl", *parts, class_="headline")


def _notes(notes: Sequence[str]) -> Html | None:
    return tag("ul", *(tag("li", note) for note in notes), class_="notes", aria_label="to note") if notes else None


def notes(runs: Sequence[Run]) -> list[Any]:
    """What a reader should know first: unfinished runs with what makes them go on, signs of collapse, unreadable files."""
    found = []
    for run in runs:
        who = f"{run.name}: " if len(runs) > 1 else ""
        if run.stopped is not None:
            found.append(f"{who}The run stopped at step {run.stopped:,}, whose loss, gradient or state was not finite, and its command would stop there again. Lower optim.lr, "
                         "lengthen warmup, set optim.clip, or use --config.on_nonfinite=rollback:3; with --allow_config_change it goes on from the last checkpoint.")
        elif not run.result:
            found.append(join([f"{who}The run is not finished; it has logged step {run.step:,}. The same command goes on with it: ", tag("code", resume(run))]))
        found += [f"{who}{note}" for note in (*run.notes, *readings.warnings(run))]
        if _one_class(run):
            found.append(f"{who}All images are of one class: a kNN or linear score of 100\u00a0% is no result.")
        if not run.curves:
            found.append(f"{who}metrics.jsonl has no line yet, so there are no curves; the first comes after log_every = {run.config.get('log_every')} steps.")
    return found


def resume(run: Run) -> str:
    """The command that started the run."""
    arguments = run.environment.get("argv") or []
    rest = [str(a) for a in arguments[1:]] or ["--config", "CONFIG", "--workdir", run.path]
    return "python -m jaxssl.main " + " ".join(shlex.quote(a) for a in rest)


def _training(specs: dict, known: int) -> Html:
    if not specs:
        return tag("p", "Nothing was logged yet.", class_="missing")
    names = list(specs)
    parts = [tag("div", *(chart(name, specs[name]) for name in names[:known]), class_="charts")]
    if names[known:]:
        rest = tag("div", *(chart(name, specs[name]) for name in names[known:]), class_="charts")
        parts.append(figures.folded(f"{len(names) - known} more that were logged", rest))
    return join(parts)


def chart(key: str, spec: dict) -> Html:
    """The frame that the script fills with chart `key`, and its sentence."""
    reading = tag("p", spec["reading"], class_="reading") if spec["reading"] else None
    return tag("figure", tag("figcaption", tag("h3", spec["title"]), tag("div", class_="keys")), tag("div", class_="plot"), reading, class_="chart", data_chart=key)


def _compared(runs: Sequence[Run]) -> Html:
    columns = [{what: (value, against) for what, value, against in results(run)} for run in runs]
    measured = dict.fromkeys(what for column in columns for what in column)
    rows = [(what, *(join([tag("b", c[what][0]), tag("small", c[what][1])]) if what in c else "–" for c in columns)) for what in measured]
    changed = [(tag("code", key), *(tag("code", _value(v)) for v in values)) for key, values in differences(runs)]
    names = [run.name for run in runs]
    parts = [figures.compared(("", *names), rows, class_="results")] if rows else []
    parts.append(tag("h3", "Config keys that differ"))
    parts.append(figures.compared(("", *names), changed, class_="changed", numeric=False) if changed else tag("p", "None: the runs share one config.", class_="reading"))
    return join(parts)


def _config(runs: Sequence[Run]) -> Html:
    """Every key of the resolved config, a fold a section; what stands at the top level first."""
    parts = []
    for run in runs:
        groups = {"run": {k: v for k, v in run.config.items() if not isinstance(v, dict)}, **{k: flat(v) for k, v in run.config.items() if isinstance(v, dict)}}
        folds = [figures.folded(name, figures.pairs((tag("code", k), tag("code", _value(v))) for k, v in keys.items())) for name, keys in groups.items() if keys]
        parts += [tag("h3", run.name) if len(runs) > 1 else None, tag("div", *folds, class_="folds")]
        for name, what in (("start", "the run"), ("parameters", "the parameters"), ("init_from", "the weights it began with")):
            if run.texts.get(name):
                parts.append(figures.folded(f"what the program said of {what}", tag("pre", run.texts[name], tabindex="0")))
    return join(parts)


def _environment(runs: Sequence[Run]) -> Html:
    parts = []
    for run in runs:
        e, r = run.environment, run.result
        facts = [("device", f"{e['devices']} × {e.get('device_kind')}, {_processes(e)}" if e.get("devices") else None),
                 ("python", e.get("python")), ("platform", e.get("platform")), ("revision", e.get("git_revision")), *sorted((e.get("packages") or {}).items()),
                 ("parameters", f"{r['parameters']:,}" if r.get("parameters") else None),
                 ("arithmetic a step", f"{r['flops_per_step'] / 1e9:,.1f} GFLOP" if r.get("flops_per_step") else None), ("state", r.get("state_sha256"))]
        parts += [tag("h3", run.name) if len(runs) > 1 else None, tag("pre", tag("code", resume(run)), class_="command"),
                  figures.pairs((k, tag("code", v)) for k, v in facts if v)]
        if not e:
            parts.append(tag("p", "environment.json is missing, so versions and devices are not known.", class_="missing"))
    return join(parts)


def _processes(environment: dict) -> str:
    n = environment.get("processes", 1)
    return f"{n} process" if n == 1 else f"{n} processes"


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
