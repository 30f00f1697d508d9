"""Metrics on disk, the clock's arithmetic, the watchdog and the stop flag."""
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl.workdir import folder as workdirs
from jaxssl.training import progress
from jaxssl.errors import UserError
from jaxssl.durations import spoken
from jaxssl.training.progress import Clock, Progress, Rates, line, mfu, peak_flops
from jaxssl.training.watchdog import Stop, Watchdog
from jaxssl.workdir.writers import Mirror, Writers


def lines(folder):
    def strict(word):
        raise AssertionError(f"{word} is not JSON")
    return [json.loads(text, parse_constant=strict) for text in (folder / "metrics.jsonl").read_text().splitlines()]


def test_scalars_are_valid_json_and_flushed_line_by_line(tmp_path):
    writers = Writers(str(tmp_path), tensorboard=False)
    writers.scalars(1, {"loss": jnp.float32(0.5), "n": np.int64(3), "bad": float("nan"), "worse": jnp.array([-jnp.inf]), "ids": "ab12"})
    record = lines(tmp_path)[0]  # before close: it is on disk
    assert record.pop("time") == pytest.approx(time.time(), abs=60)
    assert record == {"step": 1, "loss": 0.5, "n": 3, "bad": "nan", "worse": "-inf", "ids": "ab12"}
    assert math.isnan(float(record["bad"]))
    with pytest.raises(TypeError, match="metric loss must be one number"):
        writers.scalars(2, {"loss": np.zeros(2)})
    writers.close()
    writers.close()
    assert not (tmp_path / "tb").exists()


def test_truncate_drops_later_and_torn_lines(tmp_path):
    writers = Writers(str(tmp_path), tensorboard=False)
    for step in (10, 20, 30):
        writers.scalars(step, {"loss": step})
    writers.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "lo')  # a kill in mid-write
    resumed = Writers(str(tmp_path), tensorboard=False)
    assert [r["step"] for r in lines(tmp_path)] == [10, 20, 30]
    resumed.truncate(20)
    resumed.scalars(21, {"loss": 1})
    resumed.close()
    assert [r["step"] for r in lines(tmp_path)] == [10, 20, 21]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl"]


def test_other_processes_write_nothing(tmp_path):
    writers = Writers(str(tmp_path / "run"), process_index=1)
    writers.scalars(1, {"loss": 1})
    writers.images(1, {"views": np.zeros((4, 4, 3), np.uint8)})
    writers.text(1, {"table": "x"})
    writers.truncate(0)
    writers.close()
    assert not (tmp_path / "run").exists()


def test_tensorboard_events_images_and_text(tmp_path):
    """Read back with tensorboardX's own protobufs: TensorFlow is not needed to check either."""
    from tensorboardX.proto.event_pb2 import Event
    writers = Writers(str(tmp_path))
    writers.truncate(4)
    writers.scalars(5, {"loss": 2.5, "ids": "ab"})
    writers.images(5, {"aug/views": np.full((4, 6, 3), 200, np.uint8)})
    writers.text(5, {"parameters": "a\nb"})
    writers.close()
    (file,) = (tmp_path / "tb").iterdir()
    data, events = file.read_bytes(), []
    while data:
        size = int.from_bytes(data[:8], "little")
        events.append(Event.FromString(data[12:12 + size]))
        data = data[16 + size:]
    values = {v.tag: v for e in events if e.step == 5 for v in e.summary.value}
    assert values["loss"].simple_value == 2.5 and "ids" not in values
    assert (values["aug/views"].image.height, values["aug/views"].image.width) == (4, 6)
    assert any(e.session_log.status == e.session_log.START and e.step == 5 for e in events)  # hides what an earlier life wrote from step 5 on
    from PIL import Image
    assert Image.open(tmp_path / "images" / "aug_views_00000005.png").size == (6, 4)
    assert (tmp_path / "text" / "parameters.txt").read_text() == "a\nb"


