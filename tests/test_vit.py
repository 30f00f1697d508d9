"""Vision transformers against timm; what a token may and may not see; one network in several programs; stochastic depth by place in the batch."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.custom_partitioning import custom_partitioning

from jaxssl.errors import UserError
from jaxssl.models import positions, transformer, vit
from jaxssl.models.features import Features
from tests.tiny import Tiny, config_of

TINY = {"width": 32, "depth": 2, "heads": 4, "patch": 8, "image": 32, "precision": "f32"}
EVERYTHING = {"ffn": "swiglu", "qk_norm": True, "registers": 2, "layer_scale": 0.1, "mask_token": True}
COUNTS = {"vit_tiny": 5_524_416, "vit_small": 21_665_664, "vit_base": 85_798_656, "vit_large": 303_301_632, "vit_huge": 630_764_800}    # timm, no head, 224 px


def tiny(**changes):
    return vit.make(**{**TINY, **changes})


def images(count=4, height=32, width=32, channels=3, seed=0):
    return np.random.default_rng(seed).normal(size=(count, height, width, channels)).astype(np.float32)


@functools.cache
def start(module, channels=3):
    """Variables with every parameter moved off its initial value, so that each counts."""
    shapes = jax.eval_shape(lambda key: module.init(key, jnp.zeros((2, module.image, module.image, channels)), False), jax.random.key(0))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda a: jnp.asarray((a.ndim < 3) * 0.5 + 0.2 * rng.normal(size=a.shape), jnp.float32), shapes)


@functools.cache
def program(module, train):
    return jax.jit(lambda variables, x, key, options: module.apply(variables, x, train, rngs={"drop": key}, **options))


def forward(module, x, train=False, key=0, variables=None, **options) -> Features:
    return program(module, train)(variables or start(module, x.shape[-1]), x, jax.random.key(key), options)


def close(a, b, tolerance=2e-5):
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=tolerance, atol=tolerance), a, b)


def paths(tree):
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def shapes(module, side=224, channels=3):
    return jax.eval_shape(lambda key: module.init(key, jnp.zeros((1, side, side, channels)), False), jax.random.key(0))["params"]


# shapes, sizes and starts

@pytest.mark.parametrize("name", COUNTS)
def test_sizes(name):
    module = vit.make(name=name, patch=14 if name == "vit_huge" else 16)
    assert sum(a.size for a in jax.tree.leaves(shapes(module))) == COUNTS[name]
    assert all(a.dtype == jnp.float32 for a in jax.tree.leaves(shapes(module)))
    assert (module.features, module.depth, module.heads) == vit.SIZES[name]


def test_giant_is_dinov2s():
    """1,136,480,768 as DINOv2 without its mask token: patch 14, 518 px, SwiGLU of 4,096 channels, layer scale."""
    found = shapes(vit.make(name="vit_giant", patch=14, image=518, ffn="swiglu", layer_scale=1e-5), 518)
    assert sum(a.size for a in jax.tree.leaves(found)) == 1_136_480_768 - 1536
    assert found["blocks"]["w12"]["kernel"].shape == (40, 1536, 2 * 4096) and found["pos"].shape == (1, 1370, 1536)


def test_swiglu_width():
    assert [transformer.swiglu_width(width) for width in (384, 1024, 1536)] == [1024, 2736, 4096]


@pytest.mark.parametrize("changes", [{}, {"pool": "mean", "cls": False}, EVERYTHING, {"positions": "sincos", "precision": "bf16"}, {"patch": 4, "image": 16, "heads": 1}], ids=str)
def test_features(changes):
    module, x = tiny(**changes), images(3, 16, 40)
    found = forward(module, x)
    count = 16 * 40 // module.patch**2
    assert found.pooled.shape == (3, 32) and found.tokens.shape == (3, count, 32)
    assert found.pooled.dtype == found.tokens.dtype == jnp.float32 and all(np.isfinite(a).all() for a in found)
    if module.pool == "mean":
        close(found.pooled, found.tokens.mean(1))


@pytest.mark.parametrize("channels", [1, 5])
def test_channels(channels):
    assert forward(tiny(channels=channels), images(2, channels=channels)).tokens.shape == (2, 16, 32)


def test_tokens_are_row_major():
    """Changing the pixels of one patch changes its own token most, in a network without positions worth the name."""
    x = images(1, 16, 32)
    other = x.copy()
    other[:, 8:16, 16:24] += 1                                                      # row 1, column 2 of a 2 × 4 grid
    moved = np.abs(forward(tiny(), other).tokens - forward(tiny(), x).tokens).sum(-1)[0]
    assert moved.argmax() == 1 * 4 + 2


def test_starts():
    module = tiny(width=128, mask_token=True, registers=4, layer_scale=1e-5)
    params = paths(jax.jit(lambda key: module.init(key, images(1), False))(jax.random.key(0))["params"])
    for name in ("blocks/qkv/kernel", "blocks/proj/kernel", "blocks/fc1/kernel", "blocks/fc2/kernel", "pos"):
        assert abs(np.std(params[name]) - 0.02) < 1e-3, name
    assert not any(np.any(params[name]) for name in params if name.endswith("bias") and name != "patch/bias") and not params["mask"].any()
    assert 0 < np.abs(params["cls"]).max() < 1e-5 and 0 < np.abs(params["registers"]).max() < 1e-5 and np.allclose(params["blocks/scale1"], 1e-5)
    bound = (8 * 8 * 3)**-0.5
    assert 0.95 * bound < np.abs(params["patch/kernel"]).max() <= bound and 0.8 * bound < np.abs(params["patch/bias"]).max() <= bound
    assert not np.array_equal(params["blocks/qkv/kernel"][0], params["blocks/qkv/kernel"][1])


def test_frozen_patch():
    module, x = tiny(frozen_patch=True, positions="sincos"), images()
    drawn = vit.Patch(32, 8, True, jnp.float32).init(jax.random.key(0), x)["params"]
    bound = (6 / (8 * 8 * 3 + 32))**0.5
    assert 0.95 * bound < np.abs(drawn["kernel"]).max() <= bound and not drawn["bias"].any()
    slopes = jax.jit(jax.grad(lambda v: jnp.square(module.apply(v, x, True).pooled).sum()))(start(module))
    for name, value in paths(slopes["params"]).items():
        assert bool(np.any(value)) != name.startswith("patch/"), name


# one network in several programs

def test_scanned_and_remat_are_one_network():
    changes, x = {**EVERYTHING, "pool": "mean"}, images()
    variables = start(tiny(**changes))
    flat = {"params": transformer.unstack(variables["params"])}
    assert sorted(name for name in flat["params"] if name.startswith("block")) == ["block0", "block1"]
    close(transformer.stack(flat["params"]), variables["params"], 0)
    assert jax.tree.structure(shapes(tiny(scan=False, **changes), 32)) == jax.tree.structure(flat["params"])

    def both(module):
        mine = variables if module.scan else flat
        value, slopes = jax.jit(jax.value_and_grad(lambda v: jnp.square(module.apply(v, x, True).pooled).sum()))(mine)
        return value, transformer.stack(slopes["params"])
    value, slopes = both(tiny(**changes))
    scale = max(float(np.abs(a).max()) for a in jax.tree.leaves(slopes))
    for other in ({"remat": "full"}, {"scan": False, "remat": "dots"}):
        same, found = both(tiny(**changes, **other))
        np.testing.assert_allclose(same, value, rtol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale, rtol=1e-4), found, slopes)


def test_stack_keeps_the_order_of_many_layers():
    layers = {f"block{i}": {"a": np.full(2, i)} for i in reversed(range(12))}
    stacked = transformer.stack({"norm": 1, **layers})
    assert stacked["blocks"]["a"][:, 0].tolist() == list(range(12)) and stacked["norm"] == 1
    assert transformer.stack(stacked) == stacked and transformer.unstack(layers) == layers


def test_bfloat16_is_near():
    x = images()
    close(forward(tiny(precision="bf16"), x, variables=start(tiny())), forward(tiny(), x), 0.1)


# visible and masked patches

def test_keep_hides_the_rest():
    """Not one bit of what is kept changes with pixels that are not; the order of `keep` is the order of tokens."""
    module, x = tiny(registers=1), images(2)
    keep = jnp.asarray([[3, 0, 9], [15, 2, 7]], jnp.int32)
    patches = x.reshape(2, 4, 8, 4, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 16, 8, 8, 3).copy()
    hidden = np.ones((2, 16), bool)
    np.put_along_axis(hidden, np.asarray(keep), False, 1)
    patches[hidden] = 100 * np.random.default_rng(3).normal(size=(hidden.sum(), 8, 8, 3))
    other = patches.reshape(2, 4, 4, 8, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(x.shape)
    found = forward(module, x, keep=keep)
    assert found.tokens.shape == (2, 3, 32)
    jax.tree.map(np.testing.assert_array_equal, found, forward(module, other, keep=keep))
    close(forward(module, x, keep=keep[:, ::-1]).tokens, found.tokens[:, ::-1])
    everything = jnp.tile(jnp.arange(16, dtype=jnp.int32), (2, 1))
    close(forward(module, x, keep=everything), forward(module, x))


def test_mask_token_stands_for_masked_patches():
    module, x = tiny(mask_token=True), images(2)
    assert "mask" in shapes(module, 32) and "mask" not in shapes(tiny(), 32)
    mask = np.zeros((2, 16), bool)
    mask[0, 5] = mask[1, 8] = True
    other = x.copy()
    other[0, 8:16, 8:16] = other[1, 16:24, 0:8] = 7                                  # row 1, column 1 and row 2, column 0
    found = forward(module, x, mask=jnp.asarray(mask))
    jax.tree.map(np.testing.assert_array_equal, found, forward(module, other, mask=jnp.asarray(mask)))
    assert not np.allclose(found.tokens, forward(module, x).tokens)
    close(forward(module, x, mask=jnp.zeros((2, 16), bool)), forward(module, x))
    params = start(module)["params"]
    same = forward(module, x, mask=jnp.ones((2, 16), bool)).tokens                  # positions are added behind the mask token: places differ
    assert params["mask"].shape == (1, 32) and np.abs(same[:, 0] - same[:, 1]).max() > 1e-3
    with pytest.raises(UserError, match="model.mask_token is off"):
        forward(tiny(), x, mask=jnp.asarray(mask))


# positions

def test_resize_option_reaches_the_tokens():
    x, near = images(2, 48, 24), tiny()
    far = tiny(resize="torch")
    assert np.abs(forward(far, x, variables=start(near)).tokens - forward(near, x).tokens).max() > 1e-3
    jax.tree.map(np.testing.assert_array_equal, forward(far, images(), variables=start(near)), forward(near, images()))


def test_sincos_is_added_to_patches_alone():
    """With patches of one colour, tokens before the blocks are the positions and a constant: a network without blocks' weights shows them."""
    module, x = tiny(positions="sincos", image=64), np.zeros((1, 16, 24, 3), np.float32)
    params = jax.tree.map(lambda a: a, start(module)["params"])
    assert "pos" not in params
    params["blocks"] = jax.tree.map(jnp.zeros_like, params["blocks"])
    params["norm"] = {"scale": jnp.ones(32), "bias": jnp.zeros(32)}
    found = forward(module, x, variables={"params": params})

    def normed(a):
        return (a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(found.tokens[0], normed(positions.sincos((2, 3), 32) + params["patch"]["bias"]), atol=1e-5)
    np.testing.assert_allclose(found.pooled, normed(np.asarray(params["cls"][0])), atol=1e-5)


# stochastic depth

def dropping(**changes):
    return tiny(drop_path=0.5, drop_path_shape="uniform", **changes)


def test_what_an_image_draws_is_its_places():
    """Other rows do not matter, micro-batches draw what the batch would, layers and branches and keys draw alone."""
    module, x = dropping(), images(8)
    whole = forward(module, x, True, key=1)
    for part in (slice(0, 4), slice(4, 8)):
        micro = forward(module, x[part], True, key=1, rows=jnp.arange(8)[part])
        close(micro, jax.tree.map(lambda a: a[part], whole), 1e-6)
    order = np.asarray([6, 0, 3, 5])
    close(forward(module, x[order], True, key=1, rows=jnp.asarray(order)), jax.tree.map(lambda a: a[order], whole), 1e-6)
    same = forward(module, np.repeat(x[:1], 8, 0), True, key=1).pooled
    assert len(np.unique(np.round(same[:, 0], 4))) > 4                               # of 16 patterns of two branches in two blocks
    assert not np.allclose(whole.pooled, forward(module, x, True, key=2).pooled)
    close(forward(module, images(), False, key=1), forward(tiny(), images()))


@pytest.mark.parametrize("changes", [{}, {"drop_rows": True}], ids=["by_row", "subset"])
def test_scanned_and_remat_draw_alike(changes):
    module, x = dropping(**changes), images(6)
    variables = start(module)
    found = forward(module, x, True, key=1)
    flat = {"params": transformer.unstack(variables["params"])}
    close(found, forward(dropping(scan=False, remat="full", **changes), x, True, key=1, variables=flat))
    assert not np.allclose(found.pooled, forward(module, x, True, key=2).pooled)


def test_linear_rates_leave_the_first_block_whole():
    module, x = tiny(drop_path=0.9, drop_rows=True, scan=False, depth=2), images(1)
    same = forward(module, np.repeat(x, 10, 0), True, key=0).pooled
    assert len(np.unique(np.round(same[:, 0], 4))) <= 3                              # one of ten rows has each branch of the second block


# timm

def timm_state(params, torch):
    """Our parameters as the state of timm's VisionTransformer."""
    params = transformer.unstack(jax.tree.map(np.asarray, params))
    state = {"cls_token": params["cls"]} if "cls" in params else {}
    state["patch_embed.proj.weight"], state["patch_embed.proj.bias"] = params["patch"]["kernel"].transpose(3, 2, 0, 1), params["patch"]["bias"]
    state["norm.weight"], state["norm.bias"], state["pos_embed"] = params["norm"]["scale"], params["norm"]["bias"], params["pos"]
    if "registers" in params:                                                       # timm's positions are then without the class token's
        state |= {"reg_token": params["registers"], "cls_token": params["cls"] + params["pos"][:, :1], "pos_embed": params["pos"][:, 1:]}
    homes = {"qkv": "attn.qkv", "proj": "attn.proj", "q_norm": "attn.q_norm", "k_norm": "attn.k_norm", "norm1": "norm1", "norm2": "norm2",
             "fc1": "mlp.fc1", "fc2": "mlp.fc2", "w12": "mlp.fc1", "w3": "mlp.fc2"}
    for i in range(2):
        for name, layer in params[f"block{i}"].items():
            if name.startswith("scale"):
                state[f"blocks.{i}.ls{name[-1]}.gamma"] = layer
                continue
            kind = "kernel" if "kernel" in layer else "scale"
            state[f"blocks.{i}.{homes[name]}.weight"], state[f"blocks.{i}.{homes[name]}.bias"] = layer[kind].T, layer["bias"]
    return {name: torch.from_numpy(np.array(value)) for name, value in state.items()}


@pytest.mark.parametrize("changes", [{}, {**EVERYTHING, "pool": "mean"}], ids=["plain", "everything"])
def test_is_timms(changes):
    """Values at two sizes, and gradients, of timm's VisionTransformer with the same parameters."""
    torch = pytest.importorskip("torch", reason="compares with timm's VisionTransformer, which needs torch")
    peers = pytest.importorskip("timm.models.vision_transformer", reason="compares with timm's VisionTransformer", exc_type=(ImportError, RuntimeError))
    module = tiny(**{**changes, "mask_token": False})
    options = {} if not changes else {"qk_norm": True, "init_values": 0.1, "reg_tokens": 2, "no_embed_class": True, "mlp_ratio": 2 * 88 / 32,
                                      "mlp_layer": peers.SwiGLUPacked, "act_layer": torch.nn.SiLU}
    peer = peers.VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=0, dynamic_img_size=True, fc_norm=False,
                                   global_pool={"cls": "token", "mean": "avg"}[module.pool], **options)
    variables = start(module)
    peer.load_state_dict(timm_state(variables["params"], torch))                     # strict: every tensor of both

    def loss(variables, x):
        found = module.apply(variables, x, True)
        return jnp.square(found.pooled).sum(), found
    for x in (images(), images(2, 16, 40)):
        peer.zero_grad()
        tokens = peer.forward_features(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
        pooled = peer.forward_head(tokens)
        pooled.square().sum().backward()
        (_, found), slopes = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables, x)
        close(tuple(found), (pooled.detach().numpy(), tokens[:, -found.tokens.shape[1]:].detach().numpy()))
    slopes = timm_state(slopes["params"], torch)
    scale = max(float(p.grad.abs().max()) for p in peer.parameters())
    for name, parameter in peer.named_parameters():
        if name != "cls_token" or not changes:                                       # its gradient is one tensor's there and two's here
            np.testing.assert_allclose(slopes[name], parameter.grad, atol=1e-5 * scale, rtol=1e-3, err_msg=name)


