"""ResNets, batch norm and heads against torchvision, against numpy, and on one device against eight."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxssl import models
from jaxssl.errors import UserError
from jaxssl.models.heads import Linear, Projector
from jaxssl.models.norm import BatchNorm

ENCODERS = {"resnet10": (512, 4_905_792), "resnet18": (512, 11_176_512), "resnet34": (512, 21_284_672),
            "resnet50": (2048, 25_557_032 - 2_049_000), "resnet101": (2048, 44_549_160 - 2_049_000), "resnet152": (2048, 60_192_808 - 2_049_000),
            "resnet200": (2048, 64_673_832 - 2_049_000), "wide_resnet50_2": (2048, 68_883_240 - 2_049_000), "wide_resnet101_2": (2048, 126_886_696 - 2_049_000)}


def tiny(**changes):
    return models.resnet.ResNet(**{"kind": "basic", "depths": (1, 1), "width": 8, "stem": "cifar", **changes})


def images(count=16, size=16, seed=0):
    return np.random.default_rng(seed).normal(size=(count, size, size, 3)).astype(np.float32)


def start(module, x):
    return jax.jit(functools.partial(module.init, train=False))(jax.random.key(0), x)


def forward(module, variables, x, mutable=("batch_stats",), **flags):
    return jax.jit(functools.partial(module.apply, train=True, mutable=list(mutable), **flags))(variables, x)


def shapes(encoder, size=64):
    return jax.eval_shape(lambda key: encoder.init(key, jnp.zeros((2, size, size, 3)), False), jax.random.key(0))


def paths(tree):
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@functools.cache
def torchvision_models():
    """torchvision's models, or a skip: a torchvision built for another torch raises RuntimeError, not ImportError."""
    try:
        import torchvision
    except Exception as error:
        pytest.skip(f"torchvision cannot be imported: {error}")
    return torchvision.models


def from_torch(state: dict, variables: dict) -> dict:
    """Our variables with a torchvision ResNet's tensors, by name; every tensor but the classifier's must find its place."""
    def name(path):
        first, *rest = path.split("/")
        stage, rest = ("", ["stem", *rest]) if first == "stem" else (first.replace("stage", "layer"), rest)
        if rest[0] == "stem":
            module = {"conv": "conv1", "norm": "bn1"}[rest[1]]
        elif rest[1] == "shortcut":
            module = f"{stage}.{rest[0].removeprefix('block')}.downsample.{'01'[rest[2] == 'norm']}"
        else:
            module = f"{stage}.{rest[0].removeprefix('block')}.{rest[1].replace('norm', 'bn')}"
        return f"{module}.{ {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias', 'mean': 'running_mean', 'var': 'running_var'}[rest[-1]]}"

    unused = {k for k in state if not k.startswith("fc.") and "num_batches" not in k}
    def pick(path, leaf):
        key = name(jax.tree_util.keystr(path[1:], simple=True, separator="/"))
        unused.discard(key)
        value = state[key].numpy()
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value                # OIHW -> HWIO
        assert value.shape == leaf.shape, key
        return jnp.asarray(value)
    result = jax.tree_util.tree_map_with_path(pick, variables)
    assert not unused
    return result


@pytest.mark.parametrize("name", ENCODERS)
def test_parameter_counts_are_torchvisions(name):
    features, count = ENCODERS[name]
    encoder = models.make(name=name)
    assert encoder.features == features
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes(encoder)["params"])) == count


def test_names_and_dtypes():
    leaves = paths(shapes(models.make(name="resnet50")))
    assert leaves["params/stem/conv/kernel"].shape == (7, 7, 3, 64)
    assert leaves["params/stage2/block0/conv2/kernel"].shape == (3, 3, 128, 128)
    assert leaves["params/stage2/block0/shortcut/conv/kernel"].shape == (1, 1, 256, 512)
    assert leaves["batch_stats/stage4/block2/norm3/var"].shape == (2048,)
    assert {leaf.dtype for leaf in leaves.values()} == {jnp.dtype("float32")}


def test_width_and_stems():
    encoder = models.make(name="resnet18", width=0.25, stem="cifar")
    assert encoder.features == 128
    leaves = paths(shapes(encoder, 32))
    assert leaves["params/stem/conv/kernel"].shape == (3, 3, 3, 16)
    last = {}
    for stem in ("cifar", "imagenet"):
        encoder = models.make(name="resnet18", width=0.25, stem=stem)
        _, state = jax.eval_shape(lambda e=encoder: e.init_with_output(jax.random.key(0), jnp.zeros((2, 32, 32, 3)), False, mutable=True,
                                                                       capture_intermediates=True))
        last[stem] = state["intermediates"]["stage4"]["__call__"][0].shape
    assert last == {"cifar": (2, 4, 4, 128), "imagenet": (2, 1, 1, 128)}


