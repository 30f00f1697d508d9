"""Optimizers against numpy versions of the published algorithms; groups, masks, stacks, probe, sharding."""
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import FrozenDict
from jax.sharding import NamedSharding, PartitionSpec as P

from jaxssl import optim, tree
from jaxssl.errors import UserError

SHAPES = {"encoder": {"conv": {"kernel": (3, 3, 4, 8)}, "norm": {"scale": (8,), "bias": (8,)}}, "projector": {"kernel": (8, 16), "bias": (16,)}}
TOTAL, WARMUP = 40, 5
DECAYED, PLAIN = {"decay": 1.0, "adapt": True}, {"decay": 0.0, "adapt": False}
RUN = dict(batch_size=256, total=TOTAL, warmup=WARMUP)


def filled(seed, shapes=SHAPES, scale=1.0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda shape: (scale * rng.standard_normal(shape)).astype(np.float32), shapes, is_leaf=lambda x: isinstance(x, tuple))


def run(tx, params, steps=20, shapes=SHAPES, scale=1.0):
    """Parameters after `steps` updates with given random gradients, jitted."""
    state, update = tx.init(params), jax.jit(tx.update)
    for step in range(steps):
        updates, state = update(filled(100 + step, shapes, scale), state, params)
        params = optax.apply_updates(params, updates)
    return params


def close(got, expected, rtol=2e-5):
    for path, leaf in tree.names(expected).items():
        np.testing.assert_allclose(tree.names(got)[path], leaf, rtol=rtol, atol=rtol * np.abs(leaf).max(), err_msg=path)


def f64(params):
    return {path: leaf.astype(np.float64) for path, leaf in tree.names(params).items()}


def rate(step, peak):
    return peak * step / WARMUP if step < WARMUP else peak * 0.5 * (1 + np.cos(np.pi * (step - WARMUP) / (TOTAL - WARMUP)))


def published_lars(params, lr, wd, momentum=0.9, eeta=1e-3, nesterov=False, steps=20):
    """google-research/simclr tf2/lars_optimizer.py, classic momentum, weights without biases and norms adapted and decayed."""
    p, v = f64(params), {path: 0.0 for path in tree.names(params)}
    for step in range(steps):
        for path, g in f64(filled(100 + step)).items():
            scaled = rate(step, lr)
            if path.endswith("kernel"):
                g = g + wd * p[path]
                p_norm, g_norm = np.linalg.norm(p[path]), np.linalg.norm(g)
                scaled *= eeta * p_norm / g_norm if p_norm > 0 and g_norm > 0 else 1.0
            v[path] = momentum * v[path] + scaled * g
            p[path] = p[path] - (momentum * v[path] + scaled * g if nesterov else v[path])
    return p


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("zero", [False, True])
def test_lars_is_the_published_algorithm_over_20_steps(nesterov, zero):
    params = filled(0)
    if zero:  # the ratio is 1 where the weights are 0
        params["projector"]["kernel"][:] = 0
    made = optim.make(name="lars", lr=2.0, weight_decay=0.1, nesterov=nesterov, params=params, **RUN)
    expected = published_lars(params, 2.0, 0.1, nesterov=nesterov)
    got = run(made.tx, params)
    close(got, expected)
    # the masks matter: without them, the biases would move a thousand times less
    assert np.abs(np.asarray(got["projector"]["bias"]) - params["projector"]["bias"]).max() > 1


def test_lars_equals_optax_lars_with_the_right_masks():
    params = filled(0)
    mask = jax.tree.map(lambda leaf: leaf.ndim > 1, params)
    made = optim.make(name="lars", weight_decay=1e-2, params=params, **RUN)
    theirs = optax.lars(made.schedule, 1e-2, mask, trust_ratio_mask=mask, momentum=0.9)
    close(run(made.tx, params), run(theirs, params), rtol=1e-6)


