"""The model card of an export: what it is, how to open it, what it was trained on and how, what was measured and by which protocol."""
import json
import re

LIBRARY = {"timm": "timm", "transformers": "transformers", "torchvision": "pytorch", "onnx": "onnx", "stablehlo": "jax", "safetensors": "jax"}
INPUT = {"safetensors": "uint8 `[B, H, W, 3]`, or a list of uint8 `[h, w, 3]` of different sizes; the preprocessing is inside",
         "stablehlo": "float32 `[B, {size}, {size}, 3]`, preprocessed as below", "onnx": "float32 `[B, 3, H, W]`, preprocessed as below"}
# Of run.json: what its numbers are (jaxssl.evaluation).
RUN = {"knn": "weighted kNN, k 200, T .1", "knn_k20": "weighted kNN, k 20, T .07", "linear": "logistic regression on frozen features, penalty chosen on a part of the training images",
       "rankme": "RankMe of the features of training images"}


def render(*, name: str, config: dict, weights: str, step: int | None, digest: str, width: int, preprocessing: dict, format: str, code: tuple[str, str], check: dict,
           licence: str, run: dict | None, evaluations: list[dict], notes: list[str], version: str) -> str:
    """The card as Markdown; the front matter is what model hubs read.

    run: run.json where the exported step is its last. evaluations: files of evaluations/ that measured exactly these weights.
    """
    model, p = config["model"], preprocessing
    shape = INPUT.get(format, "float32 `[B, 3, H, W]`, preprocessed as below").format(size=p["size"])
    lines = ["---", f"license: {json.dumps(licence or 'unknown')}", f"library_name: {LIBRARY[format]}", "pipeline_tag: image-feature-extraction", "tags: [image-feature-extraction, self-supervised, jaxssl]", "---", "",
             f"# {model['name']}{' by ' + config['method']['name'] if 'method' in config else ''} ({text(name)})", "",
             f"An image encoder, {model['name']} ({model.get('stem', 'imagenet')} stem, width {model.get('width', 1.0):g}): images to {width} features. "
             f"The {weights}{f' of step {step}' if step is not None else ''}, exported by jaxssl {version} for {format}.", "",
             "## Use", "", "```python", code[0], "", f"# images: {shape}", code[1], "```", "", *(f"{note}\n" for note in notes),
             "## Preprocessing", "",
             f"RGB; short side to {p['resize']} pixels ({p['interpolation']}, antialiased), centre crop of {p['size']}×{p['size']}, pixels / 255, minus mean {numbers(p['mean'])}, divided by {numbers(p['std'])}.", "",
             "## Training data", "", data(config), "", "## Method", "", method(config), "", "## Measured", "", *metrics(run, evaluations), "",
             "## Checked", "",
             f"Written, opened again with the target library and compared on {check['images']} images ({text(check['source'])}): largest feature difference {check['difference']:.1e} of an image's largest feature (limit {check['limit']:g})."
             + (f" Preprocessing by the target library differs by {check['preprocessing']:.3f} standard deviations on average." if "preprocessing" in check else ""),
             "", f"sha256 over the weights: `{digest}`", "", "## Licence", "",
             text(licence) if licence else "Not stated. Weights carry what their training data allow; state it with `--licence` before passing them on.", "",
             "<details><summary>Config of the run</summary>", "", "```json", json.dumps(config, indent=1, sort_keys=True).replace("```", "'''"), "```", "", "</details>", ""]
    return "\n".join(lines)


def data(config: dict) -> str:
    d = config.get("data")
    if not d:
        return "Unknown: the weights were read from another program's file."
    parts = [f"source {text(d.get('source'))}", *(f"{text(d['path'])}" for _ in range(bool(d.get("path")))), *(f"variant {text(d['variant'])}" for _ in range(d.get("source") == "digits" and "variant" in d))]
    counted = [f"{d[key]:,} {what}" for key, what in (("examples", "images"), ("classes", "classes")) if d.get(key)]
    return f"{', '.join(parts + counted)}. Labels, where there are any, were used by the evaluation and by a probe on detached features only."


def method(config: dict) -> str:
    m = config.get("method")
    if not m:
        return "Unknown: the weights were read from another program's file."
    own = ", ".join(f"{k} {v}" for k, v in m.items() if k != "name")
    o = config.get("optim", {})
    rest = [f"global batch {config['batch_size']}" if "batch_size" in config else "", f"{text(config['total'])} in all" if "total" in config else "",
            f"{o['name']}, lr {o['lr']:g} ({o.get('scaling', 'none')} scaling), weight decay {o['weight_decay']:g}" if {"name", "lr", "weight_decay"} <= o.keys() else "",
            f"moving average {config['ema']:g}" if config.get("ema") else "", f"begun from {text(config['init_from'])}" if config.get("init_from") else "", f"seed {config['seed']}" if "seed" in config else ""]
    return f"{m['name']} ({text(own)}); " + "; ".join(r for r in rest if r) + "."


def metrics(run: dict | None, evaluations: list[dict]) -> list[str]:
    """Rows of a table, each with its protocol and number of images where known."""
    rows = []
    for found in evaluations:
        for row in found.get("rows", []):
            setting = ", ".join(f"{k} {v}" for k, v in (row.get("setting") or {}).items())
            interval = row.get("interval")
            value = f"{row['value']:.4g}" + (f" ({interval[0]:.4g} to {interval[1]:.4g})" if interval else "")
            rows.append((f"{row['protocol']} {row.get('variant') or ''}".strip(), row["metric"], value, f"layer {row['layer']}, n {row['n']}, {setting or 'no setting'}, chosen: {row.get('selected', 'fixed')}"
                         + (f"; {row['note']}" if row.get("note") else ""), (found.get("data") or {}).get("name", "")))
    for key, protocol in RUN.items():
        if run and run.get(key) is not None:
            untrained = run.get(f"{key}_untrained")
            rows.append((key, "rank" if key == "rankme" else "accuracy", f"{run[key]:.4g}", protocol + (f"; untrained {untrained:.4g}" if untrained is not None else ""), "held-out images of the run" if key != "rankme" else "of the run"))
    if not rows:
        return ["Nothing yet: `python -m jaxssl.evaluate` measures it."]
    return ["| protocol | metric | value (95 %) | setting | data |", "|---|---|---|---|---|", *("| " + " | ".join(text(cell) for cell in row) + " |" for row in rows)]


def numbers(values) -> str:
    return "(" + ", ".join(f"{v:g}" for v in values) + ")"


def text(value) -> str:
    """User text on one line, in which Markdown and HTML mean nothing."""
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", re.sub(r"\s+", " ", str(value)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
