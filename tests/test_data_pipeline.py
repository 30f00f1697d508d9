"""Batches: resident and streamed are the same samples, for any number of workers and processes, from any step; workers end."""
import dataclasses
import logging
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxssl import data
from jaxssl.data import order, pipeline
from jaxssl.errors import UserError


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc"), reason="needs /proc to see the workers")


def children(pid=None):
    """The processes started by a process (this one by default), Python's resource tracker aside."""
    pid, found = pid or os.getpid(), []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat") as f:
                parent = int(f.read().rsplit(")", 1)[1].split()[1])
            with open(f"/proc/{entry}/cmdline") as f:
                if parent == pid and "spawn_main" in f.read():
                    found.append(int(entry))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


def running(pid):
    """What a process is doing, or "" if it has ended: one that nobody has waited for yet (Z) has, however long the machine's first process takes to do so."""
    try:
        with open(f"/proc/{pid}/status") as f:
            status = f.read()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if "State:\tZ" in status else status


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A class-labelled folder of 40 small images of several shapes."""
    path = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(40):
        folder = path / "abcd"[i % 4]
        folder.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (6 + i % 5, 14 - i % 7, 3), dtype=np.uint8)).save(folder / f"{i:02d}.png")
    return path


def made(root, **config):
    return data.make(**{"source": "folder", "path": str(root), "canvas": 10, "holdout": 0., "resident": "no", "workers": 0} | config)


def collect(d, **config):
    config = {"seed": 3, "batch_size": 8, "total_steps": 12} | config
    order = data.shuffled(config.pop("seed"), config["batch_size"], len(d.train))
    with data.batches(d, drawn=order, **config) as stream:
        return list(stream)


def same(a, b):
    assert len(a) == len(b)
    for (s, x), (t, y) in zip(a, b):
        assert s == t and x.keys() == y.keys() and all(np.array_equal(x[k], y[k]) and x[k].dtype == y[k].dtype for k in x)


def test_streamed_batches_are_what_they_say(root):
    d = made(root)
    for step, batch in collect(d):
        assert {k: (v.dtype.name, v.shape) for k, v in batch.items()} == {
            "image": ("uint8", (8, 10, 10, 3)), "size": ("int32", (8, 2)), "label": ("int32", (8,)), "id": ("int32", (8,))}
        assert type(batch["image"]) is np.ndarray and np.array_equal(batch["id"], order.ids(3, step, 8, 40))
        for row, index in enumerate(batch["id"]):
            image, label, _ = d.train.read(int(index))
            pixels, size = data.pipeline.sample(d.train, int(index), 10)[:2]
            assert batch["label"][row] == label and np.array_equal(batch["image"][row], pixels) and np.array_equal(batch["size"][row], size)


def test_resident_and_streamed_are_the_same(root):
    d = made(root, resident="yes")
    store = data.store(d, d.train)
    on_device = {k: jnp.asarray(v) for k, v in store.items()}
    look = jax.jit(data.lookup)
    streamed = collect(dataclasses.replace(d, resident=False))
    for (step, index), (other, batch) in zip(collect(d), streamed, strict=True):
        assert step == other and set(index) == {"index"} and index["index"].dtype == np.int32
        found = look({**index, "store": on_device})
        assert found.keys() == batch.keys()
        for key in batch:
            assert np.array_equal(found[key], batch[key]) and found[key].dtype == batch[key].dtype


def test_lookup_keeps_what_else_is_in_the_batch():
    store = {"image": np.arange(5), "label": np.arange(5) * 2}
    out = data.lookup({"index": np.array([4, 0]), "weight": np.ones(2), "store": store})
    assert out["image"].tolist() == [4, 0] and out["label"].tolist() == [8, 0] and out["weight"].tolist() == [1, 1] and not {"index", "store"} & set(out)


@pytest.mark.parametrize("resident", ["no", "yes"])
@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_each_batch(root, resident, count):
    d = made(root, resident=resident)
    whole = collect(d, total_steps=6)
    parts = [collect(d, total_steps=6, process_index=p, process_count=count) for p in range(count)]
    joined = [(s, {k: np.concatenate([p[i][1][k] for p in parts]) for k in b}) for i, (s, b) in enumerate(whole)]
    same(joined, whole)


@pytest.mark.parametrize("resident", ["no", "yes"])
def test_resume_at_every_step(root, resident):
    d = made(root, resident=resident)
    whole = collect(d)                                      # 96 samples: epoch 2 begins at step 10
    for start in (0, 1, 4, 5, 9, 11, 12):
        same(collect(d, start_step=start), whole[start:])


def test_skipped_batches(root):
    d = made(root, resident="yes")
    whole = collect(d, total_steps=15)
    skipping = collect(d, total_steps=12, skipped=(2, 5, 6))
    left = [b for s, b in whole if s not in (2, 5, 6)]
    same(skipping, list(enumerate(left[:12])))
    same(collect(d, total_steps=12, start_step=7, skipped=(2, 5, 6)), skipping[7:])
    same(collect(dataclasses.replace(d, resident=False), total_steps=3, skipped=(1,))[1:],
         [(s - 1, b) for s, b in collect(dataclasses.replace(d, resident=False), total_steps=4)][2:])


@needs_proc
def test_worker_processes_change_nothing(root):
    d = made(root)
    expected = collect(d, start_step=2)
    same(collect(dataclasses.replace(d, workers=2), start_step=2), expected)
    assert not children()


def test_a_batch_that_the_processes_cannot_share(root):
    with pytest.raises(UserError, match="batch_size=9 .* 2 processes"):
        collect(made(root), batch_size=9, process_count=2)


# Evaluation batches

@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("use_store", [False, True])
def test_eval_batches_cover_the_set_once_in_order(root, count, use_store):
    d = made(root)
    store = data.store(d, d.train) if use_store else None
    parts = [list(data.eval_batches(d, d.train, batch_size=12, process_index=p, process_count=count, store=store)) for p in range(count)]
    assert [len(p) for p in parts] == [4] * count
    batches = [{k: np.concatenate([p[i][k] for p in parts]) for k in parts[0][i]} for i in range(4)]
    assert all(b["mask"].shape == (12,) and b["mask"].dtype == bool and b["image"].shape == (12, 10, 10, 3) for b in batches)
    assert np.concatenate([b["id"][b["mask"]] for b in batches]).tolist() == list(range(40))
    for b in batches:
        for row in np.flatnonzero(b["mask"]):
            image, label, _ = d.train.read(int(b["id"][row]))
            assert label == b["label"][row] and np.array_equal(b["image"][row], pipeline.sample(d.train, int(b["id"][row]), 10)[0])


# Broken images

@pytest.fixture
def partly_broken(tmp_path):
    for i in range(100):
        (tmp_path / f"c{i % 2}").mkdir(exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(tmp_path / f"c{i % 2}/{i:03d}.png")
    for i in range(0, 60, 2):                               # 30 of 100, all of them first in the order of names
        (tmp_path / f"c0/{i:03d}.png").write_bytes(b"broken")
    return tmp_path


def test_broken_images_are_counted_named_and_replaced(partly_broken, caplog):
    d = made(partly_broken, max_broken=.4, canvas=4)
    with caplog.at_level(logging.WARNING, logger="jaxssl.data"):
        store = data.store(d, d.train)
    named = [r.message for r in caplog.records if r.message.startswith("broken image")]
    assert len(named) == pipeline.NAMED and "c0/000.png" in named[0] and "no JPEG, PNG, WEBP, BMP, GIF or TIFF file" in named[0]
    assert len(caplog.records) == pipeline.NAMED + 1
    replaced = np.flatnonzero(store["id"] != np.arange(100))
    assert replaced.tolist() == [i for i in range(100) if d.train.paths[i] in {f"c0/{k:03d}.png" for k in range(0, 60, 2)}]
    for row in range(100):                                  # image and label are those of the sample that `id` names
        used = int(store["id"][row])
        assert store["image"][row, 0, 0, 0] == int(d.train.paths[used][-7:-4]) and store["label"][row] == d.train.labels[used]


def test_every_path_takes_the_same_substitutes(partly_broken):
    d = made(partly_broken, max_broken=1., canvas=4)
    store = data.store(d, d.train)
    for workers in (0, 1):
        with data.batches(dataclasses.replace(d, workers=workers), drawn=data.shuffled(0, 50, len(d.train)), batch_size=50, total_steps=4) as stream:
            for step, batch in stream:
                indices = order.ids(0, step, 50, 100)
                assert all(np.array_equal(batch[k], store[k][indices]) for k in store)
            assert stream.tally.seen == 200 and len(stream.tally.broken) == 30      # each once, however often it is met


def test_broken_images_do_not_count_in_evaluation(partly_broken):
    d = made(partly_broken, max_broken=.5, canvas=4)
    for store in (None, data.store(d, d.train)):
        ids = np.concatenate([b["id"][b["mask"]] for b in data.eval_batches(d, d.train, batch_size=32, store=store)])
        assert len(ids) == 70 and len(set(ids.tolist())) == 70


def test_too_many_broken_images_stop_the_run(partly_broken):
    sentence = "of the first .* images .* cannot be decoded, more than data.max_broken=0.1 allows"
    d = made(partly_broken, max_broken=.1, canvas=4)
    with pytest.raises(UserError, match=sentence):
        data.store(d, d.train)
    with pytest.raises(UserError, match=sentence):
        collect(d)
    with pytest.raises(UserError, match=sentence):
        list(data.eval_batches(d, d.train, batch_size=10))
    assert len(collect(made(partly_broken, max_broken=.5, canvas=4))) == 12


def test_a_few_broken_images_at_the_start_do_not_stop_a_large_set():
    class Large:
        name, classes = "large", ()

        def __len__(self):
            return 5000

        def entry(self, index):
            return -1, str(index)

    tally = pipeline.Tally(Large(), .01)
    tally.add(20, [(i, "cut") for i in range(50)])          # 50 of the 5,000 may be broken, wherever they lie
    tally.add(20, [(9, "cut")])                             # met again: not counted again
    with pytest.raises(UserError):
        tally.add(20, [(51, "cut")])


def test_nothing_but_broken_images(tmp_path):
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(b"broken")
    for workers in (0, 1):
        with pytest.raises(UserError, match="in a row cannot be decoded"):
            collect(made(tmp_path, workers=workers, max_broken=1.))


def test_progress(root):
    seen = []
    d = made(root)
    data.store(d, d.train, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (40, 40)


def test_the_store_stops_soon_after_its_reader():
    """An interrupt does not wait for the rest of the set."""
    class Endless:
        name, classes = "endless", ()
        read_so_far = 0

        def __len__(self):
            return 10**6

        def read(self, index):
            self.read_so_far += 1
            return np.zeros((2, 2, 3), np.uint8), -1, str(index)

    def interrupt(done, total):
        raise KeyboardInterrupt

    source = Endless()
    with pytest.raises(KeyboardInterrupt):
        data.store(data.make(canvas=2, workers=2), source, progress=interrupt)
    assert source.read_so_far < 10_000


# Workers end

SCRIPT = """
import sys, time
from jaxssl import data
if __name__ == "__main__":
    made = data.make(source="folder", path=sys.argv[1], canvas=10, resident="no", workers=2, holdout=0.)
    if sys.argv[2] == "leave":              # an evaluation left half-way must be quiet too
        evaluation = data.eval_batches(made, made.train, batch_size=8)
        next(evaluation)
    stream = data.batches(made, drawn=data.shuffled(0, 8, len(made.train)), batch_size=8, total_steps=int(sys.argv[3]))
    for step, batch in stream:
        if step == 1:
            print("running", flush=True)
            if sys.argv[2] == "leave":
                break
            if sys.argv[2] == "raise":
                sys.exit(7)
            if sys.argv[2] == "wait":
                time.sleep(60)
