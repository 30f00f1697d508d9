"""The model card of an export: what it is, how to open it, what it was trained on and how, what was measured and by which protocol."""
import json
import re

from jaxssl.encoder.formats import families
from jaxssl.evaluation.tables import reading as results

LIBRARY = {"timm": "timm", "transformers": "transformers", "torchvision": "pytorch", "onnx": "onnx", "stablehlo": "jax", "safetensors": "jax"}
# What goes in, by format; torch's are alike.
INPUT = {"safetensors": "uint8 [B, H, W, 3], or a list of uint8 [h, w, 3] of different sizes; the preprocessing is inside",
         "stablehlo": "float32 [B, {size}, {size}, 3], preprocessed as below", "torch": "float32 [B, 3, H, W], preprocessed as below"}
# Of run.json: what its numbers are (jaxssl.training.evaluator).
RUN = {"knn": "weighted kNN, k 200, T .1", "knn_k20": "weighted kNN, k 20, T .07", "rankme": "RankMe of the features of training images",
       "alphareq": "α-ReQ of the features of training images",
       "linear": "logistic regression on frozen features, penalty chosen on a part of the training images"}
ELSEWHERE = "Unknown: the weights were read from another program's file."


def render(*, name: str, config: dict, weights: str, step: int | None, digest: str, width: int, preprocessing: dict, format: str, code: tuple[str, str], check: dict,
           licence: str, run: dict | None, evaluations: list[dict], notes: list[str], version: str, learned: dict | None = None) -> str:
    """The card as Markdown; the front matter is what model hubs read.

    check: what `export.compare` found. run: run.json where the exported step is its last. evaluations: files of evaluations/ on exactly these weights.
    learned: the weights that its run learned from (`workdir.sources`), whose licences bind it.
    """
    model, p = config["model"], preprocessing
    images = INPUT.get(format, INPUT["torch"]).format(size=p["size"])
    title = f"# {text(model['name'])}{' by ' + text(config['method']['name']) if 'method' in config else ''} ({text(name)})"
    checked = (f"Opened again with the target library and compared on {check['images']} images ({text(check['source'])}): "
               f"largest feature difference {check['difference']:.1e} of an image's largest feature (limit {check['limit']:g}).")
    if "preprocessing" in check:
        checked += f" The library's preprocessing differs from ours by {check['preprocessing']:.3f} standard deviations on average."
    as_json = json.dumps(config, indent=1, sort_keys=True).replace("```", "'''")
    sections = {
        "Use": "\n".join(["```python", code[0], "", f"# images: {images}", code[1], "```", *(f"\n{text(note)}" for note in notes)]),
        "Preprocessing": "RGB; " + (f"both sides to {p['size']} pixels ({p['interpolation']}, antialiased), " if p.get("squash") else
                                    f"short side to {p['resize']} pixels ({p['interpolation']}, antialiased), centre crop of {p['size']}×{p['size']}, ") +
                         f"pixels / 255, minus mean {numbers(p['mean'])}, divided by {numbers(p['std'])}.",
        "Training data": data(config), "Method": method(config), "Measured": metrics(run, evaluations),
        "Checked": f"{checked}\n\nsha256 over the weights: `{digest}`",
        "Licence": "\n\n".join([text(licence) if licence else "Not stated. State one with `--licence` before passing the weights on; their training data may bind it.",
                                *(teacher(place, source) for place, source in (learned or {}).items() if isinstance(source, dict))]),
        "Config": f"<details><summary>of the run</summary>\n\n```json\n{as_json}\n```\n\n</details>"}
    front = ["---", f"license: {json.dumps(licence or 'unknown')}", f"library_name: {LIBRARY[format]}", "pipeline_tag: image-feature-extraction",
             f"tags: [image-feature-extraction, {'self-supervised, ' if 'method' in config else ''}jaxssl]", "---", ""]
    summary = (f"An image encoder, {text(families.described(model))}: images to {width} features. The {text(weights)}{f' of step {text(step)}' if step is not None else ''}, "
               f"exported by jaxssl {version} for {format}.")
    return "\n".join([*front, title, "", summary, "", *(f"## {heading}\n\n{body}\n" for heading, body in sections.items())])


