"""Low-rank additions: a network begins as it was, merged equals unmerged, what stands still has no gradient and no slots, and a run resumes."""
import shutil

import jax
import numpy as np
import pytest

from jaxssl import main, models, tree
from jaxssl.encoder import load as loading
from jaxssl.models import lora
from jaxssl.parallel import mesh as sharding
from jaxssl.training import job as jobs, train
from jaxssl.workdir import checkpoint
from tests.test_interop_vit import made, saved, theirs
from tests.tiny import LESS, ROOT, config_of

VIT = dict(name="vit_tiny", width=16, depth=2, heads=2, patch=4, image=8, precision="f32")


@pytest.mark.parametrize("how", [dict(), dict(scan=False), dict(ffn="swiglu", layer_scale=.5)], ids=["scanned", "apart", "swiglu"])
def test_merged_equals_unmerged(how):
    net = models.Net(models.make(**VIT, **how, lora=3, lora_alpha=6.0))
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    params, stats = net.init(jax.random.key(1), x)
    plain = models.Net(models.make(**VIT, **how))
    bare = lora.merged(params, 2.0)
    begun = plain.init(jax.random.key(1), x)[0]
    assert tree.names(bare).keys() == tree.names(begun).keys()
    for name, array in tree.names(begun).items():
        np.testing.assert_array_equal(tree.names(bare)[name], array)            # B is zero: the same network, of the same draws
    moved = {name: a + .1 * jax.random.normal(jax.random.fold_in(jax.random.key(2), i), a.shape) for i, (name, a) in enumerate(tree.names(params).items())}
    params = jax.tree.unflatten(jax.tree.structure(params), list(moved.values()))
    with jax.default_matmul_precision("highest"):
        ours, theirs = net(params, stats, x, train=False)[0], plain(lora.merged(params, 2.0), stats, x, train=False)[0]
    np.testing.assert_allclose(ours.tokens, theirs.tokens, atol=1e-5)
    np.testing.assert_allclose(ours.pooled, theirs.pooled, atol=1e-5)
    assert np.abs(ours.pooled - plain(lora.merged(params, 0.0), stats, x, train=False)[0].pooled).max() > 1e-2


def test_what_stands_still_has_no_slots():
    config = config_of("metric", **{"model.width": "16", "model.depth": "1", "model.lora": "2", "warmup": "0"})
    job = jobs.prepare(config, sharding.make_mesh(devices=jax.devices()[:1]), jobs.Facts(1000, 10, 16, True))
    slots = tree.names(job.state.opt_state)
    for name in tree.names(job.state.params):
        still = name.startswith("encoder/") and "_lora/" not in name
        assert any(slot.endswith(name) for slot in slots) != still, name
    moving = jax.eval_shape(jax.grad(lambda params: sum(jax.numpy.sum(x) for x in jax.tree.leaves(job.optim.moving(params)))), job.state.params)
    assert jax.tree.structure(moving) == jax.tree.structure(job.state.params)


@pytest.mark.parametrize("flags, words", [
    (["--config.model.lora=4"], "model.lora is 4, which holds the encoder where it began, but init_from is empty"),
    (["--config.model.lora=200", "--config.init_from=x"], "model.lora is 200; it is the rank of additions to matrices of 16 rows: choose from 1 to 16"),
    (["--config.model.lora=-1"], "model.lora"),
    (["--config.model.lora_alpha=2."], "model.lora_alpha is 2, but model.lora is 0")])
def test_wrong_ranks(tmp_path, monkeypatch, capsys, flags, words):
    monkeypatch.chdir(ROOT)
    model = {"name": "vit_tiny", "width": 16, "heads": 2, "depth": 1, "patch": 4, "image": 16}
    vit = [f"--config.model.{key}={value}" for key, value in model.items()]
    assert main.main(["--config", "configs/digits/simclr.py", "--workdir", str(tmp_path / "run"), "--compilation_cache=off", "--config.augment.size=16", *vit, *flags]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_network_without_attention_has_no_such_key(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main.main(["--config", "configs/digits/simclr.py", "--workdir", str(tmp_path / "run"), "--compilation_cache=off", "--config.model.lora=4"]) == 2
    assert "model.lora" in (said := capsys.readouterr().err) and "leave it out" in said


def test_a_run_resumes_and_is_loaded_merged(tmp_path):
    """From weights in timm's names; its last step again from the checkpoint before is the same to the bit, and what is loaded is a plain network of the same features."""
    path = saved(tmp_path / "model.safetensors", theirs(made(depth=1)))
    flags = {**LESS, "batch_size": "8", "total": "2", "warmup": "0", "init_from": str(path), "init_allow_missing": "projector", "model.name": "vit_tiny", "model.width": "32",
             "model.depth": "1", "model.heads": "1", "model.patch": "8", "model.image": "16", "model.lora": "2", "model.lora_alpha": "4.", "optim.name": "sgd", "optim.lr": "1.",
             "method.hidden": "8", "method.dim": "8", "eval_every": "0", "checkpoint_every": "1", "eval.reference": "32", "eval.queries": "16", "eval.raw": "false",
             "log.tensorboard": "false", "report": "false", "precision": "f32", "optim.scaling": "none"}
    spec, run = str(ROOT / "configs/digits/simclr.py"), tmp_path / "run"
    result = train.run(spec, flags, str(run))
    shutil.rmtree(run / "checkpoints" / "2")
    (run / "run.json").unlink()
    assert train.run(spec, flags, str(run))["state_sha256"] == result["state_sha256"]
    encoder, (method, params, aux) = loading.load(run), loading.trained(str(run), 2)
    assert encoder.config["model"]["lora"] == 0 and not any("_lora" in name for name in tree.names(encoder.variables)) and params["encoder"]["blocks"]["fc1_lora"]["b"].any()
    x = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    with jax.default_matmul_precision("highest"):
        np.testing.assert_allclose(encoder.forward(encoder.variables, x)[0], method.embed(params, aux, x).pooled, atol=1e-5)
    state = checkpoint.open_reader(str(run)).weights(2)
    kept, begun = tree.names(state["params"]["encoder"]), tree.names(loading.load(path).variables["params"]["encoder"])
    assert all(np.array_equal(kept[name], array) for name, array in begun.items())
