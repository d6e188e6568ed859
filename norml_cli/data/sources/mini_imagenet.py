"""Read mini-ImageNet (Vinyals et al. 2016, split of Ravi & Larochelle 2017) in its usual forms.

    images      as in `image_folder`: csv files, or class folders in train/, val/, test/; in archives or not
    pickles     mini-imagenet-cache-{train,val,test}.pkl with 'image_data' and 'class_dict', or
                miniImageNet_category_split_{train_phase_train,val,test}.pickle with 'data', 'labels' and
                'catname2label'; in archives or not

Classes are sorted by label. Images of a pickle keep its order.
"""

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from norml_cli.data.sources import archives, restricted_pickle, web_pages
from norml_cli.data.sources.found_files import MAX_CSV_BYTES, SourceFiles
from norml_cli.data.sources.image_classes import ImageStream, Pixels, Watch, max_image_bytes
from norml_cli.data.sources.image_folder import check_classes, found_in, read_images
from norml_cli.data.splits import SPLITS, LoadedDataset, OnProgress, SplitName
from norml_cli.files.errors import UserError, reason
from norml_cli.files.regular import open_regular, require_regular
from norml_cli.files.suggestions import suggested
from norml_cli.registry.entries import DatasetEntry, Unequal

_NAMES: tuple[tuple[SplitName, str, str], ...] = (  # split, its name in the cache files and in the category_split files
    ("meta_train", "train", "train(_phase_train)?"),
    ("meta_val", "val(id(ation)?)?", "val"),
    ("meta_test", "test", "test"),
)
PICKLES = {
    split: re.compile(
        rf"^mini[-_]?imagenet([-_]cache[-_]{cache}|_category_split_{category})\.(pkl|pickle)$", re.IGNORECASE
    )
    for split, cache, category in _NAMES
}
FORMS = (
    "a folder with images and train.csv, val.csv, test.csv; class folders train/, val/, test/; tar or zip archives of "
    "these; or mini-imagenet-cache-{train,val,test}.pkl"
)


def read(entry: DatasetEntry, entry_file: Path, source: Path | None, progress: OnProgress) -> LoadedDataset:
    """The data set in `source`, a folder or an archive. Reading the classes decodes the images.

    Raises UserError with one line, now or while the classes are read, if the source is not the complete data set that
    `entry` declares.
    """
    if source is None:
        raise UserError(
            f"'{entry.id}' cannot be downloaded automatically ({entry.licence}); request it at {entry.home}, then run "
            f"{suggested(f'norml prepare {entry.id} --source PATH')} with {FORMS}"
        )
    found = found_in(source, max_image_bytes(entry), FORMS, links_out=True)
    pickles = _pickles(source, found)
    if not pickles and not found.images:
        raise UserError(
            f"--source {source}: no images of '{entry.id}' here{found.seen()}; name {FORMS}; see {entry.home}"
        )
    if not pickles or found.images:
        return read_images(entry, entry_file, source, found, progress)
    watch = Watch(entry, entry.classes * entry.class_sizes.max, progress)
    streams = {split: _stream(watch, split, pickles[split]) for split in SPLITS}
    kind = "pickles" if found.text == "a folder" else f"{found.text} of pickles"
    return LoadedDataset(streams, f"{entry.kind}, {kind}", watch.source_sha256, watch.remarks)


@dataclass(frozen=True)
class _Pickle:
    """A pickle file, or a pickle in an archive."""

    where: str
    path: Path
    inside: str | None = None  # its name in the archive

    def opened(self, limit_bytes: int) -> BinaryIO:
        """Open the pickle. Raises UserError if it has more than `limit_bytes`, and OSError."""
        if self.inside is None:
            if require_regular(self.path) > limit_bytes:
                raise UserError(f"{self.path}: too large, more than {limit_bytes:,} bytes; get the original file")
            return open_regular(self.path)
        wanted = self.inside
        files = archives.read_files(self.path, lambda name: limit_bytes if name == wanted else None)
        return io.BytesIO(next(data for _, data in files))


def _pickles(source: Path, found: SourceFiles) -> dict[SplitName, _Pickle]:
    """The pickle of each split, or an empty mapping. Raises UserError if one is missing or found twice."""
    held = [_Pickle(str(path), path) for path in found.pickles]
    held += [_Pickle(f"{path}: {name}", path, name) for path, name in found.packed_pickles]
    pickles: dict[SplitName, _Pickle] = {}
    for pickle in held:
        name = PurePosixPath(pickle.inside or pickle.path.name).name
        for split in (split for split, pattern in PICKLES.items() if pattern.match(name)):
            if split in pickles:
                raise UserError(f"{pickle.where}: found twice, also as {pickles[split].where}; remove one")
            pickles[split] = pickle
    missing = [_expected(split, pickles) for split in SPLITS if split not in pickles]
    if pickles and missing:
        raise UserError(f"--source {source}: holds pickles, but no {' and no '.join(missing)}; get the missing files")
    return pickles


def _expected(split: SplitName, pickles: Mapping[SplitName, _Pickle]) -> str:
    name = {"meta_train": "train", "meta_val": "val", "meta_test": "test"}[split]
    if any("category_split" in pickle.where for pickle in pickles.values()):
        return f"miniImageNet_category_split_{name if name != 'train' else 'train_phase_train'}.pickle"
    return f"mini-imagenet-cache-{name}.pkl"


# -------------------------------------------------------------------------------------------------------------- reading


