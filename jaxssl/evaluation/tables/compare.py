"""Rows beside rows: which differ by no more than their intervals, means over seeds, and paired tests between recipes."""
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxssl.evaluation.measures import bootstrap


class Member(NamedTuple):
    """One evaluated encoder. name: for people. seed: of its training, None when unknown. tables: its rows, one list for every seed of the evaluation.
    data: digest of the images that it was measured on."""
    name: str
    seed: Any
    tables: list[list]
    data: str


def key(row: Any) -> tuple[str, str, str, str]:
    """What makes two rows the same measure. A variant or layer "chosen: …" counts by what stands before the colon: the choice may differ."""
    return row.protocol, row.variant.partition(":")[0], row.layer.partition(":")[0], row.metric


def alone(members: Sequence[Member]) -> list[str]:
    """The measures that some members have and others lack, for people."""
    tables = [_by_key(member) for member in members]
    return list(dict.fromkeys(" ".join(k) for table in tables for k in table if not all(k in other for other in tables)))


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


def grouped(members: Sequence[tuple[Any, Member]]) -> dict[str, list[Member]]:
    """Members, each with its encoder, grouped for `summary`: a group has one config, step and kind of weights, and each seed once.

    Groups of one config have the kind and the step in their names.
    """
    found = []              # [(encoder of the first member, members)]
    for encoder, member in members:
        same = [own for first, own in found if _recipe(first) == _recipe(encoder) and (first.weights, first.step) == (encoder.weights, encoder.step)]
        fitting = next((own for own in same if all(other.seed != member.seed for other in own)), None)
        if fitting is None:
            found.append((encoder, fitting := []))
        fitting.append(member)
    recipes, named = [_recipe(encoder) for encoder, _ in found], {}
    for encoder, own in found:
        which = f" ({encoder.weights}, step {'unknown' if encoder.step is None else encoder.step})" if recipes.count(_recipe(encoder)) > 1 else ""
        named[f"{own[0].name}{which}" + (f" and {len(own) - 1} other seeds" if len(own) > 1 else "")] = own
    return named


def summary(groups: Mapping[str, Sequence[Member]]) -> list[dict]:
    """Every measure that all members have: mean ± std of each group, and a paired test of every group against the first.

    groups: members that differ in their training seed alone, by name. A member's value is its mean over the seeds of the evaluation; with a
    single member, mean and std are over those seeds. The tests pair seeds where two groups share at least two, otherwise images, and only what was
    measured on the same data; `untested` says of the others why there is no test.
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
            per_group[name] = _Group({member.seed: mean for member, mean in zip(group, means)}, {member.data for member in group}, [row.interval for own in rows for row in own])
        first, *others = per_group.items()
        results = [{"name": name, "against": first[0], **_test(other, first[1])} for name, other in others]
        found.append({**dict(zip(("protocol", "variant", "layer", "metric"), k)), "unit": tables[0][k][0].unit, "groups": entries, "tests": [r for r in results if "p" in r],
                      "untested": [r for r in results if "why" in r]})
    return found


def _recipe(encoder):
    """What two runs of one recipe share: the config without its seed."""
    if "seed" not in encoder.config:
        return encoder.digest
    return json.dumps({k: v for k, v in encoder.config.items() if k != "seed"}, sort_keys=True, default=str)


class _Group(NamedTuple):
    """What a group has for a test. seeds: {training seed: value}. data: digests. intervals: of its rows, member by member."""
    seeds: dict
    data: set
    intervals: list


def _by_key(member):
    found = {}
    for table in member.tables:
        for row in table:
            found.setdefault(key(row), []).append(row)
    return {k: rows for k, rows in found.items() if len(rows) == len(member.tables)}


def _test(other, first):
    """other - first, paired over seeds or images; or why neither can be paired."""
    if len(other.data | first.data) > 1:
        return {"why": "they were measured on different images; give both the same --data"}
    common = [seed for seed in other.seeds if seed is not None and seed in first.seeds]
    if len(common) > 1:
        return {"over": "seeds", **bootstrap.paired_seeds([other.seeds[s] for s in common], [first.seeds[s] for s in common])._asdict()}
    intervals = other.intervals + first.intervals
    if any(getattr(i, "ids", None) is None for i in intervals):
        return {"why": "this measure has no outcome of single images to pair; give each recipe at least two training seeds"}
    if any(not np.array_equal(i.ids, intervals[0].ids) for i in intervals):
        return {"why": "their outcomes are not of the same images: some could not be decoded, or --set differs"}
    a, b = (np.mean([i.outcomes for i in group.intervals], axis=0) for group in (other, first))      # over members and seeds, which are equally many a member
    return {"over": "images", **bootstrap.paired(a, b, labels=intervals[0].labels)._asdict()}
