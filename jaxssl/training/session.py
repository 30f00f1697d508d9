"""One process's part in one run: state → restore → loop(step, log, save, evaluate) → re-open, digest, run.json."""
import contextlib
import hashlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxssl import data as datas, durations, tree
from jaxssl.workdir import checkpoint, writers
from jaxssl.workdir import folder as folders
from jaxssl.training import continued, evaluator as evaluation, job as jobs, monitor, patience, progress, rollback, room
from jaxssl.parallel import agreement, mesh as sharding, runtime
from jaxssl.errors import Interrupted, UserError


class Run(NamedTuple):
    """What is trained. start() gives the weights that a fresh state begins with (`encoder.initial.Start`), or None for those of the seed. resumed: the checkpoint that
    it goes on from, or None. name: of the run in its checkpoints."""
    config: Any
    workdir: str
    job: jobs.Job
    data: datas.Data
    start: Callable[[], Any]
    resumed: checkpoint.Found | None
    name: str


class Watch(NamedTuple):
    """Who looks on. stop: true once this process was asked to stop. profile: (first, last) steps of a profiler trace, or None. owned() raises UserError when the
    workdir is another run's by now."""
    stop: Any
    screen: progress.Progress
    watchdog: Any
    profile: tuple[int, int] | None
    owned: Callable[[], None]


def every(config: Any, job: jobs.Job) -> dict[str, int]:
    """Steps between two logs, evaluations and saves. Raises: UserError."""
    return {name: job.duration(config[name], name, config.batch_size) for name in ("log_every", "eval_every", "checkpoint_every")}


