"""Which class, and which split, an image is of: as csv files say, or as folders do."""

import csv
import io
import os.path
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from norml_cli.data.sources import web_pages
from norml_cli.data.sources.found_files import File
from norml_cli.data.splits import SPLITS, SplitName
from norml_cli.files.errors import UserError, plain, reason

NAMES: dict[SplitName, str] = {"meta_train": "train", "meta_val": "val", "meta_test": "test"}  # in the files' names
SPLIT_OF: dict[str, SplitName] = {
    **dict.fromkeys(("train", "training", "meta-train", "meta_train"), "meta_train"),
    **dict.fromkeys(("val", "valid", "validation", "meta-val", "meta_val"), "meta_val"),
    **dict.fromkeys(("test", "testing", "meta-test", "meta_test"), "meta_test"),
}
FILE_COLUMNS = ("filename", "file_name")
LABEL_COLUMNS = ("label", "category")
SPLIT_COLUMN = "split"

_WORDNET_ID = re.compile(r"^n\d{8}")

Classes = dict[str, list[File]]  # the files of each class by label, sorted by name


@dataclass
class Index:
    """The classes of each split, under None where nothing says which split a class is in; and what said so."""

    kind: str
    classes: dict[SplitName | None, Classes] = field(default_factory=dict)

    def add(self, split: SplitName | None, label: str, file: File) -> None:
        """Put a file into its class."""
        self.classes.setdefault(split, {}).setdefault(label, []).append(file)


def by_place(place: PurePosixPath) -> tuple[SplitName, str] | None:
    """Split and label as .../<split>/<label>/<file> says them, or None for an image elsewhere."""
    folders = [part for part in place.parts[:-1] if part.lower() != "images"]
    for position in reversed(range(len(folders) - 1)):
        if folders[position].lower() in SPLIT_OF:
            return SPLIT_OF[folders[position].lower()], "/".join(folders[position + 1 :])
    return None


def by_split_folders(images: list[File], empty: list[PurePosixPath]) -> Index:
    """The index that folders train/<label>, val/<label> and test/<label> make. Raises UserError."""
    index = Index("of class folders")
    for file in _sorted(images):
        place = by_place(file.place)
        if place is None:
            raise UserError(
                f"{file.where}: lies in no folder train/<label>, val/<label> or test/<label>; move it there"
            )
        _add_once(index, *place, file)
    for place in filter(None, (by_place(folder / "x") for folder in empty)):
        index.classes.setdefault(place[0], {}).setdefault(place[1], [])
    return index


def by_class_folders(images: list[File], empty: list[PurePosixPath]) -> Index:
    """The index that folders <label> make, below whatever folders all of them lie in. Raises UserError."""
    index = Index("of class folders")
    labelled = {file.place.parent for file in images}
    top = os.path.commonpath([str(folder.parent) for folder in labelled]) if labelled else ""
    for file in _sorted(images):
        label = str(file.place.parent.relative_to(top))
        if label == ".":
            raise UserError(f"{file.where}: lies in no class folder; move it into the folder of its class")
        _add_once(index, None, label, file)
    for folder in empty:
        if folder.parent == PurePosixPath(top or "."):
            index.classes.setdefault(None, {}).setdefault(folder.name, [])
    return index


def _sorted(images: list[File]) -> list[File]:
    return sorted(images, key=lambda file: (file.place.name, file.place))


def _add_once(index: Index, split: SplitName | None, label: str, file: File) -> None:
    files = index.classes.get(split, {}).get(label, [])
    if files and files[-1].place.name == file.place.name:
        raise UserError(f"{file.where}: is there twice, also as {files[-1].where}; remove one")
    _check_label(file.where, file.place.name, label)
    index.add(split, label, file)


def by_tables(tables: Mapping[SplitName | None, File], images: list[File]) -> Index:
    """The index that csv files make: one a split, or one whose rows may say their split. Raises UserError."""
    named: dict[str, list[File]] = {}
    for file in images:
        named.setdefault(file.place.name, []).append(file)
    index, used = Index("of images with csv files"), dict[str, str]()
    for split, table in tables.items():
        for row in rows(table):
            file = _file_of(row, named)
            if file.where in used:
                raise UserError(f"{row.where}: names {row.name!r} a second time, after {used[file.where]}; remove it")
            used[file.where] = row.where
            _check_label(row.where, PurePosixPath(row.name).name, row.label)
            if split is not None and by_place(file.place) not in {None, (split, row.label)}:
                raise UserError(
                    f"{row.where}: {row.name} is of class '{row.label}', but lies in {file.where}; mend the one or "
                    "the other"
                )
            index.add(split or row.split, row.label, file)
    for classes in index.classes.values():
        for files in classes.values():
            files.sort(key=lambda file: (file.place.name, file.place))
    return index


