"""Evaluation decodes to a canvas that the test-time view need not enlarge again: its features are those of the encoder called on the images themselves."""
import dataclasses

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from jaxssl import evaluate, tree
from jaxssl.evaluation import protocols
from jaxssl.evaluation import subjects
from jaxssl.evaluation.features import cache
from jaxssl.parallel import mesh as sharding
from jaxssl.encoder import load as loading
from jaxssl.encoder.formats import names, records, torchvision
from jaxssl.evaluation.protocols import augmented
from tests.test_interop import config_of, made


@pytest.fixture
def photo(tmp_path):
    """photo(height, width) -> (a folder with that image of smooth colours among small ones, its pixels)."""
    def write(height, width):
        rng, folder = np.random.default_rng(height), tmp_path / f"photos{height}x{width}"
        for i in range(8):
            shape, file = (height, width) if i == 0 else (40, 40), folder / "train test".split()[i % 2] / "ab"[i // 2 % 2] / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(rng.integers(0, 256, (shape[0] // 10, shape[1] // 10, 3), np.uint8))
            coarse.resize((shape[1], shape[0]), Image.BICUBIC).save(file)
        return folder, np.asarray(Image.open(folder / "train" / "a" / "0.png"))
    return write


@pytest.fixture
def imported(tmp_path):
    """The path of a torchvision-like file of a small ResNet with the 7×7 stem, beside a config that says 64 pixels."""
    encoder = made(config_of(stem="imagenet"))
    tensors = names.theirs(torchvision.table(encoder.module), tree.names(records.parts(encoder.variables, ("encoder",))))
    (tmp_path / "imported").mkdir()
    safetensors.numpy.save_file(tensors, tmp_path / "imported" / "model.safetensors")
    cfg = '{"input_size": [3, 64, 64], "crop_pct": 1.0, "interpolation": "bilinear", "mean": [0.4, 0.4, 0.4], "std": [0.2, 0.2, 0.2]}'
    (tmp_path / "imported" / "config.json").write_text('{"architecture": "resnet18", "model_args": {"layers": [1, 1, 1, 1]}, "pretrained_cfg": ' + cfg + "}")
    return tmp_path / "imported"


@pytest.mark.parametrize("resident", ["yes", "no"])
def test_cached_features_are_those_of_the_encoder(imported, photo, tmp_path, resident):
    """Also of photographs beyond the canvas, held in memory or read from disk."""
    encoder, (folder, _) = loading.load(imported), photo(96, 128)
    for height, width in ((128, 70), (300, 400), (150, 700)):
        (photo(height, width)[0] / "train" / "a" / "0.png").rename(folder / "train" / "a" / f"x{height}.png")
    data = subjects.open_data(encoder.config, str(folder), {"resident": resident}, resize=64)
    assert data.canvas == 128 and data.resident == (resident == "yes")
    context = protocols.Context(encoder, data, sharding.make_mesh(devices=jax.devices()), str(tmp_path / "cache"))
    found, large = context.features("train"), [row for row in range(len(data.train)) if data.train.entry(row)[1] in ("a/0.png", "a/x128.png", "a/x300.png", "a/x150.png")]
    assert len(large) == 4
    direct = encoder([np.asarray(Image.open(folder / "train" / data.train.entry(row)[1])) for row in large])

    def apart(x):
        return np.abs(x - direct).max(1) / np.abs(direct).max(1)
    assert apart(found.x[large]).max() < 1e-4
    if resident == "yes":
        coarse = cache.features(encoder, subjects.open_data(encoder.config, str(folder), {"canvas": "32"}, resize=64), "train", mesh=context.mesh, folder=context.folder)
        assert apart(coarse.x[large]).min() > 1e-2                    # the canvas of training's default loses what is measured here
    embed, seen = encoder.embed(), []
    augmented.predicted(context, lambda batch: seen.append(embed(batch)) or seen[-1][:, None], "train", np.array(large))
    assert apart(np.asarray(seen[0])[:4]).max() < 1e-4                # heads that were trained on views are judged on the same


def test_training_crops_from_the_whole_photograph(imported, photo, tmp_path):
    """The middle that the test-time view takes is not what fine-tuning sees."""
    encoder, (folder, pixels) = loading.load(imported), photo(150, 400)
    data = subjects.open_data(encoder.config, str(folder), {"resident": "yes"}, resize=64)
    context = protocols.Context(encoder, data, sharding.make_mesh(devices=jax.devices()), str(tmp_path / "cache"))
    assert context.store("train")["size"][0].tolist() == [48, 128] and context.store("train", view=True)["size"][0].tolist() == [64, 64]
    own = protocols.Context(encoder, dataclasses.replace(data, canvas=127), None, "")
    assert own.prepare is None and own.store("train") is own.store("train", view=True)


def test_the_table_says_on_which_canvas(imported, photo, capsys):
    folder, _ = photo(96, 128)
    code = evaluate.main(["--weights", str(imported), "--data", str(folder), "--protocols", "knn", "--set", "knn.k=1", "--cache", str(folder.parent / "cache"),
                          "--compilation_cache=off"])
    out, err = capsys.readouterr()
    assert code == 0 and "resize 64" in out and "canvas 128" in out, err


@pytest.mark.parametrize("own, source, keys, resize, canvas", [
    ({}, "photos", {}, 256, 512), ({}, "photos", {}, 32, 64), ({}, "digits", {}, 256, 32),                      # weights from elsewhere
    ({"source": "folder", "path": "photos", "canvas": 288}, "", {}, 256, 512),                                  # a run at 224 pixels
    ({"source": "folder", "path": "photos", "canvas": 700}, "", {}, 256, 700),
    ({"source": "folder", "path": "photos", "canvas": 288}, "", {"canvas": "300"}, 256, 300),                   # the user's word
    ({"source": "folder", "path": "photos", "canvas": 32}, "", {}, 32, 32), ({"source": "folder", "path": "photos", "canvas": 32}, "photos", {}, 32, 64),
    ({"source": "digits", "variant": "clean", "canvas": 96}, "", {}, 96, 96)])
def test_which_canvas(photo, own, source, keys, resize, canvas):
    folder = str(photo(50, 60)[0])
    own = {key: folder if value == "photos" else value for key, value in own.items()}
    assert subjects.open_data({"data": own} if own else {}, folder if source == "photos" else source, keys, resize=resize).canvas == canvas


@pytest.mark.parametrize("canvas, batch", [(32, 500), (288, 500), (512, 170), (8000, 1)])
def test_large_canvases_come_in_smaller_batches(canvas, batch, tmp_path):
    data = subjects.open_data({}, "digits", {"variant": "clean", "canvas": str(canvas)}, resize=canvas)
    assert protocols.Context(None, data, None, str(tmp_path)).batch == batch