"""


def script(tmp_path, root, mode, steps):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(data.__file__))))
    return subprocess.Popen([sys.executable, path, root, mode, str(steps)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=os.environ | {"PYTHONPATH": source})


@pytest.mark.parametrize("mode, steps, code", [("leave", 1000, 0), ("raise", 1000, 7), ("end", 5, 0)])
def test_no_noise_at_exit(tmp_path, root, mode, steps, code):
    process = script(tmp_path, root, mode, steps)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out, err) == (code, "running\n", "")


def test_what_a_worker_leaves_is_removed_in_silence():
    """A worker that is ended between making a batch and handing it over leaves shared memory to Python's tracker."""
    code = """
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from jaxssl.data import pipeline
pipeline._start_tracker()
print(SharedMemory(create=True, size=8).name, flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=os.path.dirname(os.path.dirname(os.path.dirname(data.__file__))))
    assert (done.returncode, done.stderr) == (0, "")
    assert not os.path.exists(f"/dev/shm/{done.stdout.strip()}")


@needs_proc
def test_a_killed_worker_is_one_sentence(root):
    d = made(root, workers=1)
    with data.batches(d, drawn=data.shuffled(0, 8, len(d.train)), batch_size=8, total_steps=10**6) as stream:
        next(stream)
        os.kill(children()[0], signal.SIGKILL)
        with pytest.raises(UserError, match="worker was killed.*data.workers.*shm-size"):
            for _ in stream:
                pass
    assert not children()


@needs_proc
def test_workers_outlive_signals_but_not_their_parent(tmp_path, root):
    process = script(tmp_path, root, "wait", 10**6)
    assert process.stdout.readline() == "running\n"
    workers = children(process.pid)
    assert len(workers) == 2
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    time.sleep(.5)
    assert children(process.pid) == workers
    process.kill()
    process.communicate(timeout=30)
    deadline = time.monotonic() + 60
    while (left := [state for pid in workers if (state := running(pid))]) and time.monotonic() < deadline:
        time.sleep(.1)
    assert not left
