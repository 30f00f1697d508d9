"""Evaluation of places: counts of pixels against loops and scikit-learn's, windows put together, heads that learn what is planted, and every dense protocol."""
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix

from jaxssl import data as datas, tree
from jaxssl.data.sources import Subset
from jaxssl.errors import UserError
from jaxssl.evaluation import protocols
from jaxssl.evaluation.dense import crops, heads, tokens, windows
from jaxssl.evaluation.measures import depth, segmentation
from jaxssl.evaluation.protocols import depth as depths, segmentation_kmeans, segmentation_knn
from jaxssl.evaluation.tuning import frozen
from jaxssl.parallel import mesh as sharding
from tests.test_interop_vit import made
from tests.test_tuning import small

RNG = np.random.default_rng(0)
TRUTH, GUESS = RNG.integers(-1, 5, (4, 9, 7)), RNG.integers(0, 6, (4, 9, 7))       # class 5 is predicted and never true
TRUTH[TRUTH == 3] = 2                                                              # class 3 neither


# -- measures ------------------------------------------------------------------------------------------------------------------------

def test_miou_is_that_of_a_loop_and_of_scikit_learn():
    known = TRUTH >= 0
    matrix = segmentation.confusion(TRUTH, np.where(GUESS == 3, 2, GUESS), 6)
    assert np.array_equal(matrix, confusion_matrix(TRUTH[known], np.where(GUESS == 3, 2, GUESS)[known], labels=range(6)))
    found = segmentation.scores(matrix)
    iou = []
    for c in range(6):
        both = either = 0
        for t, p in zip(TRUTH.ravel(), np.where(GUESS == 3, 2, GUESS).ravel()):
            if t >= 0:
                both += t == c and p == c
                either += t == c or p == c
        iou.append(both / either if either else np.nan)
    np.testing.assert_allclose(found.iou, iou, equal_nan=True)
    assert np.isnan(found.iou[3]) and found.iou[5] == 0 and found.mean == np.nanmean(iou)
    assert found.pixels == pytest.approx(np.mean((TRUTH == np.where(GUESS == 3, 2, GUESS))[known]))
    np.testing.assert_allclose(found.classes, np.mean([np.mean(np.where(GUESS == 3, 2, GUESS)[TRUTH == c] == c) for c in (0, 1, 2, 4)]))
    with pytest.raises(ValueError, match="classes reach 4"):
        segmentation.confusion(TRUTH, GUESS, 4, 6)


def test_interval_of_miou_holds_it_and_is_that_of_drawn_images():
    parts = np.array([segmentation.summary(segmentation.confusion(t, g, 6)) for t, g in zip(TRUTH, GUESS)])
    low, high = segmentation.interval(parts, draws=500)
    means = [segmentation.of_summary(parts[RNG.integers(0, 4, 4)].sum(0)).mean for _ in range(500)]
    assert low < segmentation.of_summary(parts.sum(0)).mean < high
    np.testing.assert_allclose((low, high), np.quantile(means, [.025, .975]), atol=.02)
    assert segmentation.interval(parts[:1])[0] == segmentation.interval(parts[:1])[1]         # of one image nothing varies


def test_clusters_are_matched_by_brute_force():
    import itertools
    matrix = RNG.integers(0, 50, (3, 3))
    best = max(itertools.permutations(range(3)), key=lambda p: sum(matrix[c, k] for k, c in enumerate(p)))
    assert tuple(segmentation.hungarian(matrix)) == best
    more = RNG.integers(0, 50, (3, 5))
    found = segmentation.hungarian(more)
    assert sorted(found) == [-1, -1, 0, 1, 2]
    merged = segmentation.merged(more, found)
    assert merged.shape == (3, 4) and np.array_equal(merged[:, 3], more[:, found < 0].sum(1)) and np.array_equal(merged.sum(1), more.sum(1))
    assert segmentation.scores(merged).pixels == pytest.approx(sum(more[c, k] for k, c in enumerate(found) if c >= 0) / more.sum())
    assert np.array_equal(segmentation.majority(more), [max(range(3), key=lambda c: more[c, k]) for k in range(5)])


