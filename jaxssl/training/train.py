"""run(): config → mesh → data → job → agreement → workdir → newest checkpoint → session (loop → re-open, digest, run.json)."""
import contextlib
import dataclasses
import functools
import json
import os
import uuid
from collections.abc import Collection
from typing import Any, NamedTuple

import jax

from jaxssl import config as configs, data as datas
from jaxssl.workdir import checkpoint, environment, lease as leases, published, writers
from jaxssl.workdir import folder as folders
from jaxssl.training import evaluator as evaluation, job as jobs, monitor, patience, pixels, progress, rollback, room
from jaxssl.parallel import agreement, mesh as sharding, runtime
from jaxssl.errors import UserError
from jaxssl.training.kept import Kept
from jaxssl.training.session import Run, Session, Watch, every
from jaxssl.training.watchdog import Stop, Watchdog


def run(spec: str, overrides: dict[str, str], workdir: str, *, allow_config_change: bool = False, profile_steps: tuple[int, int] | None = None,
        varied: Collection[str] = (), kept: Kept | None = None) -> dict:
    """Trains `spec` with `overrides` in `workdir`, resuming what is there, and returns what run.json holds.

    profile_steps: (first, last) steps of a profiler trace. varied: keys that a study varies (`jobs.prepare`). kept: programs of the run before.
    Stopped by SIGTERM it saves and returns {"stopped": step}.
    Raises: UserError for wrong input, before anything is compiled; NonFiniteError.
    """
    with Stop() as stop, contextlib.ExitStack() as ends:     # from here on a signal is kept, and honoured between two batches
        ready = functools.partial(prepare, spec, overrides, workdir, profile_steps, varied, kept)
        config, data, job, new, stated = agreement.reach(ready, functools.partial(facts, allow_config_change))
        start, leader = functools.cache(functools.partial(beginning, config, job)), jax.process_index() == 0
        if new:
            agreement.reach(start)                   # what cannot begin is refused before the workdir is touched
        agreement.shared(folders.path(workdir), functools.partial(folders.make, workdir))
        lease = agreement.reach(lambda: leases.take(workdir) if leader else None)
        if lease:
            ends.callback(lease.release)
        # Nothing but the lease is written before all that can be refused has been looked at.
        looked = agreement.reach(functools.partial(look, config, data, job, workdir, allow_config_change), lambda looked: {"checkpoints": looked.steps})
        found = looked.claim
        resumed = agreement.reach(lambda: newest(workdir, job, looked))
        screen = ends.enter_context(progress.Progress(job.total, active=leader))
        for sentence in found.said:
            screen.note(sentence)
        if found.finished:
            early = f", where it ended early: {patience.sentence(found.former)}" if folders.ended_early(found.former) else ""
            print(f"{workdir} is finished ({found.former['steps']} steps{early}); nothing to do. Use another workdir for another run.", flush=True)
            return found.former
        run = found.run or (resumed and resumed.meta.get("run")) or uuid.uuid4().hex

        def claim():
            if leader:
                folders.claim(workdir, found, run, data.kept)
                published.keep(workdir, stated, new=new)
        agreement.reach(claim)
        if not new:
            screen.note(surroundings(workdir))
        watchdog = ends.enter_context(Watchdog(config.stall_seconds, workdir, process_index=jax.process_index()))
        session = Session(Run(config=config, workdir=workdir, job=job, data=data, start=start, resumed=resumed, name=run),
                          Watch(stop=stop, screen=screen, watchdog=watchdog, profile=profile_steps, owned=lease.check if lease else lambda: None))
        try:
            result = session.train()
        finally:
            session.close()
        if leader and config.report and "stopped" not in result:
            write_report(workdir, screen, watchdog)
        return result


class Looked(NamedTuple):
    """What a workdir is to a run, told without reading an array. steps: of the checkpoints there."""
    claim: folders.Claim
    steps: list[int]


def look(config: Any, data: datas.Data, job: jobs.Job, workdir: str, allow_config_change: bool) -> Looked:
    """Raises: UserError for all that can refuse this run there, but for the arrays of checkpoints. Writes nothing."""
    steps, seam = [], ""
    if reader := checkpoint.open_reader(workdir):
        with contextlib.closing(reader):
            steps, seam = reader.steps(), rates(reader, job)
    claim = folders.look(workdir, configs.describe(config), data.images, described=data.described, total=job.total, allow_change=allow_config_change, seam=seam)
    if seam and not (allow_config_change or claim.finished):
        raise UserError(f"workdir {workdir} belongs to a run with another schedule{seam}; use another workdir, or --allow_config_change to go on with the new rate")
    if claim.former and not claim.finished and not steps:
        raise UserError(f"workdir {workdir} holds a run of {claim.former['steps']} steps, but none of its checkpoints; restore its folder checkpoints from a copy, or "
                        "use another workdir")
    if seam and not claim.finished:
        claim.said.append(f"note: another schedule than before{seam}")
    place = folders.path(workdir)
    if not claim.finished and "data.json" not in claim.texts and (sentence := data.rewritten(folders.readable(place / "data.json") or {})):
        claim.said.append(sentence)
    rollback.known(place), monitor.known(place)
    return Looked(claim, steps)


