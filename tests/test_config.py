"""Configs: completion from signatures, overrides, types, durations, nearest names, differences."""
import json

import pytest
from ml_collections import ConfigDict

from jaxssl import augment, config as configs, config_keys, durations
from jaxssl.errors import UserError

DIGITS = "configs/digits/simclr.py"


def test_resolved_config_holds_defaults_of_every_section():
    config = configs.load(DIGITS)
    assert set(config_keys.SECTIONS) < set(config)
    assert config.method.block == 0 and config.optim.b2 == 0.999 and "momentum" not in config.optim and "networks" not in config.optim and config.mesh.fsdp == 1
    assert "precision" not in config.model and "params" not in config.optim


def test_locked():
    with pytest.raises((AttributeError, KeyError)):
        configs.load(DIGITS).temperatur = 1


def test_overrides_take_the_type_of_the_default():
    config = configs.load(DIGITS, {"optim.lr": "1", "augment.crop_scale": "(.5, 1)", "eval.raw": "false", "total": "2_epochs", "seed": "3", "augment.blur": "(1., .1)"})
    assert config.optim.lr == 1.0 and isinstance(config.optim.lr, float)
    assert config.augment.crop_scale == (0.5, 1) and config.eval.raw is False and config.total == "2_epochs" and config.seed == 3
    assert config.augment.blur == (1.0, 0.1)
    rules = "(('bias', {'rate': .1, 'fixed': True}), (1, {'decay': 0}))"
    config = configs.load(DIGITS, {"optim.weight_decay_end": "1e-6", "optim.lr_steps": "(.6, .8)", "optim.rules": rules})
    assert config.optim.weight_decay_end == 1e-6 and config.optim.lr_steps == (0.6, 0.8) and config.optim.rules == (("bias", {"rate": 0.1, "fixed": True}), (1, {"decay": 0}))
    assert configs.load(DIGITS, {"optim.weight_decay_end": "none"}).optim.weight_decay_end is None


def test_only_keys_of_one_value_a_view_take_tuples():
    """Those that `augment` takes a value a view for, and no other number."""
    config = configs.load(DIGITS, {"augment.views": "3"})
    for path in configs.paths(config):
        if not isinstance(configs.config_get(config, path), float):
            continue
        if path in configs.A_VIEW:
            found = configs.load(DIGITS, {"augment.views": "3", "local.views": "3", path: "(0., .5, 1.)"})
            augment.make(**found.augment)
        else:
            with pytest.raises(UserError, match=f"{path} is .*it takes a float such as [^,]*$"):
                configs.load(DIGITS, {path: "(0., .5, 1.)"})