def teacher(place: str, source: dict) -> str:
    """A sentence on weights that a run learned from."""
    how = "It began with" if place == "init_from" else "It learned from"
    stated = text(source.get("licence") or "")
    return (f"{how} {text(source.get('name', ''))} ({text(source.get('model', ''))}, sha256 {text(source.get('digest', ''))}), "
            f"{f'under {stated}: its terms go with this network' if stated else 'whose licence is not stated: find out what it asks before passing this network on'}.")


def data(config: dict) -> str:
    d = config.get("data")
    if not d:
        return ELSEWHERE
    parts = [f"source {d.get('source')}", d.get("path", ""), f"variant {d['variant']}" if d.get("source") == "digits" and "variant" in d else "",
             *(f"{d[key]:,} {what}" for key, what in (("examples", "images"), ("classes", "classes")) if d.get(key))]
    return text(", ".join(part for part in parts if part)) + "."


def method(config: dict) -> str:
    m, o = config.get("method"), config.get("optim", {})
    if not m:
        return ELSEWHERE
    parts = [f"global batch {config['batch_size']}" if "batch_size" in config else "", f"{config['total']} in all" if "total" in config else "",
             f"{o['name']}, lr {o['lr']:g} ({o.get('scaling', 'none')} scaling), weight decay {o['weight_decay']:g}" if {"name", "lr", "weight_decay"} <= o.keys() else "",
             f"moving average {config['ema']:g}" if config.get("ema") else "", f"begun from {config['init_from']}" if config.get("init_from") else "",
             f"seed {config['seed']}" if "seed" in config else ""]
    own = ", ".join(f"{key} {value}" for key, value in m.items() if key != "name")
    return text(f"{m['name']} ({own}); {'; '.join(part for part in parts if part)}.")


def metrics(run: dict | None, evaluations: list[dict]) -> str:
    """A table whose rows name protocol, layer, setting, number of images and the images; of each kind the newest row. evaluations: oldest first."""
    rows = [measured(key, row) for key, row in results.newest(evaluations).items()]
    for key, protocol in RUN.items():
        if run and results.is_number(run.get(key)):
            untrained = run.get(f"{key}_untrained")
            setting = protocol + (f"; untrained {untrained:.4g}" if results.is_number(untrained) else "")
            metric, which = {"rankme": ("rank", "training"), "alphareq": ("slope", "training")}.get(key, ("accuracy", "held-out"))
            rows.append((key, metric, f"{run[key]:.4g}", "", setting, f"{which} images of the run"))
    if not rows:
        return "Nothing yet: `python -m jaxssl.evaluate` measures it."
    return "\n".join(["| protocol | metric | value (95 %) | published | setting | data |", "|---|---|---|---|---|---|",
                      *("| " + " | ".join(map(text, row)) + " |" for row in rows)])


def measured(key: results.Key, row: dict) -> tuple[str, ...]:
    """Cells of a row of evaluations/*.json; of the images only what may be passed on."""
    interval, known, note = row.get("interval"), results.published(row), row.get("note")
    whole = isinstance(interval, list) and len(interval) == 2 and all(map(results.is_number, interval))
    value = f"{row['value']:.4g}" + (f" ({interval[0]:.4g} to {interval[1]:.4g})" if whole else "")
    how = [f"layer {row.get('layer', 'backbone')}", f"n {row['n']}" if "n" in row else "", results.short(row.get("setting")), f"chosen: {row.get('selected', 'fixed')}",
           f"{key.budget} budget" if key.budget == "published" else "", key.precision if key.precision != "f32" else "", results.spread(row)]
    return (f"{row.get('protocol', '')} {row.get('variant') or ''}".strip(), results.metric(row), value, f"{known[0]:.4g} ({known[1]})" if known else "",
            ", ".join(filter(None, how)) + (f"; {note}" if note else ""), results.last_part(key.images))


def numbers(values) -> str:
    return "(" + ", ".join(f"{v:g}" for v in values) + ")"


def text(value) -> str:
    """User text on one line, in which Markdown and HTML mean nothing."""
    line = re.sub(r"\s+", " ", str(value)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", line)