def numpy_update(name, p, g, s, t, lr, wd, decayed):
    """One step of PyTorch's update rules; s is this parameter's state."""
    wd = wd if decayed else 0.0
    if name != "adamw":
        g = g + wd * p
    if name in ("sgd", "nesterov"):
        s["v"] = 0.9 * s.get("v", 0) + g
        return p - lr * (g + 0.9 * s["v"] if name == "nesterov" else s["v"])
    if name == "rmsprop":
        s["s"] = 0.99 * s.get("s", 0) + 0.01 * g * g
        s["v"] = 0.9 * s.get("v", 0) + g / (np.sqrt(s["s"]) + 1e-8)
        return p - lr * s["v"]
    s["m"], s["s"] = 0.8 * s.get("m", 0) + 0.2 * g, 0.95 * s.get("s", 0) + 0.05 * g * g
    unit = s["m"] / (1 - 0.8 ** t) / (np.sqrt(s["s"] / (1 - 0.95 ** t)) + 1e-8)
    return p - lr * (unit + (wd * p if name == "adamw" else 0))


@pytest.mark.parametrize("name", ["sgd", "nesterov", "adam", "adamw", "rmsprop"])
def test_other_optimizers_follow_pytorchs_rules(name):
    params = filled(0)
    options = {"nesterov": dict(name="sgd", nesterov=True), "adam": dict(name="adam", b1=0.8, b2=0.95),
               "adamw": dict(name="adamw", b1=0.8, b2=0.95)}.get(name, dict(name=name))
    made = optim.make(**options, lr=0.02, weight_decay=0.3, weight_decay_end=0.1, params=params, **RUN)
    expected, states = f64(params), {path: {} for path in tree.names(params)}
    for step in range(20):
        wd = 0.1 + 0.2 * 0.5 * (1 + np.cos(np.pi * step / TOTAL))
        for path, g in f64(filled(100 + step)).items():
            expected[path] = numpy_update(name, expected[path], g, states[path], step + 1, rate(step, 0.02), wd, path.endswith("kernel"))
    close(run(made.tx, params), expected, rtol=1e-4)
    np.testing.assert_allclose([made.weight_decay(0), made.weight_decay(20), made.weight_decay(40)], [0.3, 0.2, 0.1], rtol=1e-6)


def test_layers_stacked_by_scan_are_treated_as_layers():
    """Two layers in one array equal the same two layers apart, ratio and rank, though their gradients differ a hundredfold."""
    apart = {"a": {"kernel": (6, 4), "bias": (4,)}, "b": {"kernel": (6, 4), "bias": (4,)}}
    params = filled(0, apart)
    params["b"] = jax.tree.map(lambda leaf: 100 * leaf, params["b"])

    def stack(parts):
        return {"blocks": jax.tree.map(lambda *leaves: np.stack(leaves), parts["a"], parts["b"])}
    options = dict(name="lars", lr=2.0, weight_decay=0.1, **RUN)
    one = optim.make(**options, params=params)
    two = optim.make(**options, params=stack(params))
    assert two.groups == {"blocks/kernel": DECAYED, "blocks/bias": PLAIN}
    p, q, s, t = params, stack(params), one.tx.init(params), two.tx.init(stack(params))
    for step in range(10):
        g = filled(step, apart)
        u, s = one.tx.update(g, s, p)
        w, t = two.tx.update(stack(g), t, q)
        p, q = optax.apply_updates(p, u), optax.apply_updates(q, w)
    close(q, stack(p), rtol=1e-6)


def test_probe_has_its_own_adam_and_cannot_reach_the_encoder():
    shapes = {**SHAPES, "probe": {"kernel": (8, 10), "bias": (10,)}}
    params = filled(0, shapes)
    options = dict(lr=2.0, weight_decay=0.1, clip=0.5, **RUN)
    without = {key: value for key, value in params.items() if key != "probe"}
    made, plain = optim.make(**options, params=params, probe_lr=0.01), optim.make(**options, params=without)
    grads = filled(7, shapes)
    loud = {**grads, "probe": jax.tree.map(lambda g: 1e6 * g, grads["probe"])}
    state = made.tx.init(params)
    update = jax.jit(made.tx.update)
    _, state = update(grads, state, params)  # the first rate of the warm-up is 0: look at the second step
    quiet, with_loud = (update(g, state, params)[0] for g in (grads, loud))
    _, plain_state = plain.tx.update({key: grads[key] for key in without}, plain.tx.init(without), without)
    alone, _ = plain.tx.update({key: grads[key] for key in without}, plain_state, without)
    for key in without:
        jax.tree.map(np.testing.assert_array_equal, quiet[key], with_loud[key])
        close(quiet[key], jax.tree.map(np.asarray, alone[key]), rtol=1e-6)
    probe = params["probe"]
    adam = optax.adam(0.01)
    first, adam_state = adam.update(grads["probe"], adam.init(probe), probe)
    close(update(grads, made.tx.init(params), params)[0]["probe"], first, rtol=1e-6)
    close(quiet["probe"], adam.update(grads["probe"], adam_state, probe)[0], rtol=1e-6)


