"""The ways in which people keep images, each made in a temporary folder and opened; the outcomes are the table of docs/layouts.md.

    python benchmarks/layouts.py            # writes docs/layouts.md
    python benchmarks/layouts.py --check    # compares it with what the program does

A case is what people have, the files ("a/" is an empty folder, "a -> b" a link, "a |" a pipe), and what is expected: (training images, held-out images, classes), or
words of the sentence that refuses it. Nothing is held out by chance here (data.holdout=0), so that the numbers are those of the folders.
"""
import argparse
import io
import os
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import NamedTuple

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from jaxssl import data  # noqa: E402
from jaxssl.data.decode import EXTENSIONS, sample  # noqa: E402
from jaxssl.errors import UserError  # noqa: E402

DOC = ROOT / "docs" / "layouts.md"
FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".jfif": "JPEG", ".jpe": "JPEG", ".png": "PNG", ".webp": "WEBP", ".bmp": "BMP", ".dib": "BMP", ".gif": "GIF",
           ".tif": "TIFF", ".tiff": "TIFF"}


class Case(NamedTuple):
    what: str
    files: list
    expected: tuple | str
    config: dict = {}
    as_zip: bool = False


def each(folders: str, *names: str) -> list[str]:
    """`each("train/{cat,dog}", "1.jpg")`: every name in every folder; braces list alternatives."""
    if "{" not in folders:
        return [f"{folders}/{name}" for name in names]
    before, rest = folders.split("{", 1)
    options, after = rest.split("}", 1)
    return [file for option in options.split(",") for file in each(f"{before}{option}{after}", *names)]


def picture(name: str, value: int) -> bytes:
    """A small image in the format of the name's extension (PNG without one), or a line of text."""
    extension = os.path.splitext(name)[1].lower()
    kind = FORMATS.get(extension, "PNG" if not extension.strip(".0123456789") else None)
    if kind is None:
        return b"no image\n"
    out = io.BytesIO()
    Image.new("RGB", (8, 6), (value * 37 % 256, value * 91 % 256, 80)).save(out, kind)
    return out.getvalue()


