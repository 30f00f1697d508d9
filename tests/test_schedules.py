"""Schedules against numpy and against hand-computed end points."""
import math

import jax
import numpy as np
import pytest

from jaxssl import schedules
from jaxssl.errors import UserError

TOTAL, WARMUP, BASE = 100, 10, 4.8


def simclr(step, base=BASE, total=TOTAL, warmup=WARMUP):
    """Warm-up and cosine as SimCLR publishes them, in f64."""
    if step < warmup:
        return base * step / warmup
    return base * 0.5 * (1 + math.cos(math.pi * min(step - warmup, total - warmup) / (total - warmup)))


def test_cosine_with_warm_up_is_simclrs_at_every_step():
    schedule = schedules.make("cosine", base=BASE, total=TOTAL, warmup=WARMUP)
    got = [float(schedule(step)) for step in range(TOTAL + 20)]
    np.testing.assert_allclose(got, [simclr(step) for step in range(TOTAL + 20)], rtol=1e-6, atol=1e-6)


# values at start, in the warm-up, at its end, in the middle (step 55), at the end and after it
GOLDEN = {
    "constant": ({}, [0, 2.4, 4.8, 4.8, 4.8, 4.8]),
    "cosine": ({"end": 0.8}, [0, 2.4, 4.8, 2.8, 0.8, 0.8]),
    "polynomial": ({"end": 0.8, "power": 2.0}, [0, 2.4, 4.8, 1.8, 0.8, 0.8]),
    "step": ({"steps": (55, 90), "gamma": 0.5}, [0, 2.4, 4.8, 2.4, 1.2, 1.2]),
}


@pytest.mark.parametrize("name", schedules._READS)
def test_golden_points(name):
    options, expected = GOLDEN[name]
    schedule = schedules.make(name, base=BASE, total=TOTAL, warmup=WARMUP, **options)
    at = (0, 5, WARMUP, 55, TOTAL, TOTAL + 7)
    np.testing.assert_allclose([float(schedule(step)) for step in at], expected, rtol=1e-6)
    # exact in f32, whatever the integer type, and the same under jit
    assert float(schedule(0)) == 0 and float(schedule(WARMUP)) == np.float32(BASE)
    if "end" in options:
        assert float(schedule(TOTAL)) == np.float32(options["end"])
    jitted = jax.jit(schedule)
    for step in at:
        assert float(schedule(np.int64(step))) == float(schedule(np.int32(step))) == float(schedule(step))
        np.testing.assert_allclose(jitted(step), schedule(step), rtol=1e-6)


def test_step_decays_at_the_named_step_not_after():
    schedule = schedules.make("step", base=1.0, total=10, steps=(4, 8), gamma=0.1)
    np.testing.assert_allclose([float(schedule(step)) for step in (3, 4, 7, 8)], [1, 0.1, 0.1, 0.01], rtol=1e-6)


def test_without_warm_up_the_first_step_has_the_full_rate_and_warm_up_may_fill_the_run():
    assert float(schedules.make("cosine", base=2.0, total=7)(0)) == 2.0
    filled = schedules.make("cosine", base=2.0, total=8, warmup=8)
    np.testing.assert_allclose([float(filled(step)) for step in (0, 4, 7, 8)], [0, 1, 1.75, 2])


def test_long_runs_stay_exact():
    schedule = schedules.make("cosine", base=1.0, total=10_000_000, warmup=5_000_000)
    np.testing.assert_allclose([float(schedule(2_500_000)), float(schedule(7_500_000))], [0.5, 0.5], rtol=1e-6)
    assert float(schedule(10_000_000)) == 0


def test_weight_decay_and_tau():
    decay = schedules.cosine(0.04, 0.4, 50)
    np.testing.assert_allclose([float(decay(step)) for step in (0, 25, 50)], [0.04, 0.22, 0.4], rtol=1e-6)
    temperature = schedules.linear(0.04, 0.07, 30)
    np.testing.assert_allclose([float(temperature(step)) for step in (0, 15, 30, 99)], [0.04, 0.055, 0.07, 0.07], rtol=1e-6)
    assert float(schedules.linear(0.04, 0.07, 0)(0)) == np.float32(0.07)
    rate = schedules.tau(0.99, 40)
    expected = [1 - (1 - 0.99) * (math.cos(math.pi * k / 40) + 1) / 2 for k in range(41)]
    np.testing.assert_allclose([float(rate(k)) for k in range(41)], expected, rtol=1e-6)
    assert float(rate(40)) == 1 and float(rate(0)) == np.float32(0.99)


def test_scaling_rules_and_their_sentences():
    assert schedules.scaled_lr(0.3, 4096, "linear") == pytest.approx(4.8)
    assert schedules.scaled_lr(0.075, 4096, "sqrt") == pytest.approx(4.8)  # the two rules of SimCLR meet at 4096
    assert schedules.scaled_lr(0.075, 256, "sqrt") == pytest.approx(1.2)  # not .075 * 16 / 256
    assert schedules.scaled_lr(4e-3, 2048, "sqrt1024") == pytest.approx(5.66e-3, rel=1e-3)  # DINOv2's
    assert schedules.scaled_lr(0.3, 4096, "none") == 0.3
    assert schedules.lr_sentence(0.3, 4096, "linear") == "lr = 0.3 · 4096/256 = 4.8 (linear)"
    assert schedules.lr_sentence(0.075, 4096, "sqrt") == "lr = 0.075 · √4096 = 4.8 (sqrt)"
    assert schedules.lr_sentence(0.004, 4096, "sqrt1024") == "lr = 0.004 · √(4096/1024) = 0.008 (sqrt1024)"
    assert schedules.lr_sentence(0.001, 64, "none") == "lr = 0.001 (not scaled by the batch of 64)"


@pytest.mark.parametrize("call, words", [
    (lambda: schedules.make("cosin", base=1.0, total=9), "did you mean 'cosine'"),
    (lambda: schedules.scaled_lr(1.0, 256, "lin"), "linear, sqrt, sqrt1024, none"),
    (lambda: schedules.scaled_lr(1.0, 256, "linar"), "did you mean 'linear'"),
    (lambda: schedules.make("cosine", base=1.0, total=9, warmup=10), "warmup=10"),
    (lambda: schedules.make("cosine", base=1.0, total=0), "total=0"),
    (lambda: schedules.make("constant", base=1.0, total=9, end=0.1), "does not read end"),
    (lambda: schedules.make("cosine", base=1.0, total=9, gamma=0.5), "schedule step"),
    (lambda: schedules.make("step", base=1.0, total=9, steps=(9,)), "within the run"),
    (lambda: schedules.tau(1.5, 9), r"\[0, 1\]"),
])
def test_mistakes_are_named(call, words):
    with pytest.raises(UserError, match=words):
        call()
