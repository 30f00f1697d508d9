"""The search command: an index that is made once, kept, resumed and brought up to date; exact answers; a page in which names are text."""
import json
import re

import numpy as np
import pytest
from PIL import Image

from jaxssl import search
from jaxssl.encoder import load as loading
from jaxssl.errors import UserError
from jaxssl.evaluation.features.search import neighbours
from jaxssl.gallery import answer, images
from jaxssl.gallery.index import File, Index
from tests.test_cache import drawn


def picture(file, seed):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)).save(file)


@pytest.fixture
def gallery(tmp_path):
    for i in range(9):
        picture(tmp_path / "set" / "train" / f"{i}.png", i)
    return tmp_path / "set"


@pytest.fixture
def ask(monkeypatch, tmp_path):
    """ask(…) -> what `run` returns and how many images were embedded for it; by their pixels, unless it is to be through the network."""
    monkeypatch.setattr(loading, "load", lambda path, **_: drawn(0))
    counted, real = [], images.embedded

    def embedded(encoder, data, source, layer):
        counted.append(len(source))
        if network:
            return real(encoder, data, source, layer)
        found = [images.Decoded(source).read(i) for i in range(len(source))]
        return iter([(np.stack([np.resize(pixels, (16, 16, 3)).reshape(-1) - np.float32(128) for pixels, *_ in found]), np.array([label >= 0 for _, label, _ in found]))])
    monkeypatch.setattr(images, "embedded", embedded)
    network = False

    def go(gallery, *, through_network=False, **flags):
        nonlocal network
        network = through_network
        counted.clear()
        return search.run(weights="w", gallery=str(gallery), index=str(tmp_path / "index"), **flags), sum(counted)
    return go


def test_indexed_once_and_brought_up_to_date(ask, gallery):
    found, embedded = ask(gallery)
    assert embedded == found["images"] == 9
    assert ask(gallery)[1] == 0
    picture(gallery / "more.png", 20)
    (gallery / "train/3.png").unlink()
    picture(gallery / "train/5.png", 21)
    (gallery / "train/broken.png").write_bytes(b"no image")
    found, embedded = ask(gallery, query=str(gallery / "train/5.png"), k=50)
    names = [own["name"] for own in found["queries"][0]["results"]]
    assert embedded == 3 + 1 and found["images"] == 9 and len(names) == 8 and "more.png" in names and not {"train/3.png", "train/5.png", "train/broken.png"} & set(names)
    assert ask(gallery, query=str(gallery / "more.png"), as_it_is=True)[1] == 1
    for i in (0, 1, 2, 4, 6, 7, 8):
        (gallery / f"train/{i}.png").unlink()
    assert ask(gallery)[1] == 0 and ask(gallery)[0]["images"] == 2


def test_answers_are_exact(ask, gallery, tmp_path):
    picture(tmp_path / "q/a.png", 3)                                 # another file with the pixels of 3.png
    picture(tmp_path / "q/b.png", 77)
    (gallery / "broken.png").write_bytes(b"no image")
    found, _ = ask(gallery, query=str(tmp_path / "q"), k=4, through_network=True)
    read = lambda *files: drawn(0)([np.asarray(Image.open(file)) for file in files])
    names = sorted(str(file.relative_to(gallery)) for file in gallery.rglob("*.png") if file.name != "broken.png")
    x, q = read(*(gallery / name for name in names)), read(tmp_path / "q/a.png", tmp_path / "q/b.png")
    score, at = neighbours(q, x, k=4)
    for each, own, places in zip(found["queries"], score, at):
        assert [result["name"] for result in each["results"]] == [names[i] for i in places]
        assert np.allclose([result["score"] for result in each["results"]], own, atol=1e-5)
    assert found["queries"][0]["results"][0] == {"name": "train/3.png", "score": pytest.approx(1, abs=1e-5)}


def test_equal_scores_go_by_place():
    rows = np.tile(np.eye(3, dtype=np.float32), (4, 1))
    score, at = answer.exact(rows[:3], rows, 6)
    assert np.array_equal(at[:, :4], [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]) and np.array_equal(score, np.repeat([[1, 1, 1, 1, 0, 0]], 3, 0))


FILES = [File(f"{i}.png", i, i) for i in range(6)]