CD = "{cat,dog}"
FOLDERS = [
    Case("class folders", each(CD, "1.jpg", "2.jpg"), (4, 0, 2)),
    Case("images side by side, no labels", ["1.jpg", "2.jpg", "3.jpg"], (3, 0, 0)),
    Case("one folder of images", each("photos", "1.jpg", "2.jpg"), (2, 0, 0)),
    Case("class folders in one wrapper", each("archive/" + CD, "1.jpg"), (2, 0, 2)),
    Case("class folders in two wrappers", each("archive/images/" + CD, "1.jpg"), (2, 0, 2)),
    Case("a wrapper with a README and a CSV beside it", [*each("archive/" + CD, "1.jpg"), "README.md", "labels.csv"], (2, 0, 2)),
    Case("a wrapper with a picture beside it", [*each("archive/" + CD, "1.jpg"), "preview.png"], (3, 0, 2)),
    Case("class folders with folders inside", each("{cat/day,cat/night,dog/day}", "1.jpg"), (3, 0, 2)),
    Case("classes of two levels", each("{cat/siam,cat/persian,dog/pug}", "1.jpg"), (3, 0, 3), {"class_depth": 2}),
    Case("classes of two levels in a wrapper", each("set/{cat/siam,cat/persian,dog/pug}", "1.jpg"), (3, 0, 3), {"class_depth": 2}),
    Case("an images folder in every class (Tiny ImageNet)", each(CD + "/images", "1.jpg", "2.jpg"), (4, 0, 2)),
    Case("class folders and images without label beside them", [*each(CD, "1.jpg"), "3.jpg"], (3, 0, 2)),
    Case("class folders named by numbers", each("{0,1,2}", "a.jpg"), (3, 0, 3)),
    Case("WordNet names (ImageNet)", each("train/{n01440764,n01443537}", "n_1.JPEG") + each("val/{n01440764,n01443537}", "v_1.JPEG"), (2, 2, 2)),
    Case("an empty class folder", [*each(CD, "1.jpg"), "cow/"], (2, 0, 2)),
    Case("a class folder with no images, only notes", [*each(CD, "1.jpg"), "cow/notes.txt"], (2, 0, 2)),
    Case("deep folders by date, no classes meant", each("2024/{01,02}/{03,04}", "1.jpg"), (4, 0, 2)),
    Case("images, and masks beside them (segmentation)", each("{images,masks}", "1.png", "2.png"), "images and their annotations"),
    Case("images, and labels as text beside them (YOLO)", [*each("images", "1.jpg"), *each("labels", "1.txt")], (1, 0, 0)),
    Case("YOLO with splits", [*each("images/{train,val}", "1.jpg"), *each("labels/{train,val}", "1.txt")], (1, 1, 0)),
    Case("Pascal VOC", ["JPEGImages/1.jpg", "Annotations/1.xml", "ImageSets/Main/train.txt"], (1, 0, 0)),
    Case("images and masks in every split", each("{train,val}/{images,masks}", "1.png"), "images and their annotations"),
    Case("folders fold_1 to fold_3", each("{fold_1,fold_2,fold_3}/" + CD, "1.jpg"), "parts of a set"),
    Case("nothing", ["readme.txt"], "holds no image this program reads"),
    Case("an empty folder", [], "holds no images"),
    Case("archives only", ["train.zip", "test.zip"], "data.source='zip'"),
    Case("raw photographs and HEIC only", ["1.heic", "2.NEF"], r".heic \(1\), .nef \(1\)"),
    Case("one folder, and images beside it", [*each("cat", "1.jpg"), "2.jpg", "3.jpg"], (3, 0, 0)),
    Case("a folder an image", each("{0001,0002,0003}", "front.jpg", "back.jpg"), (6, 0, 3)),
    Case("HEIC among JPEG", ["1.heic", "2.jpg"], (1, 0, 0)),
]
SPLITS = [
    *(Case(f"{a}/ and {b}/", each("{%s,%s}/" % (a, b) + CD, "1.jpg"), (2, 2, 2))
      for a, b in (("train", "test"), ("train", "val"), ("train", "valid"), ("train", "validation"), ("train", "dev"), ("training", "testing"), ("trn", "eval"),
                   ("Train", "Test"), ("TRAIN", "VALID"), ("train_images", "val_images"), ("training_set", "test_set"), ("seg_train", "seg_test"),
                   ("train2017", "val2017"), ("TrainingSet", "TestSet"))),
    Case("train/, val/ and test/", each("{train,val,test}/" + CD, "1.jpg"), (2, 2, 2)),
    Case("the same, data.test_split=test", each("{train,val}/" + CD, "1.jpg") + each("test/" + CD, "1.jpg", "2.jpg"), (2, 4, 2), {"test_split": "test"}),
    Case("train/, val/ without labels, test/ with labels", each("{train,test}/" + CD, "1.jpg") + each("val", "1.jpg"), (2, 2, 2)),
    Case("train/ and val/ with labels, test/ without (a contest)", each("{train,val}/" + CD, "1.jpg") + each("test", "1.jpg"), (2, 2, 2)),
    Case("train/ with labels, test/ without (a contest)", each("train/" + CD, "1.jpg") + each("test", "1.jpg"), "2 missing"),
    Case("the same, data.test_path=none", each("train/" + CD, "1.jpg") + each("test", "1.jpg"), (2, 0, 2), {"test_path": "none"}),
    Case("train/ and test/ in a wrapper", each("cats/{train,test}/" + CD, "1.jpg"), (2, 2, 2)),
    Case("the same with a picture and a CSV beside the wrapper", [*each("cats/{train,test}/" + CD, "1.jpg"), "logo.png", "meta.csv"], (2, 2, 2)),
    Case("train/ and test/ with other folders beside them", each("{train,test}/" + CD, "1.jpg") + each("unsup", "1.jpg", "2.jpg"), (2, 2, 2)),
    Case("train/images/ and val/images/", each("{train,val}/images", "1.jpg"), (1, 1, 0)),
    Case("train/images/class/ and val/class/", each("train/images/" + CD, "1.jpg") + each("val/" + CD, "1.jpg"), (2, 2, 2)),
    Case("images/train/ and images/val/", each("images/{train,val}/" + CD, "1.jpg"), (2, 2, 2)),
    Case("flat train/ and test/", each("{train,test}", "1.jpg", "2.jpg"), (2, 2, 0)),
    Case("train/ alone", each("train/" + CD, "1.jpg"), (2, 0, 2)),
    Case("train/ and an empty val/", [*each("train/" + CD, "1.jpg"), "val/"], "val holds no images"),
    Case("an empty train/ and a full test/", [*each("test/" + CD, "1.jpg"), "train/"], "train holds no images"),
    Case("train/, val/ and validation/", each("{train,val,validation}/" + CD, "1.jpg"), "both look like its val images"),
    Case("test/ with a class that train/ lacks", each("train/" + CD, "1.jpg") + each("test/{cat,cow}", "1.jpg"), "1 missing .* 1 unknown"),
    Case("train/ and unlabeled/, no held-out folder", each("{train,unlabeled}", "1.jpg"), "looks like splits"),
    Case("val/ and test/ without train/", each("{val,test}/" + CD, "1.jpg"), "looks like splits"),
    Case("train.X1/, train.X2/ and val.X/", each("{train.X1,train.X2,val.X}", "1.jpg"), "looks like splits"),
    Case("train_cat/, train_dog/, test_cat/, test_dog/", each("{train,test}_" + CD, "1.jpg"), "looks like splits"),
    Case("splits inside the classes", each(CD + "/{train,test}", "1.jpg"), "put the splits above the classes"),
    Case("a class called train", each("{bus,car,train}", "1.jpg"), "data.splits=none if they are classes"),
    Case("the same, data.splits=none", each("{bus,car,train}", "1.jpg"), (3, 0, 3), {"splits": "none"}),
    Case("a class called train in every split", each("{train,test}/{bus,car,train}", "1.jpg"), (3, 3, 3)),
    Case("a class called train_station", each("{harbour,train_station}", "1.jpg"), (2, 0, 2)),
    Case("two data sets side by side", each("{one,two}/{train,test}/" + CD, "1.jpg"), "put the splits above the classes"),
]
FILES = [
    Case("JPEG, PNG, WebP, BMP, GIF and TIFF together", [f"set/{i}{e}" for i, e in enumerate(EXTENSIONS)], (len(EXTENSIONS), 0, 0)),
    Case("capital extensions", ["a/1.JPG", "a/2.Jpeg", "b/3.PNG"], (3, 0, 2)),
    Case("files without extension", each(CD, "0001", "0002"), (4, 0, 2)),
    Case("files whose name ends in a number", ["cat/frame.0001", "dog/frame.0002"], (2, 0, 2)),
    Case("text, JSON and XML among the images", [*each(CD, "1.jpg", "1.xml"), "classes.txt", "meta.json"], (2, 0, 2)),
    Case("Thumbs.db, desktop.ini, .DS_Store", [*each(CD, "1.jpg", "Thumbs.db", ".DS_Store"), "desktop.ini"], (2, 0, 2)),
    Case("thumbnails of a Synology NAS", [*each(CD, "1.jpg"), "@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "cat/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg"], (2, 0, 2)),
    Case("bins: #recycle, @Recycle, $RECYCLE.BIN, .Trash-1000, lost+found",
         each("{cat,dog,#recycle,@Recycle,$RECYCLE.BIN,.Trash-1000,lost+found}", "1.jpg"), (2, 0, 2)),
    Case("snapshots and version control: #snapshot, .git, .ipynb_checkpoints", [*each(CD, "1.jpg"), *each("{#snapshot,.git,.ipynb_checkpoints}", "1.png")], (2, 0, 2)),
    Case("a Mac's shadow files ._1.jpg", each(CD, "1.jpg", "._1.jpg"), (2, 0, 2)),
    Case("a bin beside train/ and test/", [*each("{train,test}/" + CD, "1.jpg"), "#recycle/train/x.jpg"], (2, 2, 2)),
    Case("names with blanks, umlauts, Chinese, emoji", each("{große Katze,小狗,🐕}", "ein Bild.jpg"), (3, 0, 3)),
    Case("one class in two Unicode spellings (NFC in train, NFD in test)", each("train/{caf\u00e9,th\u00e9}", "1.jpg") + each("test/{cafe\u0301,the\u0301}", "1.jpg"), (2, 2, 2)),
    Case("both spellings side by side", each("{caf\u00e9,cafe\u0301,th\u00e9}", "1.jpg"), (3, 0, 2)),
    Case("a class name with a line break and a colour code", each("{cat\n,\x1b[31mdog}", "1.jpg"), (2, 0, 2)),
]
ZIPS = [
    Case("class folders", each(CD, "1.jpg"), (2, 0, 2), as_zip=True),
    Case("a wrapper and __MACOSX", [*each("set/" + CD, "1.jpg"), *each("__MACOSX/set/" + CD, "._1.jpg")], (2, 0, 2), as_zip=True),
    Case("train/, valid/ and test/ in a wrapper", each("set/{train,valid,test}/" + CD, "1.jpg"), (2, 2, 2), as_zip=True),
    Case("names with backslashes (packed on Windows)", [f"set\\{c}\\1.jpg" for c in ("cat", "dog")], (2, 0, 2), as_zip=True),
    Case("names that begin with ./", each("./" + CD, "1.jpg"), (2, 0, 2), as_zip=True),
    Case("two entries of one name", ["cat/1.jpg", "cat/1.jpg", "dog/1.jpg"], (2, 0, 2), as_zip=True),
    Case("the same name with / and with \\", ["cat/1.jpg", "cat\\1.jpg", "dog/1.jpg"], (2, 0, 2), as_zip=True),
    Case("images without extension", each(CD, "0001"), (2, 0, 2), as_zip=True),
    Case("names that lead out of the archive", ["cat/1.jpg", "../dog/1.jpg"], "points out of the archive", as_zip=True),
    Case("umlauts and Chinese", each("{große Katze,小狗}", "1.jpg"), (2, 0, 2), as_zip=True),
    Case("archives in the archive", ["train.zip", "test.zip"], "holds no image", as_zip=True),
    Case("masks beside images", each("set/{images,masks}", "1.png"), "images and their annotations", as_zip=True),
    Case("splits inside the classes", each(CD + "/{train,test}", "1.jpg"), "put the splits above the classes", as_zip=True),
    Case("train/ and an empty val/", [*each("train/" + CD, "1.jpg"), "val/"], "val holds no images", as_zip=True),
]
AWAY = each("../elsewhere/cat", "1.jpg", "2.jpg")
LINKS = [
    Case("a link to an image in the set", [*each(CD, "1.jpg"), "cat/2.jpg -> ../dog/1.jpg"], (3, 0, 2)),
    Case("a link to a folder in the set", [*each(CD, "1.jpg"), "more -> dog"], (2, 0, 2)),
    Case("a link to a folder that holds it", [*each(CD, "1.jpg"), "cat/up -> .."], (2, 0, 2)),
    Case("a link to itself", [*each(CD, "1.jpg"), "cat/2.jpg -> 2.jpg"], "leads in a circle"),
    Case("a link to nowhere that is called like a note", [*each(CD, "1.jpg"), "cat/notes.txt -> gone.txt"], (2, 0, 2)),
    Case("a class that is a link to another disk", [*each("dog", "1.jpg"), *AWAY, "cat -> ../elsewhere/cat"], "set data.outside_links=true"),
    Case("the same, data.outside_links=true", [*each("dog", "1.jpg"), *AWAY, "cat -> ../elsewhere/cat"], (3, 0, 2), {"outside_links": True}),
    Case("images that are links to another disk, data.outside_links=true",
         [*each("dog", "1.jpg"), *AWAY, "cat/x.jpg -> ../../elsewhere/cat/1.jpg"], (2, 0, 2), {"outside_links": True}),
    Case("a link out of the set to a folder that holds it, data.outside_links=true", [*each(CD, "1.jpg"), "cat/up -> ../.."], "a circle", {"outside_links": True}),
    Case("a pipe in an image's place", [*each(CD, "1.jpg"), "cat/2.jpg |"], (2, 0, 2)),
    Case("a link to a device, data.outside_links=true", [*each(CD, "1.jpg"), "cat/2.jpg -> /dev/zero"], (2, 0, 2), {"outside_links": True}),
]
GROUPS = {"Folders": FOLDERS, "Splits": SPLITS, "Files and names": FILES, "Links and pipes": LINKS, "Zip archives": ZIPS}


def build(case: Case, root: Path) -> dict:
    """Makes the files of a case below `root`; returns what `data.make` takes."""
    if case.as_zip:
        path = root / "set.zip"
        with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings(action="ignore"):      # a name may come twice
            for value, name in enumerate(case.files):
                archive.writestr(zipfile.ZipInfo(name), picture(name, value))
        return {"source": "zip", "path": str(path), "holdout": 0., **case.config}
    top = root / "set"
    top.mkdir()
    for value, name in enumerate(case.files):
        path = top / name.split(" -> ")[0].removesuffix(" |")
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if " -> " in name:
            path.symlink_to(name.split(" -> ")[1])
        elif name.endswith(" |"):
            os.mkfifo(path)
        elif not name.endswith("/"):
            path.write_bytes(picture(name, value))
    return {"source": "folder", "path": str(top), "holdout": 0., **case.config}


def outcome(case: Case) -> tuple[tuple | None, str]:
    """((training images, held-out images, classes) or None where it is refused, what the program says)."""
    with tempfile.TemporaryDirectory() as folder:
        config = build(case, Path(folder))
        try:
            made = data.make(**config, canvas=8)
            for source in filter(None, (made.train, made.test)):
                for index in range(len(source)):
                    *_, broken = sample(source, index, 8)
                    assert not broken, f"{case.what}: {broken}"
        except UserError as error:
            return None, str(error).replace(config["path"], "…")
        return (len(made.train), len(made.test) if made.test else 0, len(made.classes)), "; ".join(made.said)


HEADER = """# How your images may lie, and what becomes of them

Made by `python benchmarks/layouts.py`, which builds each case and opens it; a test compares this page with the program. For your own set,
`python -m jaxssl.data inspect PATH` says the same and looks at every image. Where a case is refused, the sentence is what the program ends with; … is the path of the set.

In short: folders named like splits are splits (train, training, trn; val, valid, validation, dev; test, testing, eval; any case; "train_images", "Test Set" and
"val2017" too), at the root or in the folder that wraps everything; `val` is held out, or `test` where there is no `val` with labels (`data.test_split=test` turns
that round); a single folder that holds everything is a wrapper; other folders are classes; what looks like splits among classes is refused. `data.splits=none`
takes every folder for a class, `data.test_path` names a held-out set elsewhere, and `data.outside_links=true` follows links that lead out of the folder.
"""


def document() -> str:
    """The text of docs/layouts.md."""
    lines = [HEADER]
    for group, cases in GROUPS.items():
        lines += [f"## {group}", "", "| how they lie | train | held out | classes | what the program says |", "|---|---|---|---|---|"]
        for case in cases:
            numbers, said = outcome(case)
            cells = (case.what, *(numbers or ("refused", "", "")), said)
            lines.append("| " + " | ".join(str(cell).replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare docs/layouts.md with what the program does, and write nothing")
    text = document()
    if parser.parse_args().check:
        same = DOC.read_text(encoding="utf-8") == text
        print(f"{DOC.name} {'is' if same else 'is not'} what the program does")
        return 0 if same else 1
    DOC.write_text(text, encoding="utf-8")
    print(f"{sum(map(len, GROUPS.values()))} ways written to {DOC}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
