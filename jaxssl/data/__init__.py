"""Data: sources with random access, the order of the samples, and the batches made of them."""
import dataclasses
import functools
import json

import numpy as np

from jaxssl.data import channels as channelled, disjoint, identity, manifest as manifests, noise, open as opening, per_class as per_classes
from jaxssl.data.decode import MAX_PIXELS, RGB, Pixels
from jaxssl.data.disjoint import CLASS_DISJOINT
from jaxssl.data.listing import many
from jaxssl.data.order import Order, batch_number, evenly, ids, shuffled
from jaxssl.data.pipeline import batches, cores, eval_batches, lookup, store
from jaxssl.data.sizes import short_sides
from jaxssl.data.sources import Declared, Source, Subset, hold_out
from jaxssl.errors import UserError, nearest, shown

__all__ = ["CLASS_DISJOINT", "Data", "Order", "Source", "against", "batch_number", "batches", "declared", "eval_batches", "evenly", "ids", "lookup", "make", "shuffled", "store"]
RESIDENT = ("auto", "yes", "no")
SAMPLERS = ("shuffled", "m_per_class")
# Keys that only some sources read (test_split is left out: a recipe names it for TFDS, and may be run on a folder).
READ_BY = {"variant": ("digits",), "split": ("tfds",), "class_depth": ("folder", "zip", "tar"), "splits": ("folder", "zip", "tar"), "outside_links": ("folder", "dense"),
           "holdout": ("folder", "zip", "tfds", "array_record", "dense", "tar")}


@dataclasses.dataclass(frozen=True)
class Data:
    """A training set and, where there is one, a held-out set with the same classes."""
    train: Source
    test: Source | None
    classes: tuple[str, ...]    # () = no labels
    canvas: int                 # S: decoded images are uint8 [S, S, 3], or of the channels and the type of `pixels`
    resident: bool              # the set is to live in device memory (`store`, `lookup`)
    workers: int                # processes that decode; 0 = threads of this process
    max_broken: float           # share of undecodable images above which a run stops
    # (set, id) of every undecodable image that this process has met, in training and in evaluation; it fills as they are read
    broken: set[tuple[str, str]] = dataclasses.field(default_factory=set, repr=False, compare=False)
    per_class: int = 0          # images of each class in a training batch; 0: every image once an epoch, whatever its class
    disjoint: bool = False      # the classes of `test` are others than those of `train`, each numbered from 0
    kept: dict[str, str] = dataclasses.field(default_factory=dict, repr=False, compare=False)   # file -> text that a run keeps: what was drawn of classes and labels
    pixels: Pixels = RGB
    said: tuple[str, ...] = ()  # how files and folders were read, what was skipped, what is held out: a sentence each, without the path of the set

    @functools.cached_property
    def sides(self) -> tuple[int, ...]:
        """Shorter sides in pixels, ascending, of a few training images, evenly spaced; their headers are read, and broken ones left out."""
        return short_sides(self.train)

    def order(self, seed: int, batch_size: int) -> Order:
        """Which training images make each batch. Raises: UserError when no batch can be made so."""
        if not self.per_class:
            return shuffled(seed, batch_size, len(self.train))
        return per_classes.m_per_class(seed, batch_size, self.labels, self.per_class)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """int32 [N] of the training images; no image is read where the source can tell."""
        return np.array([self.train.entry(i)[0] for i in range(len(self.train))], np.int32)

    @functools.cached_property
    def images(self) -> dict:
        """Which images these are (`identity.describe`): what all processes of a run, and all resumes of it, must have in common."""
        return identity.describe(self.train, self.test, self.classes)

    @property
    def described(self) -> dict:
        """`images`, and what is not to be compared: what `said` says (`identity.READ_AS`), and when the files of a large set were written (`identity.WRITTEN`)."""
        return self.images | {identity.READ_AS: list(self.said), identity.WRITTEN: identity.written(self.train, self.test)}

    def rewritten(self, former: dict) -> str:
        """A sentence where files bear other times than when `described` gave `former`; "" where nothing is known of that."""
        return identity.rewritten(self.train, self.test, former.get(identity.WRITTEN))

    @property
    def decoded_bytes(self) -> int:
        """What the decoded sets take."""
        return (len(self.train) + (len(self.test) if self.test is not None else 0)) * self.canvas**2 * self.pixels.nbytes