# wrong values

@pytest.mark.parametrize("changes, words", [
    ({"name": "vit_smal"}, "model.name is 'vit_smal'; did you mean 'vit_small'?"), ({"pool": "avg"}, "model.pool is 'avg'"),
    ({"positions": "sincoss"}, "did you mean 'sincos'?"), ({"resize": "bicubic"}, "model.resize is 'bicubic'"), ({"ffn": "swiglue"}, "did you mean 'swiglu'?"),
    ({"remat": True}, "model.remat is 'True'"), ({"drop_path_shape": "lin"}, "did you mean 'linear'?"), ({"precision": "fp32"}, "precision is 'fp32'; did you mean"),
    ({"patch": 0}, "model.patch is 0; choose at least 1"), ({"image": 30}, "model.image is 30; choose a multiple of model.patch=8"), ({"channels": 0}, "model.channels is 0"),
    ({"cls": False}, "model.pool is 'cls'"), ({"registers": -1}, "model.registers is -1"), ({"layer_scale": -1.0}, "model.layer_scale is -1.0"),
    ({"drop_path": 1.0}, "model.drop_path is 1.0"), ({"drop_rows": True}, "choose model.drop_path_shape=uniform"), ({"eps": 0.0}, "model.eps is 0.0"),
    ({"heads": 5}, "model.heads is 5; choose a divisor of the 32"), ({"width": 30, "heads": 2, "positions": "sincos"}, "model.width is 30; choose a multiple of 4"),
    ({"depth": -1}, "model.depth is -1"), ({"width": -1}, "model.width is -1"), ({"heads": -1}, "model.heads is -1")], ids=str)
