"""What a set of images holds: others than when the run began, and packed ones that lie."""
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from faults_by_kind.tools import Fault, begins, called, calls, kind, picture


@kind
def images(folder: Path) -> Iterator[Fault]:
    """Images that are others than when the run began."""
    from jaxssl import config as configs, data as datas
    from jaxssl.errors import UserError

    def compared(what, change, count=40, **config):
        def attempt():
            with tempfile.TemporaryDirectory(dir=folder) as name:
                root = Path(name) / "set"
                for image in range(count):
                    picture(root / ("a", "b")[image % 2] / f"{image:05d}.png", image % 256)
                if config.get("source") == "zip":
                    _zipped(root)
                where = {"source": "folder", **config, "path": str(root.with_suffix(".zip") if config.get("source") == "zip" else root)}
                before = json.dumps(datas.make(**where).images)
                change(root)
                if config.get("source") == "zip":
                    _zipped(root)
                if apart := configs.differences(before, json.dumps(datas.make(**where).images)):
                    raise UserError("; ".join(apart))
        return calls(attempt)

    def swap(root, first="a/00004.png", second="b/00007.png"):
        one, other = (root / first).read_bytes(), (root / second).read_bytes()
        (root / first).write_bytes(other)
        (root / second).write_bytes(one)

    def one_byte(root):
        data = bytearray((root / "a/00004.png").read_bytes())
        data[-20] ^= 1
        (root / "a/00004.png").write_bytes(data)

    def touch(root):
        os.utime(root / "a/00004.png", (1, 1))
    for source in ("folder", "zip"):
        yield Fault(f"two images swapped ({source})", compared("", swap, source=source))
        yield Fault(f"one byte of an image changed ({source})", compared("", one_byte, source=source))
        yield Fault(f"an image of another length under the old name ({source})", compared("", lambda root: picture(root / "a/00004.png", 3), source=source))
        yield Fault(f"an image came ({source})", compared("", lambda root: picture(root / "a/new.png", 3), source=source))
        yield Fault(f"an image went ({source})", compared("", lambda root: (root / "a/00004.png").unlink(), source=source))
        yield Fault(f"an image moved to another class ({source})", compared("", lambda root: (root / "a/00004.png").rename(root / "b/x.png"), source=source))
        yield Fault(f"a class was renamed ({source})", compared("", lambda root: (root / "a").rename(root / "c"), source=source))
        yield Fault(f"nothing but the time of a file changed ({source})", compared("", touch, source=source), works=True)
    yield Fault("one of 6,000 images replaced", compared("", lambda root: picture(root / "b/03001.png", 255), count=6000))
    yield Fault("two of 6,000 images swapped", compared("", lambda root: swap(root, "b/03001.png", "a/03004.png"), count=6000))


def _zipped(root: Path) -> None:
    import zipfile
    with zipfile.ZipFile(root.with_suffix(".zip"), "w") as archive:
        for file in sorted(root.rglob("*.png")):
            archive.writestr(zipfile.ZipInfo(str(file.relative_to(root))), file.read_bytes())


@kind
def manifests(folder: Path) -> Iterator[Fault]:
    """Manifests and indices of packed sets with numbers that are none, names that are none, and labels beyond the classes."""
    from jaxssl.data import __main__ as data
    for label in ("cat", "dog"):
        for image in range(8):
            picture(folder / "images" / label / f"{image}.png", image)
    code, said = called(data.main, ["pack", str(folder / "images"), str(folder / "pack")])
    if code:
        print(f"    packed sets are left out: {said.strip().splitlines()[-1]}")
        return
    sound = json.loads((folder / "pack" / "manifest.json").read_text())
    lines = (folder / "pack" / "train.index.jsonl").read_text().splitlines()

    def packed(what, manifest=None, index=None, **others):
        def attempt():
            with tempfile.TemporaryDirectory(dir=folder) as name:
                shutil.copytree(folder / "pack", root := Path(name) / "pack")
                if manifest is not None:
                    (root / "manifest.json").write_text(manifest)
                if index is not None:
                    (root / "train.index.jsonl").write_text(index)
                for name, data in others.items():
                    (root / name).write_bytes(data)
                return begins("--config.data.source=array_record", f"--config.data.path={root}", "--config.batch_size=8", "--config.data.variant=cluttered",
                              "--config.data.holdout=0.3")()
        return Fault(what, attempt)
    odd = {"a negative number": -1, "0": 0, "half a number": 1.5, "NaN": float("nan"), "infinity": float("inf"), "30 digits": 10**30, "text": "x", "null": None, "a list": [],
           "an object": {}, "true": True}
    for what, value in odd.items():
        for key in ("examples", "shards"):
            yield packed(f"manifest: {key} of train is {what}", json.dumps({**sound, "splits": {"train": {**sound["splits"]["train"], key: value}}}))
        for key in ("classes", "splits", "format"):
            if (key, what) not in (("classes", "a list"),):
                yield packed(f"manifest: {key} is {what}", json.dumps({**sound, key: value}))
        yield packed(f"manifest: it is {what}", json.dumps(value))
        yield packed(f"manifest: a class is {what}", json.dumps({**sound, "classes": [value, "dog"]})) if not isinstance(value, str) else packed(
            "manifest: too few classes", json.dumps({**sound, "classes": ["x"]}))
        yield packed(f"index: a label is {what}", index="\n".join([json.dumps([value if value != 0 else 2, "a"]), *lines[1:]]) + "\n")
        yield packed(f"index: a line is {what}", index="\n".join([json.dumps(value), *lines[1:]]) + "\n")
        yield packed(f"index: a name is {what}", index="\n".join([json.dumps([0, value if not isinstance(value, str) else 7]), *lines[1:]]) + "\n")
    yield packed("manifest: nested 100,000 deep", "[" * 100_000)
    yield packed("manifest: empty", "")
    yield packed("manifest: bytes", "\x00\x01")
    yield packed("index: nested 100,000 deep", index="[" * 100_000)
    yield packed("index: one line less", index="\n".join(lines[1:]) + "\n")
    yield packed("index: one line more", index="\n".join([*lines, lines[0]]) + "\n")
    yield packed("index: empty", index="")
    yield packed("index: two images change places", index="\n".join([lines[1], lines[0], *lines[2:]]) + "\n")
    checksums, (shard,) = (folder / "pack" / "train.crc32").read_bytes(), (folder / "pack").glob("*.array_record")
    whole = shard.read_bytes()
    for what, other in {"empty": b"", "one less": checksums[4:], "of others": bytes(len(checksums)), "cut": checksums[:-1]}.items():
        yield packed(f"checksums: {what}", **{"train.crc32": other})
    for label in ("cat", "dog"):
        for image in range(8):
            picture(folder / "others" / label / f"{image}.png", 255 - image)
    called(data.main, ["pack", str(folder / "others"), str(folder / "other")])
    other = (folder / "other" / shard.name).read_bytes()
    yield packed(f"shard: of other images{', of the same length' if len(other) == len(whole) else ''}", **{shard.name: other})
