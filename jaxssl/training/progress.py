"""How fast, how long still, the line that says so, and the profiler's trace."""
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax

from jaxssl import durations
from jaxssl.errors import shown

# Dense bf16 peak in FLOP/s of one JAX device, by the start of its lower-case device_kind, from the vendors' data sheets; the longest start wins.
# A TPU v2 or v3 device is one of a chip's two cores, and so is one of TPU7x.
PEAK_FLOPS = {
    "tpu v2": 22.5e12, "tpu v3": 61.5e12, "tpu v4": 275e12, "tpu v4 lite": 138e12, "tpu v5 lite": 197e12, "tpu v5e": 197e12, "tpu v5": 459e12,
    "tpu v5p": 459e12, "tpu v6 lite": 918e12, "tpu v6e": 918e12, "tpu7x": 1153.5e12,
    "nvidia a10": 125e12, "nvidia a10g": 70e12, "nvidia a100": 312e12, "nvidia a30": 165e12, "nvidia a40": 149.7e12, "nvidia rtx a6000": 154.8e12,
    "nvidia l4": 121e12, "nvidia l40": 181e12, "nvidia l40s": 362e12, "nvidia h100": 989.4e12, "nvidia h100 pcie": 756e12, "nvidia h200": 989.4e12,
    "nvidia gh200": 989.4e12, "nvidia b200": 2250e12, "nvidia gb200": 2500e12, "nvidia geforce rtx 3090": 71e12, "nvidia geforce rtx 4090": 165.2e12,
}


def peak_flops(device_kind: str) -> float | None:
    """Peak bf16 FLOP/s of one device; None when the kind is not known (a CPU, a new card)."""
    words = device_kind.lower().replace("-", " ").split()
    for end in range(len(words), 0, -1):
        if (peak := PEAK_FLOPS.get(" ".join(words[:end]))) is not None:
            return peak
    return None


def mfu(flops_per_step: float, step_seconds: float, devices: int, device_kind: str) -> float | None:
    """Model FLOPs utilisation in [0, 1]: FLOPs of one step ÷ (seconds per step × devices × peak FLOP/s of a device); None where the peak is unknown.

    `flops_per_step` counts the whole global batch, on all devices together, without rematerialisation (Chowdhery et al. 2022, PaLM, appendix B).
    """
    peak = peak_flops(device_kind)
    if not peak or step_seconds <= 0 or flops_per_step <= 0:
        return None
    return flops_per_step / (step_seconds * devices * peak)


def describe_mfu(flops_per_step: float, devices: int, device_kind: str) -> str:
    """The FLOPs of a step and the formula of `mfu` with its numbers."""
    peak = peak_flops(device_kind)
    known = f"{peak / 1e12:g} TFLOP/s, the bf16 peak of {device_kind}" if peak else f"peak FLOP/s; that of {device_kind} is not known, so MFU is n/a"
    giga = flops_per_step / 1e9
    return (f"arithmetic: {f'{giga:,.0f}' if giga >= 100 else f'{giga:.3g}'} GFLOP a step (products and convolutions of the loss and its gradient; "
            f"what model.remat repeats counts once); MFU = FLOPs a step ÷ (seconds a step × {devices} devices × {known})")


class Rates(NamedTuple):
    """One window's figures. images_per_second counts images of the global batch; step_seconds is nan before the first step; shares are in [0, 1]."""
    images_per_second: float
    step_seconds: float
    data_wait_share: float
    eta_seconds: float


