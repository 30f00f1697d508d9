"""`python -m jaxssl.augment`: a picture of originals beside their views, captions, and one sentence for what is wrong."""
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxssl.augment.__main__ import main
from jaxssl.augment.picture import CELL, MARGIN, caption
from tests.tiny import ROOT

CONFIG = str(ROOT / "configs/digits/simclr.py")


def test_draws_originals_beside_views(tmp_path, capsys):
    out = tmp_path / "new" / "views.png"
    # a view that is the image itself: the two columns must then show the same
    still = dict(crop_scale="(1.,1.)", crop_ratio="(1.,1.)", flip="0.", jitter="0.", gray="0.", blur="0.", invert="0.", views="1")
    words = [f"--config.augment.{k}={v}" for k, v in still.items()]
    assert main(["--config", CONFIG, "--out", str(out), "--count", "2", *words]) == 0
    assert "2 images beside 1 views" in capsys.readouterr().out
    sheet = np.asarray(Image.open(out)).astype(int)
    assert sheet.shape[1] == MARGIN + 2 * (CELL + MARGIN)
    original, view = (sheet[MARGIN : MARGIN + CELL, x : x + CELL] for x in (MARGIN, 2 * MARGIN + CELL))
    assert np.abs(original - view).max() <= 1 and original.std() > 10


def test_caption_says_what_was_drawn():
    number = lambda x: jnp.full((1, 1), x)
    params = {
        "crop": {"top": number(3), "left": number(4), "height": number(20), "width": number(10)},
        "jitter": {"order": jnp.array([[[3, 0]]]), "hue": number(-0.1), "brightness": number(1.25)},
        "flip": number(True), "gray": number(True), "solarize": number(False), "invert": number(False), "blur": number(0.5),
    }
    assert caption(params, 0, 0) == ["crop 20x10 at 3,4 flip", "hue -0.10, brightness x1.25", "blur 0.50, gray"]


@pytest.mark.parametrize("words, said", [
    (["--count", "0"], "--count is 0"),
    (["--config.augment.hue=0.7"], "augment.hue=0.7"),
    (["--config.augment.blurr=0.7"], "augment.blur"),
    (["--out", "views.unknown"], "--out"),
])
def test_mistakes_are_one_sentence(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["--config", CONFIG, "--count", "1", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