def newest(workdir: str, job: jobs.Job, looked: Looked) -> checkpoint.Found | None:
    """The checkpoint that a run goes on from, read and compared; None when it begins. Raises: UserError."""
    if looked.claim.finished or not looked.steps:
        return None
    with contextlib.closing(checkpoint.open_reader(workdir)) as reader:
        return reader.newest(job.state, job.state_sharding, total=job.total, run=looked.claim.run)


def rates(reader: checkpoint.Manager, job: jobs.Job) -> str:
    """What the learning rate does where the run goes on, when it is not what the run that saved the newest checkpoint would have gone on with; else ""."""
    for step in reader.steps():
        try:
            before = reader.record(step).meta.get("lr")
        except UserError:                            # `newest` looks at it again
            continue
        now = float(job.optim.schedule(step))
        if before is None or abs(now - before) <= 1e-5 * max(abs(now), abs(before)):
            return ""
        times = f", {now / before:.4g} times as high" if before else ""
        return f"; at step {step}, where it goes on, the learning rate jumps from {before:.4g} to {now:.4g}{times}"
    return ""


def prepare(spec: str, overrides: dict[str, str], workdir: str, profile_steps: tuple[int, int] | None,
            varied: Collection[str] = (), kept: Kept | None = None) -> tuple[Any, datas.Data, jobs.Job, bool, dict | None]:
    """(config, data, job, whether `workdir` has no run yet, what is published for it then). Raises: UserError for wrong input, before anything is compiled or written."""
    file = configs.opened(spec)                      # executed once
    config = configs.load(file, overrides)
    mesh = sharding.make_mesh(devices=jax.devices(), **config.mesh)
    if config.data.split == datas.CLASS_DISJOINT and config.data.test_split == "test":
        raise UserError("data.test_split='test' would look at the classes of the test while training; leave it out, so that the classes of validation are held out, and give it to "
                        "jaxssl.evaluate at the end (--data.test_split=test)")
    data = datas.make(**config.data)
    config, told = pixels.settled(config, data)
    data = dataclasses.replace(data, said=(*data.said, *told))
    known = jobs.Facts(len(data.train), len(data.classes), data.canvas, data.resident, data.sides, data.order, data.pixels.channels, data.pixels.depth)
    memory = runtime.memory()
    room.ask(config, known, memory)
    job = (kept.prepare if kept else jobs.prepare)(config, mesh, known, varied)
    room.state(job, config, memory[1])
    check(config, data, job, profile_steps)
    new = not (folders.path(workdir) / "config.json").exists()
    return config, data, job, new, published.of(file, config) if new else None


def facts(allow_config_change: bool, prepared: tuple) -> dict:
    """What must be the same in every process, as JSON."""
    config, data, *_ = prepared
    return {"config": json.loads(configs.describe(config)), "data": data.images, "allow_config_change": allow_config_change}


def check(config: Any, data: Any, job: jobs.Job, profile_steps: tuple[int, int] | None) -> None:
    """What would otherwise be noticed only once the workdir is claimed or a program compiled. Raises: UserError."""
    job.embedding()                                  # traces the loss, which may refuse
    writers.check(process_index=jax.process_index(), **config.log)
    evaluation.make(data=data, store=None, mesh=job.mesh, **config.eval)
    patience.check(config.eval.patience, config.eval.watch, disjoint=data.disjoint, labelled=data.test is not None and bool(data.classes), every=every(config, job),
                   total=job.total, keep_last=config.checkpoint.keep_last)
    if profile_steps and profile_steps[0] >= job.total:
        raise UserError(f"--profile_steps is {profile_steps[0]}:{profile_steps[1]}, but the run has {job.total} steps, numbered from 0; begin before step {job.total}")


def surroundings(workdir: str) -> str:
    """What of this process's surroundings keeps a resumed run from being the same to the bit; "" for nothing."""
    file = folders.path(workdir) / "environment.json"
    try:
        return environment.changed(folders.read_json(file) or {}, environment.now())
    except (ValueError, OSError, UserError):
        return f"note: {file} cannot be read, so it is not known whether this resume is bit for bit"


def write_report(workdir: str, screen: progress.Progress, watchdog: Watchdog) -> None:
    """report.html in the workdir. What it trips over is said, and does not undo a finished run; several processes cannot read a checkpoint by one alone."""
    command = f"python -m jaxssl.report {workdir}"
    if jax.process_count() > 1:
        return screen.note(f"a page about this run: {command}")
    from jaxssl import report
    try:
        with watchdog.pause():
            screen.note(f"report: {report.write(workdir)}")
    except Exception as error:
        screen.note(f"warning: the report was not written ({type(error).__name__}: {error}); {command} tries again")


def beginning(config: Any, job: jobs.Job) -> Any:
    """The weights of `init_from` and of the method's `loads` (an `encoder.initial.Start`), or None. Raises: UserError when this run cannot begin with them."""
    if not (config.init_from or job.method.loads):
        return None
    from jaxssl.encoder import initial               # the readers of other formats are imported only when there is something to read
    start = None
    if config.init_from:
        start = initial.read(os.path.expanduser(config.init_from), state=job.state, heads=tuple(job.method.heads), config=config,
                             allow_missing=config.init_allow_missing, channels=config.init_channels)
    for place, path in job.method.loads.items():
        start = initial.add(start, place, path, state=job.state)
    return start