class Session:
    """One process's part in one run, from restore to run.json. `step` counts finished updates; `state` is the train state after them."""

    def __init__(self, run: Run, watch: Watch):
        self.config, self.workdir, self.job, self.data, self.start, self.resumed, self.name = run
        self.stop, self.screen, self.watchdog, profile, self.still_ours = watch
        config, job, workdir = self.config, self.job, self.workdir
        self.folder, self.leader = folders.path(workdir), jax.process_index() == 0
        self.trace = progress.Trace(profile, str(self.folder / "profile"), self.screen.note)
        self.every = every(config, job)
        self.writers = writers.Writers(workdir, process_index=jax.process_index(), **config.log)
        self.manager = checkpoint.open_manager(workdir=workdir, **config.checkpoint)
        self.newest: dict[str, float] = {}           # metrics of the newest step that was looked at; none yet in a run resumed at its last step
        self.pending: list[dict] = []                # device metrics of the steps since the last look
        self.overflown: list[str] = []               # arrays of the state that the last look found not finite
        self.skipped: list[int] = []                 # numbers of the batches left out after a rollback
        self.rollbacks = rollback.Rollbacks(self.folder, int(config.on_nonfinite.partition(":")[2] or 0), self.leader)
        self.early: dict = {}                        # why the run ended before its last step, for run.json
        self.flags, self.batches = [], None          # flags: stop flags of the last two steps

    # -- the run, in order ---------------------------------------------------------------------------------------------

    def train(self) -> dict:
        self.flops = self.job.flops()
        start = "\n".join([*self.data.said, jobs.describe(self.config, self.job)]) + "\n" + progress.describe_mfu(self.flops, self.job.mesh.size, jax.devices()[0].device_kind)
        self.screen.note(start)
        self.restore(self.resumed)
        self.trace.resumed(self.step)
        with self.watchdog.pause(), self.clock.pause("compile"):
            self.open_data()
            self.compile()
        self.writers.text(self.step, {"start": start, "parameters": jobs.parameter_table(self.job), **self.begun})
        try:
            return self.loop()
        except Interrupted:
            return self.leave()

    def loop(self) -> dict:
        self.first_look()
        if self.due("eval_every") and 0 < self.step < self.job.total:
            done = agreement.from_first(self.writers.logged(self.step, "rankme"))       # or the run was stopped in the middle of it
            if self.enough() if done else self.evaluate():
                return self.finish()
        while self.step < self.job.total:
            self.one_step()
            self.owned()
            last, stopping = self.step == self.job.total, self.asked_to_stop()
            # An evaluation counts as a save: a stop in the midst of it saves the state.
            saves = self.due("checkpoint_every") or self.due("eval_every") or last or stopping
            if (saves or self.due("log_every")) and not self.all_finite(state=saves):
                self.roll_back()
                continue
            if self.due("log_every") or last:
                self.log()
            if self.due("checkpoint_every") or last or stopping:
                self.save()
            if stopping and not last:
                return self.leave()
            if self.due("eval_every") and not last and self.evaluate():
                break
        return self.finish()

    def due(self, name: str) -> bool:
        return bool(self.every[name]) and self.step % self.every[name] == 0

    def leave(self) -> dict:
        """What is left to do when a stop was asked for."""
        with self.watchdog.pause():
            self.manager.wait()                      # of a save under way it is not known yet that it needs no other
            self.save()
            self.manager.wait()
        self.screen.note(f"{self.stop.signal or 'stop'}: saved step {self.step}; the same command resumes")
        return {"stopped": self.step}

    def restore(self, found: checkpoint.Found | None) -> None:
        """Goes on from a checkpoint, or from a fresh state of the seed with the weights of `init_from` in it."""
        self.step, self.begun, meta = 0, {}, {}
        if found:
            self.step, self.state, meta, bad = found
            for sentence in self.manager.set_aside(bad) if bad else ():
                self.screen.note(sentence)
            self.screen.note(f"resuming {self.workdir} at step {self.step}")
        else:
            self.state = self.fresh()
            if (start := self.start()) is not None:
                from jaxssl.encoder import initial
                self.state = initial.place(self.state, start, self.job.state_sharding)
                self.screen.note(start.note)
                self.begun = {"init_from": start.names}
        self.skipped = sorted({*meta.get("skipped", []), *self.rollbacks.skipped})
        self.clock = progress.Clock(batch_size=self.config.batch_size, total=self.job.total, state=meta.get("clock"))
        self.writers.truncate(self.step)

    def fresh(self):
        return self.job.init(np.asarray(jax.random.key_data(jax.random.key(self.config.seed))))

    def open_data(self) -> None:
        """Decodes a resident set, and starts the stream of batches at the current step."""
        store = datas.store(self.data, self.data.train) if self.data.resident else None
        evaluator = evaluation.make(data=self.data, store=store, mesh=self.job.mesh, **self.config.eval)
        self.monitor = monitor.Monitor(evaluator, self.job.embed, self.job.mesh, self.folder, self.stop)
        self.same = sharding.put(self.job.same(store), sharding.replicated(self.job.mesh))
        self.open_batches()

    def open_batches(self) -> None:
        if self.batches is not None:
            self.batches.close()
        self.batches = datas.batches(self.data, drawn=self.job.order, batch_size=self.config.batch_size, start_step=self.step, total_steps=self.job.total,
                                     process_index=jax.process_index(), process_count=jax.process_count(), skipped=self.skipped)
        self.ids = hashlib.sha256()                  # of the sample ids since the last logged step, whichever process read them
        logged = self.step - self.step % (self.every["log_every"] or self.job.total)
        for step in range(logged, self.step):
            self.count_ids(step)

    def compile(self) -> None:
        self.compiled, self.finite = self.job.executables()
        room.compiled(self.compiled, runtime.memory()[1], jax.local_device_count())
        self.screen.note("compiled")

    def one_step(self) -> None:
        self.trace.before(self.step)
        with self.clock.wait():
            step, batch = next(self.batches)
        assert step == self.step, (step, self.step)
        self.state, metrics = self.compiled[self.job.drawn(self.step)](self.state, self.to_device(batch))
        self.count_ids(self.step)
        if self.pending:
            jax.block_until_ready(self.pending[-1])  # one step runs while the next is prepared; more in flight would delay a stop
        self.pending.append(metrics)
        self.step += 1
        self.clock.step()
        self.watchdog.beat(self.step)
        self.trace.after(self.step, metrics)

    def finish(self) -> dict:
        """Final evaluation, the last checkpoint re-opened and compared, run.json."""
        with self.watchdog.pause(), self.clock.pause("eval"):
            scores = self.monitor.final(self.state)
        with self.watchdog.pause(), self.clock.pause("save"):
            self.manager.wait()
            digest = tree.digest(self.state)
            self.manager.verify(self.step, self.job.state, self.job.state_sharding, digest)
        self.report(scores)
        summary = self.clock.summary()
        scores = scores | self.monitor.untrained()
        result = {"steps": self.step, **self.early, "state_sha256": digest, **scores, **continued.below(scores), **summary,
                  "images_per_second_per_device": summary["images_per_second"] / self.job.mesh.size, "skipped_batches": self.skipped, "broken_images": len(self.data.broken),
                  "parameters": sum(x.size for x in jax.tree.leaves(self.job.state.params)), "flops_per_step": self.flops}
        result = folders.nulled(result)
        self.owned()
        folders.demand(self.workdir)
        if self.leader:
            folders.write(self.folder / "run.json", json.dumps(result, indent=1))
        self.screen.note(f"done: {self.step} steps in {durations.spoken(summary['wall_seconds'])}; the last checkpoint was re-opened and is intact; everything is in "
                         f"{self.workdir}")
        return result

    def owned(self) -> None:
        """Before anything is written. Raises: UserError when the workdir is another run's by now."""
        try:
            self.still_ours()
        except UserError:
            self.writers.abandon()
            raise

    def close(self) -> None:
        """Closes each of its parts, also where the system refuses one of them something."""
        with contextlib.ExitStack() as parts:            # the last one first
            for part in (self.manager, self.writers, self.batches):
                if part is not None:
                    parts.callback(part.close)
            parts.callback(self.trace.stop)

    # -- what happens between steps --------------------------------------------------------------------------------------

    def all_finite(self, *, state: bool) -> bool:
        """Looks at the metrics of every step since the last look; remembers the newest, and the first bad step if there is one.

        state: also look at every array of the state: a large rate or a running statistic may overflow while loss and gradient are finite. The newest
        step counts as the bad one then. All processes get the same answer.
        """
        first = self.step - len(self.pending)
        values = jax.device_get(self.pending)
        self.pending = []
        self.bad = next((first + i for i, m in enumerate(values) if not m["finite"]), None)
        self.monitor.saw(values)
        if values:
            self.newest = {k: float(v) for k, v in values[-1 if self.bad is None else self.bad - first].items()}
        self.overflown = []
        if self.bad is None and state:
            self.overflown = [name for name, good in zip(tree.names(self.state), np.asarray(self.finite(self.state))) if not good]
            self.bad = self.step - 1 if self.overflown else None
        return self.bad is None

    def log(self) -> None:
        rates = self.clock.rates(self.step)
        lr = float(self.job.optim.schedule(self.step - 1))
        epoch = self.step * self.config.batch_size / self.job.facts.examples
        used = progress.mfu(self.flops, rates.step_seconds, self.job.mesh.size, jax.devices()[0].device_kind)
        self.screen.update(self.step, progress.line(self.step, self.job.total, rates, devices=self.job.mesh.size, epoch=epoch, loss=self.newest["loss"], lr=lr, utilisation=used))
        self.writers.scalars(self.step, {**{k: v for k, v in self.newest.items() if k not in ("finite", "stop")}, "lr": lr, "epoch": epoch, "step_seconds": rates.step_seconds,
                                         "images_per_second": rates.images_per_second, "images_per_second_per_device": rates.images_per_second / self.job.mesh.size,
                                         "data_wait_share": rates.data_wait_share, **({} if used is None else {"mfu": used}), "ids_sha256": self.ids.hexdigest()})
        self.ids = hashlib.sha256()

    def first_look(self) -> None:
        """Scores of the untrained encoder, of the pixels and of the weights it began with, once per run; a fresh state is a pure function of the seed."""
        if not self.monitor.untrained():
            with self.watchdog.pause(), self.clock.pause("eval"):
                start = self.state if self.config.init_from and not self.step else None
                found = self.monitor.first(self.fresh() if self.step or start else self.state, start=start)
            self.screen.note(continued.first(found))
        if not self.step and (began := continued.began(self.monitor.untrained())) and not self.writers.logged(0, "rankme"):
            self.writers.scalars(0, began)

    def evaluate(self) -> bool:
        """Whether its scores end the run."""
        with self.watchdog.pause(), self.clock.pause("eval"):
            self.report(self.monitor.quick(self.state))
        return self.enough()

    def enough(self) -> bool:
        """Whether the evaluations so far end the run (`training.patience`)."""
        self.early = agreement.from_first(patience.early(self.writers.history, self.data.disjoint, **self.config.eval)) if self.config.eval.patience else {}
        if self.early:
            self.screen.note(f"step {self.step}: the run ends here, {patience.sentence(self.early)}")
        return bool(self.early)

    def report(self, scores: dict) -> None:
        """Shows and logs scores, with a warning for each sign of collapse."""
        self.owned()
        self.writers.scalars(self.step, scores)
        self.screen.note(f"step {self.step}: " + ", ".join(f"{k} {v:.3f}" for k, v in scores.items()))
        for warning in self.monitor.warnings(self.newest, scores, self.job):
            self.screen.note(f"warning: {warning}")

    def save(self) -> None:
        self.owned()
        folders.demand(self.workdir)
        with self.watchdog.pause(), self.clock.pause("save"):
            self.writers.flush()                     # a resume begins after this step, so nobody would write its rows again
            self.manager.save(self.step, self.state, {"skipped": self.skipped, "clock": self.clock.state(), "lr": float(self.job.optim.schedule(self.step)), "run": self.name})

    def asked_to_stop(self) -> bool:
        """Whether any process was asked to; all get the same answer at the same step, since the flag went through the step itself.

        With several processes it is the previous step's flag that is read: the newest step is still running.
        """
        if jax.process_count() == 1:
            return bool(self.stop)
        self.flags = [*self.flags[-1:], self.pending[-1]["stop"]]
        return len(self.flags) == 2 and bool(self.flags[0])

    def roll_back(self) -> None:
        """After a step whose loss, gradient or new state is not finite: dump it, then stop, or restore and skip its batch."""
        number = datas.batch_number(self.bad, self.skipped)
        ids = self.job.order(number)
        samples = {"sample_indices": ids.tolist(), "sample_ids": [self.data.train.entry(int(i))[1] for i in ids]} if self.leader else {}
        what = self.rollbacks.met(self.bad, number, self.newest, self.overflown, samples)
        self.screen.note(self.rollbacks.spend(what, self.manager.latest(), [*self.skipped, number]))
        self.trace.stop()
        self.manager.wait()
        clock = self.clock
        self.restore(self.manager.newest(self.job.state, self.job.state_sharding, total=self.job.total, run=self.name))
        self.clock = clock
        self.open_batches()

    def to_device(self, batch: dict) -> dict:
        batch = {**batch, "stop": np.full(jax.local_device_count(), bool(self.stop), np.int32)}
        named = sharding.put({name: batch[name] for name in self.job.batch if name not in self.same}, sharding.batch(self.job.mesh))
        return {**named, **self.same}

    def count_ids(self, step: int) -> None:
        number = datas.batch_number(step, self.skipped)
        self.ids.update(self.job.order(number).astype("<i8").tobytes())