@pytest.mark.parametrize("overrides, words", [
    ({"optim.lrr": "1"}, ["optim.lrr", "did you mean 'optim.lr'"]),
    ({"method.temprature": "1"}, ["method.temprature", "did you mean 'method.temperature'"]),
    ({"batchsize": "4"}, ["did you mean 'batch_size'"]),
    ({"optim": "4"}, ["--config.optim: there is no such key; choose one of optim.", "optim.lr,"]),
    ({"optim.zzzzzzzzzzzzzz": "4"}, ["there is no such key; choose one of optim.", "optim.lr,"]),
    ({"zzzzzzzzzz": "4"}, ["there is no such key; choose one of augment.…, batch_size", "total"]),
    ({"optim.lr": "fast"}, ["optim.lr", "'fast'", "float"]),
    ({"seed": "1.5"}, ["seed", "int"]),
    ({"eval.raw": "3"}, ["eval.raw", "bool"]),
    ({"model.name": "3"}, ["unknown model '3'", "resnet50"]),
    ({"total": "5_parsecs"}, ["total", "5_parsecs", "200_epochs"]),
    ({"warmup": "-3"}, ["warmup"]),
    ({"total": "1._._epochs"}, ["total", "200_epochs"]),
    ({"total": "1" + "0" * 400}, ["total", "200_epochs"]),
    ({"seed": "1" + "0" * 400}, ["seed", "int"]),
    ({"optim.weight_decay_end": "(1, 2)"}, ["optim.weight_decay_end", "float", "or none"]),
    ({"optim.lr_steps": "(.5, 'a')"}, ["optim.lr_steps", "(0.1,)"]),
    ({"optim.rules": "(1,)"}, ["optim.rules", "(('bias$', {'decay': 0.0}),)"]),
    ({"optim.rules": "(('a', 'b'),)"}, ["optim.rules", "(('bias$', {'decay': 0.0}),)"]),
    ({"optim.exclude": "bias"}, ["optim.exclude: there is no such key"]),
    ({"optim.momentum": ".5"}, ["--config.optim.momentum: lars and sgd and rmsprop read, and adamw does not; leave it out"]),
    ({"optim.name": "sgd", "optim.trust_coefficient": ".5"}, ["--config.optim.trust_coefficient: lars reads, and sgd does not"]),
    ({"optim.name": "larz"}, ["unknown optim 'larz'", "did you mean 'lars'"]),
    ({"augment.std": "(1, 1)"}, ["augment.std", "3 numbers"]),
    ({"checkpoint.keep_last": "0"}, ["checkpoint.keep_last is 0"]),
    ({"eval.queries": "-1"}, ["eval.queries", "-1"]),
    ({"precision": "f16"}, ["precision", "'bf16' or 'f32'"]),
    ({"on_nonfinite": "retry"}, ["on_nonfinite", "rollback:3"]),
    ({"batch_size": "1"}, ["batch_size", "at least 2"]),
    ({"seed": "-1"}, ["seed"]),
    ({"ema": "1.5"}, ["ema"]),
    ({"stall_seconds": "-1"}, ["stall_seconds"]),
    ({"method.name": "simclrr"}, ["simclrr", "did you mean 'simclr'"]),
])
def test_bad_overrides_are_one_sentence(overrides, words):
    with pytest.raises(UserError) as error:
        configs.load(DIGITS, overrides)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_unknown_file_variant_and_key(tmp_path):
    with pytest.raises(UserError, match="did you mean"):
        configs.load("configs/digits/simcrl.py")
    with pytest.raises(UserError, match="no variant 'lptop'.*did you mean 'laptop'"):
        configs.load(DIGITS + ":lptop")
    file = tmp_path / "c.py"
    file.write_text("from ml_collections import ConfigDict\ndef get_config(variant=''):\n    return ConfigDict(dict(method=dict(name='simclr', temprature=1.)))\n")
    with pytest.raises(UserError, match="method.temprature.*nothing reads.*method.temperature"):
        configs.load(str(file))


@pytest.mark.parametrize("value, expected", [(7, 7), ("7", 7), ("7_steps", 7), ("2_epochs", 20), ("1_epoch", 10), ("1e3_examples", 10), ("5_percent", 50), (0, 0), ("0_epochs", 0),
                                             ("0.001_epochs", 1), ("1.26_epochs", 13)])
def test_durations(value, expected):
    assert durations.steps(value, "total", examples=1000, batch_size=100, total=1000) == expected


def test_more_steps_than_a_run_can_count():
    with pytest.raises(UserError, match="total is '1e12_epochs', which is 1e.13 steps; a run counts at most 2,147,483,647"):
        durations.steps("1e12_epochs", "total", examples=1000, batch_size=100)


def test_percent_of_itself_is_refused():
    with pytest.raises(UserError, match="share of itself"):
        durations.steps("5_percent", "total", examples=10, batch_size=1)


def test_differences_name_the_keys():
    a, b = configs.load(DIGITS), configs.load(DIGITS, {"optim.lr": "0.5", "seed": "4"})
    assert configs.differences(configs.describe(a), configs.describe(a)) == []
    assert configs.differences(configs.describe(a), configs.describe(b)) == [f"optim.lr: {a.optim.lr} → 0.5", "seed: 0 → 4"]


def test_completion_does_not_change_what_the_file_sets():
    raw = configs.opened(DIGITS).config
    full = configs.complete(raw)
    for path in configs.paths(raw):
        value = configs.config_get(raw, path)
        if not isinstance(value, ConfigDict):
            assert configs.config_get(full, path) == value, path