def _file_of(row: "Row", named: Mapping[str, list[File]]) -> File:
    """The one image whose place ends as the row's file name."""
    inside = PurePosixPath(row.name.replace("\\", "/"))
    if inside.is_absolute() or ":" in row.name:
        raise UserError(f"{row.where}: names {row.name!r}, a path of one machine; write it relative to the source")
    candidates = [file for file in named.get(inside.name, []) if file.place.parts[-len(inside.parts) :] == inside.parts]
    if not candidates:
        raise UserError(
            f"{row.where}: names {row.name!r}, which the source does not hold; get it, or name the folder of all "
            "archives"
        )
    if len(candidates) > 1:
        raise UserError(f"{candidates[1].where}: is there twice, also as {candidates[0].where}; remove one")
    return candidates[0]


@dataclass(frozen=True)
class Row:
    """A row of a csv file."""

    where: str
    name: str
    label: str
    split: SplitName | None


def columns(table: File) -> tuple[str, str] | None:
    """The names of the csv file's columns of file names and of labels, as it spells them; None if it lacks one."""
    head = table.read()
    web_pages.refuse(table.where, head)
    names = [name.strip() for name in head.decode("utf-8-sig", "replace").partition("\n")[0].split(",")]
    by_word = {name.lower(): name for name in names}
    file_column = next((by_word[word] for word in FILE_COLUMNS if word in by_word), None)
    label_column = next((by_word[word] for word in LABEL_COLUMNS if word in by_word), None)
    return None if file_column is None or label_column is None else (file_column, label_column)


def rows(table: File) -> Iterator[Row]:
    """The rows of a csv file, without the blanks around names. Raises UserError."""
    names = columns(table)
    if names is None:
        raise UserError(f"{table.where}:1: has no columns filename,label; get the original")
    try:
        reader = csv.DictReader(io.StringIO(table.read().decode("utf-8-sig")), strict=True, skipinitialspace=True)
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        for row in reader:
            yield _row(f"{table.where}:{reader.line_num}", row, *names)
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{table.where}: not readable as csv ({reason(error)}); get the original") from None


def _row(where: str, row: Mapping[str, str | None], file_column: str, label_column: str) -> Row:
    name, label = ((row[column] or "").strip() for column in (file_column, label_column))
    if not name or not label:
        raise UserError(f"{where}: lacks a file name or a label; get the original")
    if not f"{name}{label}".isprintable():  # it would break the lines of messages
        raise UserError(f"{where}: its file name or label cannot be printed; get the original")
    said = next((value for column, value in row.items() if column and column.lower() == SPLIT_COLUMN), None)
    if said is None:
        return Row(where, name, label, None)
    if said.strip().lower() not in SPLIT_OF:
        raise UserError(f"{where}: split '{plain(said)}' is none of train, val, test; mend it")
    return Row(where, name, label, SPLIT_OF[said.strip().lower()])


def split_tables(tables: list[File]) -> dict[SplitName | None, File]:
    """The files train.csv, val.csv and test.csv among `tables`. Raises UserError for two that differ."""
    found: dict[SplitName | None, File] = {}
    for table in tables:
        split = SPLIT_OF.get(table.place.stem.lower())
        if split is not None and found.setdefault(split, table).read() != table.read():
            raise UserError(f"{table.where}: differs from {found[split].where}; remove the wrong one")
    return {split: found[split] for split in SPLITS if split in found}


def _check_label(where: str, name: str, label: str) -> None:
    """Ravi & Larochelle's file names start with the WordNet id that is the label."""
    said = _WORDNET_ID.match(name)
    if said and _WORDNET_ID.match(label) and said[0] != label:
        raise UserError(f"{where}: {name} is labelled '{label}', but its name says '{said[0]}'; get the original")
