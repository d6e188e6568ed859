"""Read csv files that give the label, and perhaps the split, of each image; and text files that list classes."""

import codecs
import csv
import io
import json
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from norml_cli.data.sources import web_pages
from norml_cli.data.sources.found_files import SPLIT_OF, File
from norml_cli.data.splits import SplitName
from norml_cli.files.errors import UserError, plain, reason

SPLIT_COLUMN = "split"
DELIMITERS = (",", ";", "\t")  # spreadsheets write ; in countries with a decimal comma


@dataclass(frozen=True)
class ColumnNames:
    """Accepted names, in lower case, of the column of file names and the column of labels."""

    files: tuple[str, ...] = ("filename", "file_name")
    labels: tuple[str, ...] = ("label", "category")


@dataclass(frozen=True)
class _Header:
    """A csv file's delimiter, and its spelling of the two columns."""

    delimiter: str
    file_column: str
    label_column: str


@dataclass(frozen=True)
class CsvRow:
    """A row of a csv file. where: file and line, for messages."""

    where: str
    name: str
    label: str
    split: SplitName | None


def column_names(info: File | None) -> ColumnNames:
    """The usual column names, and those in Meta-Album's info.json, if there is one."""
    usual = ColumnNames()
    try:
        said = {} if info is None else json.loads(info.read())
    except (ValueError, RecursionError):
        return usual
    named = [said.get(f"{key}_column_name") if isinstance(said, dict) else None for key in ("image", "category")]
    files, labels = ((name.lower(),) if isinstance(name, str) and name else () for name in named)
    return ColumnNames(files + usual.files, labels + usual.labels)


def is_index(table: File, names: ColumnNames) -> bool:
    """Whether the csv file has a column of file names and one of labels."""
    return _header(table, names) is not None


def _header(table: File, names: ColumnNames) -> _Header | None:
    head = table.read()
    web_pages.refuse(table.where, head)
    first = head.decode(_encoding(head), "replace").partition("\n")[0]
    for delimiter in DELIMITERS:
        words = [word.strip().strip('"').strip() for word in first.split(delimiter)]
        by_word = {word.lower(): word for word in words}
        file_column, label_column = (
            next((by_word[name] for name in known if name in by_word), None) for known in (names.files, names.labels)
        )
        if file_column is not None and label_column is not None:
            return _Header(delimiter, file_column, label_column)
    return None


def _encoding(data: bytes) -> str:
    """UTF-8, or UTF-16 if the file starts with its byte order mark: some spreadsheets save that."""
    return "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def rows(table: File, names: ColumnNames) -> Iterator[CsvRow]:
    """The rows of a csv file, with words stripped of blanks. Raises UserError."""
    header = _header(table, names)
    if header is None:
        raise UserError(f"{table.where}:1: no columns {names.files[0]},{names.labels[0]}; rename the columns")
    try:
        data = table.read()
        text = io.StringIO(unicodedata.normalize("NFC", data.decode(_encoding(data))))
        reader = csv.DictReader(text, strict=True, skipinitialspace=True, delimiter=header.delimiter)
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        for row in reader:
            yield _row(f"{table.where}:{reader.line_num}", row, header)
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{table.where}: not readable as csv ({reason(error)}); save it as UTF-8") from None


def _row(where: str, row: Mapping[str, str | None], header: _Header) -> CsvRow:
    name, label = ((row[column] or "").strip() for column in (header.file_column, header.label_column))
    if not name or not label:
        raise UserError(f"{where}: no file name or no label; fix the row, or get the original file")
    if not f"{name}{label}".isprintable():  # would break the lines of messages
        raise UserError(f"{where}: file name or label is not printable; get the original file")
    said = next((value for column, value in row.items() if column and column.lower() == SPLIT_COLUMN), None)
    if said is None:
        return CsvRow(where, name, label, None)
    if said.strip().lower() not in SPLIT_OF:
        raise UserError(f"{where}: unknown split '{plain(said)}'; write train, val or test")
    return CsvRow(where, name, label, SPLIT_OF[said.strip().lower()])


def listed_classes(file: File) -> list[str]:
    """The classes that a file lists, one per line, up to the first comma. Raises UserError."""
    try:
        text = unicodedata.normalize("NFC", file.read().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{file.where}: not readable ({reason(error)}); save it as UTF-8") from None
    return [name for name in (line.partition(",")[0].strip() for line in text.splitlines()) if name]


def split_tables(tables: list[File]) -> dict[SplitName | None, File]:
    """The files train.*, val.* and test.* among `tables`. Raises UserError if two of one split differ."""
    found: dict[SplitName | None, File] = {}
    for table in tables:
        split = SPLIT_OF.get(table.place.stem.lower())
        if split is not None and found.setdefault(split, table).read() != table.read():
            raise UserError(f"{table.where}: differs from {found[split].where}; remove the wrong one")
    return {split: found[split] for split in ("meta_train", "meta_val", "meta_test") if split in found}
