"""Rows of evaluations/*.json as people read them, on the report's page and on an export's card: which are alike, numbers and settings in short."""
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

# Metrics whose range is [0, 1], by their names: of a run's own curves, and of rows that were written before each said its unit.
SHARE = re.compile(r"(?<![a-z])(acc(uracy)?|top(?=[^a-z]|$)|precision|recall|map|mrr|nmi|ami|knn|linear|share|r_prec|mfu)(?![a-z])|r-precision|per class", re.I)
SPELLED = 4     # entries of a list or an inner table that are spelled out


class Key(NamedTuple):
    """What two rows share that may stand side by side; "" where a file does not say.

    data: digest of training and test images, or the set's name. images: those that were measured, for people. budget, precision: of the command.
    selected: how settings were chosen. variant: up to a colon, behind which stands the setting that was chosen.
    """
    data: str
    images: str
    budget: str
    precision: str
    selected: str
    protocol: str
    variant: str
    layer: str
    metric: str


def current(documents: Sequence[dict]) -> list[dict]:
    """Of the documents of one run (oldest first) those on its newest weights: of the highest step, and there of the encoder that was measured last."""
    def step(found):
        value = table(found.get("subject")).get("step")
        return value if is_number(value) else -1

    def weights(found):
        subject = table(found.get("subject"))
        return subject.get("digest") or (subject.get("weights"), subject.get("step"))
    newest_one = max(reversed(documents), key=step, default=None)
    return [found for found in documents if weights(found) == weights(newest_one)]


def newest(documents: Sequence[dict]) -> dict[Key, dict]:
    """The newest result of each kind with a finite value; of several seeds in one document their `mean`.

    documents: files of evaluations/, oldest first, of the same weights.
    """
    found: dict[Key, dict] = {}
    for document in documents:
        kinds: dict[Key, dict] = {}
        for row in document["rows"]:
            if isinstance(row, dict) and is_number(row.get("value")):
                kinds.setdefault(_key(document, row), {})[str(row.get("seed"))] = row
        found.update({key: mean(list(seeds.values())) for key, seeds in kinds.items()})
    return found


def _key(document, row):
    data = table(document.get("data"))
    which = "train" if table(row.get("setting")).get("set") == "train" else "test"
    words = (data.get("digest") or data.get("name"), data.get(which) or data.get("name"), document.get("budget"), document.get("precision"),
             row.get("selected") or document.get("select"), row.get("protocol"), str(row.get("variant") or "").partition(":")[0], row.get("layer"), row.get("metric"))
    return Key(*(str(word or "") for word in words))


def mean(rows: Sequence[dict]) -> dict:
    """Rows that differ in their seed as one: `seeds`, mean and sample deviation (`std`) of the value, and what all of them share; a single row as it is."""
    if len(rows) == 1:
        return rows[0]
    first, values = rows[0], [row["value"] for row in rows]
    shared = {key: value for key, value in first.items() if all(row.get(key) == value for row in rows)}
    settings = [table(row.get("setting")) for row in rows]
    middle = math.fsum(values) / len(values)
    return {**shared, "variant": str(first.get("variant") or "").partition(":")[0], "value": middle,
            "std": math.sqrt(math.fsum((v - middle) ** 2 for v in values) / (len(values) - 1)),
            "seeds": [row.get("seed") for row in rows], "setting": {key: value for key, value in settings[0].items() if all(own.get(key) == value for own in settings)},
            "interval": None, "interval_classes": None, "overlaps_best": False}


def spread(row: dict) -> str:
    """In words which seeds the value is a mean over, or the seed it is of where that is not 0."""
    if row.get("seeds"):
        return f"mean over seeds {', '.join(map(str, row['seeds']))}, std {number(row['std'])}"
    return f"seed {row['seed']}" if row.get("seed") else ""


def conditions(key: Key) -> str:
    """What is not as usual about how a result was measured: selection on test, the published budget, a coarser arithmetic."""
    return ", ".join(filter(None, ("chosen on test" if key.selected == "test" else "", f"{key.budget} budget" if key.budget == "published" else "",
                                   key.precision if key.precision != "f32" else "")))


def last_part(name: str) -> str:
    """The name of a data set without the folders above it: the last part of a path, with the folder of a zip; the name of a TFDS set as it is.

    "/home/me/pets.zip:train, 20 images" -> "pets.zip:train, 20 images".
    """
    if re.match(r"[\w-]+(/[\w.-]+)?/\d+\.\d+\.\d+ \(", name):       # a TFDS set, its version and split
        return name
    return re.search(r"[^/\\]*\.zip:.*|[^/\\]*$", name.rstrip("/\\"), re.I)[0]


def published(row: dict) -> tuple[float, str] | None:
    """(value, source) of the published number beside a row, on the scale of the row: a published share may be written in percent."""
    known = table(row.get("published"))
    value = known.get("value")
    if not is_number(value):
        return None
    percent = is_share(row) and value > 1 and is_number(row.get("value")) and row["value"] <= 1
    return value / 100 if percent else value, str(known.get("source", ""))


def is_share(row: dict) -> bool:
    """Whether the value of a row, or of an entry of a comparison, is a share of 1: by its unit, and where it has none by the name of its metric."""
    return row["unit"] == "share" if row.get("unit") else bool(SHARE.search(metric(row)))


def unit(row: dict) -> str:
    """What is to be said of the unit beside the metric of a row: "" for a share, whose value has its sign, and where the metric's name says it."""
    own = str(row.get("unit") or "")
    return "" if own == "share" or own in metric(row) else own


def metric(row: dict) -> str:
    return str(row.get("metric") or "value")


def short(value: Any, inner: bool = False) -> str:
    """A dict as `a 1, b 2`; of a long list or a long inner dict only its length, and nothing of what is None."""
    if isinstance(value, dict):
        return f"[{len(value)} values]" if inner and len(value) > SPELLED else ", ".join(f"{k} {short(v, True)}" for k, v in value.items() if v is not None)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(short(v, True) for v in value)}]" if len(value) <= SPELLED else f"[{len(value)} values]"
    return "" if value is None else number(value) if is_number(value) else str(value)


def number(value: float | None) -> str:
    """Four figures at most, thousands apart, no exponent between .001 and 10⁶."""
    if value is None:
        return "–"
    if value != value or abs(value) == float("inf"):
        return str(value)
    size = abs(value)
    if size and (size < 1e-3 or size >= 1e6):
        mantissa, _, power = f"{value:.2e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}·10" + str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    if isinstance(value, int) or size >= 1000:
        return f"{value:,.0f}"
    text = f"{value:.4g}"
    return text.replace("-", "−")


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def table(value: Any) -> dict:
    return value if isinstance(value, dict) else {}
