"""Keys that another key turns off: what is said of them (`configs.turned_off`) is what the traced program shows, and no recipe sets one."""
import importlib
import logging
import re
import runpy

import jax
import pytest

from jaxssl import config as configs
from jaxssl.parallel import mesh as sharding
from jaxssl.training import job as jobs
from tests.tiny import CONFIGS, ROOT, config_of

# method -> (keys with which others are not read, with which they are, {key that is not read: two values}), of everything that a method says (`unread`).
OFF = {
    "barlow_twins": [({"layers": 1}, {"layers": 2}, {"hidden": (16, 24)})],
    "mmcr": [({"teacher": False}, {"teacher": True}, {"tau": (.5, .75)})],
    "swav": [({"queue": 0}, {"queue": 16}, {"queue_from": ("3_steps", "5_steps")})],
    "msn": [({"equal": False}, {"equal": True}, {"iterations": (4, 5)})],
    "beit": [({"tokenizer": "kmeans"}, {"tokenizer": "vq"}, {"dim": (4, 8), "hidden": (16, 24), "commitment": (.5, .75)}),
             ({"tokenizer": "vq"}, {"tokenizer": "kmeans"}, {"momentum": (.5, .75), "tau": (.5, .75)}), ({"tokenizer": "pixels"}, {"tokenizer": "kmeans"}, {"tau": (.5, .75)})],
    "distill": [({"weight": 0., "patch_weight": 0.}, {"weight": 1., "patch_weight": 1.}, {"queue": (16, 32), "temperature": (.1, .2), "patch_temp": (.1, .2)})],
    "distill_dinov2": [({"patch_weight": 0.}, {"patch_weight": 1.}, {"patch_share": (.5, .75), "separate": (False, True)})],
    "dinov2": [({"assignment": "center", "koleo": 0., "gram_weight": 0., "mask_shape": "random"},
                {"assignment": "sinkhorn", "koleo": .1, "gram_weight": 1., "mask_shape": "block", "gram_renewals": 2},
                {"iterations": (4, 5), "koleo_floor": (.5, .75), "koleo_crops": ("both", "first"), "koleo_groups": (1, 2), "mask_smallest": (3, 5),
                 "gram_from": ("3_steps", "5_steps"), "gram_scale": (1, 2), "gram_renewed": ("3_steps", "5_steps"), "gram_renewals": (2, 4)}),
               ({"assignment": "sinkhorn", "gram_weight": 1., "gram_renewals": 0}, {"assignment": "center", "gram_weight": 1., "gram_renewals": 2},
                {"center_momentum": (.5, .75), "gram_renewed": ("3_steps", "5_steps")})],
}
CASES = [(method, *case) for method, cases in OFF.items() for case in cases]


def changed(name, *changes):
    config = config_of(name).copy_and_resolve_references().unlock()
    with config.method.ignore_type():
        for each in changes:
            config.method.update(each)
    return config


def traced(config):
    """Shapes of the state, loss and post of a method, as text."""
    facts, mesh = jobs.Facts(1000, 10, 16, True), sharding.make_mesh(devices=jax.devices()[:1])
    method = jobs.method_of(config, mesh, facts, 30)[1]
    seen = jobs.seen_shapes(jobs.views(config, method.needs.drawn)[0], jobs.batch_shapes(config.batch_size, facts, mesh)[0])
    params, aux = jobs.initial_shapes(method, config, seen)
    step = jax.ShapeDtypeStruct((), int)
    return (str(jax.tree.map(lambda x: x.shape, (params, aux))), str(jax.make_jaxpr(method.loss)(params, aux, seen, jax.eval_shape(jax.random.key, 0), step)),
            str(jax.make_jaxpr(method.post)(params, aux, step)))


def named(config):
    """Keys of the method that are said not to be read."""
    return {key for sentence in configs.turned_off(config) for key in re.findall(r"method\.(\w+)=", sentence)}


@pytest.mark.parametrize("name, off, on, keys", CASES, ids=[f"{name}-{'-'.join(map(str, off.values()))}" for name, off, *_ in CASES])
def test_what_is_said_not_to_be_read_is_not(name, off, on, keys):
    first, second = ({key: values[i] for key, values in keys.items()} for i in (0, 1))
    assert traced(changed(name, first, off)) == traced(changed(name, second, off))
    assert named(changed(name, second, off)) >= keys.keys() - off.keys()
    assert not named(changed(name, second, on)) & keys.keys()


def test_every_method_that_turns_keys_off_is_looked_at():
    own = {file.stem for file in (ROOT / "jaxssl" / "methods").glob("*.py") if "\ndef unread" in file.read_text()}
    assert own - {"base"} == set(OFF) - {"barlow_twins"}
    assert all(hasattr(importlib.import_module(f"jaxssl.methods.{name}"), configs.UNREAD) for name in (*own, "pmsn", "ibot", "simdinov2"))


def test_it_is_said_once_where_a_key_is_not_as_by_default(caplog):
    with caplog.at_level(logging.WARNING, "jaxssl.config"):
        configs.load("configs/digits/simclr.py", {"method.layers": "1", "method.hidden": "77", "augment.jitter": "(0., 0.)", "augment.hue": ".1", "local.views": "0"})
        assert caplog.messages == ["warning: augment.jitter is (0.0, 0.0), with which nothing reads augment.brightness=0.6, augment.contrast=0.6, "
                                   "augment.saturation=0.0, augment.hue=0.1",
                                   "warning: method.layers is 1, with which nothing reads method.hidden=77"]
        caplog.clear()
        configs.load("configs/digits/simclr.py", {"method.layers": "1", "method.hidden": "2048"})        # its default
        configs.load("configs/digits/simclr.py", {"method.layers": "2", "method.hidden": "77", "augment.jitter": "(0., .1)", "augment.hue": ".1"})
        assert not caplog.messages


def test_no_recipe_sets_what_nothing_reads():
    recipes = [f"{file}:{variant}".rstrip(":") for file in CONFIGS for variant in ("", *runpy.run_path(str(ROOT / file)).get("VARIANTS", ()))]
    assert {recipe: said for recipe in recipes if (said := configs.turned_off(configs.load(str(ROOT / recipe))))} == {}
