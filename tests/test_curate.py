"""The curate command from a folder with planted copies to a manifest that training reads: resumed, damaged, asked again, refused."""
import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from jaxssl import curate, data as datas
from jaxssl.curation import book as books, features, graph, manifest, plan
from jaxssl.data.digits import Digits
from tests.tiny import ROOT

POOL, SEVERAL = 20, {3: ("jpg", "light"), 8: ("jpg",), 11: ("again",)}     # images of the pool, and copies of some of them


@dataclasses.dataclass(frozen=True)
class Blocks:
    """What a curation asks of an encoder: the means of blocks of pixels, turned by `angle`."""
    digest: str = "one"
    name = "blocks"
    config = {"model": {"name": "blocks"}}
    preprocessing = {"size": 16, "resize": 16}
    variables = {}

    def check_layer(self, layer):
        assert layer == "backbone"

    def embed(self, layer, *, place=None):
        return jax.jit(lambda batch: batch["image"][:, :16, :16, 0].astype(jnp.float32).reshape(-1, 8, 2, 8, 2).mean((2, 4)).reshape(-1, 64) - 20)


@pytest.fixture
def encoder(monkeypatch):
    monkeypatch.setattr(curate, "_encoder", lambda weights, use, precision: Blocks(weights))


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """pool: twenty digits, copies of three, a file that is no image. reference: two, of which one is in the pool. seeds: three like some of the pool."""
    root, digits = tmp_path_factory.mktemp("sources"), Digits("clean", 16, test=False)
    for name in ("pool", "reference", "seeds", "empty"):
        (root / name).mkdir()
    for i in range(POOL):
        image = Image.fromarray(digits.read(37 * i)[0])
        image.save(root / "pool" / f"{i:02d}.png")
        for kind in SEVERAL.get(i, ()):
            file = root / "pool" / f"{i:02d}-{kind}.{'jpg' if kind == 'jpg' else 'png'}"
            (ImageEnhance.Brightness(image).enhance(.9) if kind == "light" else image).save(file)
        if i == 15:
            image.save(root / "reference" / "leak.png")
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(root / "reference" / "other.png")
    for i in (0, 5, 6):
        ImageEnhance.Brightness(Image.fromarray(digits.read(37 * i)[0])).enhance(.7).save(root / "seeds" / f"{i}.png")
    (root / "pool" / "broken.png").write_bytes(b"no image")
    return root


def go(out, *words):
    return curate.main([*map(str, words), "--out", str(out)])


def embedded(out, sources, *names):
    for name in names:
        assert go(out, "embed", sources / name, "--weights", "one", "--name", name, "--data", "workers=0", "--shard", 8) == 0
    return books.Book(str(out))


def left(book, step):
    names = features.ids(book, features.POOL)
    return [names[i] for i in book.table(step)["rows"]]


def tables(out):
    return {str(file.relative_to(out)): books.digest(books.read(file, "")) for file in sorted(out.rglob("*.npz"))} | {"manifest": (out / "manifest.jsonl").read_bytes()}