def test_errors_of_depth_are_those_of_a_loop():
    truth, guess = RNG.uniform(-1, 12, (2, 5, 6)), RNG.uniform(0, 12, (2, 5, 6))
    per_image = {"RMSE": [], "AbsRel": [], "a1": []}
    for t, p in zip(truth, guess):
        pairs = [(a, min(max(b, 1e-3), 10)) for a, b in zip(t.ravel(), p.ravel()) if 1e-3 < a <= 10]
        per_image["RMSE"].append(np.sqrt(np.mean([(b - a)**2 for a, b in pairs])))
        per_image["AbsRel"].append(np.mean([abs(b - a) / a for a, b in pairs]))
        per_image["a1"].append(np.mean([max(a / b, b / a) < 1.25 for a, b in pairs]))
    found = depth.scores([depth.sums(t, p, most=10) for t, p in zip(truth, guess)])
    assert found == pytest.approx({name: np.mean(values) for name, values in per_image.items()})
    targets, predicted = np.where(truth > 0, truth, 0)[:, :4, :4], RNG.uniform(.1, 9, (3, 2, 4, 4))
    for head, step in ((0, 200.), (2, 5.)):
        known = (targets > 1e-3) & (targets <= 10)
        g = np.log(predicted[head][known] + 1e-3) - np.log(targets[known] + 1e-3)
        value = np.sqrt(.15 * g.mean()**2 + (g.var(ddof=1) if step > 100 else 0))
        np.testing.assert_allclose(depths.loss(jnp.asarray(predicted), jnp.asarray(targets), jnp.asarray(step), 10.)[head], value, rtol=1e-4)


# -- blocks as features --------------------------------------------------------------------------------------------------------------

def test_linear_presets_see_the_last_blocks_of_a_transformer(context):
    """As DINOv2: class tokens of the last block and of the last four (here two), without and with the mean of the last block's patches; 13 rates each."""
    encoder = context.encoder
    assert encoder.blocks == ("last1", "last2", "last1.mean", "last2.mean") and small().blocks == ()
    x = encoder.view({"image": jnp.asarray(RNG.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)), "size": jnp.full((2, 2), 16)})
    found = jax.jit(lambda v, x: {name: encoder.forward(v, x, layer=name)[0] for name in encoder.blocks})(encoder.variables, x)
    maps = jax.jit(lambda v, x: encoder.maps(v, x, blocks=(0, 1)))(encoder.variables, x)
    first, last = (tokens[:, 0] for tokens in maps.prefix)
    wanted = {"last1": [last], "last2": [first, last], "last1.mean": [last, maps.patches[1].mean((1, 2))], "last2.mean": [first, last, maps.patches[1].mean((1, 2))]}
    for name, parts in wanted.items():
        np.testing.assert_allclose(found[name], np.concatenate(parts, 1), atol=2e-4)
    row, = protocols.find("linear").run(context, preset="dinov2", steps=2, batch_size=8)
    assert row.variant == "52 heads" and {head["block"] for head in row.setting["heads"]} == set(encoder.blocks) and row.layer.startswith("chosen: last")
    assert frozen.used(encoder, "last2.mean")["params"].keys() == {"encoder"}
    with pytest.raises(UserError, match="'last3' is not one of backbone, last1, last2"):
        encoder.check_layer("last3")


# -- windows -------------------------------------------------------------------------------------------------------------------------

def test_windows_cover_an_image_and_come_together_again():
    pixels = RNG.integers(0, 256, (20, 33, 3), dtype=np.uint8)
    view = windows.View(16, 10, "bilinear")
    found = windows.cut(windows.Picture(pixels, np.zeros((20, 33), np.int32), 0), view)
    assert found.size == (16, 26) and found.at == [(0, 0), (0, 10)]
    view = windows.View(20, 10, "bilinear")
    found = windows.cut(windows.Picture(pixels, np.zeros((20, 33), np.int32), 0), view)
    assert found.at == [(0, 0), (0, 10), (0, 13)]
    np.testing.assert_allclose(windows.stitched(found.windows.astype(np.float32), found, view), pixels, atol=1e-3)
    mirrored = windows.cut(windows.Picture(pixels, np.zeros((20, 33), np.int32), 0), view, flip=True)
    assert np.array_equal(mirrored.windows[0], pixels[:, :12:-1])


def test_enlarging_is_linear_interpolation_at_the_middles():
    x = np.array([0., 1., 4.], np.float32)
    at = (np.arange(7) + .5) * 3 / 7 - .5
    np.testing.assert_allclose(windows.interpolation(7, 3) @ x, np.interp(at, range(3), x), atol=1e-6)
    assert np.array_equal(windows.interpolation(4, 4), np.eye(4)) and np.array_equal(windows.interpolation(3, 1), np.ones((3, 1)))
    assert np.array_equal(windows.nearest(np.arange(4).reshape(2, 2), (4, 6)), np.repeat(np.repeat(np.arange(4).reshape(2, 2), 2, 0), 3, 1))
    maps = RNG.normal(size=(1, 2, 3, 3, 2)).astype(np.float32)
    np.testing.assert_allclose(heads.enlarged(jnp.asarray(maps), 7), windows.enlarged(maps, (7, 7)), atol=1e-5)