def test_wrong_values_are_sentences(changes, words):
    with pytest.raises(UserError) as caught:
        tiny(**changes)
    assert words in str(caught.value) and str(caught.value).endswith(".")


def test_images_that_do_not_fit():
    with pytest.raises(UserError, match="images are 32×30 pixels; choose sides that are multiples of model.patch=8"):
        forward(tiny(), images(1, 32, 30), variables=start(tiny()))
    with pytest.raises(UserError, match="images have 4 channels, but model.channels is 3"):
        forward(tiny(), images(1, channels=4), variables=start(tiny()))


def test_heads_of_64_where_only_the_width_is_given():
    assert [vit.make(width=width).heads for width in (0, 32, 128, 512)] == [6, 1, 2, 8]


def test_rotary_positions_know_places_are_drawn_in_training_alone_and_follow_visible_patches():
    plain, moved = tiny(positions="rope", registers=2), tiny(positions="rope", registers=2, rope_shift=.5, rope_jitter=1.5, rope_rescale=2.)
    x = images()
    variables = plain.init(jax.random.key(0), x, False)
    assert "pos" not in variables["params"]
    rng = {"rngs": {"drop": jax.random.key(1)}}
    whole, other = plain.apply(variables, x, True, **rng).pooled, moved.apply(variables, x, True, **rng).pooled
    np.testing.assert_array_equal(whole, moved.apply(variables, x, True).pooled)
    np.testing.assert_array_equal(whole, moved.apply(variables, x, False).pooled)
    assert np.abs(whole - other).max() > 1e-4
    n = plain.apply(variables, x, False).tokens.shape[1]
    everything = jnp.broadcast_to(jnp.arange(n), (len(x), n))
    np.testing.assert_allclose(plain.apply(variables, x, False, keep=everything).pooled, whole, atol=1e-6)
    turned = plain.apply(variables, x, False, keep=everything[:, ::-1])                # the same patches in another order: places go with them
    np.testing.assert_allclose(turned.pooled, whole, atol=1e-5)
    for how, words in ((dict(rope_shift=.1), "model.rope_shift is of rotary positions"), (dict(positions="rope", rope_jitter=.5), "factors of at least 1")):
        with pytest.raises(UserError, match=words):
            tiny(**how)