def vectors(files):
    for at in range(0, len(files), 2):
        yield np.stack([np.eye(6, dtype=np.float32)[file.size] * 3 for file in files[at:at + 2]]), np.ones(len(files[at:at + 2]), bool)


def test_an_interrupted_index_goes_on(tmp_path):
    """After two of three chunks; and when a line or rows are torn or changed, from there."""
    index = Index(str(tmp_path), {"a": 1})

    def killed(files):
        for i, chunk in enumerate(vectors(files)):
            if i == 2:
                raise KeyboardInterrupt
            yield chunk
    with pytest.raises(KeyboardInterrupt):
        index.update(FILES, killed)
    again = Index(str(tmp_path), {"a": 1})
    assert again.update(FILES, vectors)["new"] == 2
    x, names = again.rows(FILES)
    assert np.array_equal(x, np.eye(6)) and names == [file.name for file in FILES]
    for harm, left in (lambda: (tmp_path / "rows.jsonl").write_bytes((tmp_path / "rows.jsonl").read_bytes()[:-9]), 2), (flip(tmp_path / "features.f32"), 4), (
            lambda: (tmp_path / "features.f32").write_bytes((tmp_path / "features.f32").read_bytes()[:90]), 4), (lambda: (tmp_path / "index.json").write_text("{"), 6):
        harm()
        assert (fresh := Index(str(tmp_path), {"a": 1})).update(FILES, vectors)["new"] == left
        assert np.array_equal(fresh.rows(FILES)[0], np.eye(6))
    assert Index(str(tmp_path), {"a": 2}).update(FILES, vectors)["new"] == 6


def flip(file):
    def harm():
        data = bytearray(file.read_bytes())
        data[60] ^= 1
        file.write_bytes(data)
    return harm


def test_two_at_once(tmp_path):
    one, other = Index(str(tmp_path), {}), Index(str(tmp_path), {})
    with one.alone(), pytest.raises(UserError, match="another search is writing"):
        other.update(FILES, vectors)


def test_the_page_shows_pictures_and_names_are_text(ask, gallery, tmp_path):
    evil = "<img src=x onerror=alert(1)>\u202egpj.png"
    picture(gallery / evil, 5)
    found, _ = ask(gallery, query=str(gallery / "train/5.png"), k=3)
    search.write(found, str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/webp") == 4 and "<img src=x" not in page and "&lt;img src=x" in page and "default-src &#x27;none&#x27;" in page and "<script" not in page
    assert re.search(r">1\.0000<", page)
    (gallery / evil).unlink()
    search.write(found, str(tmp_path / "page.html"))
    assert "not readable any more" in (tmp_path / "page.html").read_text()
    search.write(found, str(tmp_path / "found.json"))
    assert json.loads((tmp_path / "found.json").read_text()) == found


@pytest.mark.parametrize("flags, said", [
    ({"k": 0}, "--k is 0"), ({"out": "x.html"}, "--query"), ({"query": "nowhere"}, "does not exist"), ({"gallery": "nowhere"}, "does not exist"),
    ({"layer": "projctor.1"}, "did you mean"),
    ({"as_it_is": True}, "leave --as_it_is out"), ({"approximate": True, "query": "train/1.png"}, "leave it out below 1,000,000"),
    ({"query": "train/broken.jpg"}, "1 of 1 query images cannot")])
def test_refused(ask, gallery, monkeypatch, flags, said):
    (gallery / "train/broken.jpg").write_bytes(b"no image")
    monkeypatch.chdir(gallery)
    with pytest.raises(UserError, match=said):
        ask(**{"gallery": ".", **flags})


def test_the_command(ask, gallery, tmp_path, capsys):
    flags = ["--weights", "w", "--gallery", str(gallery), "--index", str(tmp_path / "index")]
    assert search.main([*flags, "--query", str(gallery / "train/1.png"), "--k", "2"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3 and "9 images; 9 new or changed" in err
    assert search.main([*flags, "--query", str(gallery / "train/1.png"), "--json"]) == 0 and json.loads(capsys.readouterr().out)["images"] == 9
    assert search.main([*flags, "--query", "nowhere"]) == 2 and capsys.readouterr().err.count("error: ") == 1