def test_from_a_folder_to_a_manifest(encoder, sources, tmp_path, capsys):
    out = tmp_path / "out"
    book = embedded(out, sources, "pool", "reference", "seeds")
    assert book.steps["embed main/pool"]["counts"] == {"images": 25, "kept": 24, "broken": 1, "width": 64}
    assert (out / "features/main/pool/broken.jsonl").read_text() == '"broken.png"\n' and len(list((out / "features/main/pool").glob("*.npz"))) == 4
    steps = [("calibrate", "--weights", "one", "--count", 6, "--kinds", "jpeg,colour", "--at_precision", .9), ("knn", "--k", 5, "--among", "embed main/pool"),
             ("dedup", "self", "--threshold", .99, "--k", 5, "--keep", "sharpest"), ("dedup", "against", "reference", "--threshold", .99, "--k", 5),
             ("kmeans", "--clusters", 6, "--levels", "2", "--rounds", 1, "--sample", 2), ("retrieve", "samples", "seeds", "--n", 2), ("sample", "--target", 7, "--pick", "closest"),
             ("retrieve", "clusters", "seeds", "--min_hits", 1, "--per_cluster", 2, "--cap", 4),
             ("report",), ("manifest", "--steps", "sample", "retrieve samples seeds", "--weight", "hits")]
    for step in steps:
        assert go(out, *step) == 0
    book = books.Book(str(out))
    x, names = features.load(book, "pool", "main"), features.ids(book, "pool")
    cosine = x.x @ x.x.T
    kept = [name[:2] for name in left(book, "dedup self")]
    assert sorted(kept) == [f"{i:02d}" for i in range(POOL)] and "03-light.png" not in left(book, "dedup self")        # the lighter copy is less sharp
    clean = left(book, "dedup against reference")
    assert clean == [name for name in left(book, "dedup self") if name != "15.png"] and book.steps["dedup against reference"]["counts"]["leaks"] == 1
    assert book.steps["calibrate main"]["counts"]["copies"] == 12 and book.steps["calibrate main"]["counts"]["recall_by_kind"]["jpeg"] == 1
    near = graph.knn(book, space="main", among="embed main/pool", k=5)
    rows, (score, place) = near.rows, near.read()
    masked = cosine[np.ix_(rows, rows)] - 9 * np.eye(len(rows))
    assert np.allclose(score, -np.sort(-masked, 1)[:, :5], atol=1e-6) and np.allclose(np.take_along_axis(masked, place.astype(int), 1), score, atol=1e-6)
    seeds = features.load(book, "seeds", "main").x
    pool = [names.index(name) for name in clean]
    near = [pool[i] for row in seeds @ x.x[pool].T for i in np.argsort(-row, kind="stable")[:2]]
    table = book.table("retrieve samples seeds")
    assert dict(zip(table["rows"], table["hits"])) == {row: near.count(row) for row in set(near)}
    assert len(left(book, "sample")) == 7 and set(left(book, "sample")) <= set(clean)
    clusters = book.table("kmeans")
    own = np.argmax(seeds @ clusters["centroids_1"].T, 1)
    used = [i for i in range(6) if i in own]
    assert len(left(book, "retrieve clusters seeds")) == min(4, sum(min(2, (clusters["own_1"] == i).sum()) for i in used))
    head, *lines = map(json.loads, (out / "manifest.jsonl").read_text().splitlines())
    wanted = {names[row]: near.count(row) + (names[row] in left(book, "sample")) for row in sorted({*near, *(names.index(name) for name in left(book, "sample"))})}
    assert {line["id"]: line["weight"] for line in lines} == wanted and head["images"] == len(wanted)
    trained = datas.make(source="folder", path=str(sources / "pool"), splits="none", canvas=16, manifest=str(out / "manifest.jsonl"))
    assert len(trained.train) == sum(wanted.values())
    page = (out / "report.html").read_text()
    assert page.count("<img") > 20 and "03-light.png" in page and "broken.png" in page and "<script" not in page and "leak.png" in page
    told = {line["id"]: line["because"] for line in map(json.loads, (out / "dropped.jsonl").read_text().splitlines())}
    assert set(told) == set(names) - set(clean) and told["broken.png"] == "it cannot be decoded" and told["15.png"] == "cosine 1.0000 to leak.png"
    assert told["03-light.png"].removesuffix(" is kept in its place") in left(book, "dedup self")
    before = tables(out)
    capsys.readouterr()
    for step in steps:
        assert go(out, *step) == 0
    assert tables(out) == before and all(line.endswith("(made already)") or line.startswith("written") for line in capsys.readouterr().err.splitlines())
    again(out, sources, steps, before)


