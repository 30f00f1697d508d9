"""The only file that knows where metrics go: metrics.jsonl always, TensorBoard, wandb where asked. No TensorFlow.

metrics.jsonl is one object per call of `scalars`, valid JSON on every line: {"step": 1200, "time": seconds since 1970, "loss": 5.12, …};
a number that is not finite is the string "nan", "inf" or "-inf" (`float()` reads it back). Each line is flushed when it is written.

A bucket (gs://…) has no append, so everything is written to a local folder and copied over at most every `UPLOAD` seconds and at the end;
that needs the bucket's file system package (`pip install gcsfs` for gs://).
"""
import json
import logging
import math
import numbers
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxssl.workdir import folder as workdirs
from jaxssl.errors import UserError, system

log = logging.getLogger("jaxssl.workdir")

UPLOAD = 30.0  # seconds between two copies into a bucket


class Writers:
    """Writes scalars, images and text of one run; processes other than 0 write nothing.

    Args:
      workdir: the run's folder; files are metrics.jsonl, tb/, images/, text/.
      tensorboard: also write TensorBoard events to tb/.
      wandb: also log to Weights & Biases (project `WANDB_PROJECT`, else jaxssl); a resumed run goes on under its old id.
      process_index: this process's number.
    Raises: UserError when wandb is asked for and not installed, or the bucket's file system is missing.
    """

    def __init__(self, workdir: str, *, tensorboard: bool = True, wandb: bool = False, process_index: int = 0):
        self._active = process_index == 0
        self._tb = self._run = self._lines = self._mirror = None
        self._tensorboard, self._purge = tensorboard, None
        if not self._active:
            return
        self._mirror = Mirror(str(workdir)) if "://" in str(workdir) else None
        self._folder = self._mirror.local if self._mirror else workdirs.path(str(workdir))
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = self._folder / "metrics.jsonl"
        if self._mirror:
            self._mirror.fetch("metrics.jsonl", "wandb.txt")
        self.truncate(None)
        if wandb:
            self._run = _wandb(self._folder / "wandb.txt")

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl. Numbers may be Python's, NumPy's or JAX's scalars; strings (a digest) go to metrics.jsonl and wandb only."""
        if not self._active:
            return
        plain = {name: _plain(name, value) for name, value in values.items()}
        record = {"step": int(step), "time": round(time.time(), 3), **{k: _finite(v) for k, v in plain.items()}}
        if self._lines is None:
            self._lines = open(self._file, "a", encoding="utf-8")
        self._lines.write(json.dumps(record, allow_nan=False) + "\n")
        self._lines.flush()
        figures = {k: v for k, v in plain.items() if not isinstance(v, str)}
        if events := self._events():
            for name, value in figures.items():
                events.add_scalar(name, value, step)
        if self._run:
            self._run.log({"step": step, **plain})
        self._upload()

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Each image, uint8 [H, W, 3], as images/<name>_<step>.png, to TensorBoard and wandb."""
        if not self._active:
            return
        from PIL import Image
        for name, image in images.items():
            file = self._folder / "images" / f"{_file_name(name)}_{step:08d}.png"
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(np.asarray(image)).save(file)
            if events := self._events():
                events.add_image(name, np.asarray(image), step, dataformats="HWC")
            if self._run:
                import wandb
                self._run.log({"step": step, name: wandb.Image(str(file))})
        self._upload()

    def text(self, step: int, texts: Mapping[str, str]) -> None:
        """Each text as text/<name>.txt (the newest one stays), to TensorBoard as preformatted text, to wandb's summary."""
        if not self._active:
            return
        for name, text in texts.items():
            file = self._folder / "text" / f"{_file_name(name)}.txt"
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
            if events := self._events():
                events.add_text(name, "    " + text.replace("\n", "\n    "), step)
            if self._run:
                self._run.summary[name] = text
        self._upload()

    def truncate(self, step: int | None) -> None:
        """Forgets what was logged after `step`: call it with the restored step, before the first `scalars`.

        Lines of later steps, and a last line that a kill tore, leave metrics.jsonl in one atomic rewrite; TensorBoard is told to hide later events.
        `None` drops torn lines only.
        """
        if not self._active:
            return
        self._close_files()
        self._purge = None if step is None else step + 1
        if not self._file.exists():
            return
        lines = self._file.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = [line for line in lines if (record := _record(line)) and (step is None or record["step"] <= step)]
        text = "".join(line + "\n" for line in kept)
        if text.encode() != self._file.read_bytes():
            workdirs.write(self._file, text)

    def logged(self, step: int, name: str) -> bool:
        """Whether metrics.jsonl has a line of `step` that holds `name`; False on processes other than 0."""
        return any(at == step for at, _ in self.history(name))

    def history(self, name: str) -> list[tuple[int, float | None]]:
        """(step, value) of every line of metrics.jsonl that holds `name`, in order; [] on processes other than 0."""
        return history(self._file, name) if self._active else []

    def flush(self) -> None:
        """Everything written so far is on its way to disk, and in the bucket where there is one."""
        if self._tb:
            self._tb.flush()
        if self._mirror:
            self._mirror.send()

    def close(self) -> None:
        """Flushes and closes every writer; a second call does nothing."""
        self._close_files()
        if self._run:
            self._run.finish()
            self._run = None
        if self._mirror:
            self._mirror.send()
            self._mirror.remove()
            self._mirror = None
        self._active = False

    def abandon(self) -> None:
        """Nothing more leaves this process: what a bucket holds is another run's by now."""
        if self._mirror:
            self._mirror.remove()
            self._mirror = None
        self._active = False

    def _events(self):
        """The TensorBoard writer, opened at the first event so that a run that logs nothing leaves no empty file."""
        if self._tensorboard and self._tb is None:
            import tensorboardX
            self._tb = tensorboardX.SummaryWriter(str(self._folder / "tb"), purge_step=self._purge, flush_secs=30)
            events = self._tb.file_writer.event_writer
            events._ev_writer = events._worker._record_writer = Patient(events._ev_writer)
        return self._tb

    def _close_files(self) -> None:
        for writer in (self._lines, self._tb):
            if writer is not None:
                writer.close()
        self._lines = self._tb = None

    def _upload(self) -> None:
        if self._mirror and time.monotonic() - self._mirror.sent > UPLOAD:
            self.flush()


