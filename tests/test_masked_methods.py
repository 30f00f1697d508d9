"""What is special to masked methods: dBOT's stages, I-JEPA's fillers, BEiT's tokenizers, one teacher's pass for many masks, and what cannot be asked for."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl import config as configs, data as datas, models, tree
from jaxssl.augment.picture import COVER
from jaxssl.errors import UserError
from jaxssl.methods import beit, data2vec2, dbot, ijepa, mae, msn, nepa, simmim
from jaxssl.models import transformer
from jaxssl.models.net import Net
from jaxssl.models.tokenizer import Tokenizer
from jaxssl.report import pictures
from tests.tiny import ROOT, SMALL, built, config_of, jobs, sharding

KEY, STEP = jax.random.key(7), jnp.zeros((), jnp.int32)


def vit(**own):
    return Net(models.make(**{"name": "vit_tiny", "precision": "f32", "width": 16, "depth": 2, "heads": 2, "patch": 4, "image": 16, "positions": "sincos", "pool": "mean", **own}))


def batch(images=4):
    return {"views": jax.random.normal(jax.random.key(1), (images, 1, 16, 16, 3))}


def test_dbots_student_becomes_the_teacher_and_begins_again():
    method = dbot.make(encoder=vit(), net=Net, total=6, duration=lambda value, key: 2, width=16, depth=1, heads=2)
    params, aux = jax.jit(method.init)(jax.random.key(0), batch())
    trained, post = jax.tree.map(lambda a: a + 1, params), jax.jit(method.post)
    start = tree.names(params)
    assert all(np.array_equal(x, start[f"encoder/{name}"]) for name, x in tree.names(aux["frozen"]["teacher"]["params"]["encoder"]).items())
    for step, ends in enumerate([False, True, False, True, False, False]):             # not at the very end, where the student is what is kept
        after, kept = post({**trained, "probe": trained["encoder"]}, aux, jnp.asarray(step))
        teacher = tree.names(kept["frozen"]["teacher"]["params"]["encoder"])
        for name, x in tree.names({n: after[n] for n in params}).items():
            np.testing.assert_array_equal(x, start[name] if ends else start[name] + 1)
            if name.startswith("encoder/"):
                np.testing.assert_array_equal(teacher[name.removeprefix("encoder/")], start[name] + ends)
        assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(after["probe"]), jax.tree.leaves(trained["encoder"])))


@pytest.mark.parametrize("make, normalise", [(mae.make, False), (mae.make, True), (simmim.make, False)])
def test_what_is_rebuilt_is_the_view_but_where_it_was_hidden(make, normalise):
    own = {"width": 16, "depth": 1, "heads": 2} if make is mae.make else {}
    method, data = make(encoder=vit(mask_token=make is simmim.make), net=Net, normalise=normalise, **own), batch()
    params, aux = jax.jit(method.init)(jax.random.key(0), data)
    told = jax.jit(lambda p, a, data: (method.hidden(KEY, data["views"]), method.rebuilt(p, a, data["views"], KEY), method.loss(p, a, data, KEY, STEP)[0]))
    hidden, got, value = map(np.asarray, told(params, aux, data))
    hidden, views = hidden[:, :, 0].repeat(4, 2).repeat(4, 3), np.asarray(data["views"])                     # [B, V, H, W]
    np.testing.assert_array_equal(got[~hidden], views[~hidden])
    assert (got[hidden] != views[hidden]).mean() > .99
    error = np.square if make is mae.make else np.abs
    if not normalise:
        assert float(value) == pytest.approx(error(got - views)[hidden].mean(), rel=1e-5)


def test_page_shows_masks_and_what_was_rebuilt():
    config = config_of("simmim")
    _, encoder, method = built("simmim")
    data = datas.make(**config.data)
    seen = {"views": jnp.zeros((2, 1, 16, 16, 3))}
    params, aux = jax.jit(method.init)(jax.random.key(0), seen)
    shown = pictures.masked(config.to_dict(), data, method, params, aux, count=3)
    own = pictures.views(config.to_dict(), data, count=3)
    for picture, whole in zip(shown, own):
        np.testing.assert_array_equal(picture.original, whole.views[0])
        masked, rebuilt = picture.views
        covered = (masked == COVER).all(-1)
        assert picture.captions == [[f"{covered.sum() // 16} of 16 hidden"], ["rebuilt"]] and covered.sum() == 10 * 16
        np.testing.assert_array_equal(masked[~covered], picture.original[~covered])
        np.testing.assert_array_equal(rebuilt[~covered], picture.original[~covered])
        assert (rebuilt[covered] != picture.original[covered]).any()


def test_fillers_change_nothing():
    """An encoder that is given more patches than are meant gives for those that are what it gives for them alone."""
    encoder, x = vit(cls=False), batch(2)["views"][:, 0]
    params, stats = jax.jit(encoder.init)(jax.random.key(0), x)
    keep = jnp.asarray([[1, 4, 6, 9, 15]] * 2)
    there = jnp.asarray([[True, False, True, True, False]] * 2)
    alone, among = jax.jit(lambda p: (encoder(p, stats, x, keep=keep[:, np.array([0, 2, 3])])[0], encoder(p, stats, x, keep=keep, there=there)[0]))(params)
    np.testing.assert_allclose(among.pooled, alone.pooled, atol=1e-5)
    np.testing.assert_allclose(among.tokens[:, np.array([0, 2, 3])], alone.tokens, atol=1e-5)
    assert not np.asarray(among.tokens)[:, np.array([1, 4])].any()


def test_what_blocks_add_is_told():
    """x after the last block is what went in and what all branches added; of the last block alone the two layouts of parameters say the same."""
    x = batch(2)["views"][:, 0]
    plain, told = jax.jit(vit(scan=False).init)(jax.random.key(0), x)[0], {}
    for scan in (True, False):
        encoder = vit(scan=scan)
        params = transformer.stack(plain) if scan else plain
        told[scan], usual = jax.jit(lambda p, encoder=encoder: (encoder._replace(module=encoder.module.clone(told=2))(p, {}, x)[0], encoder(p, {}, x)[0]))(params)
        np.testing.assert_allclose(told[scan].pooled, usual.pooled, atol=1e-6)
    assert told[True].tokens.shape == (2, 16, 2, 16)
    np.testing.assert_allclose(told[True].tokens, told[False].tokens, atol=1e-5)
    fc2 = params["block1"]["fc2"]
    silent = {**params, "block1": {**params["block1"], "fc2": {"kernel": 0 * fc2["kernel"], "bias": fc2["bias"] + 3}}}
    last = jax.jit(lambda p: encoder._replace(module=encoder.module.clone(told=1))(p, {}, x)[0].tokens)(silent)
    np.testing.assert_allclose(last, 3, atol=1e-6)


def test_a_patch_is_said_by_those_before_it():
    """NEPA: a change of patch 6 leaves all that is said up to itself as it was, bit for bit, and changes what is said of each patch behind it; its target is its own alone."""
    method, data = nepa.make(encoder=vit(positions="rope", registers=2), net=Net), batch()
    params, aux = jax.jit(method.init)(jax.random.key(0), data)
    seen = jax.jit(lambda views: method.loss(params, aux, {"views": views}, KEY, STEP)[1][2])
    before, after = seen(data["views"]), seen(data["views"].at[:, :, 4:8, 8:12].add(1))                 # row 1, column 2 of 4 × 4 patches
    same = {name: (np.asarray(before[name]) == np.asarray(after[name])).all((0, 2)) for name in ("predicted", "target")}
    np.testing.assert_array_equal(same["predicted"], np.arange(16) <= 6)
    np.testing.assert_array_equal(same["target"], np.arange(16) != 6)


@pytest.mark.parametrize("shared", [True, False])
def test_dropped_patches_are_not_seen(shared):
    """MSN, whose student sees no pixel of the first view, its teacher's, and all but so many patches of the second: other pixels there change no bit of what it gives."""
    method = msn.make(encoder=vit(pool="cls"), net=Net, total=9, prototypes=8, hidden=16, dim=8, layers=2, patch_drop=.375, shared_drop=shared)
    views = jax.random.normal(jax.random.key(1), (4, 2, 16, 16, 3))
    params, aux = jax.jit(method.init)(jax.random.key(0), {"views": views})

    @jax.jit
    def told(views):
        def summed(views):
            (_, metrics, seen) = method.loss(params, aux, {"views": views}, KEY, STEP)[1]
            return jnp.sum(seen["features"] * jax.random.normal(jax.random.key(3), (4, 1, 16))), (seen, metrics["teacher_entropy"])
        return jax.grad(summed, has_aux=True)(views)
    slope, (seen, entropy) = told(views)
    read = np.asarray(slope).reshape(4, 2, 4, 4, 4, 4, 3).any((3, 5, 6))                                # [B, V, rows, columns]
    assert not read[:, 0].any() and (read[:, 1].sum((1, 2)) == 10).all()                                # of 16 patches 6 are dropped
    assert (read[:, 1] == read[0, 1]).all() == shared
    unread = jnp.asarray(~read).repeat(4, 2).repeat(4, 3)[..., None]
    _, (other, moved) = told(jnp.where(unread, views**2 - 3, views))
    for name in ("features", "embeddings"):
        np.testing.assert_array_equal(other[name], seen[name])
    assert moved != entropy                                                                             # its teacher sees the first view