@pytest.mark.parametrize(("stem", "before", "behind"), [("imagenet", 1, 1), ("tensorflow", 0, 1)])
def test_padding_of_the_stems_pool(stem, before, behind):
    """The stem's output from its own convolution, pooled by a loop: torch pads on both sides, TensorFlow's SAME behind only."""
    x = jnp.asarray(images(2, 16))
    encoder = tiny(stem=stem)
    _, state = forward(encoder, start(encoder, x), x, ("batch_stats", "intermediates"), capture_intermediates=True)
    stages = state["intermediates"]["stem"]
    wide = np.pad(np.maximum(stages["norm"]["__call__"][0], 0), ((0, 0), (before, behind), (before, behind), (0, 0)))
    expected = [[wide[:, 2 * i:2 * i + 3, 2 * j:2 * j + 3].max((1, 2)) for j in range(4)] for i in range(4)]
    np.testing.assert_array_equal(stages["__call__"][0], np.transpose(expected, (2, 0, 1, 3)))


def test_zero_init_makes_blocks_identities():
    x = jnp.asarray(images(4, 8))
    for zero_init, identity in ((True, True), (False, False)):
        encoder = tiny(depths=(2,), zero_init=zero_init)
        _, state = forward(encoder, start(encoder, x), x, ("batch_stats", "intermediates"), capture_intermediates=True)
        blocks = state["intermediates"]["stage1"]
        same = np.array_equal(blocks["block0"]["__call__"][0], blocks["block1"]["__call__"][0])
        assert same == identity


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "wide_resnet50_2"])
def test_equals_torchvision(name):
    """Random weights, scales, biases and statistics; evaluation, training, and evaluation with the statistics training left."""
    torch = pytest.importorskip("torch", reason="compares with torchvision")
    torch.manual_seed(0)
    peer = getattr(torchvision_models(), name)()
    for key, tensor in peer.state_dict().items():
        if "bn" in key or "downsample.1" in key:
            if key.endswith(("weight", "running_var")):
                tensor.uniform_(0.5, 1.5)
            elif key.endswith(("bias", "running_mean")):
                tensor.normal_(0, 0.2)
    peer.fc = torch.nn.Identity()
    encoder = models.make(name=name, precision="f32")
    variables = from_torch(peer.state_dict(), shapes(encoder))
    x = images(4, 65)                                    # odd: uneven padding would show
    theirs = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    apply = jax.jit(functools.partial(encoder.apply, mutable=["batch_stats"]), static_argnums=2)

    def close(ours, tensor):
        tensor = tensor.detach().numpy()
        np.testing.assert_allclose(ours, tensor, atol=1e-4 * np.abs(tensor).max(), rtol=1e-4)

    close(apply(variables, x, False)[0].pooled, peer.eval()(theirs))
    trained = peer.train()(theirs)
    features, updated = apply(variables, x, True)
    close(features.pooled, trained)
    after = from_torch(peer.state_dict(), variables)["batch_stats"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4), updated["batch_stats"], after)
    close(apply({**variables, **updated}, x, False)[0].pooled, peer.eval()(theirs))


@pytest.mark.parametrize("groups", [1, 4])
def test_batch_norm_equals_numpy_per_group(groups):
    x = np.random.default_rng(0).normal(2.0, 3.0, (8, 3, 5, 6)).astype(np.float32)
    norm = BatchNorm(momentum=0.75, eps=1e-3, groups=groups)
    variables = {"params": {"scale": jnp.linspace(0.5, 2, 6), "bias": jnp.linspace(-1, 1, 6)},
                 "batch_stats": {"mean": jnp.linspace(-2, 2, 6), "var": jnp.linspace(1, 3, 6)}}
    y, updated = norm.apply(variables, jnp.asarray(x), True, mutable=["batch_stats"])
    parts = np.stack([x.astype(np.float64)[i::groups].reshape(-1, 6) for i in range(groups)])      # group i: rows i, i + groups, …
    mean, var = parts.mean(1, keepdims=True), parts.var(1, keepdims=True)
    expected = (parts - mean) / np.sqrt(var + 1e-3) * np.linspace(0.5, 2, 6) + np.linspace(-1, 1, 6)
    for i in range(groups):
        np.testing.assert_allclose(y[i::groups], expected[i].reshape(-1, *x.shape[1:]), atol=1e-5)
    np.testing.assert_allclose(updated["batch_stats"]["mean"], 0.75 * np.linspace(-2, 2, 6) + 0.25 * mean.mean((0, 1)), atol=1e-5)
    unbiased = parts.var(1, ddof=1).mean(0)
    np.testing.assert_allclose(updated["batch_stats"]["var"], 0.75 * np.linspace(1, 3, 6) + 0.25 * unbiased, atol=1e-5)
    evaluated = norm.apply(variables, jnp.asarray(x), False)
    expected = (x - np.linspace(-2, 2, 6)) / np.sqrt(np.linspace(1, 3, 6) + 1e-3) * np.linspace(0.5, 2, 6) + np.linspace(-1, 1, 6)
    np.testing.assert_allclose(evaluated, expected, atol=1e-5)