def test_clipping_is_by_the_global_norm():
    params = filled(0)
    made = optim.make(name="sgd", lr=1.0, momentum=0.0, weight_decay=0.0, schedule="constant", clip=0.5, params=params, batch_size=256, total=9, warmup=0)
    grads = filled(1)
    updates, _ = made.tx.update(grads, made.tx.init(params), params)
    assert float(optax.tree.norm(updates)) == pytest.approx(0.5, rel=1e-5)
    close(updates, jax.tree.map(lambda g: -0.5 / np.asarray(optax.tree.norm(grads)) * g, grads))
    small = jax.tree.map(lambda g: 1e-3 * g, grads)
    close(made.tx.update(small, made.tx.init(params), params)[0], jax.tree.map(np.negative, small))


@pytest.mark.parametrize("name", optim.families())
def test_sharded_equals_one_device_and_shapes_suffice(name):
    """Under jit the norms (trust ratio, clipping) are global though each device holds a slice."""
    params = filled(0)
    made = optim.make(name=name, lr=0.02, weight_decay=0.1, clip=1.0, params=jax.eval_shape(lambda: jax.tree.map(jnp.asarray, params)), **RUN)
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))

    def place(values):
        spec = {2: P(None, "fsdp"), 4: P(None, None, None, "fsdp"), 1: P("fsdp")}
        return jax.tree.map(lambda leaf: jax.device_put(leaf, NamedSharding(mesh, spec[leaf.ndim])), values)
    p, state, update = place(params), None, jax.jit(made.tx.update)
    state = jax.jit(made.tx.init)(p)
    for step in range(4):
        updates, state = update(place(filled(100 + step)), state, p)
        p = optax.apply_updates(p, updates)
    assert p["projector"]["kernel"].sharding.spec == P(None, "fsdp")
    close(jax.tree.map(np.asarray, p), jax.tree.map(np.asarray, run(made.tx, params, steps=4)))


def test_groups_rules_and_the_printed_text():
    params = {**filled(0), "probe": {"kernel": np.zeros((8, 10), np.float32)}}
    rules = (("^projector/", PLAIN), ("conv", dict(rate=0.5)), ("norm/bias", dict(rate=0.0)))
    made = optim.make(params=FrozenDict(params), rules=rules, lr=0.3, batch_size=4096, total=1000, warmup=100)
    assert made.groups == {"encoder/conv/kernel": {**DECAYED, "rate": 0.5}, "encoder/norm/bias": {**PLAIN, "rate": 0.0}, "encoder/norm/scale": PLAIN,
                           "projector/bias": PLAIN, "projector/kernel": PLAIN, "probe/kernel": {"adam": 1e-3}}
    for line in ("lr = 0.3 · 4096/256 = 4.8 (linear); 100 steps of linear warm-up, then cosine to 0, 1000 steps in all",
                 "'conv' rate 0.5; 'norm/bias' rate 0; '^probe/' adam 0.001; rank <= 1 decay 0, adapt False",
                 "decay 1, adapt True, rate 0.5: 1 arrays, 288 parameters", "decay 0, adapt False: 3 arrays, 152 parameters",
                 "decay 0, adapt False, rate 0: 1 arrays, 8 parameters", "adam 0.001: 1 arrays, 80 parameters"):
        assert line in made.describe, made.describe
    assert float(made.schedule(100)) == pytest.approx(4.8)
    every = optim.make(params=params, rules=((".*", DECAYED),), **RUN).groups       # biases and norms too, and the probe as ever
    assert set(map(str, every.values())) == {str(DECAYED), str({"adam": 1e-3})}
    assert "warning" in optim.make(name="adamw", params=params, **RUN).describe and "warning" not in made.describe