def test_random_crops_keep_targets_with_their_pixels():
    target = RNG.integers(0, 200, (40, 30)).astype(np.int32)
    picture = windows.Picture(np.repeat(target[..., None], 3, 2).astype(np.uint8), target, 0)
    view = windows.View(16, 16, "bilinear")
    for seed in range(6):
        pixels, own = crops.crop(picture, view, (16 / 16, 16 / 16) if seed else (.4, .4), np.random.default_rng(seed), colour=False)
        assert pixels.shape == (16, 16, 3) and own.shape == (16, 16)
        assert seed or (own == -1).any() and not pixels[own == -1].any()        # smaller than the window: the rest is black and says nothing
    same = windows.Picture(np.repeat(target[:30, :, None], 3, 2).astype(np.uint8), target[:30], 0)
    pixels, own = crops.crop(same, windows.View(30, 30, "bilinear"), (1., 1.), np.random.default_rng(0), colour=False)
    assert np.array_equal(pixels[..., 0], own)                                  # mirrored together, or not at all
    assert crops.coloured(pixels, np.random.default_rng(3)).dtype == np.uint8


# -- heads ---------------------------------------------------------------------------------------------------------------------------

def test_a_head_learns_what_is_planted_and_the_loss_is_that_of_a_loop():
    x = RNG.normal(size=(24, 4, 4, 6)).astype(np.float32)
    targets = np.repeat(np.repeat((x @ RNG.normal(size=(6, 3))).argmax(-1), 2, 1), 2, 2).astype(np.int32)
    targets[:, :2] = -1
    mean, scale = heads.standard(x)
    np.testing.assert_allclose(mean, x.reshape(-1, 6).mean(0), atol=1e-6)
    found = heads.fit(heads.shuffled(x, targets, np.arange(24), batch_size=8, seed=0), heads.cross_entropy, outputs=3, lrs=(1e-6, 3e-2), steps=200, warmup=5, weight_decay=1e-4,
                      mean=mean, scale=scale)
    maps = np.asarray(found(x))
    predicted = np.asarray(heads.enlarged(jnp.asarray(maps), 8)).argmax(-1)
    right = [(p == targets)[targets >= 0].mean() for p in predicted]
    assert right[1] > .75 > .6 > right[0]
    logits = windows.enlarged(maps[1], (8, 8)).astype(np.float64)
    total = [np.log(np.exp(logits[i, y, c]).sum()) - logits[i, y, c, targets[i, y, c]] for i in range(24) for y in range(8) for c in range(8) if targets[i, y, c] >= 0]
    np.testing.assert_allclose(heads.cross_entropy(jnp.asarray(maps), jnp.asarray(targets), 0)[1], np.mean(total), rtol=1e-5)


def test_places_remember_the_shares_of_their_classes():
    targets = np.full((1, 4, 4), -1)
    targets[0, :2, :2] = [[0, 0], [1, -1]]
    targets[0, 2:, 2:] = 2
    x, shares = segmentation_knn.memorised(tokens.Places(RNG.normal(size=(1, 2, 2, 3)).astype(np.float32), targets, np.zeros(1), ""), 3, 10, 0)
    assert x.shape == (2, 3) and np.allclose(shares, [[2 / 3, 1 / 3, 0], [0, 0, 1]])
    similarity = np.array([[.9, .5]])
    weight = np.exp(similarity[0] / .1) / np.exp(similarity[0] / .1).sum()
    np.testing.assert_allclose(segmentation_knn.voted(similarity, shares[None], .1), [weight @ shares], rtol=1e-6)


# -- protocols -----------------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """Of 24 and 10 clean digits of 16 pixels, on two devices."""
    data = datas.make(source="digits", variant="clean", canvas=16, workers=0)
    data = dataclasses.replace(data, train=Subset(data.train, range(0, 240, 10)), test=Subset(data.test, range(0, 100, 10)))
    return protocols.Context(made(patch=4), data, sharding.make_mesh(devices=jax.devices()[:2]), str(tmp_path_factory.mktemp("features")), log=lambda _: None)