def test_batch_norm_gradient_equals_finite_differences():
    with jax.enable_x64():
        generator = np.random.default_rng(0)
        x, weight = generator.normal(size=(6, 2, 3)), generator.normal(size=(6, 2, 3))
        norm = BatchNorm(groups=2)
        variables = norm.init(jax.random.key(0), jnp.asarray(x), True)
        @jax.jit
        def loss(x):
            return (norm.apply(variables, x, True, mutable=["batch_stats"])[0] * weight).sum()
        gradient = jax.grad(loss)(jnp.asarray(x))
        for index in [(0, 0, 0), (2, 1, 2), (5, 0, 1)]:
            step = np.zeros_like(x)
            step[index] = 1e-2                                # the norm computes in float32
            slope = (loss(x + step) - loss(x - step)) / 2e-2
            np.testing.assert_allclose(gradient[index], slope, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("groups", [1, 2])
def test_normalised_product_equals_product_then_norm(groups):
    """Values, statistics and all four gradients of the product that is never stored, against the one that is."""
    keys = jax.random.split(jax.random.key(0), 5)
    x = jax.nn.relu(jax.random.normal(keys[0], (8, 3, 3, 5)) + 0.5)
    params = {"scale": jnp.linspace(0.5, 2, 7), "bias": jnp.linspace(-1, 1, 7)}
    kernel, weight = jax.random.normal(keys[1], (5, 7)), jax.random.normal(keys[2], (8, 3, 3, 7))
    norm = BatchNorm(groups=groups)
    stats = {"mean": jnp.zeros(7), "var": jnp.ones(7)}

    def loss(params, kernel, x, stored):
        inputs = (x @ kernel, True) if stored else (x, True, kernel)
        y, updated = norm.apply({"params": params, "batch_stats": stats}, *inputs, mutable=["batch_stats"])
        return (y * weight).sum(), (y, updated)

    ours, plain = (jax.jit(jax.value_and_grad(functools.partial(loss, stored=stored), (0, 1, 2), has_aux=True))(params, kernel, x) for stored in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, plain)
    evaluated = (norm.apply({"params": params, "batch_stats": stats}, *inputs) for inputs in ((x, False, kernel), (x @ kernel, False)))
    np.testing.assert_allclose(*evaluated, atol=1e-5)


@pytest.mark.parametrize(("dtype", "origin", "unit"), [(jnp.float32, 1.0, 1e-4), (jnp.bfloat16, 4096.0, 32.0)])
def test_variance_survives_a_large_mean(dtype, origin, unit):
    """A deviation of 2e-4 on a mean of 1: E[x²] − E[x]² in float32 has no correct digit there, around the running mean it has four."""
    steps = np.random.default_rng(0).integers(0, 7, (512, 8))
    x = np.asarray(jnp.asarray(origin + unit * steps, dtype), np.float64)
    variables = {"params": {"scale": jnp.ones(8), "bias": jnp.zeros(8)}, "batch_stats": {"mean": jnp.full(8, origin), "var": jnp.ones(8)}}
    y, updated = forward(BatchNorm(momentum=0.0, eps=1e-12), variables, jnp.asarray(x, dtype))
    assert y.dtype == dtype
    np.testing.assert_allclose(updated["batch_stats"]["var"], x.var(0, ddof=1), rtol=1e-4)
    np.testing.assert_allclose(np.asarray(y, np.float64), (x - x.mean(0)) / x.std(0), atol=1e-2 if dtype == jnp.bfloat16 else 2e-3)


def test_ghost_groups_must_divide():
    with pytest.raises(UserError, match="bn_groups=3"):
        tiny(bn_groups=3).init(jax.random.key(0), jnp.zeros((16, 8, 8, 3)), True)


def test_groups_see_only_themselves():
    """A change in one group leaves the features of the others as they are."""
    encoder, x = tiny(bn_groups=4), images()
    third = np.arange(len(x)) % 4 == 2
    changed = np.where(third[:, None, None, None], x ** 3, x)
    before, after = (forward(encoder, start(encoder, x), v)[0].pooled for v in (x, changed))
    np.testing.assert_array_equal(before[~third], after[~third])
    assert np.abs(before[third] - after[third]).max() > 1e-3


def test_bf16_stays_close_and_gives_float32():
    x = images()
    exact, rounded = tiny(), tiny(dtype=jnp.bfloat16)
    variables = start(exact, x)
    a, b = (forward(e, variables, x)[0].pooled for e in (exact, rounded))
    assert b.dtype == jnp.float32
    assert 1e-5 < np.abs(a - b).max() < 0.05 * np.abs(a).max()


def test_remat_changes_nothing_but_memory():
    x = images(8)
    results = []
    for remat in (False, True):
        encoder = tiny(kind="bottleneck", remat=remat, zero_init=False)
        variables = start(encoder, x)
        def loss(params, encoder=encoder, stats=variables["batch_stats"]):
            return jnp.square(encoder.apply({"params": params, "batch_stats": stats}, x, True, mutable=["batch_stats"])[0].pooled).sum()
        results.append(jax.jit(jax.value_and_grad(loss))(variables["params"]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *results)


@pytest.mark.parametrize(("kind", "groups"), [("basic", 4), ("bottleneck", 1)])
def test_one_device_equals_eight(kind, groups):
    encoder, x = tiny(kind=kind, bn_groups=groups, zero_init=False), images()
    variables = start(encoder, x)
    def differentiate(variables, x):
        def loss(params):
            y, updated = encoder.apply({**variables, "params": params}, x, True, mutable=["batch_stats"])
            return (jnp.sin(3 * y.pooled)).sum(), (y.pooled, updated)
        (_, outputs), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        return outputs, gradient
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    one, eight = jax.jit(differentiate)(variables, x), jax.jit(differentiate)(jax.device_put(variables, NamedSharding(mesh, PartitionSpec())), split)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), one, eight)