def steady(name, params, **options):
    """An optimizer of constant rate .02."""
    return optim.make(name=name, lr=0.02, schedule="constant", params=params, batch_size=256, total=9, warmup=0, **options)


def test_rates_scale_and_freeze():
    params, rules = filled(0), (("bias", dict(rate=0.024)), ("scale", dict(rate=0.0)))
    grads = filled(1)

    def update(name, **options):
        made = steady(name, params, **options)
        return made.tx.update(grads, made.tx.init(params), params)[0]
    for name in ("lars", "sgd"):
        plain, scaled = update(name), update(name, rules=rules)
        np.testing.assert_allclose(scaled["projector"]["bias"], 0.024 * plain["projector"]["bias"], rtol=1e-6)
        np.testing.assert_array_equal(scaled["encoder"]["norm"]["scale"], 0)
        np.testing.assert_array_equal(scaled["projector"]["kernel"], plain["projector"]["kernel"])


def test_each_setting_is_decided_by_the_first_rule_that_names_it():
    rules = (("^projector/kernel", dict(decay=0.5)), ("^projector/", dict(rate=0.1)), ("kernel", dict(rate=0.2, decay=0.25)), (0, dict(rate=0.0)))
    params = {**filled(0), "temperature": np.float32(1)}
    groups = optim.make(name="sgd", params=params, rules=rules, **RUN).groups
    assert groups == {"encoder/conv/kernel": {"decay": 0.25, "rate": 0.2}, "encoder/norm/bias": {"decay": 0.0}, "encoder/norm/scale": {"decay": 0.0},
                      "projector/bias": {"decay": 0.0, "rate": 0.1}, "projector/kernel": {"decay": 0.5, "rate": 0.1}, "temperature": {"decay": 0.0, "rate": 0.0}}


def test_decay_takes_a_factor():
    params = filled(0)
    made = steady("sgd", params, weight_decay=0.1, momentum=0.0, rules=(("conv", dict(decay=3.0)), ("projector/bias", dict(decay=1.0))))
    updates, _ = made.tx.update(jax.tree.map(np.zeros_like, params), made.tx.init(params), params)
    for path, factor in {"encoder/conv/kernel": 3, "encoder/norm/bias": 0, "projector/bias": 1, "projector/kernel": 1}.items():
        np.testing.assert_allclose(tree.names(updates)[path], -0.02 * 0.1 * factor * tree.names(params)[path], rtol=1e-6)


def test_a_fixed_rate_neither_warms_up_nor_decays():
    params, grads = filled(0), filled(1)
    made = optim.make(name="sgd", lr=0.5, momentum=0.0, weight_decay=0.0, rules=(("^projector/", dict(fixed=True, rate=0.5)),), params=params, **RUN)
    state = made.tx.init(params)
    for step in range(TOTAL):
        updates, state = made.tx.update(grads, state, params)
        np.testing.assert_allclose(updates["projector"]["kernel"], -0.25 * grads["projector"]["kernel"], rtol=1e-6)
        np.testing.assert_allclose(updates["encoder"]["conv"]["kernel"], -rate(step, 0.5) * grads["encoder"]["conv"]["kernel"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", optim.families())
@pytest.mark.parametrize("until", [3, 0.3])
def test_frozen_until_a_step(name, until):
    """Updates are exactly 0 before it; all others are as without the rule, and from it on, moments that gathered meanwhile are in use (LARS's follow the rate)."""
    params = filled(0)
    options = dict(weight_decay=0.1, schedule="constant", lr=0.02, params=params, batch_size=256, total=10, warmup=0)
    plain, frozen = optim.make(name=name, **options), optim.make(name=name, **options, rules=(("^projector/", dict(frozen_until=until)),))
    assert frozen.groups["projector/kernel"]["frozen_until"] == 3
    s, t = plain.tx.init(params), frozen.tx.init(params)
    for step in range(5):
        u, s = plain.tx.update(filled(step), s, params)
        w, t = frozen.tx.update(filled(step), t, params)
        np.testing.assert_array_equal(u["encoder"]["conv"]["kernel"], w["encoder"]["conv"]["kernel"])
        if step < 3:
            jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf, 0), w["projector"])
        elif name != "lars":
            np.testing.assert_array_equal(u["projector"]["kernel"], w["projector"]["kernel"])
        else:
            assert np.abs(w["projector"]["kernel"]).min() > 0


