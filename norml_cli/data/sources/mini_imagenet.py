"""mini-ImageNet (Vinyals et al. 2016, split of Ravi & Larochelle 2017) in the forms in which people hold it.

    images and csv files    <any>.jpg, in a folder or in its images/, and train.csv, val.csv, test.csv (filename,label)
    class folders           {train,val,test}/<label>/<any>.jpg
    archives                tar or zip archives of either, the csv files inside or beside
    pickles                 mini-imagenet-cache-{train,val,test}.pkl with 'image_data' and 'class_dict'

Whatever the form, classes come in the order of their labels and a class's images in the order of their file names (or
as the pickle lists them), so that equal images make equal caches. Classes are decoded one by one while the cache is
written. One thread decodes: an image takes 0.1 ms, and a second thread was measured to win nothing, as most of that
time is the interpreter's.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from itertools import combinations_with_replacement
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from norml_cli.data.sources import archives, restricted_pickle
from norml_cli.data.sources import images as pictures
from norml_cli.data.splits import SPLITS, LoadedDataset, OnProgress, SplitName
from norml_cli.files.errors import UserError, reason
from norml_cli.files.regular import open_regular
from norml_cli.registry.entries import DatasetEntry, SourceSplit

NAMES: dict[SplitName, str] = {"meta_train": "train", "meta_val": "val", "meta_test": "test"}  # in the files' names
SPLIT_OF = {name: split for split, name in NAMES.items()}
CSV_FILES = {f"{name}.csv": split for split, name in NAMES.items()}
PICKLES = {split: f"mini-imagenet-cache-{name}.pkl" for split, name in NAMES.items()}
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png"}
FORMATS = ("JPEG", "PNG")
MODES = {
    "RGB",
    "L",
    "CMYK",
}  # some of ImageNet's JPEGs are grey or CMYK; like every loader, this one takes their colours
MAX_CSV_BYTES = 20_000_000  # chosen: over ten times the real train.csv
MAX_IMAGE_BYTES = 200_000  # chosen: nearly ten times the pixels of an image, which a PNG or JPEG of it stays below
MAX_HELD_BYTES = 1 << 30  # chosen: 1 GiB of still encoded images from archives; the real set has 0.15
FOLDERS = ("*", "images/*", *(f"{name}/*/*" for name in NAMES.values()))  # where images lie in a folder

_WORDNET_ID = re.compile(r"^n\d{8}")
_FORMS = (
    "a folder with images and train.csv, val.csv, test.csv; class folders train/, val/, test/; tar or zip archives of "
    "these; or mini-imagenet-cache-{train,val,test}.pkl"
)

Pixels = NDArray[np.uint8]
Classes = Iterator[tuple[str, Pixels]]  # labels and images [P, size, size, 3]


def read(entry: DatasetEntry, source: Path | None, progress: OnProgress) -> LoadedDataset:
    """The data set in `source`, a folder or an archive; its images are decoded when its classes are asked for.

    Raises UserError with one line, now or while the classes are read, for anything but the complete data set that
    `entry` declares.
    """
    splits = _check_declaration(entry)
    if source is None:
        raise UserError(
            f"'{entry.id}' is not downloaded for you ({entry.licence}); ask for it at {entry.home} and name what you "
            f"have: norml prepare {entry.id} --source PATH, with {_FORMS}"
        )
    classes_of, text = _find(entry, source)
    watch = _Watch(entry.classes * entry.examples_per_class, progress)
    size = entry.image_size_px.value
    streams = {}
    for split in SPLITS:
        shape = (int(getattr(splits, split)), entry.examples_per_class, size, size, 3)
        streams[split] = _Stream(shape, partial(_watched, watch, split, classes_of[split]))
    return LoadedDataset(streams, f"{entry.kind}, {text}", entry.content_sha256, lambda: [watch.duplicates()])


def _check_declaration(entry: DatasetEntry) -> SourceSplit:
    if not isinstance(entry.splits, SourceSplit):
        raise UserError(f"data set '{entry.id}': splits: its files say which class is where; declare kind: from-source")
    if (entry.resize.value, entry.invert.value, entry.rotations.value) != ("none", False, "none"):
        raise UserError(
            f"data set '{entry.id}': images are taken as they are; declare resize: none, invert: false, rotations: none"
        )
    return entry.splits


# ------------------------------------------------------------------------------------------------------------ streams


@dataclass(frozen=True)
class _Stream:
    """A split's classes, read when they are iterated over."""

    shape: tuple[int, ...]
    classes: Callable[[], Classes]

    def __iter__(self) -> Classes:
        return self.classes()


