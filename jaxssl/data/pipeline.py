"""From a source to batches: resident (the set lives on the device, only indices travel) or streamed through Grain."""
import collections
import contextlib
import gc
import logging
import os
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jaxssl.data import order
from jaxssl.data.decode import RGB, pixels_of, sample
from jaxssl.errors import UserError, shown

log = logging.getLogger("jaxssl.data")
NAMED = 20          # broken images named in the log
_CHUNK = 64
_AHEAD = 256        # tasks waiting for a pool of threads


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Tally:
    """Keeps the broken images met in one pass, each once, names the first, and stops the run when they are more than `max_broken` of the whole set.

    `known`: (set, id) of the broken images met in any pass (`Data.broken`); those are not named again, and the ones met here join them.
    """

    def __init__(self, source, max_broken: float, known: set | None = None, fate: str = "another one takes its place"):
        self.source, self.max_broken, self.fate = source, max_broken, fate
        self.seen, self.broken, self.known = 0, set(), set() if known is None else known

    def add(self, seen: int, broken):
        """`broken`: [(index, reason)] met while `seen` rows were read, of which some may be padding or come again. Raises UserError above the share."""
        self.seen += seen
        for index, reason in broken:
            if index in self.broken:
                continue
            self.broken.add(index)
            name = self.source.entry(index)[1]
            if (self.source.name, name) in self.known:
                continue
            self.known.add((self.source.name, name))
            if len(self.known) <= NAMED:
                log.warning("broken image %s: %s; %s", shown(name), shown(reason), self.fate)
            if len(self.known) == NAMED:
                log.warning("further broken images are counted, not named")
        n = len(self.source)
        if len(self.broken) > self.max_broken * n:
            raise UserError(f"{len(self.broken):,} of the first {max(len(self.broken), min(self.seen, n)):,} images of {shown(self.source.name)} cannot be decoded, more than "
                            f"data.max_broken={self.max_broken:g} allows of its {n:,}; see them with `python -m jaxssl.data inspect`, mend them, or raise data.max_broken.")