def test_one_pass_teaches_all_masks():
    """The teacher sees each image once, the student as often as there are masks."""
    calls = []

    class Watched(Net):
        def __call__(self, params, stats, x, **how):
            calls.append((self.module.told, len(x)))
            return Net(self.module, self.parts, self.take)(params, stats, x, **how)
    method = data2vec2.make(encoder=Watched(vit(pool="cls").module), net=Net, duration=lambda value, key: 9, clones=4, side=2, top_layers=2, width=16, depth=1, groups=4)
    jax.eval_shape(lambda key, data: method.loss(*method.init(key, data), data, key, STEP), jax.random.key(0), batch())
    assert calls == [(0, 16), (2, 4)]


@pytest.mark.parametrize("tokenizer", ["vq", "pixels"])
def test_tokenizer_learns_for_itself(tokenizer):
    """Labels come from the pixels alone; of vq, no gradient of the encoder's loss reaches the tokenizer and none of the tokenizer's the encoder."""
    method = beit.make(encoder=vit(mask_token=True), net=Net, total=9, tokenizer=tokenizer, smallest=2, mask_ratio=.4, tokens=8, dim=4, hidden=8)
    params, aux = jax.jit(method.init)(jax.random.key(0), batch())
    (_, (after, metrics, _)), grads = jax.jit(jax.value_and_grad(lambda p: method.loss(p, aux, batch(), KEY, STEP), has_aux=True))(params)
    assert "teacher" not in after and 0 < metrics["usage_entropy"] <= np.log(8) + 1e-5
    if tokenizer == "vq":
        louder = {**params, "head": jax.tree.map(lambda a: 3 * a + 1, params["head"])}
        again = jax.jit(jax.grad(lambda p: method.loss(p, aux, batch(), KEY, STEP)[0]))(louder)
        for a, b in zip(jax.tree.leaves(grads["tokenizer"]), jax.tree.leaves(again["tokenizer"])):
            np.testing.assert_allclose(a, b, atol=1e-7)
        assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(grads["tokenizer"]))
    else:
        assert after["codebook"]["centroids"].shape == (8, 48) and np.isclose(after["codebook"]["share"].sum(), 1, atol=.2)