@pytest.mark.parametrize("by", ["network", "array", "rules"])
def test_clipping_by_the_network_by_the_array_and_by_named_groups(by):
    shapes = {"encoder": {"blocks": {"kernel": (2, 3, 4)}, "norm": {"bias": (5,)}}, "head": {"kernel": (6, 7), "bias": (7,)}, "probe": {"kernel": (3, 3)}}
    params, grads = filled(0, shapes), filled(1, shapes)
    grads["encoder"]["blocks"]["kernel"][1] *= 100
    rules = (("encoder/norm|head/bias", dict(clip="small")), ("^head/kernel", dict(clip=""))) if by == "rules" else ()
    made = steady("sgd", params, clip=0.5, momentum=0.0, weight_decay=0.0, rules=rules, clip_by="all" if by == "rules" else by)
    updates, _ = made.tx.update(grads, made.tx.init(params), params)
    moved, g = tree.names(updates), tree.names(grads)
    groups = {"network": [["encoder/blocks/kernel", "encoder/norm/bias"], ["head/bias", "head/kernel"]], "array": [["encoder/norm/bias"], ["head/bias"], ["head/kernel"]],
              "rules": [["encoder/blocks/kernel"], ["encoder/norm/bias", "head/bias"]]}[by]
    for paths in groups:
        norm = np.sqrt(sum((g[path].astype(np.float64) ** 2).sum() for path in paths))
        for path in paths:
            np.testing.assert_allclose(moved[path], -0.02 * 0.5 / norm * g[path], rtol=1e-5)
    if by == "array":       # stacked layers are as many arrays
        for layer in range(2):
            np.testing.assert_allclose(np.linalg.norm(moved["encoder/blocks/kernel"][layer]), 0.01, rtol=1e-5)
    if by == "rules":
        np.testing.assert_allclose(moved["head/kernel"], -0.02 * g["head/kernel"], rtol=1e-6)


PATHS = {"cls": (1, 1, 4), "pos": (1, 5, 4), "mask": (1, 4), "registers": (1, 2, 4), "patch/kernel": (2, 2, 3, 4), "norm/scale": (4,)}


def test_layer_decay_of_a_vision_transformer_is_dinov2s():
    """decay^(L + 1 - id): tokens, positions and patches 0, block i i + 1, the final norm and the heads L + 1; stacked blocks get one factor a layer."""
    heads = {"head/linear1/kernel": (4, 4), "decoder/blocks/qkv/kernel": (3, 4, 4)}
    rest = {f"encoder/{name}": shape for name, shape in PATHS.items()} | heads
    apart = optim.layer_factors({**rest, **{f"encoder/block{i}/qkv/kernel": (4, 4) for i in range(12)}}, 0.9)
    stacked = optim.layer_factors({**rest, "encoder/blocks/qkv/kernel": (12, 4, 4)}, 0.9)
    assert stacked["encoder/blocks/qkv/kernel"] == tuple(apart[f"encoder/block{i}/qkv/kernel"] for i in range(12))
    for name in ("cls", "pos", "mask", "registers", "patch/kernel"):
        assert apart[f"encoder/{name}"] == stacked[f"encoder/{name}"] == 0.9 ** 13
    assert [apart[f"encoder/block{i}/qkv/kernel"] for i in (0, 11)] == [0.9 ** 12, 0.9 ** 1]
    for name in ("encoder/norm/scale", *heads):
        assert apart[name] == stacked[name] == 1, name


