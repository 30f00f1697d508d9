"""What the method `metric` refuses and chooses, its memory, and its still batch norms. Its story is in test_stories."""
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl import config as configs, config_keys, models, tree
from jaxssl.errors import UserError
from jaxssl.losses import metric as losses
from jaxssl.methods import base, metric
from jaxssl.parallel import mesh as sharding
from jaxssl.training import job as jobs

FILE = "configs/digits/metric.py"
AUTO = {"method.loss": "auto", "data.sampler": "m_per_class"}


def made(norms="learned", classes=5, batch=4, **keys):
    encoder = models.Net(models.make(name="resnet10", width=1 / 16, stem="cifar", zero_init=False, precision="f32"))
    context = dict(encoder=encoder, net=models.Net, mesh=None, batch_size=batch, views=1, local=0, classes=classes, examples=8, total=4, duration=lambda value, key: 1)
    return base.build(metric.make, {"norms": norms, **keys}, context)


@pytest.mark.parametrize("flags, words", [
    ({"method.loss": "arcfase"}, "unknown method.loss 'arcfase'.*did you mean 'arcface'"),
    ({"method.miner": "batch_hrd"}, "unknown method.miner 'batch_hrd'.*did you mean 'batch_hard'"),
    ({"method.loss": "triplet", "method.margin": "nan"}, "method.margin is 'nan'"),
    ({"method.loss": "triplet", "method.temperature": ".1"}, "method.temperature: .*sup_con.* read, and triplet does not; leave it out"),
    ({"method.miner": "semi_hard", "method.epsilon": ".1"}, "method.epsilon: multi_similarity reads, and semi_hard does not; leave it out"),
    ({"method.weight": "1"}, "method.weight: there is no such key"),
    ({**AUTO, "batch_size": "256", "data.per_class": "1"}, "data.per_class is 1, but a batch of 256 images, 256 or more, is enough for pairs: that takes 4"),
    ({**AUTO, "method.miner": "batch_hard"}, "method.miner is 'batch_hard', but a batch of 128 images, fewer than 256.*: that takes ''"),
])
def test_one_sentence_before_anything_starts(flags, words):
    with pytest.raises(UserError, match=words) as error:
        configs.load(FILE, flags)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("keys, words", [
    ({"classes": 1}, "the images are of one class"), ({"memory": 6}, "method.memory is 6; it must be 0 or a multiple of the batch, 4"),
    ({"loss": "arcface", "miner": "batch_hard"}, "method.miner is batch_hard, which is read with losses of pairs and not with arcface"),
    ({"loss": "cosface", "memory": 8}, "method.memory is 8"), ({"memory_start": 3}, "method.memory_start is 3"), ({"loss": "cosface", "centers": 3}, "method.centers is 3"),
    ({"beta_of": "class"}, "method.beta_of is class"), ({"norms": "frozen"}, "method.norms is frozen; it must be one of learned, statistics, all"),
])
def test_refuses_keys_that_nothing_reads(keys, words):
    with pytest.raises(UserError, match=words):
        made(**keys)


def test_labels_and_pairs_are_needed():
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    with pytest.raises(UserError, match="the images have no labels and metric learns from them"):
        jobs.prepare(configs.load(FILE), mesh, jobs.Facts(1000, 0, 32, True))
    config = configs.load(FILE, {"data.sampler": "m_per_class", "data.per_class": "1", "batch_size": "8", "method.memory": "0", "method.memory_start": "0"})
    with pytest.raises(UserError, match="data.per_class is 1 and metric compares images of one class"):
        jobs.prepare(config, mesh, jobs.Facts(1000, 10, 32, True))


def test_the_loss_is_chosen_by_the_batch(caplog):
    with caplog.at_level("INFO"):
        large, small = (configs.load("configs/retrieval/finetune.py:auto", {"batch_size": size}) for size in ("256", "64"))
    assert (large.method.loss, large.method.miner, large.data.per_class, large.method.beta) == ("multi_similarity", "multi_similarity", 4, 50.)
    assert (small.method.loss, small.method.miner, small.data.per_class, small.optim.rules) == ("cosface", "", 1, (("^classes/", {"adam": 1.0}),))
    assert "a batch of 64 images, fewer than 256" in caplog.text
    assert configs.load("configs/retrieval/finetune.py:small").method == small.method


def test_keys_of_loss_and_miner_are_the_functions_own():
    own = {p.name for p in inspect.signature(metric.make).parameters.values() if p.kind is p.KEYWORD_ONLY}
    for loss in filter(None, metric.LOSSES):
        for miner in metric.MINERS:
            one, other = (metric._keys(f) - config_keys.PASSED for f in (metric.LOSSES[loss], metric.MINERS[miner]))
            assert not one & other and not (one | other) & own
    config = configs.load(FILE, {"method.loss": "triplet", "method.miner": "semi_hard"})
    assert config.method.margin == .05 and config.method.band == .2 and "alpha" not in config.method


def test_memory_and_still_norms():
    """Two steps: the memory holds the first one's rows under their ids, and the second loss is that against both; statistics stay, and norms that
    stand still have no gradient."""
    rng = np.random.default_rng(0)
    batches = [{"views": jnp.asarray(rng.normal(size=(4, 1, 16, 16, 3)), jnp.float32), "label": jnp.array([0, 1, 0, 1]), "id": jnp.array(ids)}
               for ids in ([0, 1, 2, 3], [4, 5, 2, 7])]
    method = made("all", loss="contrastive", memory=8, dim=6)
    params, aux = method.init(jax.random.key(0), batches[0])
    step = jax.jit(jax.value_and_grad(method.loss, has_aux=True))
    (_, (first, _, _)), grads = step(params, aux, batches[0], jax.random.key(1), jnp.int32(0))
    (value, (second, _, seen)), _ = step(params, first, batches[1], jax.random.key(1), jnp.int32(1))
    z = seen["embeddings"][:, 0]
    want = losses.contrastive(z, batches[1]["label"], id=batches[1]["id"], reference=tuple(
        jnp.concatenate([x, first["memory"][name][:, 0]]) for x, name in ((z, "z"), (batches[1]["label"], "label"), (batches[1]["id"], "id"))))
    np.testing.assert_allclose(value, want, rtol=1e-5)
    assert second["memory"]["id"].tolist() == [[0, 4], [1, 5], [2, 2], [3, 7]]
    for name, x in tree.names(aux["batch_stats"]).items():
        np.testing.assert_array_equal(x, tree.names(second["batch_stats"])[name])
    norms = {name: np.abs(g).max() for name, g in tree.names(grads["encoder"]).items() if name.endswith(("scale", "bias"))}
    assert len(norms) > 8 and not any(norms.values()) and all(np.any(g) for name, g in tree.names(grads["encoder"]).items() if name.endswith("kernel"))


def test_anchors_at_once_are_few_on_one_device_and_all_on_several():
    several = sharding.make_mesh(devices=jax.devices()[:2])
    assert [metric.anchors_at_once(None, candidates) for candidates in (1, 256, 1024, 4096, 10**9)] == [2**22, 2**14, 4096, 1024, 4]
    assert metric.anchors_at_once(several, 4096) == 0
