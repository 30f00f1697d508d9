"""Which images a run trains on: told from counts, names, and what can be had of the contents without decoding an image."""
import hashlib

from jaxssl.data.order import evenly

PLACES = 1000       # ids that are read of each set
READ_AS = "read_as"  # beside them in data.json: how files and folders were read, for people; it says nothing on which images these are


def describe(train, test, classes: tuple[str, ...]) -> dict:
    """Numbers of images and classes; a digest of the classes' names and of the ids at `PLACES` places spread evenly over each set; and where the sources can tell, one
    of every name and of the contents as far as they are had cheaply (`contents` of a source says how far).

    test: a source or None.
    """
    digest = hashlib.sha256()
    for name in (*classes, *_ids(train), *(_ids(test) if test is not None else ())):
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
    facts = {"training_images": len(train), "held_out_images": len(test) if test is not None else 0, "classes": len(classes), "names_sha256": digest.hexdigest()}
    whole = {id(whole): whole for whole in map(_whole, (train, test))}     # both parts of one set are told once
    told = [source.contents() for source in whole.values() if hasattr(source, "contents")]
    return facts | ({"contents_sha256": hashlib.sha256("".join(told).encode()).hexdigest()} if told else {})


def _whole(source):
    while hasattr(source, "source"):
        source = source.source
    return source


def _ids(source):
    return [source.id(int(i)) for i in evenly(len(source), PLACES)]