TINY = {"segmentation": dict(steps=3, lrs=(1e-3, 1e-1), batch_size=8), "segmentation_knn": dict(k=3, memory=50), "segmentation_kmeans": dict(clusters=13, places=100)}


@pytest.mark.parametrize("name", protocols.names("dense"))
def test_dense_protocols_say_what_was_done_and_the_encoder_stays(context, name):
    before = tree.digest(context.encoder.variables)
    rows = protocols.find(name).run(context, **TINY[name])
    assert tree.digest(context.encoder.variables) == before and len({(row.variant, row.metric) for row in rows}) == len(rows)
    assert {row.variant.endswith("untrained") for row in rows} == {True, False}
    for row in rows:
        json.dumps(row.setting)
        assert row.protocol == name and row.layer == "patches" and row.n == 10 and 0 <= row.value <= 1 and row.setting["classes"] == 11
        assert row.interval is None or row.interval[0] <= row.value <= row.interval[1]
    assert {row.selected for row in rows} == {{"segmentation": "validation", "segmentation_knn": "fixed", "segmentation_kmeans": "fixed"}[name]}


def test_the_rate_is_chosen_on_whole_images(context, monkeypatch):
    """With overlapping windows no image is on both sides."""
    from jaxssl.evaluation.protocols import segmentation as protocol
    seen = []
    monkeypatch.setattr(protocol, "_part", lambda train, rows: seen.append(set(train.place[rows])) or train._replace(x=train.x[rows], targets=train.targets[rows],
                                                                                                                    place=train.place[rows]))
    protocol.run(context, untrained=False, overlap=.5, scales=(1.,), **TINY["segmentation"])
    assert seen[0] and seen[1] and not seen[0] & seen[1] and len(seen[0] | seen[1]) == 24 and len(seen[1]) == 5


def test_protocols_are_named_in_groups_and_ask_for_masks_up_front(context):
    from jaxssl import evaluate
    flags = ["--workdir", "x", "--protocols", "dense,knn"]
    assert evaluate.asked(evaluate.parser().parse_args(flags), [], flags).protocols == ("segmentation", "segmentation_kmeans", "segmentation_knn", "knn")
    assert not set(protocols.names("all")) & {"segmentation", "depth", "landmarks", "robustness"} and "retrieval" in protocols.names("all")
    protocols.check_labels({"segmentation": {}}, context.data)
    with pytest.raises(UserError, match="has no maps of depth, which depth needs"):
        protocols.check_labels({"depth": {}}, context.data)


def test_four_blocks_scales_and_mirrors_and_the_choice_on_the_test_images(context):
    rows = protocols.find("segmentation").run(dataclasses.replace(context, select="test"), preset="ms", blocks=(-2, -1), scales=(1., 1.5), untrained=False, **TINY["segmentation"])
    assert rows[0].setting["blocks"] == [-2, -1] and rows[0].setting["flip"] and rows[0].selected == "test" and rows[0].layer == "patches of blocks -2, -1"
    published = protocols.find("segmentation").run(dataclasses.replace(context, budget="published"), size=16, steps=2, untrained=False)
    assert published[0].setting["augmented"] and published[0].setting["lr"] == 1e-3 and published[0].selected == "fixed" and "short: 2 of 40,000" in published[0].note


def test_clusters_are_named_by_the_masks_of_the_test_images_only_where_that_is_said(context):
    rows = segmentation_kmeans.run(dataclasses.replace(context, select="test"), untrained=False, **TINY["segmentation_kmeans"])
    assert {row.selected for row in rows} == {"test"} and rows[0].setting["masks"] == "test" and "named by their masks" in rows[0].note
    assert [row.variant for row in rows] == ["11 clusters, Hungarian", "13 clusters, majority"]


@pytest.fixture
def folder(tmp_path):
    """A set of digits as people have it: images of other shapes, masks as palette PNGs, depth as 16-bit ones."""
    digits = datas.make(source="digits", variant="clean", canvas=16, workers=0).train
    for name in ("images", "masks", "depth"):
        (tmp_path / name).mkdir()
    for i in range(16):
        pixels, mask = digits.read(i)[0], digits.target(i)
        pixels, mask = (a[:, :12] if i % 2 else a for a in (pixels, mask))
        Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / "images" / f"{i}.png")
        palette = Image.fromarray(np.where(mask == 0, 255, mask > 0).astype(np.uint8), "P")
        palette.putpalette(list(range(256)) * 3)
        palette.save(tmp_path / "masks" / f"{i}_mask.png")
        Image.fromarray((1000 + 20 * pixels[..., 0].astype(np.uint16))).save(tmp_path / "depth" / f"{i}.png")
    return tmp_path


