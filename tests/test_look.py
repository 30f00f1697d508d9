"""Pictures of places: components and what stands out on planted maps, matches of a moved object, and the page and the picture that the command writes."""
import re
import types

import numpy as np
import pytest
from PIL import Image

from jaxssl import data as datas, look
from jaxssl.encoder.formats import safetensors as native
from jaxssl.evaluation.measures import patches
from jaxssl.report import compose, look as sample, patches as drawn
from tests.test_interop_vit import made
from tests.test_tuning import small

RNG = np.random.default_rng(0)


def planted(at, shape=(8, 10), noise=.05):
    """A map [h, w, 6] with an object of 3 × 3 places, each with a vector of its own, on a ground that is alike everywhere."""
    found = np.zeros((*shape, 6), np.float32)
    found[..., 0] = 1
    found += np.random.default_rng(at[0]).normal(0, noise, found.shape)
    own = np.random.default_rng(9).normal(0, 1, (3, 3, 6))
    own[..., 0] -= 5
    found[at[0]:at[0] + 3, at[1]:at[1] + 3] = own
    return found


def test_an_object_stands_out_whichever_sign_its_component_has():
    maps = [planted((2, 3)), planted((4, 5), (9, 9))]
    for sign in (1, -1):
        found = patches.coloured([sign * m for m in maps])
        for m, front, rgb, at in zip(maps, found.front, found.rgb, ((2, 3), (4, 5))):
            inside = np.zeros(m.shape[:2], bool)
            inside[at[0]:at[0] + 3, at[1]:at[1] + 3] = True
            assert np.array_equal(front, inside) and rgb.shape == (*m.shape[:2], 3) and not rgb[~inside].any() and 0 <= rgb.min() and rgb.max() <= 1 and rgb[inside].std() > .1
    assert np.array_equal(found.rgb[0][2:5, 3:6], found.rgb[1][4:7, 5:8])        # images share their colours
    assert all(front.all() for front in patches.coloured(maps, threshold=None).front)
    assert patches.coloured([np.ones((4, 4, 2), np.float32)]).rgb[0].shape == (4, 4, 3)         # of nothing that varies nothing is said


@pytest.mark.parametrize("rows", [5, 200])
def test_components_are_scikit_learns(rows):
    from sklearn.decomposition import PCA
    x = RNG.normal(size=(rows, 6)) * [5, 3, 2, 1, 1, 1]
    np.testing.assert_allclose(np.abs(patches.components(x, 3)), np.abs(PCA(3).fit_transform(x)), atol=1e-5)
    assert patches.components(x[:, :2], 3).shape == (rows, 3)


def test_places_of_a_moved_object_are_matched():
    first, second = planted((2, 3)), planted((4, 5), (9, 9))
    fronts = tuple(patches.coloured([first, second]).front)
    found = patches.matched(first, second, fronts, apart=1)
    assert len(found) == 9 and all((m.second[0] - m.first[0], m.second[1] - m.first[1]) == (2, 2) and m.cosine > .999 for m in found)
    assert len(patches.matched(first, second, fronts, apart=2)) <= 4 and len(patches.matched(first, second, fronts, apart=1, most=3)) == 3
    assert patches.matched(first, second, (np.zeros((8, 10), bool), fronts[1])) == []


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("look")
    native.save(made(patch=4, registers=1), folder / "w.safetensors")
    for name, shape in (("a <b>&.png", (20, 30)), ("b.png", (16, 16))):
        Image.fromarray(RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)).save(folder / name)
    return folder


def call(folder, *flags):
    return look.main(["--weights", str(folder / "w.safetensors"), *(str(flag) for flag in flags)])


def test_the_page_shows_every_picture_and_escapes_names(files, capsys):
    assert call(files, "--image", files / "a <b>&.png", "--image2", files / "b.png", "--out", files / "look.html") == 0, capsys.readouterr().err
    text = (files / "look.html").read_text()
    assert "<b>" not in text.partition("<main>")[2] and "a &lt;b&gt;&amp;.png" in text
    images = re.findall(r'<img src="data:image/webp;base64,[^"]+" alt="([^"]*)"', text)
    assert len(images) == 2 * (1 + 1 + 2 + 4) + 1 and sum("register 1" in alt for alt in images) == 2 and "pairs of places" in images[-1]
    assert "4 × 6 places" in images[0] and "4 × 4 places" in images[8]      # whole patches of the whole image
    assert "default-src" in text and not re.search(r'(src|href)="(?!data:)', text)


def test_the_picture_is_a_picture(files):
    assert call(files, "--image", files / "b.png", "--out", files / "look.png", "--size", 32, "--all") == 0
    pixels = np.asarray(Image.open(files / "look.png"))
    assert pixels.shape[1] > 8 * 256 and pixels.std() > 10


@pytest.mark.parametrize("flags, said", [(["--image", "nothing.png"], "cannot be read"), (["--image", "w.safetensors"], "cannot be decoded"),
                                         (["--image", "b.png", "--out", "x.gif"], "ends in .html"),
                                         (["--image", "b.png", "--size", "8"], "too few to look at; give a larger --size"),
                                         (["--image", "b.png", "--size", "9999"], "up to 4,096"),
                                         (["--image", "b.png", "--workdir", "."], "either --weights")])
def test_what_cannot_be_looked_at_is_said(files, flags, said, capsys, monkeypatch):
    monkeypatch.chdir(files)
    assert call(files, *flags) == 2
    assert said in (err := capsys.readouterr().err) and err.count("\n") == 1, err


def test_attention_is_drawn_of_every_token():
    seen = drawn.see(made(patch=4, registers=2), [RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)])
    found = drawn.attentions(seen, 0, heads=True)
    assert [p.caption.partition(",")[0] for p in found] == ["class token", "register 1", "register 2", *["class token"] * 4]
    brightest = np.unravel_index(seen.attention[0][2, 0].argmax(), (4, 4))
    assert (found[5].pixels.sum(-1).reshape(4, 64, 4, 64).mean((1, 3)).argmax() == brightest[0] * 4 + brightest[1])
    assert drawn.attentions(seen._replace(attention=None), 0) == []


def test_the_report_draws_a_few_images_where_the_map_is_large_enough():
    data = datas.make(source="digits", variant="clean", canvas=16, workers=0)
    found = sample._places(made(patch=4, registers=1), data, data.test, np.arange(40))
    assert len(found.images) == sample.PLACES and found.maps[0].shape == (4, 4, 32) and np.abs(found.images[0].astype(int) - data.test.read(0)[0]).max() <= 1
    (name, _, text), = compose._places([(None, types.SimpleNamespace(places=found))], lambda make: make(None, types.SimpleNamespace(places=found)))
    assert name == "places" and text.count("<img ") == sample.PLACES * (1 + 1 + 2) and "jaxssl.look" in text
    assert sample._places(small(), data, data.test, np.arange(40)) is None           # 2 × 2 places
    assert compose._places([(None, types.SimpleNamespace(places=None))], None) == []