@dataclass
class _Watch:
    """What is seen while the classes go by: how many images, which labels, which images are the same."""

    total: int
    progress: OnProgress
    done: int = 0
    split_of: dict[str, SplitName] = field(default_factory=dict)  # of each label
    seen: dict[bytes, Counter[SplitName]] = field(default_factory=dict)  # hash of an image's pixels -> where it is

    def add(self, split: SplitName, label: str, images: Pixels) -> None:
        if self.split_of.setdefault(label, split) != split:
            raise UserError(
                f"class '{label}' is in {NAMES[self.split_of[label]]} and in {NAMES[split]}; get the files of one "
                "split, which share no class"
            )
        for image in images:
            self.seen.setdefault(blake2b(image, digest_size=16).digest(), Counter())[split] += 1
        self.done += len(images)
        self.progress(self.done, self.total)

    def duplicates(self) -> str:
        """How many pairs of images have the same pixels, within and across splits."""
        pairs: Counter[str] = Counter()
        for places in self.seen.values():
            for first, second in combinations_with_replacement(sorted(places, key=SPLITS.index), 2):
                n, m = places[first], places[second]
                where = f"within {_said(first)}" if first == second else f"between {_said(first)} and {_said(second)}"
                pairs[where] += n * (n - 1) // 2 if first == second else n * m
        found = [f"{count} {where}" for where, count in sorted(pairs.items()) if count]
        return f"pairs of images with the same pixels: {', '.join(found) or 'none'}"


def _said(split: SplitName) -> str:
    return split.replace("_", "-")


def _watched(watch: _Watch, split: SplitName, classes: Callable[[], Classes]) -> Classes:
    for label, images in classes():
        watch.add(split, label, images)
        yield label, images


# -------------------------------------------------------------------------------------------------- finding the images


@dataclass(frozen=True, slots=True)
class _File:
    """An image or csv file: its place inside the source, its name in messages, and how to get its bytes."""

    place: PurePosixPath
    where: str
    read: Callable[[], bytes]


Index = dict[SplitName, dict[str, list[_File]]]  # the files of each class, by split and label


def _find(entry: DatasetEntry, source: Path) -> tuple[dict[SplitName, Callable[[], Classes]], str]:
    """How to read each split's classes, and the form of the source in words."""
    form, parts = _form(entry, source)
    if form == "pickles":
        return {split: partial(_in_pickle, entry, source / PICKLES[split], split) for split in SPLITS}, form
    if form == "archives":
        files = [*_in_archives(parts), *_csv_beside(source)]
        text = "an archive" if len(parts) == 1 else f"{len(parts)} archives"
    else:
        files, text = [*map(partial(_in_folder, source), parts), *_csv_beside(source)], "a folder"
    index, kind = _index(entry, source, files)
    _check_counts(entry, source, index)
    size = entry.image_size_px.value
    return {split: partial(_decoded, index[split], size) for split in SPLITS}, f"{text} {kind}"