def test_depth_of_a_folder(context, folder):
    (folder / "masks").rename(folder / "others")
    data = datas.make(source="dense", path=str(folder), canvas=16, workers=0, holdout=.3)
    assert data.train.targets == "depth" and data.test.target(0).dtype == np.float32
    rows = protocols.find("depth").run(dataclasses.replace(context, data=data, _kept={}, _stores={}), steps=2, batch_size=4, untrained=False)
    assert [(row.variant, row.metric, row.unit) for row in rows[:3]] == [("lin. 1", "RMSE", "metres"), ("lin. 1", "AbsRel", "relative error"), ("lin. 1", "a1", "share")]
    assert rows[3].setting["blocks"] == [0, 1] and rows[0].setting["cls"] and all(np.isfinite(row.value) for row in rows)
    with pytest.raises(UserError, match="no masks.*images/ and masks/"):
        protocols.find("segmentation").run(dataclasses.replace(context, data=data, _kept={}, _stores={}))
    with pytest.raises(UserError, match="no pixel of any image has a known depth.*depth.unit"):
        protocols.find("depth").run(dataclasses.replace(context, data=data, _kept={}, _stores={}), steps=1, unit=1., untrained=False, layers=(1,))


def test_a_folder_of_images_and_masks(context, folder, capsys):
    import shutil
    shutil.rmtree(folder / "depth")
    (folder / "images" / "lone.png").write_bytes((folder / "images" / "0.png").read_bytes())
    data = datas.make(source="dense", path=str(folder), canvas=16, workers=0, holdout=.3)
    assert any("1 image without a mask (lone.png)" in sentence for sentence in data.said) and len(data.train) + len(data.test) == 16
    assert set(np.unique(data.train.target(0))) <= {-1, 1}
    rows = protocols.find("segmentation").run(dataclasses.replace(context, data=data, _kept={}, _stores={}), untrained=False, **TINY["segmentation"])
    assert rows[0].setting["classes"] == 2 and rows[0].setting["window"] == 16 and rows[0].setting["iou"][0] in (None, 0)       # class 0 is never true
    from jaxssl.data import __main__ as command
    assert command.main(["pack", str(folder), str(folder / "packed")]) == 0 and "the masks are not packed" in capsys.readouterr().out
    (folder / "classes.txt").write_text("ink\n")
    with pytest.raises(UserError, match="class 1, and classes.txt names 1"):
        protocols.find("segmentation").run(dataclasses.replace(context, data=datas.make(source="dense", path=str(folder), canvas=16, workers=0, holdout=.3), _kept={}, _stores={}))


@pytest.mark.parametrize("fault, said", [("colour", "picture of mode RGB, whose colours are no classes"), ("size", "16×16 and its mask 4×4 pixels"),
                                         ("names", "no file of images/ has its name"), ("torn", "cannot be read")])
def test_folders_that_do_not_match_are_refused_in_a_sentence(tmp_path, fault, said):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for i in range(8):
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "images" / f"{i}.png")
        mask = np.zeros((16, 16, 3), np.uint8) if fault == "colour" else np.zeros((4, 4) if fault == "size" else (16, 16), np.uint8)
        Image.fromarray(mask).save(tmp_path / "masks" / (f"other{i}.png" if fault == "names" else f"{i}.png"))
        if fault == "torn":
            (tmp_path / "masks" / f"{i}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(UserError, match=said):
        data = datas.make(source="dense", path=str(tmp_path), canvas=16, workers=0)
        list(windows.pictures(data.train, [0], []))


def test_splits_lie_inside_or_outside(tmp_path):
    for place in ("a/images/train", "a/masks/train", "a/images/val", "a/masks/val", "b/train/images", "b/train/masks", "b/test/images", "b/test/masks"):
        (tmp_path / place).mkdir(parents=True)
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / place / "x.png")
    for name in "ab":
        data = datas.make(source="dense", path=str(tmp_path / name), canvas=4, workers=0)
        assert len(data.train) == len(data.test) == 1 and "train" in data.train.id(0) and "train" not in data.test.id(0)
    from jaxssl.data import open as opening
    assert opening.detect(str(tmp_path / "a")) == opening.detect(str(tmp_path / "b")) == "dense" and opening.detect(str(tmp_path / "a/images")) == "folder"
