"""Semi-supervised: the whole network fine-tuned on the labels of 1 % and 10 % of each class, or of n images a class; the choice is saved.

Published: SimCLRv2: LARS, rate .005 · √B, batch 1,024, no warm-up, no weight decay, 60 epochs on 1 % (google-research/simclr's README, its command for
1 %) and 30 on 10 % and on all labels (arXiv 2006.10029, section 3); it fine-tunes from layer=projector.1. The images are drawn by a hash of seed and
name, so 1 % is part of 10 %, and are listed in `evaluations/subsets/` of the results, under a name with the digest of the data. The short budget is SGD on as many views as a
laptop can see.
"""
from jaxssl.errors import UserError
from jaxssl.evaluation.protocols import Context, Row
from jaxssl.evaluation.protocols.finetune import PUBLISHED, SHORT, tuned
from jaxssl.evaluation.tuning import subsets

EPOCHS = (.01, 60., 30.)    # up to this share of the labels (the one asked for, or what a number a class comes to), so many epochs; above it, so many
SHORT_IMAGES = 40_000       # views in all, for each subset


def run(context: Context, *, shares: tuple[float, ...] = (.01, .1), per_class: tuple[int, ...] = (), layer: str = "backbone", epochs: float = 0., batch_size: int = 0,
        optimizer: str = "",
        lr: float = 0., scaling: str = "", weight_decay: float = 0., warmup: float = 0., layer_decay: float = 1., drop_path: float = 0., label_smoothing: float = 0.,
        images: int = 0) -> list[Row]:
    """A row for every share of the labels and every number of images a class. Other options as `finetune`'s."""
    short = context.budget == "short"
    given = {"epochs": epochs, "batch_size": batch_size, "optimizer": optimizer, "lr": lr, "scaling": scaling}
    options = {"weight_decay": weight_decay, "warmup": warmup, "layer_decay": layer_decay, "drop_path": drop_path, "label_smoothing": label_smoothing}
    labels, names = subsets.entries(context.data.train)
    rows, known, devices = [], int((labels >= 0).sum()), context.mesh.size
    asked = [(how, subsets.stratified(labels, names, seed=context.seed, **how)) for how in (*({"share": s} for s in shares), *({"per_class": n} for n in per_class))]
    if asked and all(len(chosen) < devices for _, chosen in asked):
        raise UserError(f"no subset has as many images as the {devices} devices that would share a batch; give larger ones with semi.shares or semi.per_class, or use fewer "
                        "devices")
    for how, chosen in asked:
        what = f"{100 * how['share']:g} %" if "share" in how else f"{how['per_class']} a class"
        file = f"evaluations/subsets/{what.replace(' %', 'percent').replace(' ', '_')}_seed{context.seed}_{context.digest[:12]}.json"
        if len(chosen) < devices:
            context.log(f"semi: {what} is left out: its {len(chosen)} images are fewer than the {devices} devices that would share a batch")
            continue
        digest = subsets.save(context.results / file, chosen, context.data.train, seed=context.seed, **how)
        share = how.get("share", len(chosen) / known)        # as asked for: of small classes, 1 % rounds to more
        published = EPOCHS[1] if share <= EPOCHS[0] else EPOCHS[2]
        recipe = {**(SHORT if short else PUBLISHED), "epochs": published, **{k: v for k, v in given.items() if v}}
        most = images or (SHORT_IMAGES if short and not epochs else 0)
        if len(chosen) > 1.5 * share * known:
            context.log(f"semi: {what} comes to {len(chosen)} of {known} images, since each class gives at least one")
        rows.append(tuned(context, chosen, "semi", f"{what} of the labels" if "share" in how else what, layer, recipe, options, published, most,
                          {**how, "seed": context.seed, "images": file, "images_sha256": digest}))
    return rows