def test_a_teacher_from_elsewhere_stays_as_it_is():
    """Its weights are read into aux, without a mask token, which it need not have; labels are of its features."""
    method = beit.make(encoder=vit(mask_token=True), net=Net, total=9, teacher="runs/x", smallest=2, mask_ratio=.4, tokens=8)
    assert method.loads == {"frozen/teacher": "runs/x"}
    params, aux = jax.eval_shape(method.init, jax.random.key(0), batch())
    assert "teacher" not in aux and set(aux["frozen"]["teacher"]["params"]["encoder"]) == set(params["encoder"]) - {"mask"}
    _, (after, _, seen) = jax.eval_shape(lambda p, a: method.loss(p, a, batch(), KEY, STEP), params, aux)
    assert after["codebook"]["centroids"].shape == (8, 16) and seen["target"].shape == (4, 16, 16)


def test_small_autoencoder_tells_patches_apart():
    """Patches of three kinds get three codes, after a few steps of its own loss."""
    from jaxssl.losses.masked import quantisation
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, (16, 8))
    x = jnp.float32(2 * rng.normal(size=(3, 12))[kind] + .05 * rng.normal(size=(16, 8, 12)))
    net = Net(Tokenizer(6, 4, 16))
    params, _ = net.init(jax.random.key(0), x)

    @jax.jit
    def step(params, _):
        def loss(p):
            said = net(p, {}, x)[0]
            return quantisation(x, said.pixels, said.z, said.codes, commitment=.25)
        return jax.tree.map(lambda a, g: a - .1 * g, params, jax.grad(loss)(params)), None
    labels = np.asarray(net(jax.lax.scan(step, params, None, length=200)[0], {}, x)[0].labels)
    assert len({labels[kind == k][0] for k in range(3)}) == 3 and all(len(set(labels[kind == k])) == 1 for k in range(3))


