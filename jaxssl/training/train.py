"""run(): config → mesh → data → job → agreement → workdir → session (restore → loop → re-open, digest, run.json)."""
import functools
import json
from typing import Any

import jax

from jaxssl import config as configs, data as datas
from jaxssl.workdir import published, writers
from jaxssl.workdir import folder as folders
from jaxssl.training import evaluator as evaluation, job as jobs, progress
from jaxssl.parallel import agreement, mesh as sharding
from jaxssl.errors import UserError
from jaxssl.training.session import Run, Session, Watch
from jaxssl.training.watchdog import Stop, Watchdog


def run(spec: str, overrides: dict[str, str], workdir: str, *, allow_config_change: bool = False, profile_steps: tuple[int, int] | None = None) -> dict:
    """Trains `spec` with `overrides` in `workdir`, resuming what is there, and returns what run.json holds.

    profile_steps: (first, last) steps of a profiler trace. Stopped by SIGTERM it saves and returns {"stopped": step}.
    Raises: UserError for wrong input, before anything is compiled; NonFiniteError.
    """
    with Stop() as stop:                             # from here on a signal is kept, and honoured between two batches
        config, data, job, new = agreement.reach(functools.partial(prepare, spec, overrides, workdir, profile_steps), functools.partial(facts, allow_config_change))
        agreement.shared(folders.path(workdir))
        start, leader = functools.cache(functools.partial(beginning, config, job)), jax.process_index() == 0

        def claim():
            if new:
                start()                              # what cannot begin is refused before the workdir is claimed
            stated = published.of(spec, config) if new else None
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
            session = Session(Run(config=config, workdir=workdir, job=job, data=data, start=start), Watch(stop=stop, screen=screen, watchdog=watchdog, profile=profile_steps))
            try:
                result = session.train()
            finally:
                session.close()
            if leader and config.report and "stopped" not in result:
                write_report(workdir, screen, watchdog)
            return result


def prepare(spec: str, overrides: dict[str, str], workdir: str, profile_steps: tuple[int, int] | None) -> tuple[Any, datas.Data, jobs.Job, bool]:
    """(config, data, job, whether `workdir` has no run yet). Raises: UserError for wrong input, before anything is compiled or written."""
    config = configs.load(spec, overrides)
    mesh = sharding.make_mesh(devices=jax.devices(), **config.mesh)
    data = datas.make(**config.data)
    job = jobs.prepare(config, mesh, jobs.Facts(len(data.train), len(data.classes), data.canvas, data.resident, data.sides))
    check(config, data, job, profile_steps)
    return config, data, job, not (folders.path(workdir) / "config.json").exists()


def facts(allow_config_change: bool, prepared: tuple) -> dict:
    """What must be the same in every process, as JSON."""
    config, data, *_ = prepared
    return {"config": json.loads(configs.describe(config)), "data": data.images, "allow_config_change": allow_config_change}


def check(config: Any, data: Any, job: jobs.Job, profile_steps: tuple[int, int] | None) -> None:
    """What would otherwise be noticed only once the workdir is claimed or a program compiled. Raises: UserError."""
    writers.check(process_index=jax.process_index(), **config.log)
    evaluation.make(data=data, store=None, mesh=job.mesh, **config.eval)
    if profile_steps and profile_steps[0] >= job.total:
        raise UserError(f"--profile_steps is {profile_steps[0]}:{profile_steps[1]}, but the run has {job.total} steps, numbered from 0; begin before step {job.total}")


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
        start = initial.read(config.init_from, state=job.state, heads=tuple(job.method.heads), config=config, allow_missing=config.init_allow_missing)
    for place, path in job.method.loads.items():
        start = initial.add(start, place, path, state=job.state)
    return start