def make(*, source: str = "digits", path: str = "", test_path: str = "", variant: str = "cluttered", canvas: int = 32,
         split: str = "train", test_split: str = "", class_depth: int = 1, holdout: float = .1, workers: int = -1,
         splits: str = "auto", outside_links: bool = False, max_pixels: int = MAX_PIXELS,
         resident: str = "auto", resident_gb: float = 1., max_broken: float = .01, examples: int = 0, classes: int = 0,
         sampler: str = "shuffled", per_class: int = 4, fold: int = 0, split_by: str = "class", val_classes: str = "", test_classes: str = "",
         label_noise: float = 0., confusable: str = "", class_share: float = 1., imbalance: float = 1., draw_seed: int = 0,
         manifest: str = "", channels: int = 0, depth: str = "", nodata: str = "") -> Data:
    """Opens the data: lists what is there and decodes nothing.

    source       digits, folder, zip, tfds, array_record, tar: a .tar or a folder of them (`jaxssl.data.tar`), or dense: images/ beside masks/ or depth/, matched by name
                 (`jaxssl.data.dense`)
    path         the folder, archive or prepared directory. With folders in it, or in the one folder that wraps everything, that are named like splits
                 (train, training, trn; val, valid, validation, dev; test, testing, eval; any case, "train_images" too), training uses the first kind and
                 val is held out, or test where there is no val with labels; test beside val is left for the end (`test_split`)
    test_path    the same for the held-out set, if it lies elsewhere; "none" = do not use the one found at `path`
    splits       auto: as above; none: every folder is a class, whatever it is called
    outside_links   whether links that lead out of the folder are followed; else they are refused
    variant      of the digits: cluttered or clean
    canvas       side in pixels of the square that images are shrunk into
    split, test_split   names of the TFDS splits ("" = train); test_split "" = test or validation, the first with labels. Where a folder or archive has both, it says which
    class_depth  how many folder levels make a class name
    holdout      share held out (by a hash of each id) when there are labels and no test set; 0 = none
    workers      decoding processes; 0 = threads of the main process, -1 = one a core, 16 at most
    resident     whether the decoded set lives in device memory: yes, no, or auto: when it takes at most `resident_gb` (10⁹ bytes)
    max_pixels   an image of more is broken (width times height)
    max_broken   share of the whole set that may be undecodable; above it the run stops
    examples, classes   the expected numbers of training images and classes; 0 = whatever is there. They let a run be
                 planned where the data are not (`declared`), and a set that differs is refused.
    sampler      which images make a batch: shuffled, every image once an epoch; or m_per_class, `per_class` images of each of batch_size / per_class
                 classes, every class equally often, and an epoch of it is as many batches as show every image (`jaxssl.data.per_class`)
    per_class    see sampler
    split="class_disjoint"   for any source: all its images are parted by class, so that other classes are held out than are trained on (`jaxssl.data.disjoint`).
                 fold 0 to 3 of Musgrave et al.; split_by: class, or parent for whole parents of classes such as "Latin/character01" (class_depth=2);
                 val_classes, test_classes: lists of names instead. Held out are the classes of validation; with test_split="test", which no run trains with, those of the test
    label_noise  share of the training images that get the label of another class; confusable: a file that says which classes are near, else any
    class_share  share of the training classes that is kept, of a class-disjoint split
    imbalance    how many times larger the first training class is than the last: a long tail between (`jaxssl.data.noise.long_tail`); 1 leaves all as they are.
                 `examples` is declared of the whole set
    draw_seed    of these draws
    manifest     a file that names the training images and how often each stands in an epoch (`jaxssl.data.manifest`); "" = all of them. What is held out is decided before,
                 and `examples` is declared of the whole set
    channels     of each image, read as its file has them; 0: RGB of 8 bits, whatever the files are, but for .npy, DICOM, and TIFF of floats, of 16-bit colours or of other numbers
                 of channels, whose files say it (`jaxssl.data.channels`)
    depth        the type of their numbers, uint8, uint16 or float32; "" = what the files have, which is one for a set
    nodata       the value that says nothing in these files, beside what is not finite; it is left out of all statistics

    Raises UserError.
    """
    _check(canvas=canvas, holdout=holdout, workers=workers, resident=resident, resident_gb=resident_gb,
           max_broken=max_broken, examples=examples, classes=classes, class_depth=class_depth, max_pixels=max_pixels, per_class=per_class,
           label_noise=label_noise, class_share=class_share, imbalance=imbalance, draw_seed=draw_seed, channels=channels)
    _check_sampler(sampler, per_class)
    split = split or make.__kwdefaults__["split"]
    parted = split == CLASS_DISJOINT
    _check_parts(parted, test_split, holdout, label_noise, confusable, imbalance, draw_seed, fold=fold, split_by=split_by, val_classes=val_classes, test_classes=test_classes,
                 class_share=class_share)
    wanted = test_split or "val"
    if parted:
        split, test_split = make.__kwdefaults__["split"], ""
    _check_read(source, variant=variant, split=split, class_depth=class_depth, holdout=holdout, splits=splits, outside_links=outside_links)
    train, test = opening.open_source(source, path, test_path=test_path, variant=variant, canvas=canvas, split=split,
                                      test_split=test_split, depth=class_depth, splits=splits, outside_links=outside_links, every=parted)
    said = getattr(train, "said", ())
    for whole in filter(None, (train, test)):
        whole.max_pixels = max_pixels
    kind, kept = _kind(train, test, channels, depth, nodata), {}
    if kind.native:
        said += (f"{many(kind.channels, 'channel')} of {kind.depth}, as the files have them" + (f"; {nodata} says nothing" if nodata else ""),)
    if parted:
        train, test, said = _part(train, test, said, kept, wanted, fold=fold, by=split_by, val_classes=val_classes, test_classes=test_classes)
        if class_share < 1:
            train, kept["class_share.json"] = noise.fewer_classes(train, class_share, seed=draw_seed)
            said += (f"trained on: {len(train.classes):,} of the classes (data.class_share={class_share:g})",)
    elif test is None:
        train, test = hold_out(train, holdout)
        if test is not None:
            said += (f"held out: {len(test):,} of {len(train) + len(test):,} images, by a hash of each name (data.holdout={holdout:g})",)
    if test is not None and not parted:
        opening.same_classes(train, test)
    for key, wanted, found in (("examples", examples, len(train)), ("classes", classes, len(train.classes))):
        if wanted and wanted != found:
            raise UserError(f"data.{key}={wanted:,} was declared, but {shown(train.name)} has {found:,}; correct the number, or the path, or set it to 0.")
    if sampler == "m_per_class" and not train.classes:
        raise UserError(f"data.sampler='m_per_class' draws images by their class, and {shown(train.name)} has no classes; give a folder of class folders, or leave it out.")
    train, said = _drawn(train, test, said, kept, manifest, imbalance, label_noise, confusable, draw_seed)
    return dataclasses.replace(_data(train, test, canvas, resident, resident_gb, workers, max_broken, kind), said=said, per_class=per_class if sampler == "m_per_class" else 0,
                               disjoint=parted, kept={name: json.dumps(record, indent=1) for name, record in kept.items()})