class Clock:
    """Counts steps, training seconds, data-wait seconds and pauses; what it counted survives a restart through `state` and `state=`.

    Training time is wall time minus pauses (compile, evaluation, saving), so rate and ETA are free of them. The wait for data is training time.
    Steps run asynchronously: call `rates` where the host has just read a metric of the newest step.
    """

    def __init__(self, *, batch_size: int, total: int, state: dict[str, Any] | None = None, now: Callable[[], float] = time.monotonic):
        self._now, self._batch, self._total = now, batch_size, total
        self._before = {"wall": 0.0, "wait": 0.0, "steps": 0, "paused": {}} | (state or {})
        self._start = self._mark = now()
        self._steps = self._mark_steps = 0
        self._wait = self._mark_wait = self._mark_paused = 0.0
        self._paused: dict[str, float] = {}
        self._depth = 0

    def step(self, count: int = 1) -> None:
        """`count` steps were started."""
        self._steps += count

    @contextmanager
    def pause(self, why: str) -> Iterator[None]:
        """Time in here is not training time; `why` ("compile", "eval", "save") sums it up. Inside another pause it belongs to the outer one."""
        start, self._depth = self._now(), self._depth + 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self._paused[why] = self._paused.get(why, 0.0) + self._now() - start

    @contextmanager
    def wait(self) -> Iterator[None]:
        """Time in here was spent waiting for the next batch. A device that is still busy meanwhile makes it an upper bound of what is lost."""
        start = self._now()
        try:
            yield
        finally:
            self._wait += self._now() - start

    def rates(self, step: int) -> Rates:
        """Figures since the last call (since the start at the first); the ETA, to `total` from `step`, uses this process's mean."""
        now, paused = self._now(), sum(self._paused.values())
        busy, steps = now - self._mark - (paused - self._mark_paused), self._steps - self._mark_steps
        share = (self._wait - self._mark_wait) / busy if busy > 0 else 0.0
        self._mark, self._mark_steps, self._mark_paused, self._mark_wait = now, self._steps, paused, self._wait
        mean = (now - self._start - paused) / self._steps if self._steps else float("nan")
        return Rates(steps * self._batch / busy if busy > 0 else 0.0, busy / steps if steps else float("nan"), min(share, 1.0), (self._total - step) * mean)

    def summary(self) -> dict[str, float]:
        """Over the whole run, restarts included: images_per_second, data_wait_share, wall_seconds, train_seconds, and <why>_seconds of each pause."""
        state = self.state()
        busy = state["wall"] - sum(state["paused"].values())
        return {
            "images_per_second": state["steps"] * self._batch / busy if busy > 0 else 0.0, "data_wait_share": min(state["wait"] / busy, 1.0) if busy > 0 else 0.0,
            "wall_seconds": state["wall"], "train_seconds": busy, **{f"{why}_seconds": seconds for why, seconds in sorted(state["paused"].items())},
        }

    def state(self) -> dict[str, Any]:
        """JSON-able totals over all restarts: keep them with the checkpoint and hand them to the next Clock."""
        old = self._before["paused"]
        paused = {why: old.get(why, 0.0) + self._paused.get(why, 0.0) for why in old | self._paused}
        return {
            "wall": self._before["wall"] + self._now() - self._start, "wait": self._before["wait"] + self._wait, "steps": self._before["steps"] + self._steps,
            "paused": paused,
        }


def line(step: int, total: int, rates: Rates, *, devices: int, epoch: float, loss: float, lr: float, utilisation: float | None) -> str:
    """`step 1200/5000 24 % | epoch 4.8 | loss 5.123 | lr 0.3 | 1,234 images/s (617/device) | MFU 41 % | wait 2 % | ETA 12 min`."""
    used = "n/a" if utilisation is None else f"{100 * utilisation:.0f} %"
    speed = rates.images_per_second
    return (
        f"step {step}/{total} {100 * step // max(total, 1)} % | epoch {epoch:.1f} | loss {loss:.4g} | lr {lr:.3g} | {_count(speed)} images/s "
        f"({_count(speed / devices)}/device) | MFU {used} | wait {100 * rates.data_wait_share:.0f} % | ETA {durations.spoken(rates.eta_seconds)}"
    )


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


class Progress:
    """Shows the newest line: a bar that stays in place on a terminal, plain lines otherwise; silent when `active` is False (processes other than 0)."""

    def __init__(self, total: int, *, active: bool = True):
        self._active, self._total, self._bar = active, total, None
        if active and sys.stdout.isatty():
            from rich.progress import BarColumn, Progress as Bar, TextColumn
            self._bar = Bar(BarColumn(bar_width=16), TextColumn("{task.description}", markup=False))
            self._task = self._bar.add_task("starting", total=total)
            self._bar.start()

    def update(self, step: int, text: str) -> None:
        """Shows `text` as the state at `step`."""
        if self._bar:
            self._bar.update(self._task, completed=step, description=shown(text))
        else:
            self.note(text)

    def note(self, text: str) -> None:
        """Lasting lines: a warning, an evaluation's result. Nothing in them acts on the terminal; an empty text is none."""
        text = "\n".join(map(shown, text.split("\n")))
        if not text:
            return
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False)
        elif self._active:
            print(text, flush=True)

    def close(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None
        self._active = False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class Trace:
    """A profiler trace of the steps [first, last), written into `folder`; `steps` None leaves every call without effect.

    It begins with the first of those steps that this process runs and ends with the last one, or where the run does.
    """

    def __init__(self, steps: tuple[int, int] | None, folder: str, note: Callable[[str], None]):
        self._first, self._last = steps or (0, 0)
        self._folder, self._note, self._since = folder, note, None

    def resumed(self, step: int) -> None:
        """Says so when every step to trace lies before `step`, where the run begins."""
        if 0 < self._last <= step:
            self._note(f"warning: --profile_steps {self._first}:{self._last} lies before step {step}, where this run goes on; no trace is written")

    def before(self, step: int) -> None:
        """Step number `step` is about to start."""
        if self._since is None and self._first <= step < self._last:
            jax.profiler.start_trace(self._folder)
            self._since = self._step = step

    def after(self, step: int, result: Any) -> None:
        """`step` steps were started; the newest one gives `result`."""
        if self._since is not None:
            self._step = step
            if step >= self._last:
                jax.block_until_ready(result)
                self.stop()

    def stop(self) -> None:
        """Ends and writes a trace that is under way."""
        if self._since is not None:
            jax.profiler.stop_trace()
            self._note(f"profile of steps {self._since} to {self._step} written to {self._folder}")
            self._since = None