def _form(entry: DatasetEntry, source: Path) -> tuple[str, list[Path]]:
    """The one form that `source` holds, and the files that hold it."""
    if archives.is_archive(source):
        return "archives", [source]
    if not source.is_dir():
        what = "is none of these" if source.exists() else "does not exist"
        raise UserError(f"--source {source}: {what}; name {_FORMS}")
    try:
        forms = {
            "pickles": [source / name for name in PICKLES.values() if (source / name).is_file()],
            "archives": sorted(path for path in source.iterdir() if archives.is_archive(path)),
            "images": sorted(path for pattern in FOLDERS for path in source.glob(pattern) if _is_image(path.name)),
        }
    except OSError as error:
        raise UserError(f"--source {source}: cannot be read ({reason(error)}); name another folder") from None
    found = {form: paths for form, paths in forms.items() if paths}
    if len(found) > 1:
        held = " and ".join(f"{form} ({paths[0].relative_to(source)})" for form, paths in found.items())
        raise UserError(f"--source {source}: holds {held}, which may differ; leave one form of the data set there")
    if not found:
        raise UserError(f"--source {source}: holds nothing of '{entry.id}'; name {_FORMS}; see {entry.home}")
    return next(iter(found.items()))


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")


def _in_folder(source: Path, path: Path) -> _File:
    return _File(PurePosixPath(path.relative_to(source).as_posix()), str(path), partial(_content, path))


def _content(path: Path, limit_bytes: int = MAX_IMAGE_BYTES) -> bytes:
    try:
        with open_regular(path) as file:
            content = file.read(limit_bytes + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); get the original") from None
    if len(content) > limit_bytes:
        raise UserError(f"{path}: more than {limit_bytes:,} bytes are too many; get the original")
    return content


def _csv_beside(source: Path) -> Iterator[_File]:
    """The csv files in the source's folder."""
    folder = source if source.is_dir() else source.parent
    for name in CSV_FILES:
        if (folder / name).is_file():
            yield _File(PurePosixPath(name), str(folder / name), partial(_content, folder / name, MAX_CSV_BYTES))


def _in_archives(paths: list[Path]) -> Iterator[_File]:
    """The images and csv files of all archives, as if each were unpacked into a folder of its name."""
    held_bytes = 0
    for path in paths:
        for name, content in archives.read_files(path, _limit_bytes):
            held_bytes += len(content)
            if held_bytes > MAX_HELD_BYTES:
                raise UserError(
                    f"{path}: its images take more than {MAX_HELD_BYTES:,} bytes; unpack it, name the folder"
                )
            yield _File(archives.stem(path) / PurePosixPath(name), f"{path}: {name}", partial(bytes, content))


def _limit_bytes(name: str) -> int | None:
    inside = PurePosixPath(name)
    if "__MACOSX" in inside.parts:
        return None
    if inside.name in CSV_FILES:
        return MAX_CSV_BYTES
    return MAX_IMAGE_BYTES if _is_image(inside.name) else None


# ------------------------------------------------------------------------------------------- which class an image is of


def _index(entry: DatasetEntry, source: Path, files: list[_File]) -> tuple[Index, str]:
    """The files of each class, as the csv files say or, where there are none, the folders; and which it was."""
    tables: dict[SplitName, _File] = {}
    for file in files:
        split = CSV_FILES.get(file.place.name)
        if split is not None and tables.setdefault(split, file).read() != file.read():
            raise UserError(f"{file.where}: differs from {tables[split].where}; remove the wrong one")
    images = [file for file in files if file.place.name not in CSV_FILES]
    if not tables and any(_by_place(file.place) for file in images):
        return _index_by_folders(images), "of class folders"
    missing = [f"{NAMES[split]}.csv" for split in SPLITS if split not in tables]
    if missing:
        raise UserError(f"--source {source}: holds images, but no {' and no '.join(missing)}; get it from {entry.home}")
    by_name = _by_name(images)
    return {split: _index_by_csv(tables[split], split, by_name) for split in SPLITS}, "of images with csv files"


def _by_place(place: PurePosixPath) -> tuple[SplitName, str] | None:
    """Split and label as .../<split>/<label>/<file> says them, or None for an image elsewhere."""
    *_, split, label, _ = ("", "", *place.parts)
    return (SPLIT_OF[split], label) if split in SPLIT_OF and label != "images" else None