@pytest.mark.parametrize("build, words", [
    (lambda: beit.make(encoder=vit(), net=Net, total=9, tokenizer="hash"), "method.tokenizer is 'hash'; choose one of kmeans, vq, pixels"),
    (lambda: beit.make(encoder=vit(), net=Net, total=9, tokenizer="vq", teacher="x"), "method.teacher is 'x', which the tokenizer 'vq' does not read"),
    (lambda: simmim.make(encoder=vit(mask_token=True), net=Net, unit=3).hidden(KEY, batch()["views"]), "method.unit is 3, which does not divide 4 × 4 patches"),
    (lambda: ijepa.make(encoder=vit(), net=Net, total=9, targets=4).hidden(KEY, batch()["views"]), "method.targets: 4 blocks of up to 4 patches may hide all"),
    (lambda: ijepa.make(encoder=vit(pool="cls"), net=Net, total=9), "model.pool is 'cls', which ijepa does not train; set model.pool=mean"),
    (lambda: nepa.make(encoder=vit(pool="cls"), net=Net), "model.pool is 'cls', which nepa does not train; set model.pool=mean"),
    (lambda: nepa.make(encoder=vit(cls=False), net=Net), "model.cls is off, and nepa says the first patch from the class token"),
    (lambda: dbot.make(encoder=vit(), net=Net, total=9, duration=lambda value, key: 0), "method.stage is '50_percent', which is no step at all"),
])
def test_nonsense_is_one_sentence(build, words):
    with pytest.raises(UserError, match=words):
        build()


def test_an_encoder_that_cannot_be_masked_is_refused():
    mesh, facts = sharding.make_mesh(devices=jax.devices()[:1]), jobs.Facts(1000, 10, 16, True)
    config = configs.load(str(ROOT / "configs/digits/simclr.py"), {**SMALL, "method.name": "fcmae", "augment.views": "1"})
    with pytest.raises(UserError, match="model.name is resnet10 and fcmae needs an encoder whose convolutions go around hidden patches"):
        jobs.prepare(config, mesh, facts)