def _kind(train, test, channels, depth, nodata):
    """What the pixels of both sets are, which must agree; they are told where they are read as their files have them."""
    kind = channelled.found(train, channels, depth, nodata)
    if kind.native:
        if test is not None and not (channels and depth):
            channelled.found(test, kind.channels, "", nodata, like=kind)
        for whole in filter(None, (train, test)):
            whole.pixels = kind
    return kind


def _drawn(train, test, said, kept, manifest, imbalance, label_noise, confusable, draw_seed):
    """(training images that a manifest names, with a long tail of classes, with wrong labels, and what is said of them), as far as they are asked for; the records go to `kept`."""
    if manifest:
        train, sentence = manifests.chosen(train, test, manifest)
        said += (sentence,)
    if imbalance > 1:
        train, kept["imbalance.json"] = noise.long_tail(train, imbalance, seed=draw_seed)
        counts = kept["imbalance.json"]["images"].values()
        said += (f"trained on: {len(train):,} images, classes of {max(counts):,} to {min(counts):,} (data.imbalance={imbalance:g})",)
    if label_noise:
        train, kept["label_noise.json"] = noise.relabelled(train, label_noise, confusable=confusable, seed=draw_seed)
        said += (f"wrong labels: {len(kept['label_noise.json']['images']):,} training images (data.label_noise={label_noise:g})",)
    return train, said


def _part(train, test, said, kept, which, **rule):
    """The training set and the one that is held out of all images, by class. What was decided goes to `kept` and `said`."""
    whole = disjoint.Pool([train, test]) if test is not None else train
    if not whole.classes:
        raise UserError(f"data.split='class_disjoint' parts images by their class, and {shown(whole.name)} has no classes; give a folder of class folders.")
    parts = disjoint.decide(whole.classes, **rule)
    held = disjoint.take(whole, {"val": parts.val, "test": parts.test}[which])
    train = disjoint.take(whole, parts.train)
    disjoint.demand(train, held, parts.test)
    kept["split.json"] = {"rule": parts.how, "images": {"train": len(train), which: len(held)}, "train": parts.train, "val": parts.val, "test": parts.test}
    twice = getattr(whole, "twice", 0)
    return train, held, said + (*([f"{twice:,} images lie in both sets and count once"] if twice else []),
                                f"classes apart, {parts.how}; {len(parts.train):,} are trained on, held out: {which}, {len(held.classes):,} classes of {len(held):,} images")


