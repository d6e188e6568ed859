"""The forms in which people hold mini-ImageNet: each is the same data set, or is named in one line."""

import collections
import io
import lzma
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from norml_cli.data.sources import mini_imagenet
from norml_cli.data.splits import SPLITS
from norml_cli.files.errors import UserError
from tests.helpers import photos
from tests.helpers.photos import (
    CLASSES,
    LABELS,
    Files,
    cache,
    class_folders,
    entry,
    names,
    photo,
    with_images,
    write_files,
    write_tar,
    write_zip,
)

Made = Callable[[Path], Path]
IMAGES: Files = {name: data for name, data in with_images().items() if name.endswith(".jpg")}
BY_LABEL: Files = {
    f"{label}/{file}": photo(file) for name in CLASSES for label in LABELS[name] for file in names(label)
}


def read(source: Path, **changes: object) -> tuple[dict[str, list[str]], str, list[str]]:
    """The labels of each split, the source's hash and the remarks."""
    loaded = mini_imagenet.read(entry(**changes), Path("x.yaml"), source, lambda *_: None)
    found = {split: [label for label, _ in loaded.splits[split]] for split in SPLITS}
    return found, loaded.source_sha256(), loaded.remarks()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, list[str]], str]:
    return read(write_files(tmp_path_factory.mktemp("plain"), with_images()))[:2]


# -------------------------------------------------------------------------------------------------------------- pickles


def pickled(name: str, change: Callable[[Any], Any] = lambda content: content, **called: str) -> Files:
    """A pickle for each split, named by `name` with what the split is called put in."""
    return {name.format(called.get(each, each)): pickle.dumps(change(cache(each)), protocol=2) for each in CLASSES}


def grouped(change: Callable[[list[int]], Any]) -> Callable[[Any], Any]:
    return lambda content: {
        **content,
        "class_dict": collections.OrderedDict((label, change(rows)) for label, rows in content["class_dict"].items()),
    }


def by_category(content: Any) -> Any:
    """As MetaOptNet has it."""
    rows = content["class_dict"]
    labels = [number for number, places in enumerate(rows.values()) for _ in places]
    return {"data": content["image_data"], "labels": labels, "catname2label": {name: n for n, name in enumerate(rows)}}


PLAIN = "mini-imagenet-cache-{}.pkl"
PICKLES: dict[str, Files] = {
    "learn2learn": pickled(PLAIN, val="validation"),
    "valid": pickled(PLAIN, val="valid"),
    "underscores": pickled("mini_imagenet_cache_{}.pickle"),
    "further folders": {f"a/b/{name}": data for name, data in pickled(PLAIN).items()},
    "MetaOptNet": pickled("miniImageNet_category_split_{}.pickle", by_category, train="train_phase_train"),
    "beside other phases": {
        **pickled("miniImageNet_category_split_{}.pickle", by_category, train="train_phase_train"),
        "miniImageNet_category_split_train_phase_val.pickle": b"not read",
    },
    "numpy numbers": pickled(PLAIN, grouped(lambda rows: [np.int64(row) for row in rows])),
    "arrays": pickled(PLAIN, grouped(lambda rows: np.array(rows, np.int32))),
    "tuples": pickled(PLAIN, grouped(tuple)),
    "sets": pickled(PLAIN, grouped(set)),
    "deques": pickled(PLAIN, grouped(collections.deque)),
    "ranges": pickled(PLAIN, grouped(lambda rows: range(rows[0], rows[-1] + 1))),
    "defaultdict": pickled(PLAIN, lambda content: collections.defaultdict(list, content)),
}


@pytest.mark.parametrize("files", PICKLES.values(), ids=PICKLES)
@pytest.mark.parametrize("write", [write_files, lambda path, files: write_tar(path / "mini.tar.gz", files)])
def test_pickles(tmp_path: Path, files: Files, write: Callable[[Path, Files], Path], expected: object):
    """Of protocol 2, whose pixels are those of the JPEGs."""
    assert read(write(tmp_path / "source", files))[:2] == expected


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"<!DOCTYPE html><title>Quota exceeded</title>", "is a web page, not the file"),
        (b"\xef\xbb\xbf\n <HTML>", "is a web page, not the file"),
        (b"<!-- saved from --><html>", "is a web page, not the file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:x\n", "this is a Git LFS pointer, not the file"),
        (b'{"error": "quota"}', "it is not a pickle, or damaged"),
        (b"", "it ends too early"),
        (pickle.dumps({"class_dict": range(10**12)}), "it makes a range that cannot be image numbers"),
    ],
)
def test_what_was_saved_in_a_pickle_s_place_is_named(tmp_path: Path, data: bytes, said: str):
    source = write_files(tmp_path, {**pickled(PLAIN), "mini-imagenet-cache-train.pkl": data})
    with pytest.raises(UserError, match=said) as error:
        read(source)
    assert "mini-imagenet-cache-train.pkl" in str(error.value)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------------------ csv files


def tables(head: str = "filename,label", row: str = "{file},{label}", name: str = "{}.csv", **called: str) -> Files:
    return {
        name.format(called.get(each, each)): "\n".join(
            [head, *(row.format(file=file, label=label) for label in LABELS[each] for file in names(label)), ""]
        ).encode()
        for each in CLASSES
    }