def store(data, source, *, progress=None, prepare=None) -> dict[str, np.ndarray]:
    """The whole of `source`, decoded once: image uint8 [N,S,S,3] (or as `decode.Pixels` say), size int32 [N,2], label int32 [N], id int32 [N].

    `id` is the sample shown at that place: the place itself, or its substitute where the image is broken.
    `progress(done, total)` is called now and then. prepare: see `decode.canvas`.
    """
    n, tally = len(source), Tally(source, data.max_broken, data.broken)
    out = _empty(n, data.canvas, pixels_of(source))

    def fill(chunk):
        indices = range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, n))
        return indices, _fill(out, source, data.canvas, indices, indices.start, prepare)

    with ThreadPoolExecutor(data.workers or cores()) as pool, contextlib.closing(ahead(pool, fill, -(-n // _CHUNK))) as filled:
        for indices, broken in filled:
            tally.add(len(indices), broken)
            if progress is not None:
                progress(indices.stop, n)
    return out


def ahead(pool, work, n: int):
    """`work(i)` for i in range(n), in order, computed by the threads of `pool`, few enough at a time to stop soon when the reader does."""
    waiting = collections.deque(pool.submit(work, i) for i in range(min(n, _AHEAD)))
    try:
        for index in range(len(waiting), n + len(waiting)):
            yield waiting.popleft().result()
            if index < n:
                waiting.append(pool.submit(work, index))
    finally:
        for task in waiting:
            task.cancel()


def lookup(batch: dict) -> dict:
    """The samples of a batch: taken from its resident `store` by `index` int32 [B] (inside jit), or as they came."""
    if "store" not in batch:
        return batch
    rest = {k: v for k, v in batch.items() if k not in ("index", "store")}
    return {k: v[batch["index"]] for k, v in batch["store"].items()} | rest


def _empty(n, canvas, pixels=RGB):
    return {"image": np.zeros((n, canvas, canvas, pixels.channels), pixels.depth), "size": np.zeros((n, 2), np.int32),
            "label": np.zeros(n, np.int32), "id": np.zeros(n, np.int32)}


def _fill(out, source, canvas, indices, at=0, prepare=None):
    """Writes the samples `indices` into the rows of `out` from `at`; returns [(index, reason)] of the broken ones."""
    found = []
    for row, index in enumerate(indices, at):
        out["image"][row], out["size"][row], out["label"][row], out["id"][row], broken = sample(source, int(index), canvas, prepare)
        found += broken
    return found


class _Batch:
    """Batch number -> host batch: what a Grain worker computes. `indices(number)` -> int64 [B] gives the samples."""

    def __init__(self, source, canvas, indices, prepare=None):
        self.source, self.canvas, self.indices, self.prepare = source, canvas, indices, prepare

    def __call__(self, number):
        indices = self.indices(int(number))
        out = _empty(len(indices), self.canvas, pixels_of(self.source))
        return out | {"broken": _fill(out, self.source, self.canvas, indices, prepare=self.prepare)}


class _Training:
    """step -> this process's samples of that step's batch."""

    def __init__(self, drawn, rows, skipped):
        self.drawn, self.rows, self.skipped = drawn, rows, tuple(skipped)

    def __call__(self, step):
        return self.drawn(order.batch_number(step, self.skipped), self.rows)


class _InOrder:
    """Batch number -> this process's samples of the in-order batch; past the end, the last sample again."""

    def __init__(self, batch_size, n, rows):
        self.batch_size, self.n, self.rows = batch_size, n, rows

    def __call__(self, number):
        return np.minimum(self.positions(number), self.n - 1)

    def positions(self, number):
        return number * self.batch_size + np.arange(self.batch_size, dtype=np.int64)[self.rows]


def rows_of(batch_size: int, process_index: int, process_count: int) -> slice:
    """The rows of the global batch that belong to a process."""
    if batch_size < 1 or batch_size % process_count:
        raise UserError(f"batch_size={batch_size} cannot be divided among {process_count} processes; choose a multiple of {process_count}.")
    if not 0 <= process_index < process_count:
        raise ValueError(f"process {process_index} of {process_count}")
    part = batch_size // process_count
    return slice(process_index * part, (process_index + 1) * part)


class Batches:
    """Iterator of (step, host batch). `close()` ends the workers; so do exhaustion, an error and leaving a `with`."""

    def __init__(self, steps, elements, tally):
        self._steps, self.tally = steps, tally
        self._elements = [elements]
        # Left open, the workers end before the interpreter takes itself apart, not in the middle of it.
        self._end = weakref.finalize(self, _release, self._elements)

    def __iter__(self):
        return self

    def __next__(self):
        try:
            step = next(self._steps)
            element = next(self._elements[0])
            if "broken" in element:
                self.tally.add(len(element["label"]), element.pop("broken"))
            # Copied, since arrays from a worker are shared memory that must not outlive it.
            return step, {k: np.array(v) for k, v in element.items()}
        except BaseException as error:
            self.close()
            if isinstance(error, RuntimeError) and "terminated unexpectedly" in str(error):
                raise UserError("A data worker was killed, most likely for want of memory, or of /dev/shm in a container; "
                                "lower data.workers or batch_size, or give the container more (docker run --shm-size).") from error
            raise

    def close(self):
        self._steps = iter(())
        self._end()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _release(elements: list):
    """Ends the iterator in the list and lets go of it; Grain's iterators hold one another in cycles, and complain when found at exit."""
    if hasattr(elements[0], "close"):
        elements[0].close()
    elements.clear()
    gc.collect()
    _flush_shared_memory()


def _flush_shared_memory():
    """Waits for Grain's background thread to free what was just let go: at exit it would be cut short, and the memory leak."""
    module = sys.modules.get("grain._src.python.ipc.shared_memory_array")
    pool = getattr(getattr(module, "SharedMemoryArray", None), "_del_thread_pool", None)
    if pool is not None:
        pool.apply(int)     # it takes its work in order, so a task that does nothing comes back after the rest


def batches(data, *, drawn: order.Order, batch_size: int, total_steps: int, start_step: int = 0, process_index: int = 0,
            process_count: int = 1, skipped=()) -> Batches:
    """The training batches of the steps [start_step, total_steps): this process's rows of each global batch.

    Resident data give {"index": int32 [B]} for `lookup`; streamed data give image, size, label and id. Step t takes the
    t-th batch number that is not in `skipped`, and its samples are `drawn(number, rows)`: the order does not depend on the processes,
    and resuming needs the step alone.
    """
    source = data.train
    rows = rows_of(batch_size, process_index, process_count)
    indices = _Training(drawn, rows, skipped)
    steps, tally = range(start_step, total_steps), Tally(source, data.max_broken, data.broken)
    if data.resident:
        elements = ({"index": indices(step).astype(np.int32)} for step in steps)
    else:
        elements = _stream(_Batch(source, data.canvas, indices), steps, data.workers)
    return Batches(iter(steps), elements, tally)


def eval_batches(data, source, *, batch_size: int, process_index: int = 0, process_count: int = 1, store: dict | None = None, prepare=None):
    """`source` once, in order, in batches of fixed size, each process its own rows: image, size, label, id, mask bool [B].

    `mask` is False where the row is padding or its image is broken: do not count it. Every process gets the same number
    of batches. With `store`, the decoded set, nothing is read again. prepare: see `decode.canvas`; a function of a module without JAX, as decoding processes import it.
    """
    n, rows = len(source), rows_of(batch_size, process_index, process_count)
    indices, tally = _InOrder(batch_size, n, rows), Tally(source, data.max_broken, data.broken, fate="it is left out")
    numbers = range(-(-n // batch_size))
    if store is None:
        elements = _stream(_Batch(source, data.canvas, indices, prepare), numbers, data.workers)
    else:
        elements = ({k: v[indices(number)] for k, v in store.items()} for number in numbers)
    return _masked(Batches(iter(numbers), elements, tally), indices)


def _masked(stream, indices):
    with stream:
        for number, batch in stream:
            yield batch | {"mask": batch["id"] == indices.positions(number)}


def _stream(load, numbers: range, workers: int):
    """`load(number)` for each number, in order, computed ahead: in `workers` processes, or in threads of this one if 0."""
    import grain
    from absl import flags
    if not len(numbers):
        return iter(())
    if not flags.FLAGS.is_parsed():         # outside a command line, Grain would refuse to read its own flags
        flags.FLAGS.mark_as_parsed()
    workers = min(workers, len(numbers))
    threads = 0 if workers else min(cores(), len(numbers))
    dataset = grain.MapDataset.source(numbers).map(load)
    stream = dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads))
    if workers:
        _start_tracker()
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        stream = stream.mp_prefetch(options, worker_init_fn=_start_worker)
    return iter(stream)


def _start_tracker():
    """Starts Python's tracker of shared memory, unless it runs: it removes what an ended worker had made and not handed over.

    That is how workers end here, so it must not warn of it. It is a process of its own and knows no filters but those of its command line.
    """
    import multiprocessing.resource_tracker
    quiet = "ignore:resource_tracker:UserWarning"
    sys.warnoptions.append(quiet)
    try:
        multiprocessing.resource_tracker.ensure_running()
    finally:
        sys.warnoptions.remove(quiet)


def _start_worker(index, count):
    """In a worker: leave the signals of the terminal and of the scheduler to the parent, and go when it goes, however it goes."""
    import multiprocessing
    import signal
    import threading
    from multiprocessing.connection import wait
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

    def follow():
        wait([multiprocessing.parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True, name=f"data worker {index} of {count}").start()
