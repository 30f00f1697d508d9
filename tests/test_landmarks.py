"""Retrieval by lists, and shifted sets: average precision against the definition written out, what is ignored, and files that are wrong."""
import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from jaxssl import data as datas
from jaxssl.errors import UserError
from jaxssl.evaluation import protocols
from jaxssl.evaluation.measures import landmarks, linear
from jaxssl.evaluation.protocols import robustness
from tests.probed import context as probed, digits

RNG = np.random.default_rng(0)


def loop(order, positive, ignored):
    """The area under precision over recall, walked down the ranking one image at a time."""
    area, recall, precision, hits, seen = 0., 0., 1., 0, 0
    for image in order:
        if image in ignored:
            continue
        hits, seen = hits + (image in positive), seen + 1
        new_recall, new_precision = hits / len(positive), hits / seen
        area += (new_recall - recall) * (precision + new_precision) / 2
        recall, precision = new_recall, new_precision
    return area


def test_average_precision_is_the_area_walked_down():
    rankings = np.array([RNG.permutation(12) for _ in range(6)])
    lists = [landmarks.Lists(*(np.array(part, int) for part in (own[:a], own[a:b], own[b:c]))) for own, (a, b, c) in
             ((RNG.permutation(12), sorted(RNG.integers(0, 9, 3))) for _ in range(6))]
    lists[0] = landmarks.Lists(np.array([3]), np.array([], int), np.array([], int))
    for setup, (counted, ignored) in landmarks.SETUPS.items():
        found = landmarks.evaluate(rankings, lists, setup)
        wanted = {q: loop(order, set(np.concatenate([getattr(own, n) for n in counted])), set(np.concatenate([getattr(own, n) for n in ignored])))
                  for q, (order, own) in enumerate(zip(rankings, lists)) if sum(len(getattr(own, n)) for n in counted)}
        assert found.queries.tolist() == list(wanted)
        np.testing.assert_allclose(found.ap, list(wanted.values()))
    assert 0 not in landmarks.evaluate(rankings, lists, "hard").queries       # it has no hard positive


def test_junk_costs_nothing_and_precision_is_that_of_the_first_ranks():
    own = landmarks.Lists(np.array([0, 1]), np.array([2]), np.array([5, 6]))
    order = np.array([[5, 0, 6, 1, 4, 2, 3]])
    medium = landmarks.evaluate(order, [own], "medium")
    assert medium.ap[0] == pytest.approx(np.mean([1, 1, (2 / 3 + 3 / 4) / 2])) and medium.precision[5][0] == 3 / 4 and medium.precision[1][0] == 1
    assert landmarks.evaluate(order, [own], "easy").ap[0] == 1
    assert landmarks.evaluate(order, [own], "hard").ap[0] == pytest.approx((0 + 1 / 2) / 2)


@pytest.fixture
def lists(tmp_path):
    """Eight gallery images and two queries of the digits' training images, which lie beside them; a query's box shows one gallery image."""
    source = datas.make(source="digits", variant="clean", canvas=16, workers=0).train
    (tmp_path / "jpg").mkdir()
    for i in range(8):
        Image.fromarray(source.read(i)[0]).save(tmp_path / "jpg" / f"g{i}.png")
    for q, of in enumerate((3, 5)):
        wide = np.zeros((16, 40, 3), np.uint8)
        wide[:, 10:26] = source.read(of)[0]
        Image.fromarray(wide).save(tmp_path / "jpg" / f"q{q}.png")
    box = [10, 0, 26, 16]
    found = {"imlist": [f"g{i}" for i in range(8)], "qimlist": ["q0", "q1"],
             "gnd": [{"bbx": box, "easy": [3], "hard": [], "junk": [0, 1]}, {"bbx": box, "easy": [5], "hard": [2], "junk": []}]}
    file = tmp_path / "lists.json"
    file.write_text(json.dumps(found))
    data = datas.make(source="folder", path=str(tmp_path / "jpg"), canvas=48, workers=0)
    return file, found, dataclasses.replace(probed(tmp_path), data=data)


def test_a_query_finds_what_its_box_shows(lists):
    file, _, context = lists
    rows = protocols.find("landmarks").run(context, lists=str(file), setups=("easy", "hard"))
    easy = {row.metric: row for row in rows if row.variant == "easy"}
    assert easy["mAP"].value == 1 and easy["mP@1"].value == 1 and easy["mAP"].n == 2 and easy["mAP"].setting["gallery"] == 8
    hard = next(row for row in rows if (row.variant, row.metric) == ("hard", "mAP"))
    assert hard.n == 1 and "1 queries without a positive" in hard.note and hard.interval is not None
    other = protocols.find("landmarks").run(context, lists=str(file), setups=("easy",), crop=False)
    assert other[0].setting["cropped"] is False


@pytest.mark.parametrize("change, said", [({"gnd": []}, "2 queries .* 0 lists"), ({"imlist": ["g0"]}, "lists image 3 of a gallery of 1"),
                                          ({"qimlist": ["q0", "x"]}, r"1 of 10 images .*\(x\)"), ({"imlist": 3}, "cannot be read.*imlist")])
def test_lists_that_are_wrong_are_refused(lists, change, said):
    file, found, context = lists
    file.write_text(json.dumps(found | change))
    with pytest.raises(UserError, match=said):
        protocols.find("landmarks").run(context, lists=str(file))
    with pytest.raises(UserError, match="needs its lists"):
        protocols.find("landmarks").run(context)


def test_shifted_sets_are_answered_with_their_own_classes(tmp_path):
    source = datas.make(source="digits", variant="clean", canvas=16, workers=0).test
    for name, digit in (("three", 3), ("8", 8)):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in [i for i in range(len(source)) if source.entry(i)[0] == digit][:6]:
            Image.fromarray(source.read(i)[0]).save(tmp_path / "set" / name / f"{i}.png")
    context = probed(tmp_path)
    with pytest.raises(UserError, match=r"1 of 2 folders .*\(three\).*robustness.classes"):
        protocols.find("robustness").run(context, path=str(tmp_path / "set"))
    (tmp_path / "map.txt").write_text("three 3\n8 8\n")
    rows = protocols.find("robustness").run(context, path=str(tmp_path / "set"), classes=str(tmp_path / "map.txt"))
    assert [row.variant for row in rows] == ["set, k=20 T=0.07", "own test images, k=20 T=0.07", "set, linear", "own test images, linear"]
    own = digits().test.labels[4:]
    assert [row.n for row in rows] == [12, np.isin(own, (3, 8)).sum()] * 2 and rows[0].setting["classes"] == 2 and "2 of 10 classes" in rows[0].note
    assert all(row.value > .5 for row in rows)          # of two classes
    (tmp_path / "map.json").write_text('{"three": "3", "8": "8"}')
    assert np.array_equal(robustness.mapped(("8", "three"), tuple("0123456789"), str(tmp_path / "map.json"), ""), [8, 3])
    (tmp_path / "map.json").write_text('{"three": ')
    with pytest.raises(UserError, match="map of classes .* cannot be read"):
        robustness.mapped(("8",), ("8",), str(tmp_path / "map.json"), "")


def test_answers_of_a_linear_classifier_are_restricted():
    x, y = RNG.normal(size=(60, 4)).astype(np.float32), np.arange(60) % 3
    x[np.arange(60), y] += 2
    free, few = (linear.evaluate(x, y, x, y, grid=(1e-2,), among=among).predictions for among in (None, np.array([0, 2])))
    assert set(free) == {0, 1, 2} and set(few) == {0, 2} and np.array_equal(free[free != 1], few[free != 1])
