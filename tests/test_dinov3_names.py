"""DINOv3's vision transformers in Meta's and transformers' names: rotary positions, keys without a bias, and what is refused."""
import dataclasses

import jax
import numpy as np
import pytest

from jaxssl import encoder as encoders, models, tree
from jaxssl.encoder import formats as interop
from jaxssl.encoder.formats import names, timm, transformers, vits
from jaxssl.errors import UserError
from tests.test_interop_vit import features, made, saved

V3 = dict(positions="rope", key_bias=False, registers=2, layer_scale=.1, mask_token=True, eps=1e-5, heads=4)


def network(**changes):
    """Random weights, with zeros for what its keys have not."""
    encoder = made(**{**V3, **changes})
    bias = encoder.variables["params"]["encoder"]["blocks"]["qkv"]["bias"]
    bias[:, 32:64] = 0
    return encoder


def meta(encoder):
    """As Meta's files have them."""
    found = names.theirs(timm.SIDES[vits].table(encoder.module), tree.names(encoder.variables))
    found = {name.replace("reg_token", "storage_tokens"): array for name, array in found.items()}
    mask = {f"blocks.{i}.attn.qkv.bias_mask": np.repeat(np.float32([1, 0, 1]), 32) for i in range(2)}
    return {**found, "rope_embed.periods": np.float32(100) ** (np.arange(2) / 2).astype(np.float32), **mask}


def huggingface(encoder):
    """As transformers writes them."""
    side = transformers.SIDES[vits]
    return {**names.theirs(side.table(encoder.module), tree.names(encoder.variables)), **side.constants(encoder.module, 16)}


@pytest.mark.parametrize("layout", [meta, huggingface])
def test_read_as_it_was(tmp_path, layout):
    encoder = network()
    told = {} if layout is meta else {"heads": 4}
    found = interop.read(saved(tmp_path / "lone.safetensors", layout(encoder)), told=told)
    interop.demand(found)
    module = models.make(**found.config["model"], precision="f32")
    assert all(getattr(module, key) == getattr(encoder.module, key) for key in (*V3, "width", "depth", "patch") if key != "layer_scale") and "heads" not in found.assumed
    built = encoders.build({**found.config, "augment": encoder.config["augment"]}, found.variables, name="x")
    np.testing.assert_array_equal(features(built)[1], features(encoder)[1])
    assert layout(built).keys() == layout(encoder).keys() and all((layout(built)[n] == a).all() for n, a in layout(encoder).items())


def test_a_bias_that_the_mask_takes_is_not_read(tmp_path):
    tensors = meta(network())
    for i in range(2):
        tensors[f"blocks.{i}.attn.qkv.bias"][32:64] = 7
    found = interop.read(saved(tmp_path / "x.safetensors", tensors))
    assert not found.variables["params"]["encoder"]["blocks"]["qkv"]["bias"][:, 32:64].any()
    assert not any("k_proj.bias" in name for name in huggingface(network())) and "layer.0.attention.q_proj.bias" in huggingface(network())


def test_keys_have_no_bias_whatever_stands_there():
    encoder = network()
    moved = jax.tree.map(np.copy, encoder.variables)
    moved["params"]["encoder"]["blocks"]["qkv"]["bias"][:, 32:64] = 3
    np.testing.assert_array_equal(features(dataclasses.replace(encoder, variables=moved))[1], features(encoder)[1])
    assert (features(dataclasses.replace(encoder, module=encoder.module.clone(key_bias=True), variables=moved))[1] != features(encoder)[1]).any()


@pytest.mark.parametrize("change, words", [
    (lambda t: t.update({"rope_embed.periods": np.float32([1, 30])}), "other periods than those of base 100"),
    (lambda t: t.update({"local_cls_norm.weight": np.ones(32, np.float32)}), "1 tensors have no place"),
    (lambda t: t.pop("storage_tokens") is None or t.pop("norm.bias"), "norm.bias")])
def test_other_files_are_refused(tmp_path, change, words):
    tensors = meta(network())
    change(tensors)
    with pytest.raises(UserError, match=words):
        interop.demand(interop.read(saved(tmp_path / "x.safetensors", tensors)))