@pytest.mark.parametrize("count", [4, 5])
def test_attention_by_cudnn_is_the_same_function_for_odd_numbers_of_tokens(monkeypatch, count):
    """What is given to cuDNN for tokens of bfloat16, computed by XLA: value and gradients of plain attention, whatever stands in the token that is added."""
    plain, seen = jax.nn.dot_product_attention, []

    def kernel(q, k, v, **how):
        seen.append((q.shape[1], how.pop("implementation")))
        return plain(q, k, v, **how)

    q, k, v, g = (jnp.asarray(np.random.default_rng(i).normal(size=(3, count, 2, 8)), jnp.float32) for i in range(4))
    expected = jax.vjp(lambda *a: plain(*a), q, k, v)
    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    monkeypatch.setattr(transformer, "fused", lambda q: True)
    found = jax.vjp(lambda *a: transformer.attention(*a, None), q, k, v)
    assert seen == [(count + count % 2, "cudnn")]
    np.testing.assert_allclose(found[0], expected[0], atol=1e-6)
    for one, other in zip(found[1](g), expected[1](g), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(("dtype", "width", "platform", "capability", "answer"), [
    (jnp.bfloat16, 64, "gpu", "9.0", True), (jnp.bfloat16, 64, "gpu", "12.0", True), (jnp.float32, 64, "gpu", "9.0", False), (jnp.bfloat16, 60, "gpu", "9.0", False),
    (jnp.bfloat16, 136, "gpu", "9.0", False), (jnp.bfloat16, 64, "gpu", "7.5", False), (jnp.bfloat16, 64, "gpu", "gfx90a", False), (jnp.bfloat16, 64, "cpu", None, False),
    (jnp.bfloat16, 64, "tpu", None, False)])
def test_attention_goes_to_cudnn_only_where_it_can(monkeypatch, dtype, width, platform, capability, answer):
    device = type("Device", (), {"platform": platform, "compute_capability": capability})
    monkeypatch.setattr(jax, "devices", lambda: [device])
    assert transformer.fused(jnp.zeros((1, 2, 1, width), dtype)) is answer


def test_a_step_has_one_mesh_as_partitioned_kernels_ask_for(monkeypatch):
    """cuDNN's attention is a `custom_partitioning`, with which JAX refuses a program whose arrays lie on two meshes."""
    same = custom_partitioning(lambda q: q)
    same.def_partition(lambda mesh, operands, _: (mesh, lambda q: q, operands[0].sharding, (operands[0].sharding,)), sharding_rule="... -> ...",
                       infer_sharding_from_operands=lambda mesh, operands, _: operands[0].sharding)
    kernel = jax.custom_vjp(same)
    kernel.defvjp(lambda q: (same(q), None), lambda _, g: (g,))
    plain = transformer.attention
    monkeypatch.setattr(transformer, "attention", lambda q, *rest: plain(kernel(q), *rest))
    run = Tiny(config_of("mae"), devices=8, fsdp=2)
    assert "CustomSPMDPartitioning" in run.job.step.lower(run.state, run.batch(0)).as_text()