def _index_by_folders(images: list[_File]) -> Index:
    index: Index = {split: {} for split in SPLITS}
    for file in sorted(images, key=lambda file: (file.place.name, file.place)):
        place = _by_place(file.place)
        if place is None:
            raise UserError(
                f"{file.where}: lies in no folder train/<label>, val/<label> or test/<label>; move it there"
            )
        split, label = place
        files = index[split].setdefault(label, [])
        if files and files[-1].place.name == file.place.name:
            raise UserError(f"{file.where}: is there twice, also as {files[-1].where}; remove one")
        _check_label(file.where, file.place.name, label)
        files.append(file)
    return index


def _by_name(images: list[_File]) -> dict[str, _File]:
    found: dict[str, _File] = {}
    for file in images:
        if file.place.name in found:
            raise UserError(f"{file.where}: is there twice, also as {found[file.place.name].where}; remove one")
        found[file.place.name] = file
    return found


def _index_by_csv(table: _File, split: SplitName, by_name: dict[str, _File]) -> dict[str, list[_File]]:
    """The files of each class of a split; an image is taken out of `by_name`, so that none is named twice."""
    index: dict[str, dict[str, _File]] = {}
    for where, name, label in _rows(table):
        file = by_name.pop(name, None)
        if file is None:
            again = any(name in files for files in index.values())
            lacking = "which the source does not hold; get it, or name the folder of all archives"
            raise UserError(f"{where}: names {name!r}, {'a second time; remove the line' if again else lacking}")
        _check_label(where, name, label)
        if _by_place(file.place) not in {None, (split, label)}:
            raise UserError(
                f"{where}: {name} is of class '{label}', but lies in {file.where}; mend the one or the other"
            )
        index.setdefault(label, {})[name] = file
    return {label: [file for _, file in sorted(files.items())] for label, files in index.items()}


def _rows(table: _File) -> Iterator[tuple[str, str, str]]:
    """Place, file name and label of each row."""
    try:
        rows = csv.DictReader(io.StringIO(table.read().decode("utf-8-sig")), strict=True)
        if not {"filename", "label"} <= set(rows.fieldnames or ()):
            raise UserError(f"{table.where}:1: has no columns filename,label; get the original")
        for row in rows:
            where = f"{table.where}:{rows.line_num}"
            if not row["filename"] or not row["label"]:
                raise UserError(f"{where}: lacks a file name or a label; get the original")
            if not f"{row['filename']}{row['label']}".isprintable():  # it would break the lines of messages
                raise UserError(f"{where}: its file name or label cannot be printed; get the original")
            yield where, row["filename"], row["label"]
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{table.where}: not readable as csv ({reason(error)}); get the original") from None


def _check_label(where: str, name: str, label: str) -> None:
    """Ravi & Larochelle's file names start with the WordNet id that is the label."""
    said = _WORDNET_ID.match(name)
    if said and _WORDNET_ID.match(label) and said[0] != label:
        raise UserError(f"{where}: {name} is labelled '{label}', but its name says '{said[0]}'; get the original")


def _check_counts(entry: DatasetEntry, source: Path, index: Index) -> None:
    for split in SPLITS:
        _check_classes(entry, str(source), split, {label: len(files) for label, files in index[split].items()})


def _check_classes(entry: DatasetEntry, where: str, split: SplitName, sizes: dict[str, int]) -> None:
    """The declared number of classes with the declared number of images each."""
    declared = int(getattr(entry.splits, split))
    for label, size in sorted(sizes.items()):
        if size != entry.examples_per_class:
            raise UserError(
                f"{where}: class '{label}' in {NAMES[split]} has {size:,} images, but '{entry.id}' has "
                f"{entry.examples_per_class:,} of each; get the complete set"
            )
    if len(sizes) != declared:
        raise UserError(
            f"{where}: {len(sizes)} classes in {NAMES[split]}, but '{entry.id}' has {declared}; get the files of "
            "Ravi & Larochelle's split"
        )


# ------------------------------------------------------------------------------------------------------------- decoding


