"""Find the class and split of each image, from csv files or from folders."""

import os.path
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from norml_cli.data.sources.csv_tables import ColumnNames, CsvRow, listed_classes, rows
from norml_cli.data.sources.found_files import SPLIT_OF, File
from norml_cli.data.splits import SplitName
from norml_cli.files.errors import UserError, counted, plain

NAMES: dict[SplitName, str] = {"meta_train": "train", "meta_val": "val", "meta_test": "test"}  # in file names
_WORDNET_ID = re.compile(r"^n\d{8}")

Classes = dict[str, list[File]]  # the files of each class by label, sorted by name


@dataclass
class Index:
    """The classes of each split. None: classes whose split is not given. kind: where the classes come from."""

    kind: str
    classes: dict[SplitName | None, Classes] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)  # lines to print

    def add(self, split: SplitName | None, label: str, file: File) -> None:
        """Put a file into its class."""
        self.classes.setdefault(split, {}).setdefault(label, []).append(file)

    def require_disjoint(self, source: Path) -> None:
        """Raises UserError if a class is in two splits: training would then see a test class."""
        first: dict[str, SplitName] = {}
        for split in (split for split in NAMES if split in self.classes):
            for label in self.classes[split]:
                if first.setdefault(label, split) != split:
                    raise UserError(
                        f"--source {source}: class '{label}' is in {NAMES[first[label]]} and in {NAMES[split]}, but "
                        "few-shot learning splits classes, not images; move each class into one split, or name one "
                        "folder"
                    )


def by_place(place: PurePosixPath) -> tuple[SplitName, str] | None:
    """Split and label of an image at .../<split>/<label>/<file>. None: the path has no such folders."""
    folders = [part for part in place.parts[:-1] if part.lower() != "images"]
    for position in reversed(range(len(folders) - 1)):
        if folders[position].lower() in SPLIT_OF:
            return SPLIT_OF[folders[position].lower()], "/".join(folders[position + 1 :])
    return None


def by_split_folders(images: list[File], empty: list[PurePosixPath]) -> Index:
    """The index of folders train/<label>, val/<label> and test/<label>. Raises UserError."""
    index = Index("of class folders")
    for file in _sorted(images):
        place = by_place(file.place)
        if place is None:
            raise UserError(f"{file.where}: not in a folder train/<label>, val/<label> or test/<label>; move it there")
        _add_once(index, *place, file)
    for place in filter(None, (by_place(folder / "x") for folder in empty)):
        index.classes.setdefault(place[0], {}).setdefault(place[1], [])
    return index


def by_class_folders(images: list[File], empty: list[PurePosixPath]) -> Index:
    """The index of folders <label>, inside any common parent folders. Raises UserError."""
    index = Index("of class folders")
    labelled = {_folder(file) for file in images}
    top = os.path.commonpath([str(folder.parent) for folder in labelled]) if labelled else ""
    for file in _sorted(images):
        label = str(_folder(file).relative_to(top))
        if label == ".":
            raise UserError(f"{file.where}: not in a class folder; move it into the folder of its class")
        _add_once(index, None, label, file)
    for folder in empty:
        if folder.parent == PurePosixPath(top or "."):
            index.classes.setdefault(None, {}).setdefault(folder.name, [])
    return index


def lists_classes(lists: Mapping[SplitName | None, File], images: list[File]) -> bool:
    """Whether the files list folders with images. Other files may have these names but list something else."""
    folders = {part for file in images for part in file.place.parts[:-1]}
    return any(label.rpartition("/")[2] in folders for file in lists.values() for label in listed_classes(file))


def by_lists(lists: Mapping[SplitName | None, File], images: list[File], empty: list[PurePosixPath]) -> Index:
    """The index of class folders, with files that list each split's classes. Raises UserError.

    It skips folders that no file lists: CIFAR-FS and tieredImageNet are parts of larger data sets.
    """
    found = by_class_folders(images, empty).classes.get(None, {})
    index = Index("of class folders with lists of classes")
    for split, file in lists.items():
        for label in listed_classes(file):
            if label not in found:
                raise UserError(
                    f"{file.where}: lists class '{plain(label)}', which has no folder; add the folder, or fix the list"
                )
            index.classes.setdefault(split, {})[label] = found[label]
    unlisted = found.keys() - {label for classes in index.classes.values() for label in classes}
    if unlisted:
        index.remarks.append(f"skipped, not listed: {counted(len(unlisted), 'folder')}, first '{min(unlisted)}'")
    return index


def _folder(file: File) -> PurePosixPath:
    """The folder of an image's class: its own folder, or the parent if that is called images/."""
    inner = file.place.parent
    return inner.parent if inner.name.lower() == "images" and len(inner.parts) > 1 else inner


def _sorted(images: list[File]) -> list[File]:
    return sorted(images, key=lambda file: (file.place.name, file.place))


def _add_once(index: Index, split: SplitName | None, label: str, file: File) -> None:
    files = index.classes.get(split, {}).get(label, [])
    if files and files[-1].place.name == file.place.name:
        raise UserError(f"{file.where}: found twice, also as {files[-1].where}; remove one")
    _check_label(file.where, file.place.name, label)
    index.add(split, label, file)


def by_tables(tables: Mapping[SplitName | None, File], images: list[File], names: ColumnNames) -> Index:
    """The index of csv files: one per split, or one whose rows may name their split. Raises UserError."""
    named: dict[str, list[File]] = {}
    for file in images:
        named.setdefault(file.place.name, []).append(file)
    index, used = Index("of images with csv files"), dict[str, str]()
    for split, table in tables.items():
        for row in rows(table, names):
            file = _file_of(row, named)
            if file.where in used:
                raise UserError(f"{row.where}: names {row.name!r} again, after {used[file.where]}; remove one row")
            used[file.where] = row.where
            _check_label(row.where, PurePosixPath(row.name).name, row.label)
            if split is not None and by_place(file.place) not in {None, (split, row.label)}:
                raise UserError(
                    f"{row.where}: {row.name} has class '{row.label}', but is at {file.where}; fix the row or move the "
                    "file"
                )
            index.add(split or row.split, row.label, file)
    for classes in index.classes.values():
        for files in classes.values():
            files.sort(key=lambda file: (file.place.name, file.place))
    return index


def _file_of(row: CsvRow, named: Mapping[str, list[File]]) -> File:
    """The one image whose path ends with the row's file name. Raises UserError."""
    inside = PurePosixPath(row.name.replace("\\", "/"))
    if inside.is_absolute() or ":" in row.name:
        raise UserError(f"{row.where}: names {row.name!r}, an absolute path; write it relative to the source")
    candidates = [file for file in named.get(inside.name, []) if file.place.parts[-len(inside.parts) :] == inside.parts]
    if not candidates:
        raise UserError(
            f"{row.where}: names {row.name!r}, which is not in the source; add it, or name the folder of all archives"
        )
    if len(candidates) > 1:
        raise UserError(f"{candidates[1].where}: found twice, also as {candidates[0].where}; remove one")
    return candidates[0]


def _check_label(where: str, name: str, label: str) -> None:
    """Raises UserError if the label differs from the WordNet id that Ravi & Larochelle's file names start with."""
    said = _WORDNET_ID.match(name)
    if said and _WORDNET_ID.match(label) and said[0] != label:
        raise UserError(f"{where}: {name} is labelled '{label}', but its name says '{said[0]}'; get the original")