class Patient:
    """TensorBoard's file as its thread knows it, where a full disk is no end: the thread would die of it, and whoever has an event for it would wait for ever.

    What is refused is left out, and said once. metrics.jsonl has the same numbers, and fails aloud.
    """

    def __init__(self, file: Any):
        self._file, self._refused = file, False

    def __getattr__(self, name: str) -> Any:
        action = getattr(self._file, name)

        def attempt(*arguments):
            try:
                return action(*arguments)
            except OSError as error:
                if not self._refused:
                    log.warning("warning: %s; TensorBoard's events are not complete", system(error))
                self._refused = True
        return attempt


class Mirror:
    """A local folder whose changed files are copied to `remote` (an address that etils.epath opens).

    Raises: UserError when the address's file system package is missing or refuses.
    """

    def __init__(self, remote: str):
        self.remote, self.sent, self._seen = workdirs.path(remote), time.monotonic(), {}
        try:
            self.remote.mkdir(parents=True, exist_ok=True)
        except ImportError as error:
            raise UserError(f"workdir {remote} needs one more package: {error}; for gs:// run: pip install gcsfs") from error
        self.local = Path(tempfile.mkdtemp(prefix="jaxssl-"))

    def fetch(self, *names: str) -> None:
        for name in names:
            if (self.remote / name).exists():
                (self.local / name).write_bytes((self.remote / name).read_bytes())

    def send(self) -> None:
        """Copies each file that changed since the last call, whole."""
        self.sent = time.monotonic()
        for file in sorted(self.local.rglob("*")):
            stat = file.stat()
            if file.is_file() and self._seen.get(file) != (stat.st_size, stat.st_mtime_ns):
                target = self.remote / str(file.relative_to(self.local))
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read_bytes())
                self._seen[file] = (stat.st_size, stat.st_mtime_ns)

    def remove(self) -> None:
        shutil.rmtree(self.local, ignore_errors=True)


def check(*, wandb: bool, process_index: int, **_: Any) -> None:
    """What `Writers` would refuse, before the workdir is touched. Raises: UserError."""
    if wandb and process_index == 0:
        package = _import_wandb()
        try:
            package.login()                          # asks on a terminal; without a network when offline or disabled
        except package.Error as error:
            raise UserError(f"log.wandb is on, but nobody is logged in ({str(error).splitlines()[0]}); run `wandb login`, set WANDB_API_KEY, set WANDB_MODE=offline, "
                            "or set --config.log.wandb=false") from error


def _plain(name: str, value: Any) -> int | float | str:
    """A Python number or string. Raises: TypeError for anything else, such as an array of several numbers."""
    if isinstance(value, str):
        return value
    array = np.asarray(value)
    if array.size != 1 or not isinstance(item := array.item(), numbers.Real):
        raise TypeError(f"metric {name} must be one number or a string; got {type(value).__name__} of shape {array.shape}")
    return int(item) if isinstance(item, (bool, int)) else item


def _finite(value: int | float | str) -> int | float | str:
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)


def history(file: Any, name: str) -> list[tuple[int, Any]]:
    """(step, value) of every line of a metrics.jsonl that holds `name`, in order; torn lines are left out, and [] where there is no such file."""
    records = map(_record, file.read_text(encoding="utf-8", errors="replace").splitlines()) if file.exists() else ()
    return [(record["step"], record[name]) for record in records if record and name in record]


def _record(line: str) -> dict | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name).lstrip(".")


def _wandb(file: Path):
    """The wandb run whose id `file` holds, or a new one whose id is kept there."""
    wandb = _import_wandb()
    known = file.read_text().strip() if file.exists() else None
    run = wandb.init(project=os.environ.get("WANDB_PROJECT", "jaxssl"), id=known, resume="allow")
    run.define_metric("*", step_metric="step")  # its own step must never go back; after a resume ours does
    file.write_text(run.id)
    return run


def _import_wandb():
    try:
        import wandb
    except ImportError:
        raise UserError("log.wandb is on, but wandb is not installed; run: pip install wandb, or set --config.log.wandb=false") from None
    return wandb
