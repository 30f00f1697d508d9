"""NT-Xent against the paper's loop in numpy f64, other implementations, its own invariances, and on eight devices."""
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxssl.losses.contrastive import contrastive_metrics, nt_xent

FORMS = {"dense": 0, "tiles of 7": 7, "tiles of 16": 16, "one tile": 4096}
MESHES = [(8, 1), (4, 2)]


def embeddings(B, V, D, seed=0, noise=1.):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(B, 1, D)) + noise * rng.normal(size=(B, V, D))


def loop(z, T):
    """The docstring of nt_xent, line by line, in f64."""
    B, V, D = z.shape
    z = np.asarray(z, np.float64).reshape(B * V, D)
    z = z / np.linalg.norm(z, axis=-1, keepdims=True)
    loss = 0.
    for i in range(B * V):
        others = [j for j in range(B * V) if j != i]
        logits = np.array([z[i] @ z[j] / T for j in others])
        lse = logits.max() + np.log(np.exp(logits - logits.max()).sum())
        loss += np.mean([lse - z[i] @ z[j] / T for j in others if j // V == i // V])
    return loss / (B * V)


def google(z, T):
    """add_contrastive_loss of google-research/simclr (tf2/objective.py), from its formula: one softmax per view over
    [other view, own view without itself], the means of the two views' cross entropies added."""
    a, b = (z / np.linalg.norm(z, axis=-1, keepdims=True)).transpose(1, 0, 2)
    def half(a, b):
        cross, own = a @ b.T / T, a @ a.T / T - 1e9 * np.eye(len(a))
        logits = np.concatenate([cross, own], 1)
        return np.mean(np.log(np.exp(logits).sum(1)) - np.diag(cross))
    return half(a, b) + half(b, a)


@functools.cache
def jitted(**how):
    return jax.jit(jax.value_and_grad(lambda z: nt_xent(z, **how)))


def value_and_grad(z, **how):
    return jitted(**how)(z)


def value(z, **how):
    return jitted(**how)(jnp.float32(z))[0]


def assert_same(got, want, loss=1e-6, grad=1e-5):
    np.testing.assert_allclose(got[0], want[0], rtol=loss)
    assert np.linalg.norm(got[1] - want[1]) <= grad * np.linalg.norm(want[1])


def make_mesh(shape):
    return jax.make_mesh(shape, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def shard(z, mesh):
    return jax.device_put(z, NamedSharding(mesh, P(("data", "fsdp"))))


# Two views in the dense form, three in tiles of 7, the order of images and the slopes at .1: tests/test_losses.py, as for every loss.
@pytest.mark.parametrize("V, form", [(2, "tiles of 7"), (2, "tiles of 16"), (2, "one tile"), (3, "dense"), (3, "tiles of 16"), (3, "one tile")])
def test_equals_the_loop(V, form):
    block = FORMS[form]
    z = embeddings(13, V, 8)
    np.testing.assert_allclose(value(z, temperature=.07, block=block), loop(z, .07), rtol=1e-6)


def test_half_of_the_official_value():
    z = embeddings(16, 2, 8)
    np.testing.assert_allclose(2 * value(z, temperature=.2), google(z, .2), rtol=2e-6)


@pytest.mark.parametrize("block", [0, 8])
def test_golden_of_lightly(block):
    """lightly 1.6.0 with torch 2.13.0, float64: z = RandomState(0).normal(size=(16, 2, 8)); value and gradient of
    NTXentLoss(temperature=T)(z[:, 0], z[:, 1]): loss, norm of the gradient, its first three entries."""
    golden = {.5: (3.3877897583341605, .2611392003175834, [.010399518127703, -.004708286777579, .003710580930793]),
              .1: (6.253135917237335, 1.3400136523187647, [.029097552489462, -.013990497895925, .017710751623783]),
              .05: (11.449384974213048, 2.7415736562385566, [.033066020165367, -.015047442260186, .013410299225467])}
    z = jnp.float32(np.random.RandomState(0).normal(size=(16, 2, 8)))
    for T, (loss, norm, first) in golden.items() if not block else [(.1, golden[.1])]:
        got, grad = value_and_grad(z, temperature=T, block=block)
        np.testing.assert_allclose(got, loss, rtol=1e-6)
        np.testing.assert_allclose(jnp.linalg.norm(grad), norm, rtol=5e-6)
        np.testing.assert_allclose(grad[0, 0, :3], first, rtol=2e-5)


def test_live_lightly():
    torch = pytest.importorskip("torch", reason="compares with lightly's NTXentLoss, which needs torch")
    loss = pytest.importorskip("lightly.loss", reason="compares with lightly's NTXentLoss")
    z = embeddings(32, 2, 16).astype(np.float32)
    t = torch.tensor(z, requires_grad=True)
    want = loss.NTXentLoss(temperature=.07)(t[:, 0], t[:, 1])
    want.backward()
    for block in (0, 24):
        assert_same(value_and_grad(jnp.asarray(z), temperature=.07, block=block), (want.item(), t.grad.numpy()))


@pytest.mark.parametrize("block", [0, 8])
def test_invariances(block):
    z = jnp.float32(embeddings(15, 3, 8))
    rng = np.random.default_rng(1)
    views = np.array([2, 0, 1])
    scale = jnp.float32(10 ** rng.uniform(-4, 4, (15, 3, 1)))
    loss, grad = value_and_grad(z, block=block)
    assert_same(value_and_grad(z[:, views], block=block), (loss, grad[:, views]))
    scaled, scaled_grad = value_and_grad(z * scale, block=block)
    assert_same((scaled, scaled_grad * scale), (loss, grad))        # the gradient shrinks as the embedding grows
    assert abs(jnp.sum(grad * z, -1)).max() < 1e-7                  # and is orthogonal to it
    other = z.reshape(45, 8)[rng.permutation(45)].reshape(15, 3, 8)
    assert abs(value(other, block=block) - loss) > .1             # which rows belong together does matter


@pytest.mark.parametrize("T, block", [(1e-3, 0), (1e-3, 5), (1., 0)])
def test_gradient_is_the_slope_of_the_loop(block, T):
    z = embeddings(6, 3, 5, noise=.1)
    _, grad = value_and_grad(jnp.float32(z), temperature=T, block=block)
    rng, h = np.random.default_rng(2), 1e-6
    for _ in range(4):
        d = rng.normal(size=z.shape)
        slope = (loop(z + h * d, T) - loop(z - h * d, T)) / (2 * h)
        np.testing.assert_allclose(np.sum(np.float64(grad) * d), slope, rtol=1e-4, atol=1e-5 * np.linalg.norm(grad))


@pytest.mark.parametrize("T", [1e-3, .025, .1, 1.])
@pytest.mark.parametrize("B, V, block", [(37, 2, 16), (24, 3, 32)])
def test_tiles_equal_dense(B, V, block, T):
    for noise in (.1, 10.):                                         # trained and untrained
        z = jnp.float32(embeddings(B, V, 16, noise=noise))
        # Trained, the loss is exp(-gap / T): a cosine's rounding, 6e-8, is that much over T of it in either form.
        slack = 1 if noise > 1 else max(1, .2 / T)
        assert_same(value_and_grad(z, temperature=T, block=block), value_and_grad(z, temperature=T),
                    loss=1e-6 * slack, grad=1e-5 * slack)


def test_small_losses_keep_their_digits():
    """Late in training lse - positive cancels; the loss here is 1e-6 and must still be right."""
    z = embeddings(16, 2, 64, noise=.01)
    want = loop(z, .05)
    assert 0 < want < 1e-4
    for block in (0, 8):
        np.testing.assert_allclose(value(z, temperature=.05, block=block), want, rtol=2e-5)


@pytest.mark.parametrize("shape, V, T", [((8, 1), 2, .1), ((4, 2), 2, .1), ((4, 2), 3, 1e-3)])
@pytest.mark.parametrize("block", [0, 7])
def test_eight_devices_equal_one(shape, V, T, block):
    mesh = make_mesh(shape)
    z = jnp.float32(embeddings(40, V, 16, noise=10.))
    got = value_and_grad(shard(z, mesh), temperature=T, block=block, mesh=mesh)
    assert got[1].sharding.is_equivalent_to(NamedSharding(mesh, P(("data", "fsdp"))), 3)
    assert_same(got, value_and_grad(z, temperature=T))


@pytest.mark.parametrize("block", [0, 16])
def test_mesh_of_one_device(block):
    z = jnp.float32(embeddings(24, 3, 16))
    assert_same(jitted(block=block, mesh=make_mesh((1, 1)))(z), value_and_grad(z, block=block))


def compiled_text(block, mesh, B=512):
    z = jax.ShapeDtypeStruct((B, 2, 24), jnp.float32, sharding=NamedSharding(mesh, P(("data", "fsdp"))))
    return jax.jit(jax.value_and_grad(lambda z: nt_xent(z, block=block, mesh=mesh))).lower(z).compile().as_text()


@pytest.mark.parametrize("shape", MESHES)
def test_dense_collectives(shape):
    """One all-gather of embeddings, one reduce-scatter of their gradients; local rows × all columns, never all × all."""
    text = compiled_text(0, make_mesh(shape))
    assert collectives(text) == {"all-gather": ["f32[1024,24]"], "reduce-scatter": ["f32[128,24]"],
                                 "all-reduce": ["f32[]"]}
    assert "f32[128,1024]" in text and "[1024,1024]" not in text


@pytest.mark.parametrize("shape", MESHES)
def test_blockwise_collectives(shape):
    """One all-gather of embeddings, one of two numbers a row; nothing larger than a tile and the embeddings."""
    text = compiled_text(32, make_mesh(shape))
    assert collectives(text) == {"all-gather": ["f32[1024,24]", "f32[1024,2]"], "all-reduce": ["f32[]"]}
    assert "f32[32,32]" in text and "[128,1024]" not in text and "[1024,1024]" not in text
    # the statistics that only contrastive_metrics reads are not computed: one product forward, two backward
    assert len(re.findall(r" dot\(", re.sub(r"\[64,2[^\n]* dot\(", "", text))) == 3


def collectives(text):
    """kind → result types, of every collective in compiled HLO text."""
    found = re.findall(r"= (\w+\[[\d,]*\])\S* (all-\w+(?:-\w+)?|reduce-scatter|collective-\w+)\(", text)
    count = len(re.findall(r" (?:all-(?:gather|reduce|to-all)|reduce-scatter|collective-\w+)(?:-start)?\(", text))
    assert len(found) == count, "a collective with a tuple result or an asynchronous one escapes this parser"
    kinds = {}
    for result, kind in found:
        kinds.setdefault(kind, []).append(result)
    return kinds


@pytest.mark.parametrize("block", [0, 7])
def test_temperature_of_a_thousandth(block):
    for noise in (.02, 10.):
        z = embeddings(12, 2, 8, noise=noise)
        loss, grad = value_and_grad(jnp.float32(z), temperature=1e-3, block=block)
        np.testing.assert_allclose(loss, loop(z, 1e-3), rtol=5e-6, atol=1e-3)   # logits reach 1000
        assert np.isfinite(grad).all()


@pytest.mark.parametrize("block", [0, 6])
def test_degenerate_embeddings(block):
    same = jnp.ones((10, 2, 4))
    for T in (1e-3, .1):
        loss, grad = value_and_grad(same, temperature=T, block=block)
        np.testing.assert_allclose(loss, np.log(19), rtol=1e-6, atol=1e-7 / T)
        assert abs(grad).max() < 1e-6 / T
        loss, grad = value_and_grad(same.at[0, 0].set(0.), temperature=T, block=block)
        assert np.isfinite(loss) and np.isfinite(grad).all()


@pytest.mark.parametrize("block", [0, 8])
def test_bfloat16_in_float32_inside(block):
    z = jnp.bfloat16(embeddings(20, 2, 16))
    loss, grad = value_and_grad(z, temperature=.02, block=block)
    want = value_and_grad(z.astype(jnp.float32), temperature=.02, block=block)
    assert loss.dtype == jnp.float32 and grad.dtype == jnp.bfloat16
    np.testing.assert_allclose(loss, want[0], rtol=1e-6)
    assert np.linalg.norm(grad.astype(jnp.float32) - want[1]) < 4e-3 * np.linalg.norm(want[1])


@pytest.mark.parametrize("block", [0, 8])
def test_traced_and_learned_temperature(block):
    z = embeddings(12, 2, 8)
    slope = jax.jit(jax.grad(lambda T: nt_xent(jnp.float32(z), temperature=T, block=block)))
    for T in (.05, .3):
        np.testing.assert_allclose(slope(T), (loop(z, T + 1e-6) - loop(z, T - 1e-6)) / 2e-6, rtol=2e-5)


def test_donated_under_jit():
    z = jnp.float32(embeddings(20, 2, 16))
    want = z - value_and_grad(z)[1]
    step = jax.jit(lambda z: z - jax.grad(lambda z: nt_xent(z, block=16))(z), donate_argnums=0)
    np.testing.assert_allclose(step(jnp.array(z)), want, atol=1e-6)


def test_memory_grows_with_the_rows_not_the_pairs():
    def temporaries(B, block):
        f = jax.jit(jax.value_and_grad(lambda z: nt_xent(z, block=block)))
        return f.lower(jax.ShapeDtypeStruct((B, 2, 32), jnp.float32)).compile().memory_analysis().temp_size_in_bytes
    rows = 2 * 2048
    assert temporaries(2048, 0) > 4 * rows ** 2                     # the logits, at least
    small, large = temporaries(2048, 128), temporaries(8 * 2048, 128)
    assert small < 4 * rows ** 2 / 20
    assert large < 9 * small


@functools.cache
def jitted_metrics(**how):
    return jax.jit(lambda z: contrastive_metrics(z, **how))


def metrics_loop(z, T):
    B, V, D = z.shape
    z = (z / np.linalg.norm(z, axis=-1, keepdims=True)).reshape(B * V, D)
    logits = z @ z.T / T
    np.fill_diagonal(logits, -np.inf)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return {"accuracy": np.mean(logits.argmax(1) // V == np.arange(B * V) // V),
            "entropy": -np.mean(np.sum(p * np.log(p, where=p > 0, out=np.zeros_like(p)), 1))}


@pytest.mark.parametrize("block", [0, 7])
def test_metrics(block):
    mesh = make_mesh((4, 2))
    for V, T, how in ((2, .1, {}), (3, 1e-2, {"mesh": mesh})):
        z = embeddings(24, V, 6, noise=.7)
        want = metrics_loop(z, T)
        assert .1 < want["accuracy"] < .9
        x = jnp.float32(z) if not how else shard(jnp.float32(z), mesh)
        got = jitted_metrics(temperature=T, block=block, **how)(x)
        np.testing.assert_allclose(got["accuracy"], want["accuracy"], rtol=1e-6)
        np.testing.assert_allclose(got["entropy"], want["entropy"], rtol=1e-4, atol=1e-5)
    collapsed = jitted_metrics(block=block)(jnp.ones((8, 2, 4)))
    assert collapsed["accuracy"] == 0. and abs(collapsed["entropy"] - np.log(15)) < 1e-5
    assert jitted_metrics(block=block)(jnp.float32(embeddings(8, 2, 16, noise=.01)))["accuracy"] == 1.


@pytest.mark.parametrize("z, how, words", [
    (jnp.ones((4, 1, 8)), {}, "4 images of 1 views; NT-Xent needs"),
    (jnp.ones((1, 2, 8)), {}, "1 images of 2 views; NT-Xent needs"),
    (jnp.ones((8, 4)), {}, r"\(8, 4\); expected \[B, V, D\]"),
    (jnp.ones((4, 2, 8), int), {}, "int32; expected a floating type"),
    (jnp.ones((4, 2, 8)), {"temperature": 0}, "temperature is 0; expected a number above 0"),
    (jnp.ones((4, 2, 8)), {"temperature": -.1}, "temperature is -0.1"),
    (jnp.ones((4, 2, 8)), {"temperature": float("nan")}, "temperature is nan"),
    (jnp.ones((4, 2, 8)), {"block": -1}, "block is -1; expected 0"),
    (jnp.ones((4, 2, 8)), {"mesh": "(4, 2)"}, "4 images, which 8 devices do not divide"),
])
def test_bad_input(z, how, words):
    how = {key: make_mesh((4, 2)) if key == "mesh" else value for key, value in how.items()}
    for function in (nt_xent, contrastive_metrics):
        with pytest.raises(ValueError, match=words):
            function(z, **how)
