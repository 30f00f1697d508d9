"""The plan: figures that can be worked out by hand, what it says of bad input, and the TPU compiler where it is installed."""
import importlib.util
import json
import os
import subprocess
import sys

import pytest

from jaxssl import plan
from jaxssl.planning import roofline
from jaxssl.errors import UserError
from tests.tiny import ROOT

SMALL = {"batch_size": "64", "model.width": "0.125", "method.hidden": "32", "method.dim": "16", "augment.views": "2"}
DIGITS = str(ROOT / "configs/digits/simclr.py")


def test_imagenet_without_a_topology():
    """ResNet-50 does 4.09 G multiply-adds an image of 224 pixels forward, three times that in all; the schedule is arithmetic."""
    found = plan.make(str(ROOT / "configs/imagenet/simclr.py"), {})
    assert found["parameters"]["encoder"] == 23_508_032
    assert found["parameters"]["projector"] == 2048 * 2048 + 2 * 2048 + 2048 * 128 + 128
    assert found["schedule"]["total"] == round(100 * 1_281_167 / 4096) and found["schedule"]["warmup"] == round(10 * 1_281_167 / 4096)
    assert found["schedule"]["lr_peak"] == pytest.approx(0.3 * 4096 / 256, rel=1e-2)
    per_view = found["flops"] / (4096 * 2)
    assert 3 * 2 * 4.0e9 * 0.95 < per_view < 3 * 2 * 4.2e9 * 1.1
    assert "compile_seconds" not in found and "31,278 steps" in plan.report(found)


def test_devices_and_json(capsys):
    flags = [f"--config.{key}={value}" for key, value in SMALL.items()]
    assert plan.main(["--config", DIGITS, "--devices", "8", "--json", *flags]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["devices"] == 8 and found["mesh"] == {"data": 8, "fsdp": 1} and "time" not in found
    assert found["memory"]["total"] >= found["memory"]["temporaries"] > 0
    assert {"forward", "backward", "views"} <= set(found["parts"])
    assert sum(p["bytes"] for p in found["parts"].values()) == pytest.approx(found["bytes"], rel=0.1)
    assert sum(p["flops"] for p in found["parts"].values()) == pytest.approx(found["flops"], rel=0.3)
    reduced = sum(c["bytes"] for c in found["collectives"] if c["op"] in ("all-reduce", "reduce-scatter"))
    assert reduced >= 4 * sum(found["parameters"].values())                 # every gradient is summed over the devices
    assert all(c["group"] == 8 for c in found["collectives"])
    assert "collectives:" in plan.report(found)


@pytest.mark.parametrize(("flags", "words"), [
    (["--topology", "v5litepod:4x4"], "a chip of v4, v5e"), (["--topology", "v5:4x4"], "did you mean 'v5"), (["--topology", "v5e"], "CHIP:AxB"),
    (["--topology", "v5e:four"], "CHIP:AxB"),
    (["--devices", "8", "--config.batch_size=60"], "use 56 or 64"), (["--devices", "4096"], "fresh process"), (["--config.batch_sise=8"], "did you mean 'batch_size'")])
def test_bad_input(flags, words, capsys):
    assert plan.main(["--config", DIGITS, *flags]) == 2
    assert words in capsys.readouterr().err


def test_without_the_compiler_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(plan.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "jaxssl\[tpu\]"'):
        plan.make(DIGITS, {}, topology="v5e:2x4")


def test_roofline_by_hand():
    chip = roofline.Chip("toy", hbm=1e9, bandwidth=1e9, peak=1e12, links=1e8)
    collectives = [{"op": "all-reduce", "bytes": 4_000_000, "group": 4, "times": 1}, {"op": "all-gather", "bytes": 1_000_000, "group": 2, "times": 3},
                   {"op": "all-gather", "bytes": 9e9, "group": 1, "times": 1}]
    network = roofline.network_seconds(chip, collectives)
    assert network == pytest.approx(2 * 4e6 * 3 / 4 / 1e8 + 3 * 1e6 / 2 / 1e8 + 4 * roofline.LATENCY)
    assert roofline.step_seconds(chip, flops=2e12, nbytes=1e9, network=network) == pytest.approx(2 + network)
    assert roofline.step_seconds(chip, flops=2e12, nbytes=3e9, network=network) == pytest.approx(3 + network)
    found = plan.predict(chip, {"flops": 2e12, "bytes": 3e9, "hbm_bytes": 1e9, "collectives": []}, {"batch_size": 30, "devices": 4, "schedule": {"total": 1200}})
    assert found["step"] == pytest.approx(3) and found["step_at_best"] == pytest.approx(2) and found["images_per_second"] == pytest.approx(10)
    assert found["hours"] == pytest.approx(1) and found["device_hours"] == pytest.approx(4) and found["hours_at_best"] == pytest.approx(2 / 3)


def test_advice():
    of = {"batch_size": 1024, "devices": 8}
    assert "a batch of 512 fits" in plan.advice(of, 1e9, 20e9, 10.51e9 / 0.97)      # (10.51 − 1) / (20 − 1) of 1024, in multiples of 8
    assert "remat" in plan.advice(of, 1e9, 20e9, 11e9) and "not even one" in plan.advice(of, 30e9, 40e9, 16e9)
    assert "up to 1" in plan.advice(of, 1e9, 10e9, 11e9)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason='needs the TPU compiler: pip install "jaxssl[tpu]"')
def test_the_tpu_compiler():
    """In its own process, as a user runs it: the figures of a real compilation hang together."""
    flags = [f"--config.{key}={value}" for key, value in SMALL.items()] + ["--config.precision=bf16", "--config.data.resident=no"]
    run = subprocess.run([sys.executable, "-m", "jaxssl.plan", "--config", DIGITS, "--topology", "v5e:2x2", "--json", *flags],
                         cwd=ROOT, capture_output=True, text=True, env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"})
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["devices"] == 4 and found["fits"] and found["memory"]["hbm"] == 16 * 2 ** 30
    assert sum(p["bytes"] for p in found["parts"].values()) == pytest.approx(found["bytes"], rel=0.1)
    assert 0 < found["hbm_bytes"] <= found["bytes"]
    time = found["time"]
    assert time["step"] == pytest.approx(max(found["flops"] / 197e12, found["bytes"] / 819e9) + time["network"])
    assert "fits" in plan.report(found) and "roofline" in plan.report(found)
    unknown = subprocess.run([sys.executable, "-m", "jaxssl.plan", "--config", DIGITS, "--topology", "v5e:3x5"], cwd=ROOT, capture_output=True, text=True)
    assert unknown.returncode == 2 and "no topology" in unknown.stderr