def test_projector_is_simclrs():
    """Linear without bias, norm, ReLU; the last norm has no centre. Checked against numpy."""
    x = np.random.default_rng(0).normal(size=(12, 7)).astype(np.float32)
    head = Projector((9, 9, 4))
    variables = head.init(jax.random.key(0), x, True)
    assert {k: v.shape for k, v in paths(variables["params"]).items()} == {
        "linear1/kernel": (7, 9), "norm1/scale": (9,), "norm1/bias": (9,), "linear2/kernel": (9, 9), "norm2/scale": (9,), "norm2/bias": (9,),
        "linear3/kernel": (9, 4), "norm3/scale": (4,)}
    assert 0.005 < np.std(np.concatenate([np.ravel(variables["params"][f"linear{i}"]["kernel"]) for i in (1, 2, 3)])) < 0.02
    y, _ = head.apply(variables, x, True, mutable=["batch_stats"])
    expected = x.astype(np.float64)
    for i in (1, 2, 3):
        expected = expected @ np.asarray(variables["params"][f"linear{i}"]["kernel"], np.float64)
        expected = (expected - expected.mean(0)) / np.sqrt(expected.var(0) + 1e-5)
        expected = np.maximum(expected, 0) if i < 3 else expected
    np.testing.assert_allclose(y, expected, atol=2e-3)


@pytest.mark.parametrize(("flags", "leaves"), [
    ({"last_norm": False}, {"linear1/kernel", "norm1/scale", "norm1/bias", "linear2/kernel"}),
    ({"last_norm": False, "last_bias": True}, {"linear1/kernel", "norm1/scale", "norm1/bias", "linear2/kernel", "linear2/bias"}),
    ({"last_bias": True}, {"linear1/kernel", "norm1/scale", "norm1/bias", "linear2/kernel", "norm2/scale", "norm2/bias"}),
    ({"norm": False, "last_norm": False}, {"linear1/kernel", "linear1/bias", "linear2/kernel"})])
def test_projector_variants(flags, leaves):
    variables = Projector((5, 3), **flags).init(jax.random.key(0), jnp.zeros((4, 6)), True)
    assert set(paths(variables["params"])) == leaves


def test_linear_starts_at_zero():
    logits, variables = Linear(5).init_with_output(jax.random.key(0), jnp.ones((3, 4), jnp.bfloat16))
    assert logits.shape == (3, 5) and logits.dtype == jnp.float32 and not np.any(logits)
    assert set(paths(variables["params"])) == {"linear/kernel", "linear/bias"}


@pytest.mark.parametrize(("flags", "words"), [
    ({"name": "resnet5"}, "did you mean 'resnet50'"), ({"stem": "cifra"}, "did you mean 'cifar'"), ({"precision": "fp32"}, "f32"),
    ({"width": 0.001}, "no channel"), ({"depths": (1, 2, 3, 4, 5)}, "one to four stages"), ({"depths": (1, 0)}, r"model.depths is \(1, 0\)"), ({"bn_groups": 0}, "choose 1")])
def test_bad_input(flags, words):
    with pytest.raises(UserError, match=words):
        models.make(**flags)