def against(gallery: Data, query: Data) -> Data:
    """The training images of `gallery` to search, and those of `query` as the held-out set; classes of one name are one class, and either may have some of its own."""
    names = tuple(sorted({*gallery.train.classes, *query.train.classes}))
    parts, place = [], {name: i for i, name in enumerate(names)}
    for source in (gallery.train, query.train):
        number = np.array([place[name] for name in source.classes] + [-1], np.int32)
        parts.append(Subset(source, np.arange(len(source)), number[[source.entry(i)[0] for i in range(len(source))]], names))
    whole = dataclasses.replace(gallery, train=parts[0], test=parts[1], classes=names, said=(), kept={}, disjoint=False)
    return dataclasses.replace(whole, resident=gallery.resident and query.resident)


def declared(**config) -> Data:
    """`make(**config)` for planning: data that are not on this machine are replaced by their declared size, if it was given."""
    try:
        return make(**config)
    except opening.Absent:
        if not config.get("examples"):
            raise
    names = tuple(str(i) for i in range(config.get("classes", 0)))
    default = make.__kwdefaults__ | config
    stand_in = Declared(default["path"] or default["source"], default["examples"], names)
    kind = Pixels(default["channels"] or 3, default["depth"] or "uint8", native=bool(default["channels"] or default["depth"]))
    return _data(stand_in, None, *(default[k] for k in ("canvas", "resident", "resident_gb", "workers", "max_broken")), kind)


def _data(train, test, canvas, resident, resident_gb, workers, max_broken, kind):
    data = Data(train, test, train.classes, canvas, False, min(16, cores()) if workers < 0 else workers, max_broken, pixels=kind)
    fits = data.decoded_bytes <= resident_gb * 1e9
    return dataclasses.replace(data, resident=resident == "yes" or resident == "auto" and fits)


def _check_read(source, **keys):
    """A key that was set and that this source does not read is a mistake, not something to ignore."""
    for key, value in keys.items():
        if source in opening.SOURCES and source not in READ_BY[key] and value != make.__kwdefaults__[key]:
            raise UserError(f"data.{key}={value!r} has no use with data.source='{source}'; it is read with {' and '.join(READ_BY[key])} only. Leave it out.")


def _check_sampler(sampler, per_class):
    if sampler not in SAMPLERS:
        raise UserError(f"data.sampler='{shown(sampler)}' is none of {', '.join(SAMPLERS)}{nearest(sampler, SAMPLERS)}")
    if sampler != "m_per_class" and per_class != make.__kwdefaults__["per_class"]:
        raise UserError(f"data.per_class={per_class} is read with data.sampler='m_per_class' only, and the sampler is '{sampler}'; set that too, or leave it out.")


def _check_parts(parted, test_split, holdout, label_noise, confusable, imbalance, draw_seed, **keys):
    default = make.__kwdefaults__
    if parted and test_split not in ("", *disjoint.HELD):
        raise UserError(f"data.test_split='{shown(test_split)}' is no part of a class-disjoint split; choose val or test{nearest(test_split, disjoint.HELD)}")
    if parted and holdout not in (0, default["holdout"]):
        raise UserError(f"data.holdout={holdout:g} holds images out, and data.split='class_disjoint' whole classes (data.fold, data.val_classes); leave one of them out.")
    for key, value in keys.items():
        if not parted and value != default[key]:
            raise UserError(f"data.{key}={value!r} is read with data.split='class_disjoint' only; set that too, or leave it out.")
    if confusable and not label_noise:
        raise UserError("data.confusable says where wrong labels come from, and data.label_noise is 0; set that too, or leave it out.")
    if draw_seed and not (label_noise or keys["class_share"] < 1 or imbalance > 1):
        raise UserError(f"data.draw_seed={draw_seed} is of data.label_noise, data.class_share and data.imbalance, and none is set; leave it out.")


def _check(*, resident, **numbers):
    if resident not in RESIDENT:
        raise UserError(f"data.resident='{resident}' is none of {', '.join(RESIDENT)}{nearest(resident, RESIDENT)}")
    least = {"canvas": 1, "class_depth": 1, "per_class": 1, "workers": -1, "max_pixels": 1, "imbalance": 1}
    for key, value in numbers.items():
        if not value >= least.get(key, 0):
            raise UserError(f"data.{key}={value} makes no sense; it must be at least {least.get(key, 0)}.")
    for key in ("holdout", "max_broken", "label_noise", "class_share"):
        if numbers[key] > 1:
            raise UserError(f"data.{key}={numbers[key]} makes no sense; it is a share between 0 and 1.")
