"""Which images a run trains on, told from counts and names alone: no image is read."""
import hashlib

from jaxssl.data.order import evenly

PLACES = 1000       # ids that are read of each set
READ_AS = "read_as"  # beside them in data.json: how files and folders were read, for people; it says nothing on which images these are


def describe(train, test, classes: tuple[str, ...]) -> dict:
    """Numbers of images and classes, and a digest of the classes' names and of the ids at `PLACES` places spread evenly over each set.

    The digest notices other classes, and images that came, went or moved, since those shift the ids after them; new contents under an old name it does not.
    test: a source or None.
    """
    digest = hashlib.sha256()
    for name in (*classes, *_ids(train), *(_ids(test) if test is not None else ())):
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
    return {"training_images": len(train), "held_out_images": len(test) if test is not None else 0, "classes": len(classes), "names_sha256": digest.hexdigest()}


def _ids(source):
    return [source.id(int(i)) for i in evenly(len(source), PLACES)]


def same(one: dict, other: dict) -> bool:
    """Whether two descriptions are of the same images, whatever is told beside that."""
    return {key: value for key, value in one.items() if key != READ_AS} == {key: value for key, value in other.items() if key != READ_AS}
