"""run(): config → mesh → data → job → agreement → workdir → session (restore → loop → re-open, digest, run.json)."""
import functools
import json
import os
from typing import Any

import jax

from jaxssl import config as configs, data as datas
from jaxssl.workdir import environment, published, writers
from jaxssl.workdir import folder as folders
from jaxssl.training import evaluator as evaluation, job as jobs, progress, room
from jaxssl.parallel import agreement, mesh as sharding, runtime
from jaxssl.errors import UserError
from jaxssl.training.session import Run, Session, Watch
from jaxssl.training.watchdog import Stop, Watchdog


def run(spec: str, overrides: dict[str, str], workdir: str, *, allow_config_change: bool = False, profile_steps: tuple[int, int] | None = None) -> dict:
    """Trains `spec` with `overrides` in `workdir`, resuming what is there, and returns what run.json holds.

    profile_steps: (first, last) steps of a profiler trace. Stopped by SIGTERM it saves and returns {"stopped": step}.
    Raises: UserError for wrong input, before anything is compiled; NonFiniteError.
    """
    with Stop() as stop:                             # from here on a signal is kept, and honoured between two batches
        config, data, job, new, stated = agreement.reach(functools.partial(prepare, spec, overrides, workdir, profile_steps), functools.partial(facts, allow_config_change))
        start, leader = functools.cache(functools.partial(beginning, config, job)), jax.process_index() == 0

        def claim():
            if new:
                start()                              # what cannot begin is refused before the workdir is claimed
            found = folders.claim(workdir, configs.describe(config), data.images, described=data.described, total=job.total, allow_change=allow_config_change,
                                  leader=leader)
            if leader:
                published.keep(workdir, stated, new=new)
            return found
        former = agreement.reach(claim)
        if former and former["steps"] >= job.total:
            print(f"{workdir} is finished ({former['steps']} steps); nothing to do. Use another workdir for another run.", flush=True)
            return former
        if former and leader:
            folders.set_aside(workdir, former)
        with progress.Progress(job.total, active=leader) as screen, Watchdog(config.stall_seconds, workdir, process_index=jax.process_index()) as watchdog:
            if not new:
                screen.note(surroundings(workdir))
            session = Session(Run(config=config, workdir=workdir, job=job, data=data, start=start), Watch(stop=stop, screen=screen, watchdog=watchdog, profile=profile_steps))
            try:
                result = session.train()
            finally:
                session.close()
            if leader and config.report and "stopped" not in result:
                write_report(workdir, screen, watchdog)
            return result


def prepare(spec: str, overrides: dict[str, str], workdir: str, profile_steps: tuple[int, int] | None) -> tuple[Any, datas.Data, jobs.Job, bool, dict | None]:
    """(config, data, job, whether `workdir` has no run yet, what is published for it then). Raises: UserError for wrong input, before anything is compiled or written."""
    file = configs.opened(spec)                      # executed once
    config = configs.load(file, overrides)
    mesh = sharding.make_mesh(devices=jax.devices(), **config.mesh)
    data = datas.make(**config.data)
    known, memory = jobs.Facts(len(data.train), len(data.classes), data.canvas, data.resident, data.sides), runtime.memory()
    room.ask(config, known, memory)
    job = jobs.prepare(config, mesh, known)
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
    for name in ("log_every", "eval_every", "checkpoint_every"):
        job.duration(config[name], name, config.batch_size)
    writers.check(process_index=jax.process_index(), **config.log)
    evaluation.make(data=data, store=None, mesh=job.mesh, **config.eval)
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
        start = initial.read(os.path.expanduser(config.init_from), state=job.state, heads=tuple(job.method.heads), config=config, allow_missing=config.init_allow_missing)
    for place, path in job.method.loads.items():
        start = initial.add(start, place, path, state=job.state)
    return start
