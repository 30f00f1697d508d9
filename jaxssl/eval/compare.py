"""Rows beside rows: which differ by no more than their intervals, means over seeds, and paired tests between recipes."""
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxssl.eval import bootstrap


class Member(NamedTuple):
    """One evaluated encoder. name: for people. seed: of its training, None when unknown. tables: its rows, one list for every seed of the evaluation."""
    name: str
    seed: Any
    tables: list[list]


def key(row: Any) -> tuple[str, str, str, str]:
    """What makes two rows the same measure. A variant "chosen: …" counts by what stands before the colon: the choice may differ."""
    return row.protocol, row.variant.partition(":")[0], row.layer, row.metric


def overlapping(rows: Sequence[Any]) -> list[bool]:
    """For each row: whether its interval overlaps that of the best row of the same protocol and metric (for the best: whether any other does).

    The order of two such rows is not shown by these images. Rows without an interval, or alone, are not marked.
    """
    marks = [False] * len(rows)
    for group in {(row.protocol, row.metric) for row in rows}:
        own = [i for i, row in enumerate(rows) if (row.protocol, row.metric) == group and row.interval is not None]
        best = max(own, key=lambda i: rows[i].value, default=None)
        for i in own:
            marks[i] = i != best and rows[i].interval[1] >= rows[best].interval[0]
        if best is not None:
            marks[best] = any(marks[i] for i in own)
    return marks


def summary(groups: Mapping[str, Sequence[Member]]) -> list[dict]:
    """Every measure that all members have: mean ± std of each group, and a paired test of every group against the first.

    groups: members that differ in their training seed alone, by name. A member's value is its mean over the seeds of the evaluation; with a
    single member, mean and std are over those seeds. The tests pair seeds where two groups share at least two, otherwise images.
    """
    members = [member for group in groups.values() for member in group]
    tables = [_by_key(member) for member in members]
    shared = [k for k in tables[0] if all(k in table for table in tables)]
    found = []
    for k in shared:
        at, entries, per_group = 0, [], {}
        for name, group in groups.items():
            rows = [table[k] for table in tables[at:at + len(group)]]       # [members][seeds of the evaluation]
            at += len(group)
            means = [float(np.mean([row.value for row in own])) for own in rows]
            values = means if len(group) > 1 else [row.value for row in rows[0]]
            std = float(np.std(values, ddof=1)) if len(values) > 1 else None
            entries.append({"name": name, "mean": float(np.mean(values)), "std": std, "n": len(values), "values": values})
            per_group[name] = ({member.seed: mean for member, mean in zip(group, means)}, [_outcomes(own) for own in rows])
        first, *others = per_group.items()
        tests = [test for name, other in others if (test := _test(name, other, *first))]
        found.append({**dict(zip(("protocol", "variant", "layer", "metric"), k)), "groups": entries, "tests": tests})
    return found


def _by_key(member):
    found = {}
    for table in member.tables:
        for row in table:
            found.setdefault(key(row), []).append(row)
    return {k: rows for k, rows in found.items() if len(rows) == len(member.tables)}


def _outcomes(rows):
    """Mean outcome of each image over the seeds of the evaluation, or None."""
    kept = [getattr(row.interval, "outcomes", None) for row in rows]
    return np.mean(kept, axis=0) if all(o is not None for o in kept) and len({len(o) for o in kept}) == 1 else None


def _test(name, other, first_name, first):
    """other - first, paired over seeds or over images; None where neither can be paired."""
    common = [seed for seed in other[0] if seed is not None and seed in first[0]]
    images = [[o for o in outcomes if o is not None] for outcomes in (other[1], first[1])]
    if len(common) > 1:
        result, over = bootstrap.paired_seeds([other[0][s] for s in common], [first[0][s] for s in common]), "seeds"
    elif all(images) and len({len(o) for outcomes in images for o in outcomes}) == 1:
        result, over = bootstrap.paired(*(np.mean(outcomes, axis=0) for outcomes in images)), "images"
    else:
        return None
    return {"name": name, "against": first_name, "over": over, **result._asdict()}
