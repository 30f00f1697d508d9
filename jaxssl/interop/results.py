"""Rows of evaluations/*.json as people read them, on the report's page and on an export's card: numbers and settings in short, the newest row of each kind."""
import math
import re
from collections.abc import Sequence
from typing import Any

SHARE = re.compile(r"acc|top|precision|recall|map\b|map@|mrr|nmi|ami|knn|linear|share|r_prec|mfu", re.I)    # metrics whose range is [0, 1]
KEY = ("protocol", "variant", "layer", "metric")
SPELLED = 4     # entries of a list or an inner table that are spelled out


def newest(documents: Sequence[dict]) -> dict[tuple[str, ...], dict]:
    """(data, protocol, variant, layer, metric) -> its newest row with a finite value.

    documents: files of evaluations/, oldest first.
    """
    return {(str(table(found.get("data")).get("name", "")), *(str(row.get(k) or "") for k in KEY)): row
            for found in documents for row in found["rows"] if isinstance(row, dict) and is_number(row.get("value"))}


def published(row: dict) -> tuple[float, str] | None:
    """(value, source) of the published number beside a row, on the scale of the row: a published share may be written in percent."""
    known = table(row.get("published"))
    value = known.get("value")
    if not is_number(value):
        return None
    percent = SHARE.search(metric(row)) and value > 1 and is_number(row.get("value")) and row["value"] <= 1
    return value / 100 if percent else value, str(known.get("source", ""))


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