CSV: dict[str, Files] = {
    "FEAT": {**IMAGES, **tables(name="split/{}.csv")},
    "CloserLookFewShot's words": {**IMAGES, **tables(train="base", test="novel")},
    "validation.csv": {**IMAGES, **tables(val="validation")},
    "LibFewShot's blanks": {**IMAGES, **tables("filename    , label", "{file}, {label}")},
    "paths": {**{f"images/{name}": data for name, data in BY_LABEL.items()}, **tables(row="{label}/{file},{label}")},
    "paths from the root": {**IMAGES, **tables(row="./images/{file},{label}")},
    "paths of Windows": {**IMAGES, **tables(row="images\\{file},{label}")},
    "Kaggle": {**BY_LABEL, **tables()},
    "index column": {**IMAGES, **tables(",FileName,LABEL", "7,{file},{label}")},
    "quoted": {**IMAGES, **tables('"filename","label"', '"{file}","{label}"')},
    "semicolons": {**IMAGES, **tables("filename;label", "{file};{label}")},
    "tabs": {**IMAGES, **tables("filename\tlabel", "{file}\t{label}")},
    "UTF-16": {**IMAGES, **{name: data.decode().encode("utf-16") for name, data in tables().items()}},
    "UTF-8 with a mark": {**IMAGES, **{name: b"\xef\xbb\xbf" + data for name, data in tables().items()}},
}


@pytest.mark.parametrize("files", CSV.values(), ids=CSV)
@pytest.mark.parametrize("write", [write_files, lambda path, files: write_zip(path / "mini.zip", files)])
def test_csv_files(tmp_path: Path, files: Files, write: Callable[[Path, Files], Path], expected: object):
    assert read(write(tmp_path / "source", files))[:2] == expected


# ----------------------------------------------------------------------------------------------- folders and archives


def called(**words: str) -> Files:
    """Class folders below other words for the splits."""
    return {f"{words[name]}/{file}": data for name in CLASSES for file, data in _of(name).items()}


def _of(name: str) -> Files:
    return {file.removeprefix(f"{name}/"): data for file, data in class_folders(name).items()}


FOLDERS: dict[str, Files] = {
    "capitals": called(train="Train", val="Val", test="Test"),
    "shouted": called(train="TRAIN", val="VAL", test="TEST"),
    "meta_": called(train="meta_train", val="meta_val", test="meta_test"),
    "base, val, novel": called(train="base", val="val", test="novel"),
    "one level down": {f"mini-imagenet/{name}": data for name, data in class_folders().items()},
    "images in each class": {"/images/".join(name.rsplit("/", 1)): data for name, data in class_folders().items()},
    "JPEG": {name.replace(".jpg", ".JPEG"): data for name, data in class_folders().items()},
}


@pytest.mark.parametrize("files", FOLDERS.values(), ids=FOLDERS)
def test_folders(tmp_path: Path, files: Files, expected: tuple[object, str]):
    assert read(write_files(tmp_path, files))[:2] == expected


def tar() -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, data in class_folders().items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return target.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [("mini.tar.gz", tar()), ("mini.zip", tar()), ("mini.tar", lzma.compress(tar())), ("MINI.TGZ", tar())],
)
def test_an_archive_is_what_its_content_says(tmp_path: Path, name: str, data: bytes, expected: object):
    assert read(write_files(tmp_path, {name: data}))[:2] == expected
    zipped = write_zip(tmp_path / "other" / "mini.tar.gz", class_folders())
    assert read(zipped)[:2] == expected


def test_images_of_another_size_are_resized_where_that_is_declared(tmp_path: Path, expected: tuple[object, str]):
    large = write_files(tmp_path, {name: photo(name, 60) for name in class_folders()})
    with pytest.raises(UserError, match="60 x 60 px, expected 12 x 12; declare resize to resize it"):
        read(large)
    assert read(large, resize__value="lanczos")[0] == expected[0]


@pytest.mark.parametrize(
    ("mode", "kind"), [("RGBA", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("RGB", "WEBP"), ("RGB", "BMP")]
)
def test_other_kinds_of_images_are_converted_and_transparent_ones_told(tmp_path: Path, mode: str, kind: str):
    files = {name.replace("jpg", kind.lower()): photo(name, mode=mode, kind=kind) for name in class_folders()}
    _, _, remarks = read(write_files(tmp_path, files))
    told = [remark for remark in remarks if remark.startswith("transparent images, put on a white background: 28")]
    assert len(told) == ("A" in mode)


def test_a_smaller_class_is_read_where_unequal_classes_are_declared(tmp_path: Path, expected: tuple[object, str]):
    files = class_folders()
    del files[next(iter(files))]
    with pytest.raises(UserError, match=r"has 3 images, but 'made-mini' declares 4; .* declare examples_per_class"):
        read(write_files(tmp_path, files))
    assert read(tmp_path, examples_per_class={"min": 3, "max": 4})[0] == expected[0]


def test_what_is_not_read_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"no images of 'made-mini' here \(ignored: 1 \.hdf5 files, 1 \.rar files\)"):
        read(write_files(tmp_path, {"mini.rar": b"Rar!", "train_data.hdf5": b"\x89HDF"}))


def test_the_miniatures_are_those_of_the_helpers():
    assert set(photos.tables()) == set(tables())