def test_layer_decay_of_stages():
    shapes = {name: () for name in ("encoder/stem/conv/kernel", "encoder/stage1/block0/a", "encoder/stage1/block1/a", "encoder/stage2/down/kernel", "encoder/stage2/block0/a",
                                    "encoder/norm/scale", "projector/linear1/kernel")}
    heights = [0, 1, 2, 3, 3, 4, 4]
    assert optim.layer_factors(shapes, 0.5) == {name: 0.5 ** (4 - height) for name, height in zip(shapes, heights)}


def test_layer_decay_multiplies_rates():
    shapes = {"encoder": {"patch": {"kernel": (2, 4)}, "blocks": {"kernel": (3, 4, 4)}}, "head": {"kernel": (4, 4)}}
    params, grads = filled(0, shapes), filled(1, shapes)
    made = steady("sgd", params, momentum=0.0, weight_decay=0.0, layer_decay=0.5, rules=(("patch/", dict(rate=0.2)),))
    updates, _ = made.tx.update(grads, made.tx.init(params), params)
    expected = {"encoder": {"patch": {"kernel": 0.2 * 0.5 ** 4}, "blocks": {"kernel": np.array([0.125, 0.25, 0.5])[:, None, None]}}, "head": {"kernel": 1}}
    close(updates, jax.tree.map(lambda factor, g: -0.02 * factor * g, expected, grads), rtol=1e-6)


def test_step_schedule_by_fractions_of_the_run():
    made = optim.make(schedule="step", lr_steps=(0.6, 0.8), lr_gamma=0.5, lr=1.0, params=filled(0), batch_size=256, total=100, warmup=0)
    np.testing.assert_allclose([float(made.schedule(step)) for step in (59, 60, 80)], [1, 0.5, 0.25])


@pytest.mark.parametrize("options, words", [
    (dict(name="larz"), "did you mean 'lars'"), (dict(scaling="square"), "linear, sqrt, sqrt1024, none"), (dict(schedule="cosin"), "did you mean 'cosine'"),
    (dict(lr=0.0), "above 0"), (dict(clip=-1.0), "optim.clip"), (dict(momentum=1.0), r"\[0, 1\)"), (dict(momentum=0.0, nesterov=True), "needs"),
    (dict(name="adamw", b1=1.0, eps=0.0), "optim.b1.*optim.eps"), (dict(clip_by="layer"), "all, network, array"), (dict(clip_by="array"), "needs optim.clip"),
    (dict(layer_decay=0.0), "layer_decay"), (dict(layer_decay=0.5), "no residual blocks"), (dict(rules=(("bias", dict(clip="a")),)), "optim.clip above 0"),
    (dict(rules=(("gamma", dict(decay=0.0)),)), "decay of 'gamma' decides nothing.*names are like 'encoder/conv/kernel'"),
    (dict(rules=((".*", dict(rate=0.5)), ("bias", dict(rate=0.1, decay=1.0)))), "rules: rate of 'bias' decides"), (dict(rules=(("probe", dict(rate=2.0)),)), "rate of 'probe'"),
    (dict(rules=(("bias", dict(rat=1.0)),)), "did you mean 'rate'"), (dict(rules=(("bias", dict(rate=-1.0)), ("(", dict(fixed=1)))), "number.*regular expression.*bool"),
    (dict(name="sgd", rules=(("bias", dict(adapt=False)),)), "trust ratio of LARS"),
    (dict(lr_steps=(0.5,)), "does not read steps"), (dict(schedule="step", lr_steps=(60.0,)), "fractions"), (dict(end_lr=0.1, schedule="constant"), "end"),
])
def test_mistakes_are_named(options, words):
    with pytest.raises(UserError, match=words):
        optim.make(**options, params={**filled(0), "probe": {"kernel": np.zeros((8, 10))}}, **RUN)


def test_every_option_has_a_default():
    """What a config may set has a default of its type, in the common signature or in an optimizer's, and in one of the two."""
    parameters = inspect.signature(optim.make).parameters
    assert {name for name, p in parameters.items() if p.default is p.empty} == {"params", "batch_size", "total", "warmup", "own"}
    for f in optim.families().values():
        (_, *own) = inspect.signature(f).parameters.values()
        assert own and all(p.default is not p.empty and p.name not in parameters for p in own)