def again(out, sources, steps, before):
    """A damaged shard, table and block are made again to the bit; a step with another number makes those after it stale."""
    for file in (out / "features/main/pool/00001.npz", out / "tables/kmeans.npz"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    assert go(out, "retrieve", "samples", "seeds", "--n", 3) == 2                            # the features are not whole
    embedded(out, sources, "pool")
    next((out / "knn").rglob("*.npz")).unlink()
    for step in steps:
        assert go(out, *step) == 0
    assert tables(out) == before
    assert go(out, "dedup", "self", "--threshold", .9999, "--k", 5) == 0
    assert go(out, "sample", "--target", 7) == 2 and go(out, *steps[-1]) == 2
    for step in steps[3:5]:
        assert go(out, *step) == 0
    assert go(out, "sample", "--target", 7) == 0


def test_an_interrupted_embedding_goes_on(encoder, sources, tmp_path, monkeypatch):
    real, counted = features.images.embedded, []

    def killed(own, data, source, layer):
        counted.append(len(source))
        for x, kept in real(own, data, source, layer):
            yield x[:10], kept[:10]
            if len(counted) == 1:
                raise KeyboardInterrupt
            yield x[10:], kept[10:]
    monkeypatch.setattr(features.images, "embedded", killed)
    words = "embed", sources / "pool", "--weights", "one", "--data", "workers=0", "--shard", 8
    assert go(tmp_path / "a", *words) == 130 and go(tmp_path / "a", *words) == 0 and counted == [25, 17]
    assert go(tmp_path / "b", *words) == 0
    assert books.Book(str(tmp_path / "a")).steps["embed main/pool"]["digest"] == books.Book(str(tmp_path / "b")).steps["embed main/pool"]["digest"]


def test_a_config_runs_them_all(encoder, sources, tmp_path, capsys):
    words = "run", "--config", ROOT / "configs/curation/balanced.py", "--set", f"pool={sources / 'pool'}", "weights=one", "clusters=5", "above=2", "target=6"
    assert go(tmp_path / "out", *words) == 0
    assert "left out, since reference is not given" in capsys.readouterr().err and (tmp_path / "out/report.html").is_file()
    before = tables(tmp_path / "out")
    assert go(tmp_path / "out", *words) == 0 and tables(tmp_path / "out") == before and len(before) > 5
    assert go(tmp_path / "out", *words[:-1]) == 2 and "target" in capsys.readouterr().err
    assert go(tmp_path / "out", *words, "traget=3") == 2 and "did you mean 'target'" in capsys.readouterr().err


def test_every_config_is_read():
    from jaxssl.curation import pipeline
    for file in sorted((ROOT / "configs/curation").glob("*.py")):
        table = pipeline.read(str(file))
        steps, left_out = pipeline.steps(table, {name: "3" for name in {**table["needs"], **table["may"]}})
        assert steps and not left_out
        for words in steps:
            curate.parser().parse_args([*words, "--out", "x"])


def test_what_cannot_be_is_one_sentence(encoder, sources, tmp_path, capsys):
    out = tmp_path / "out"

    def refused(said, *words, at=out):
        assert go(at, *words) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ") and said in error, error
    refused("holds no images", "embed", sources / "empty", "--weights", "one", at=tmp_path / "other")
    refused("no features yet", "dedup", "self", at=tmp_path / "other")
    refused("nothing to report", "report", at=tmp_path / "other")
    refused("is not empty", "report", at=sources / "pool")
    embedded(out, sources, "pool", "seeds")
    refused("another encoder", "embed", sources / "pool", "--weights", "two", "--data", "workers=0")
    refused("another encoder", "calibrate", "--weights", "two")
    refused("of other images", "embed", sources / "seeds", "--weights", "one", "--data", "workers=0")
    refused("begun with shards", "embed", sources / "pool", "--weights", "one", "--data", "workers=0", "--shard", 9)
    refused("a cosine, from -1 to 1", "dedup", "self", "--threshold", 1.5)
    refused("measure a threshold", "dedup", "self", "--threshold", "auto")
    refused("did you mean 'first'", "dedup", "self", "--keep", "frist")
    refused("of a set 'reference'", "dedup", "against", "reference")
    refused("would drop all", "dedup", "against", "seeds", "--threshold", -1, "--k", 3)
    refused("write `dedup self`", "dedup", "against")
    refused("at least 1 neighbour", "knn", "--k", 0)
    refused("searched exactly in minutes", "knn", "--method", "faiss")
    refused("ask for at most", "kmeans", "--clusters", 25)
    refused("falling numbers", "kmeans", "--clusters", 3, "--levels", "4")
    refused("make clusters with", "sample", "--target", 3)
    refused("give 1 to 24", "retrieve", "samples", "seeds", "--n", 25)
    refused("did you mean 'embed main/pool'", "dedup", "self", "--among", "embed main/pol")
    refused("give a short name", "embed", sources / "pool", "--weights", "one", "--name", "../x")
    assert go(out, "kmeans", "--clusters", 3) == 0
    refused("24 images were clustered", "sample", "--target", 25)
    refused("no cluster holds 4", "retrieve", "clusters", "seeds")
    refused("has chosen no images", "manifest", "--steps", "sampel")
    (out / "curation.json").write_text("{")
    refused("torn", "report")
    shutil.rmtree(out)


def test_two_at_once(tmp_path, capsys):
    with books.Book(str(tmp_path / "out")).alone():
        assert go(tmp_path / "out", "report") == 2
    assert "another process is curating" in capsys.readouterr().err


def test_a_full_disk_is_one_sentence(encoder, sources, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")
    embedded(tmp_path / "out", sources, "pool")
    monkeypatch.setattr("os.fsync", full)
    assert go(tmp_path / "out", "knn", "--k", 3) == 2
    assert "make room" in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.undo()
    assert not list((tmp_path / "out").rglob(".*.partial")) and books.Book(str(tmp_path / "out")).steps.keys() == {"embed main/pool"}


def test_faiss_finds_most(monkeypatch):
    pytest.importorskip("faiss")
    x = np.random.default_rng(0).normal(size=(3000, 8)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    score, place = graph.inverted_lists(x)(0, 200, 5)
    assert graph.shared(place, graph.others(x, 5, high=200)[1]) > .5 and np.allclose(score, np.einsum("nd,nkd->nk", x[:200], x[place]), atol=1e-6)


def test_a_refused_first_step_leaves_no_folder(tmp_path, capsys):
    """And one that was there stays, with what is in it."""
    assert curate.main(["dedup", "self", "--out", str(tmp_path / "new" / "deep")]) == 2 and "no features yet" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    assert curate.main(["knn", "--out", str(tmp_path / "mine")]) == 2 and (tmp_path / "mine" / books.FILE).exists()


@pytest.mark.parametrize("told,keys", [
    ({"path": "digits", "keys": {"variant": "clean"}}, {"source": "digits", "variant": "clean"}),
    ({"path": "x.zip", "keys": {"source": "zip"}}, {"source": "zip", "path": "x.zip", "splits": "none"}),
    ({"path": "images", "keys": {"source": "folder", "class_depth": "2"}}, {"path": "images", "splits": "none", "source": "folder", "class_depth": "2"}),
    ({"path": "packed", "keys": {"source": "array_record"}}, {"source": "array_record", "path": "packed"})])
def test_a_manifest_says_how_its_images_are_opened(told, keys):
    assert manifest.source_keys(told) == keys


def test_a_plan_is_its_formulas():
    rates = {"embed": plan.Rate(100., ""), "matrix": plan.Rate(1e9, ""), "links": plan.Rate(1e4, ""), "rows": plan.Rate(1e3, "")}
    scale = plan.Scale(1e6, 128, k=10, clusters=500, iterations=20, machines=4, linked=.1)
    found = {each.step: each for each in plan.lines(scale, rates)}
    hours = {"embed": 1e6 / 100, "knn": 2 * 1e12 * 128 / 1e9, "dedup": (1e7 + 1e6) / 1e4, "kmeans": 2 * 1e6 * 500 * 128 * 20 / 1e9, "sample": 1e6 / 1e3}
    for name, seconds in hours.items():
        assert found[name].hours == pytest.approx(seconds / 4 / 3600), name
    assert found["embed"].storage == 1e6 * 261 and found["knn"].memory == 1e6 * 512 and found["knn"].shuffle == 3 * 1e6 * 256 and found["dedup"].shuffle == 10 * 1e6 * 16
    alone = {each.step: each for each in plan.lines(scale._replace(machines=1), {})}
    assert all(each.hours is None and not each.shuffle for each in alone.values()) and alone["dedup"].memory == 1e7 * 12


def test_a_plan_takes_the_rates_of_a_curation(tmp_path, capsys, monkeypatch):
    steps = {"embed main/pool": {"params": {}, "counts": {"images": 1000, "width": 64}, "seconds": 10.},
             "embed main/few": {"params": {}, "counts": {"images": 5, "width": 64}, "seconds": 9.},
             "knn main of embed main/pool": {"params": {"k": 8, "method": "exact"}, "counts": {"images": 1000}, "seconds": 2.},
             "dedup self": {"params": {"k": 8}, "counts": {"images": 1000}, "seconds": 4.}, "sample": {"params": {}, "counts": {"images": 900}, "seconds": .5}}
    (tmp_path / books.FILE).write_text(json.dumps({"format": books.FORMAT, "steps": steps}))
    monkeypatch.setattr(plan, "measured", lambda width: {"rows": plan.Rate(1., "here")})
    assert curate.main(["plan", "--images", "1e9", "--of", str(tmp_path), "--machines", "8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {name: rate["value"] for name, rate in found["rates"].items()} == {"embed": 100., "matrix": 2 * 1000**2 * 64 / 2, "links": 2000., "rows": 1800.}
    assert found["scale"]["width"] == 64 and found["steps"][0]["hours"] == pytest.approx(1e9 / 100 / 8 / 3600)
    assert curate.main(["plan", "--images", "1e9", "--of", str(tmp_path), "--memory", "16"]) == 0
    assert "knn holds 256 GB on each machine, which has 16 GB" in capsys.readouterr().out and list(tmp_path.iterdir()) == [tmp_path / books.FILE]
    for flags, words in ((["--of", str(tmp_path / "none")], "holds no curation.json"), (["--machines", "0"], "--machines is 0"), (["--linked", "2"], "--linked is 2"),
                         (["--embed_rate", "-1"], "--embed_rate is below 0")):
        assert curate.main(["plan", "--images", "1e9", *flags]) == 2 and words in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        curate.main(["plan", "--images", "many"])


def test_rates_are_measured_here():
    found = plan.measured(16, repeats=1)
    assert set(found) == {"matrix", "links", "rows"} and all(rate.value > 1e4 and rate.said for rate in found.values())