def _decoded(files_of: dict[str, list[_File]], size: int) -> Classes:
    for label in sorted(files_of):
        images = np.empty((len(files_of[label]), size, size, 3), np.uint8)
        for index, file in enumerate(files_of[label]):
            image = pictures.decoded(file.read(), file.where, FORMATS, partial(_fault, size))
            images[index] = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
        yield label, images


def _fault(size: int, image: Image.Image) -> str | None:
    if image.size != (size, size):
        return f"{image.width} x {image.height} px, expected {size} x {size}"
    return None if image.mode in MODES else f"of mode {image.mode}, expected RGB"


# -------------------------------------------------------------------------------------------------------------- pickles


def _in_pickle(entry: DatasetEntry, path: Path, split: SplitName) -> Classes:
    """The classes of a pickle, which is held in memory while they are read."""
    images, places = _unpickled(entry, path, split)
    for label in sorted(places):
        yield label, images[places[label]]


def _unpickled(entry: DatasetEntry, path: Path, split: SplitName) -> tuple[Pixels, dict[str, list[int]]]:
    """Images [n, size, size, 3], and which of them each class has."""
    size = entry.image_size_px.value
    expected_bytes = int(getattr(entry.splits, split)) * entry.examples_per_class * size * size * 3
    try:
        with open_regular(path) as file:
            if path.stat().st_size > 2 * expected_bytes + MAX_CSV_BYTES:  # text in protocol 2 is half as long again
                raise UserError(f"{path}: far larger than {expected_bytes:,} bytes of pixels; not {PICKLES[split]}")
            content = restricted_pickle.load(file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); --source needs {_all_pickles()}") from None
    except ValueError as error:
        raise UserError(f"{path}: refused, and nothing in it was run: {error}; get the original") from None
    images, places = _value(path, content, "image_data"), _value(path, content, "class_dict")
    pixels = _pixels(path, images, size)
    return pixels, _places(entry, path, split, places, len(pixels))


def _all_pickles() -> str:
    return ", ".join(PICKLES.values())


def _value(path: Path, content: Any, key: str) -> Any:
    if isinstance(content, dict):
        for form in (key, key.encode()):
            if form in content:
                return content[form]
    raise UserError(f"{path}: holds no '{key}'; get {path.name} with 'image_data' and 'class_dict'")


def _pixels(path: Path, images: Any, size: int) -> Pixels:
    if not isinstance(images, restricted_pickle.PickledArray):
        raise UserError(f"{path}: image_data: is no array; get the original")
    array = images.value
    if array.dtype != np.uint8 or array.shape[1:] != (size, size, 3):
        found = f"{array.dtype} {list(array.shape)}"
        raise UserError(f"{path}: image_data: is {found}, expected uint8 [n, {size}, {size}, 3]; get the original")
    return array


def _places(entry: DatasetEntry, path: Path, split: SplitName, by_label: Any, n_images: int) -> dict[str, list[int]]:
    """The indices of each class's images, in 0..n_images - 1 and none twice."""
    if not isinstance(by_label, dict):
        raise UserError(f"{path}: class_dict: is no mapping of classes to indices; get the original")
    places: dict[str, list[int]] = {}
    for key, value in by_label.items():
        label = key.decode(errors="replace") if isinstance(key, bytes) else str(key)
        if not label.isprintable():
            raise UserError(f"{path}: class_dict: the name {label!r:.60} cannot be printed; get the original")
        places[label] = _integers(path, label, value)
    _check_classes(entry, str(path), split, {label: len(indices) for label, indices in places.items()})
    used = sorted(index for indices in places.values() for index in indices)
    if used != list(range(n_images)):
        raise UserError(f"{path}: class_dict: does not name each of the {n_images:,} images once; get the original")
    return places


def _integers(path: Path, label: str, value: Any) -> list[int]:
    if isinstance(value, restricted_pickle.PickledArray) and value.value.ndim == 1:
        value = value.value.tolist()
    if not isinstance(value, Iterable) or not all(type(index) is int for index in value):
        raise UserError(f"{path}: class_dict: '{label}' is no list of indices; get the original")
    return list(value)