@pytest.mark.parametrize("body, words", [
    ("pass", "get_config returned a NoneType; end it with `return config`"),
    ("return dict(method=dict(name='simclr'))", "get_config returned a dict"),
    ("return ConfigDict(dict(method=dict(name='simclr'), eval=None))", "sets eval to None, but it is a section; write eval=dict.key=value."),
    ("return ConfigDict(dict(method=dict(name='simclr'), optim='sgd'))", "sets optim to 'sgd', but it is a section"),
    ("return ConfigDict(dict(method='simclr'))", "sets method to 'simclr', but it is a section"),
])
def test_a_file_that_returns_something_else(tmp_path, body, words):
    """Not even with a selector on the command line, which is set before the sections are completed."""
    file = tmp_path / "c.py"
    file.write_text(f"from ml_collections import ConfigDict\ndef get_config(variant=''):\n    {body}\n")
    for overrides in ({}, {"method.name": "simclr"}):
        with pytest.raises(UserError, match=words):
            configs.load(str(file), overrides)


@pytest.mark.parametrize("kind, lock", [("ConfigDict", ""), ("ConfigDict", ".lock()"), ("FrozenConfigDict", "")])
def test_a_locked_config_is_completed_too(tmp_path, kind, lock):
    file = tmp_path / "c.py"
    file.write_text(f"from ml_collections import {kind}\ndef get_config(variant=''):\n    return {kind}(dict(method=dict(name='x'), optim=dict(lr=.5))){lock}\n")
    config = configs.load(str(file), {"method.name": "simclr", "seed": "3"})
    assert (config.method.name, config.optim.lr, config.seed) == ("simclr", 0.5, 3) and config.is_locked


def test_a_selector_on_the_command_line_leaves_out_what_the_file_sets_for_another(tmp_path, caplog):
    file = tmp_path / "c.py"
    file.write_text("from ml_collections import ConfigDict\ndef get_config(variant=''):\n"
                    "    return ConfigDict(dict(method=dict(name='simclr'), optim=dict(name='lars', lr=.5, momentum=.8, trust_coefficient=.02)))\n")
    config = configs.load(str(file), {"optim.name": "sgd", "optim.momentum": ".7"})
    assert (config.optim.lr, config.optim.momentum) == (0.5, 0.7) and "trust_coefficient" not in config.optim
    assert caplog.messages == ["--config.optim.name=sgd does not read what the config file sets for another: left out optim.trust_coefficient"]
    assert configs.load(str(file)).optim.trust_coefficient == 0.02


def test_a_key_that_means_something_else_to_another_family_is_left_out(caplog):
    """A ResNet's width is a factor, a ViT's a number of channels."""
    config = configs.load("configs/digits/simclr.py", {"model.name": "vit_tiny"})
    assert config.model.width == 0 and "left out model.stem, model.width, model.zero_init" in caplog.text
    assert configs.load("configs/digits/dino.py", {"model.name": "resnet10"}).model.width == 1.0
    assert configs.load("configs/digits/simclr.py", {"model.name": "resnet18"}).model.width == .375


def test_a_file_that_sets_a_key_of_another_optimizer_is_told_whose(tmp_path):
    file = tmp_path / "c.py"
    file.write_text("from ml_collections import ConfigDict\ndef get_config(variant=''):\n    return ConfigDict(dict(method=dict(name='simclr'), optim=dict(name='lars', b1=.5)))\n")
    with pytest.raises(UserError, match="sets 'optim.b1', which adam and adamw read, and lars does not; leave it out"):
        configs.load(str(file))


def test_a_workdir_from_before_the_table_of_rules_is_the_same_run():
    config = configs.load("configs/cifar10/simclr.py")
    new = json.loads(configs.describe(config))
    former = {"exclude": [], "exclude_rank": 1, "stacked": [], "lr_rules": [], "b1": .9, "b2": .999, "rho": .99, "eps": 1e-8}
    old = {**new, "optim": {**{k: v for k, v in new["optim"].items() if k not in ("rules", "layer_decay", "clip_by")}, **former}}
    off = {section: keys for section, keys in old.items() if section not in config_keys.OFF}
    assert configs.differences(json.dumps(old), json.dumps(new)) == configs.differences(json.dumps(off), json.dumps(new)) == []
    old["optim"] |= {"exclude": ["bias"], "b2": .95}
    assert configs.differences(json.dumps(old), json.dumps(new)) == ["optim.b2: 0.95 → (absent)", "optim.exclude: ['bias'] → (absent)"]
    other = json.dumps({**new, "optim": {**new["optim"], "layer_decay": .9}})
    assert configs.differences(json.dumps(old | {"optim": {**old["optim"], "exclude": [], "b2": .999}}), other) == ["optim.layer_decay: (absent) → 0.9"]
