"""Retrieval by the evaluate command: a gallery and queries of their own, ensembles of folds, rows of each class and of the encoder before training."""
import json

import numpy as np
import pytest

from jaxssl.data import noise
from jaxssl.errors import UserError
from jaxssl.evaluation.measures import retrieval
from tests.probed import context, run
from tests.test_cache import drawn
from tests.test_evaluate import call, images, runs, written  # noqa: F401

ASKED = ["--protocols", "retrieval", "--set", "retrieval.clusters=false"]


def rows_of(found, variant, key="rows"):
    return {row["metric"]: row for row in found[key] if row["variant"] == variant}


def test_a_gallery_and_queries_of_their_own(call, runs, tmp_path):  # noqa: F811
    """Classes are matched by name, a query whose class the gallery lacks is left out, and no image of the run's own is looked at."""
    gallery = images(tmp_path / "gallery", ["x/", "y/", "z/"] * 4)
    query = images(tmp_path / "query", ["y/", "x/", "w/"] * 2)
    code, out, err = call("--workdir", *runs("seed0"), *ASKED, "--gallery", gallery, "--query", query, "--set", "retrieval.recall=1,3,100")
    assert code == 0, err
    found, = written(tmp_path / "seed0")
    rows = rows_of(found, "against train")
    assert set(rows) == {"precision@1", "recall@3", "recall@100", "R-precision", "MAP@R", "MRR"} and rows["recall@100"]["value"] == 1
    assert rows["MAP@R"]["n"] == 4 and rows["MAP@R"]["setting"]["reference"] == 12 and "2 images without another" in rows["MAP@R"]["note"]
    code, out, err = call("--workdir", *runs("seed1"), *ASKED, "--gallery", gallery, "--query", gallery + "/", "--set", "retrieval.per_class=true")
    assert code == 0, err
    rows = rows_of(written(tmp_path / "seed1")[0], "against test")
    assert rows["MAP@R"]["n"] == 12 and rows["MAP@R"]["setting"]["self"] == "excluded by id"
    of = [row for row in written(tmp_path / "seed1")[0]["rows"] if row["metric"] == "MAP@R of a class"]
    assert {row["variant"] for row in of} == {f"against test, class {name}" for name in "xyz"} and abs(np.mean([row["value"] for row in of]) - rows["MAP@R"]["value"]) < 1e-9
    assert [row["value"] for row in of] == sorted(row["value"] for row in of)


def test_ensembles_separated_and_concatenated(call, runs, tmp_path):  # noqa: F811
    data = images(tmp_path / "set", ["train/x/", "train/y/", "test/x/", "test/y/"] * 5)
    code, out, err = call("--workdir", *runs("seed0", "seed1", "seed2"), *ASKED, "--data", data, "--ensemble")
    assert code == 0 and "separated, 3 encoders" in out and "concatenated, 3 encoders" in out, err
    found = [written(tmp_path / f"seed{i}")[0] for i in range(3)]
    separated, joined = (rows_of(found[0], f"{how}, 3 encoders", "ensemble") for how in ("separated", "concatenated"))
    each = [rows_of(one, "against test")["MAP@R"]["value"] for one in found]
    assert np.allclose(separated["MAP@R"]["setting"]["each"], each) and np.isclose(separated["MAP@R"]["value"], np.mean(each))
    sets = [context_of(data, i, tmp_path) for i in range(3)]
    x = np.concatenate([own.x / np.linalg.norm(own.x, axis=1, keepdims=True) for own in sets], 1)
    ids = np.arange(len(x))
    expected = retrieval.evaluate(x, sets[0].labels, x, sets[0].labels, query_ids=ids, reference_ids=ids).means["MAP@R"]
    assert np.isclose(joined["MAP@R"]["value"], expected) and joined["MAP@R"]["setting"]["width"] == x.shape[1]


def context_of(data, seed, tmp_path):
    """Features of the test images by another way to them."""
    import jax
    from jaxssl.evaluation import protocols, subjects
    from jaxssl.parallel import mesh as sharding
    encoder = drawn(seed)
    opened = subjects.open_data(encoder.config, data, {}, resize=encoder.preprocessing["resize"])
    return protocols.Context(encoder, opened, sharding.make_mesh(devices=jax.devices()[:1]), str(tmp_path / "own"), log=lambda _: None).labelled("test")


@pytest.mark.parametrize("flags, said", [
    (["--query", "q"], "name those to search among with --gallery"), (["--gallery", "g", "--data", "d"], "leave one of them out"), (["--ensemble"], "several --workdir"),
    (["--gallery", "g", "--protocols", "knn", "--set", "knn.k=5"], "add --protocols retrieval"), (["--gallery", "nowhere"], "does not exist"),
    (["--set", "retrieval.beside=untraned"], "did you mean 'untrained'"),
    (["--set", "retrieval.beside=pretrained"], "init_from is empty")])
def test_refused(call, runs, flags, said):  # noqa: F811
    code, _, err = call("--workdir", *runs("seed0"), *(ASKED if "knn" not in flags else []), *flags)
    assert code == 2 and said in err and err.count("error: ") == 1, err


def test_rows_beside_and_the_nearest_classes(tmp_path):
    """The untrained encoder's rows stand beside, and a file of the nearest classes is what data.confusable reads."""
    one = context(folder=tmp_path)
    rows = run("retrieval", one, beside=("untrained",), nearest=str(tmp_path / "near.json"), clusters=False)
    assert [row.variant for row in rows] == ["against test"] * 5 + ["against test, untrained"] * 5
    near = json.loads((tmp_path / "near.json").read_text())
    assert set(near) == set(one.data.train.classes) and all(len(own) == 5 and name not in own for name, own in near.items())
    assert noise._nearest(str(tmp_path / "near.json"), one.data.train.classes)
    with pytest.raises(UserError, match="cannot write"):
        run("retrieval", one, nearest=str(tmp_path / "none" / "near.json"), clusters=False)
