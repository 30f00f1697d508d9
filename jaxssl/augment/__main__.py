"""`python -m jaxssl.augment --config configs/x.py --out views.png`: originals beside their views, with what was drawn under each."""
import argparse
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np

from jaxssl import augment, config as configs, data, encoder as encoders, models
from jaxssl.augment.picture import draw
from jaxssl.data import channels, decode
from jaxssl.errors import UserError
from jaxssl.training import checks, pixels
from jaxssl.command import guarded, local, place, process, split_overrides, whole


def main(argv=None) -> int:
    flags, rest = _parser().parse_known_args(argv)

    def body():
        if flags.count < 1:
            raise UserError(f"--count is {flags.count}; at least one image is needed")
        config = configs.load(flags.config, split_overrides(rest))
        facts = data.make(**config.data)
        config, said = pixels.settled(config, facts)
        try:
            views = augment.pair(config.augment, config.local, return_params=True)
        except ValueError as error:
            raise UserError(str(error)) from error
        for sentence in said:
            print(sentence)
        canvases = _canvases(facts, flags.count)
        key = jax.random.key(config.seed if flags.seed is None else flags.seed)
        batch = jax.tree.map(np.asarray, jax.jit(views)(key, canvases))
        shown = channels.picture(canvases["image"], config.augment.low, config.augment.high)
        sheet = draw(canvases | {"image": shown}, batch["views"], batch["view_params"],
                     config.augment.mean, config.augment.std, _hidden(config, jax.random.fold_in(key, 1), batch["views"]))
        out = Path(flags.out)
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            sheet.save(out)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot write {out} ({error}); give --out a writable path that ends in .png") from error
        print(f"{len(canvases['size'])} images beside {config.augment.views} views each: {out}")

    return guarded(body, flags.debug)


def _hidden(config, key, views):
    """The masks that a method draws of the views, None where it draws none. Raises: UserError for an encoder or keys that do not fit it."""
    encoder = models.Net(models.make(**config.model, precision="f32"))
    method = encoders.method(config.to_dict(), encoder.module)
    if method.hidden is None:
        return None
    checks.needs(config, SimpleNamespace(classes=1), encoder, method.needs)
    return jax.jit(method.hidden)(key, views)


def _canvases(facts, count):
    """The first images of as many places, spread evenly over the training set, decoded as training decodes them."""
    source = facts.train
    places = np.linspace(0, len(source) - 1, min(count, len(source))).astype(int)
    samples = [decode.sample(source, int(p), facts.canvas) for p in places]
    return {"image": np.stack([s[0] for s in samples]), "size": np.stack([s[1] for s in samples])}


def _parser():
    parser = argparse.ArgumentParser(prog="python -m jaxssl.augment", description=__doc__.split(": ", 1)[1],
                                     epilog="Any key of the config: --config.augment.blur=0.5.")
    parser.add_argument("--config", type=place, required=True, help="configs/<dataset>/<method>.py[:variant]")
    parser.add_argument("--out", type=local, default="views.png", help="where the picture goes (default: %(default)s)")
    parser.add_argument("--count", type=whole, default=8, help="images (default: %(default)s)")
    parser.add_argument("--seed", type=whole, help="of the views (default: the config's seed)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


if __name__ == "__main__":
    process(main)
