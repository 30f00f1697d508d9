"""Which images a run trains on: told from counts, names, and what can be had of the contents without decoding an image."""
import hashlib

import numpy as np

from jaxssl.data.listing import many
from jaxssl.data.order import evenly

PLACES = 1000       # ids that are read of each set
READ_AS = "read_as"  # beside them in data.json: how files and folders were read, for people; it says nothing on which images these are
WRITTEN = "written"  # beside them too: when the files of a set were written that is too large to be read. A copy of the set has other times, so they are never compared
                     # to refuse a run, and told where they differ (`rewritten`)


def describe(train, test, classes: tuple[str, ...]) -> dict:
    """Numbers of images and classes; a digest of the classes' names and of the ids at `PLACES` places spread evenly over each set; and where the sources can tell, one
    of every name and of the contents as far as they are had cheaply (`contents` of a source says how far), and of a set too large for that one of samples (`sampled`);
    and one of every row that a manifest named.

    test: a source or None.
    """
    digest = hashlib.sha256()
    for name in (*classes, *_ids(train), *(_ids(test) if test is not None else ())):
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
    facts = {"training_images": len(train), "held_out_images": len(test) if test is not None else 0, "classes": len(classes), "names_sha256": digest.hexdigest()}
    wholes = _wholes(train, test)
    contents = [source.contents() for source in wholes if hasattr(source, "contents")]
    for key, told in (("contents_sha256", contents), ("sampled_sha256", [source.sampled() for source in wholes if hasattr(source, "sampled")])):
        if any(told):
            facts[key] = hashlib.sha256("".join(told).encode()).hexdigest()
    return facts | _manifest(train)


def _manifest(source) -> dict:
    """{"manifest_sha256"} of which images a manifest named, or {}."""
    while source is not None and not hasattr(source, "manifest_sha256"):
        source = getattr(source, "source", None)
    return {"manifest_sha256": source.manifest_sha256} if source is not None else {}


def written(train, test) -> dict:
    """{"files", "newest_ns", "sha256"}: how many files the sets have that are too large to be read, when the newest was written, and a digest of the times of all; or {}."""
    times = [of for _, of in _times(train, test)]
    if not times:
        return {}
    digest = hashlib.sha256()
    for of in times:
        digest.update(np.ascontiguousarray(of, "<i8").tobytes())
    return {"files": sum(map(len, times)), "newest_ns": int(max(of.max(initial=-1) for of in times)), "sha256": digest.hexdigest()}


def rewritten(train, test, former: object) -> str:
    """What to say where the files' times are not those that `written` gave `former`ly, which nobody has to believe; "" where they are, or nothing is known of them."""
    if not isinstance(former, dict) or type(newest := former.get("newest_ns")) is not int or not (now := written(train, test)) or now["sha256"] == former.get("sha256"):
        return ""
    later = [(source, places) for source, of in _times(train, test) if len(places := np.flatnonzero(of > newest))]
    count = sum(len(places) for _, places in later)
    what = (f"{many(count, 'file')} of {now['files']:,} {'was' if count == 1 else 'were'} written since this run began with them ({later[0][0].changed(later[0][1])}"
            f"{', …' if count > 1 else ''})" if count else f"the {now['files']:,} files bear other times of writing than when this run began, as a copy's do")
    return f"note: {what}; a set of so many is told by names, sizes and samples, which are the same, and whether every image is the same was not seen"


def _times(train, test) -> list:
    return [(source, of) for source in _wholes(train, test) if hasattr(source, "written") and (of := source.written()) is not None]


def _wholes(*sources) -> list:
    """The sources that these are made of, each once."""
    found = {}
    for source in filter(lambda source: source is not None, sources):
        while hasattr(source, "source"):
            source = source.source
        for whole in _wholes(*source.sources) if hasattr(source, "sources") else [source]:
            found[id(whole)] = whole
    return list(found.values())


def _ids(source):
    return [source.id(int(i)) for i in evenly(len(source), PLACES)]