def test_wandb_only_if_asked_and_kept_across_resume(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb"):
        Writers(str(tmp_path), wandb=True)

    calls = []

    class Run:
        id, summary = "abc", {}
        log = staticmethod(lambda record: calls.append(record))
        define_metric = finish = staticmethod(lambda *_, **__: None)

    fake = type(sys)("wandb")
    fake.init = lambda **how: calls.append(how) or Run
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for _ in range(2):
        writers = Writers(str(tmp_path), tensorboard=False, wandb=True)
        writers.scalars(3, {"loss": 1.0})
        writers.close()
    assert [c["id"] for c in calls if "id" in c] == [None, "abc"]
    assert {"step": 3, "loss": 1.0} in calls


def test_bucket_is_mirrored(tmp_path, monkeypatch):
    """A bucket stands in for a folder: what counts is that files arrive whole, once, and that a resume fetches them."""
    bucket = tmp_path / "bucket"
    monkeypatch.setattr(workdirs, "path", lambda _: bucket)
    for expected in ([1], [1, 2]):
        writers = Writers("gs://bucket/run", tensorboard=False)
        writers.scalars(expected[-1], {"loss": 1})
        writers.images(1, {"views": np.zeros((2, 2, 3), np.uint8)})
        writers.flush()
        assert [r["step"] for r in lines(bucket)] == expected
        local = writers._folder
        writers.close()
        assert not local.exists()
    assert (bucket / "images" / "views_00000001.png").exists()
    mirror = Mirror("gs://bucket/run")
    (mirror.local / "a").write_text("1")
    mirror.send()
    (bucket / "a").write_text("untouched")
    mirror.send()
    assert (bucket / "a").read_text() == "untouched"
    mirror.remove()


def test_bucket_without_its_package_is_a_sentence():
    if subprocess.run([sys.executable, "-c", "import gcsfs"], capture_output=True).returncode == 0:
        pytest.skip("gcsfs is installed here")
    with pytest.raises(UserError, match="pip install gcsfs"):
        Writers("gs://some-bucket/run")


class Time:
    def __init__(self):
        self.t = 100.0

    def __call__(self):
        return self.t


def test_clock_leaves_out_compile_and_evaluation():
    now = Time()
    clock = Clock(batch_size=64, total=100, now=now)
    with clock.pause("compile"):
        now.t += 50
    for _ in range(10):
        with clock.wait():
            now.t += 0.5
        now.t += 1.5
        clock.step()
    assert clock.rates(10) == Rates(images_per_second=32.0, step_seconds=2.0, data_wait_share=0.25, eta_seconds=180.0)
    with clock.pause("eval"):
        now.t += 7
        with clock.pause("compile"):  # inside the evaluation: counted once
            now.t += 3
    for _ in range(10):
        now.t += 1
        clock.step()
    second = clock.rates(20)
    assert (second.images_per_second, second.step_seconds, second.data_wait_share, second.eta_seconds) == (64.0, 1.0, 0.0, 80 * 1.5)
    empty = clock.rates(20)
    assert empty.images_per_second == 0 and math.isnan(empty.step_seconds)
    assert clock.summary() == {
        "images_per_second": 20 * 64 / 30, "data_wait_share": 5 / 30, "wall_seconds": 90.0, "train_seconds": 30.0, "compile_seconds": 50.0, "eval_seconds": 10.0,
    }


def test_clock_survives_a_restart():
    now = Time()
    first = Clock(batch_size=8, total=30, now=now)
    first.step(10)
    now.t += 10
    with first.pause("eval"):
        now.t += 5
    state = json.loads(json.dumps(first.state()))
    now.t += 1000  # the machine was away
    second = Clock(batch_size=8, total=30, state=state, now=now)
    with second.pause("compile"):
        now.t += 5
    second.step(10)
    now.t += 20
    assert second.rates(20).eta_seconds == 20.0  # this life's 2 s a step, not the first one's 1 s
    summary = second.summary()
    assert (summary["wall_seconds"], summary["train_seconds"], summary["eval_seconds"], summary["compile_seconds"]) == (40.0, 30.0, 5.0, 5.0)
    assert summary["images_per_second"] == 20 * 8 / 30


def test_line_and_duration():
    text = line(1200, 5000, Rates(1234.4, 0.2, 0.021, 720.0), devices=2, epoch=4.81, loss=5.1234, lr=0.3, utilisation=0.412)
    assert text == "step 1200/5000 24 % | epoch 4.8 | loss 5.123 | lr 0.3 | 1,234 images/s (617/device) | MFU 41 % | wait 2 % | ETA 12 min"
    assert "MFU n/a" in line(1, 5, Rates(1, 1, 0, 1), devices=1, epoch=0, loss=float("nan"), lr=0, utilisation=None)
    assert [spoken(s) for s in (0, 89, 720, 12000, 187200, float("nan"))] == ["0 s", "89 s", "12 min", "3 h 20 min", "2 d 4 h", "n/a"]


def test_mfu_and_peaks():
    assert mfu(197e12 * 8, 2.0, 8, "TPU v5 lite") == 0.5
    assert mfu(1e12, 1.0, 1, "cpu") is None
    names = {
        "TPU v2": 22.5e12, "TPU v5": 459e12, "TPU v5e": 197e12, "TPU v6 lite": 918e12, "NVIDIA A100-SXM4-40GB": 312e12, "NVIDIA H100 80GB HBM3": 989.4e12,
        "NVIDIA H100 PCIe": 756e12, "NVIDIA H200": 989.4e12, "NVIDIA L40S": 362e12, "NVIDIA A1000": None,
    }
    assert {name: peak_flops(name) for name in names} == names


def test_progress_prints_plain_lines_without_a_terminal(capsys):
    with Progress(10) as shown:
        shown.update(1, "one [bold]")
        shown.note("a warning")
    with Progress(10, active=False) as silent:
        silent.update(1, "nothing")
    assert capsys.readouterr().out == "one [bold]\na warning\n"


def test_progress_on_a_terminal_keeps_brackets(capsys, monkeypatch):
    monkeypatch.setattr(progress.sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with Progress(10) as shown:
        shown.update(3, "loss 1 [/oops] 30 %")
        shown.note("kept [0]")
    out = capsys.readouterr().out
    assert "[/oops]" in out and "kept [0]" in out


def test_watchdog_dumps_stacks_once_and_keeps_waiting(tmp_path, capfd):
    def stuck_in_here(event):
        event.wait(10)

    release = threading.Event()
    helper = threading.Thread(target=stuck_in_here, args=(release,))
    helper.start()
    with Watchdog(0.3, str(tmp_path), process_index=3) as dog:
        with dog.pause():
            time.sleep(0.6)
        assert not (tmp_path / "stall-3.txt").exists()  # compiling takes longer than a step
        dog.beat(7)
        time.sleep(0.8)
    release.set()
    helper.join()
    stacks, err = (tmp_path / "stall-3.txt").read_text(), capfd.readouterr().err
    assert "after step 7" in stacks and "stuck_in_here" in stacks and "test_watchdog_dumps" in stacks
    assert "likely causes" in err and err.count("stuck_in_here") == 1 and err.count("still waiting") >= 2


def test_a_save_that_never_ends_is_told(tmp_path, capfd):
    with Watchdog(0.1, str(tmp_path)) as dog:
        dog.beat(4)
        with dog.pause():
            time.sleep(0.9)
    assert "after step 4, compiling, evaluating or saving" in (tmp_path / "stall-0.txt").read_text() and "still waiting" in capfd.readouterr().err


def test_watchdog_is_quiet_while_steps_come_and_when_off(tmp_path, capfd):
    with Watchdog(0.4, str(tmp_path)) as dog, Watchdog(0.0, str(tmp_path)):
        for step in range(8):
            dog.beat(step)
            time.sleep(0.1)
    assert not list(tmp_path.iterdir()) and capfd.readouterr().err == ""


def test_stop_catches_one_signal_and_restores():
    before = signal.getsignal(signal.SIGTERM)
    with Stop() as stop:
        assert not stop
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop and stop.signal == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    assert signal.getsignal(signal.SIGTERM) is before
    caught = []
    thread = threading.Thread(target=lambda: caught.append(bool(Stop().__enter__())))
    thread.start()
    thread.join()
    assert caught == [False]


def test_second_sigterm_ends_the_process():
    code = "import os, signal, time\nfrom jaxssl.training.watchdog import Stop\nwith Stop() as s:\n    for _ in range(2): os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(9)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode == -signal.SIGTERM