def _stream(watch: Watch, split: SplitName, pickle: _Pickle) -> ImageStream:
    entry = watch.entry
    if isinstance(entry.examples_per_class, Unequal):  # only the pickle has the sizes, so it is read twice
        _, places = _unpickled(entry, pickle, split)
        sizes = tuple(len(places[label]) for label in sorted(places))
    else:
        sizes = (entry.examples_per_class,) * int(getattr(entry.splits, split))
    return ImageStream(watch, split, sizes, partial(_classes, entry, pickle, split))


def _classes(
    entry: DatasetEntry, pickle: _Pickle, split: SplitName
) -> Iterator[tuple[str, Iterator[tuple[Image.Image, str]], int]]:
    """The classes of a pickle. The whole pickle is in memory while they are read."""
    images, places = _unpickled(entry, pickle, split)
    for label in sorted(places):
        yield label, ((Image.fromarray(images[place]), pickle.where) for place in places[label]), len(places[label])


def _unpickled(entry: DatasetEntry, pickle: _Pickle, split: SplitName) -> tuple[Pixels, dict[str, list[int]]]:
    """Images [n, height, width, 3], and the indices of each class's images. Raises UserError."""
    size = entry.image_size_px.value
    expected_bytes = int(getattr(entry.splits, split)) * entry.class_sizes.max * size * size * 3
    as_is = entry.resize.value == "none"
    # Twice the pixels, since protocol 0 is text.
    limit_bytes = 2 * expected_bytes + MAX_CSV_BYTES if as_is else archives.MAX_UNPACKED_BYTES
    try:
        with pickle.opened(limit_bytes) as file:
            web_pages.refuse(pickle.where, file.read(web_pages.HEAD_BYTES))
            file.seek(0)
            content = restricted_pickle.load(file)
    except OSError as error:
        raise UserError(f"{pickle.where}: cannot be read ({reason(error)}); get the original file") from None
    except ValueError as error:
        raise UserError(f"{pickle.where}: refused without running it: {error}; get the original file") from None
    by_category = isinstance(content, dict) and {"catname2label", b"catname2label"} & content.keys()
    images = _value(pickle, content, "data" if by_category else "image_data")
    by_label = _by_category(pickle, content) if by_category else _value(pickle, content, "class_dict")
    pixels = _pixels(pickle, images, size if as_is else None)
    return pixels, _places(entry, pickle, split, by_label, len(pixels))


def _value(pickle: _Pickle, content: Any, key: str) -> Any:
    if isinstance(content, dict):
        for form in (key, key.encode()):
            if form in content:
                return content[form]
    raise UserError(f"{pickle.where}: no '{key}' in this pickle; get one with 'image_data' and 'class_dict'")


def _pixels(pickle: _Pickle, images: Any, size: int | None) -> Pixels:
    if not isinstance(images, restricted_pickle.PickledArray):
        raise UserError(f"{pickle.where}: image_data: not an array; get the original file")
    array = images.value
    wanted = (size, size, 3) if size is not None else (*array.shape[1:3], 3)
    if array.dtype != np.uint8 or array.shape[1:] != wanted or array.ndim != 4:  # noqa: PLR2004 - as the shape says
        shape = f"[n, {size}, {size}, 3]" if size else "[n, height, width, 3]"
        raise UserError(
            f"{pickle.where}: image_data: {array.dtype} {list(array.shape)}, expected uint8 {shape}; get the original "
            "file"
        )
    return array


def _by_category(pickle: _Pickle, content: Any) -> dict[Any, list[int]]:
    """The indices of each category's images. 'labels' numbers the images' categories; 'catname2label' names them."""
    numbers = _value(pickle, content, "catname2label")
    labels = _integers(pickle, "labels", _value(pickle, content, "labels"))
    by_number: dict[int, list[int]] = {}
    for index, number in enumerate(labels):
        by_number.setdefault(number, []).append(index)
    if not isinstance(numbers, dict) or not by_number.keys() <= set(map(_number, numbers.values())):
        raise UserError(f"{pickle.where}: catname2label: some labels have no name; get the original file")
    return {name: by_number[number] for name, number in numbers.items() if number in by_number}


def _number(value: Any) -> int:
    return value if isinstance(value, int) else -1


def _places(
    entry: DatasetEntry, pickle: _Pickle, split: SplitName, by_label: Any, n_images: int
) -> dict[str, list[int]]:
    """The indices of each class's images. Raises UserError unless they are 0..n_images - 1, each once."""
    where = pickle.where
    if not isinstance(by_label, dict):
        raise UserError(f"{where}: class_dict: not a mapping from classes to indices; get the original file")
    places: dict[str, list[int]] = {}
    for key, value in by_label.items():
        label = key.decode(errors="replace") if isinstance(key, bytes) else str(key)
        if not label.isprintable():
            raise UserError(f"{where}: class_dict: the name {label!r:.60} is not printable; get the original file")
        places[label] = _integers(pickle, f"class_dict: '{label}'", value)
    check_classes(entry, where, split, {label: len(indices) for label, indices in places.items()})
    used = sorted(index for indices in places.values() for index in indices)
    if used != list(range(n_images)):
        raise UserError(
            f"{where}: class_dict: does not list each of the {n_images:,} images once; get the original file"
        )
    return places


def _integers(pickle: _Pickle, what: str, value: Any) -> list[int]:
    if isinstance(value, restricted_pickle.PickledArray) and value.value.ndim == 1:
        value = value.value.tolist()
    if not isinstance(value, Iterable) or not all(type(index) is int for index in value):
        raise UserError(f"{pickle.where}: {what} is not a list of indices; get the original file")
    return list(value)
