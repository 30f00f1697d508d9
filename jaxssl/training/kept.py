"""Programs that one run leaves to the next in the same process, where they would be the same: of a study's trials most differ by numbers that travel into the step."""
import functools
import json
from collections.abc import Collection
from typing import Any

import jax
from jax.sharding import Mesh

from jaxssl import config as configs
from jaxssl.training import checks, job as jobs, mixed

# Sections that tell a run what to read, keep and write, and not what to compute: what is computed of the data is in `jobs.Facts`.
BESIDE = ("data", "log", "checkpoint", "eval", "seed", "log_every", "eval_every", "checkpoint_every", "report", "stall_seconds", "on_nonfinite", "init_from", "init_allow_missing",
          "init_channels")


class Kept:
    """`prepare` as `jobs.prepare`; keeps the newest job, and gives its programs, compiled ones too, to a run that differs from it by `BESIDE`, and by the values of
    `Job.numbers` alone. What a run refuses by itself is refused as ever."""

    def __init__(self):
        self._former = None

    def prepare(self, config: Any, mesh: Mesh, facts: jobs.Facts, varied: Collection[str] = ()) -> jobs.Job:
        """Raises: UserError."""
        former = self._former
        if former is None or former["same"] != _told(config, mesh, facts, varied, former["job"].numbers):
            job = jobs.prepare(config, mesh, facts, varied)
            self._former = {"job": job, "same": _told(config, mesh, facts, varied, job.numbers), "init": None}
            return job
        if former["init"] is None:                   # asked once there is a second run, which a run by itself does not pay for
            former["init"] = _plain(former["job"], config, mesh, facts)
        return _again(former["job"], config, mesh, facts, init=former["init"])


def _told(config, mesh, facts, varied, numbers):
    """All that the programs of a run are made from, but for `numbers`, as something that can be compared; None where one of those is no number here."""
    said = {key: value for key, value in json.loads(configs.describe(config)).items() if key not in BESIDE}
    for path in numbers:
        holder, key = _held(said, path)
        if not isinstance(holder.get(key), float) or path.startswith("optim.rules.") and not holder[key]:
            return None
        holder[key] = None
    ends = config.optim.weight_decay_end not in (None, config.optim.weight_decay)        # whether the decay moves, which numbers say
    return said, mesh, facts._replace(order=None, sides=()), tuple(sorted(varied)), tuple(numbers), ends


def _again(former, config, mesh, facts, *, init):
    """The job of a run whose programs a former one has. init: that of the former too, or it is traced anew."""
    for each in mixed.configured(config)[1]:
        checks.config(each, mesh, facts)
    total, _ = jobs.schedule(config, facts)
    encoder, method = jobs.method_of(config, mesh, facts, total)
    checks.needs(config, facts, encoder, method.needs)
    optimizer = jobs.optimizer_of(config, facts, former.state.params)
    fresh = former._replace(facts=facts, optim=optimizer, numbers={path: float(_value(config, path)) for path in former.numbers},
                            drawn=mixed.drawn(config.seed, former.sizes), order=jobs.ordered(config, facts),
                            embedding=functools.cache(functools.partial(jobs.embedding_width, method, former.state, former.seen)))
    return fresh if init else fresh._replace(init=jobs.initial(config, jobs.watched(method, facts, encoder), optimizer.tx, former.seen, former.state_sharding, mesh))


def _plain(job, config, mesh, facts):
    """Whether none of the numbers reaches the first state."""
    at = {section: [path for path in job.numbers if path.startswith(f"{section}.")] for section in ("method", "optim")}

    def init(values, key):
        of = {section: {path.partition(".")[2]: values[path] for path in paths} for section, paths in at.items()}
        encoder, method = jobs.method_of(config, mesh, facts, job.total, numbers=of["method"])
        params, aux = jobs.watched(method, facts, encoder).init(key, jobs.zeros(jobs.few(config, job.seen)))
        tx = jobs.optimizer_of(config, facts, job.state.params, numbers=of["optim"]).tx
        return params, aux, tx.init(params)
    values = {path: jax.ShapeDtypeStruct((), "float32") for path in job.numbers}
    try:
        traced = jax.make_jaxpr(init)(values, jax.eval_shape(jax.random.key, 0)).jaxpr
    except Exception:                                # it asks for the value itself, so it reads one
        return False
    reached = set(map(id, traced.invars[:len(values)]))
    for eqn in traced.eqns:
        if any(id(x) in reached for x in eqn.invars):
            reached |= set(map(id, eqn.outvars))
    return not any(id(x) in reached for x in traced.outvars)


def _held(config, path):
    """Where a config has the number at a path of `Job.numbers`: (mapping, key); ({}, key) of a rule that it does not have."""
    section, _, name = path.partition(".")
    if section == "optim" and name.startswith("rules."):
        _, place, key = name.split(".")
        rules = config["optim"]["rules"]
        return rules[int(place)][1] if int(place) < len(rules) else {}, key
    return config[section], name


def _value(config, path):
    holder, key = _held(config, path)
    return holder[key]
