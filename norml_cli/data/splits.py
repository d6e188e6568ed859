"""Assign classes to meta-train, meta-val and meta-test: by a seeded shuffle, by text files, or by the source."""

import hashlib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from norml_cli.files.errors import UserError
from norml_cli.files.regular import read_regular
from norml_cli.registry.entries import DatasetEntry, FileSplit, SeededSplit, SourceSplit
from norml_cli.registry.faults import did_you_mean

SplitName = Literal["meta_train", "meta_val", "meta_test"]
SPLITS: tuple[SplitName, ...] = ("meta_train", "meta_val", "meta_test")

OnProgress = Callable[[int, int], None]  # called with (done, total) from time to time; may raise to stop

MAX_FILE_BYTES = 16_000_000  # chosen: a hundred times Omniglot's largest split file
_LINE = re.compile(r"^(?P<name>.+?)(?:/rot(?P<degrees>[^/]*))?$")
_TURNS = {"000": 0, "090": 1, "180": 2, "270": 3}  # quarter turns counter-clockwise, as in norml.episodes


class ClassStream(Protocol):
    """C named classes with their examples, one class after the other. Not all need to be in memory."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of examples of each of the C classes."""

    @property
    def example_shape(self) -> tuple[int, ...]:
        """[height, width] for grey images, [height, width, 3] for colour images, [F] for features."""

    def __iter__(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yield each class's name and its P examples [P, ...]. Raises UserError if a class cannot be read."""


@dataclass(frozen=True)
class ImageClasses:
    """Named classes with all images in memory. names: C distinct texts; images: uint8 [C, P, height, width]."""

    names: tuple[str, ...]
    images: NDArray[np.uint8]

    @property
    def sizes(self) -> tuple[int, ...]:
        """P for each of the C classes."""
        return (self.images.shape[1],) * len(self.names)

    @property
    def example_shape(self) -> tuple[int, ...]:
        """[height, width]."""
        return self.images.shape[2:]

    def __iter__(self) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Yield each class's name and its images [P, height, width]."""
        return zip(self.names, self.images, strict=True)


def _no_remarks() -> list[str]:
    return []


@dataclass(frozen=True)
class LoadedDataset:
    """A data set's classes by split. Iterate over each split once.

    source: the kind of source, for records; never a path.
    source_sha256: SHA-256 (hex) over names and decoded pixels of the raw source. Call it after reading all classes.
    remarks: lines on what was found in the source. Call it after reading all classes.
    """

    splits: Mapping[SplitName, ClassStream]
    source: str
    source_sha256: Callable[[], str]
    remarks: Callable[[], list[str]] = _no_remarks


Members = dict[str, tuple[str, int]]  # a split's classes by name: class of the source and quarter turns


def cut(entry: DatasetEntry, entry_file: Path, drawn: ImageClasses) -> dict[SplitName, ImageClasses]:
    """The classes of each split, as `entry.splits` declares them.

    Raises UserError if the declaration does not fit the classes.
    """
    place = {name: index for index, name in enumerate(drawn.names)}
    parts: dict[SplitName, ImageClasses] = {}
    for split, members in assigned(entry, entry_file, drawn.names).items():
        images = [np.rot90(drawn.images[place[name]], turn, axes=(1, 2)) for name, turn in members.values()]
        parts[split] = ImageClasses(tuple(members), np.stack(images))
    return parts


def assigned(entry: DatasetEntry, entry_file: Path, names: Sequence[str]) -> dict[SplitName, Members]:
    """Assign the classes `names` to splits, as `entry.splits` declares. Raises UserError where `cut` does."""
    if isinstance(entry.splits, SeededSplit):
        return _by_seed(entry.splits, entry_file, names)
    assert isinstance(entry.splits, FileSplit)  # noqa: S101 - a source with its own splits never comes here
    return _by_files(entry, entry.splits, entry_file, names)


def identity(entry: DatasetEntry, entry_file: Path) -> dict[str, Any]:
    """The values that decide the splits, for JSON: seed and sizes, the lines of the split files, or only sizes."""
    if isinstance(entry.splits, SeededSplit | SourceSplit):
        return entry.splits.model_dump(mode="json", exclude={"source"})
    values: dict[str, Any] = {"kind": entry.splits.kind}
    for split in SPLITS:
        values[split] = [text for _, text in _lines(_path(entry.splits, split, entry_file))]
    return values


# ----------------------------------------------------------------------------------------------------- seeded splits


def seeded_order(names: Sequence[str], seed: int) -> list[str]:
    """`names` sorted by the SHA-256 of 'seed/name': a shuffle that does not depend on their order."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())


def _by_seed(splits: SeededSplit, entry_file: Path, names: Sequence[str]) -> dict[SplitName, Members]:
    sizes = {split: int(getattr(splits, split)) for split in SPLITS}
    if sum(sizes.values()) > len(names):
        raise UserError(
            f"{entry_file}: splits: declares {sum(sizes.values())} classes in all, but there are {len(names)}; "
            "declare fewer"
        )
    order = iter(seeded_order(names, splits.seed))
    return {split: {name: (name, 0) for name in itertools.islice(order, size)} for split, size in sizes.items()}


# ------------------------------------------------------------------------------------------------------- file splits


def _by_files(
    entry: DatasetEntry, splits: FileSplit, entry_file: Path, names: Sequence[str]
) -> dict[SplitName, Members]:
    known, split_of, parts = set(names), dict[str, SplitName](), dict[SplitName, Members]()
    for split in SPLITS:
        path = _path(splits, split, entry_file)
        listed: Members = {}
        for number, line in _lines(path):
            name, turn = _parse(line, f"{path}:{number}", as_classes=entry.rotations.value == "as-classes")
            if name not in known:
                raise UserError(f"{path}:{number}: '{entry.id}' has no class '{name}'{did_you_mean(name, known)}")
            if line in listed:
                raise UserError(f"{path}:{number}: '{line}' is listed twice in this file; remove one")
            if split_of.setdefault(name, split) != split:
                raise UserError(f"{path}:{number}: '{name}' is already in {split_of[name]}; keep it in one split")
            listed[line] = (name, turn)
        if not listed:
            raise UserError(f"{path}: lists no classes; write one per line")
        parts[split] = listed
    return parts


def _path(splits: FileSplit, split: SplitName, entry_file: Path) -> Path:
    return entry_file.parent / str(getattr(splits, split))


def _lines(path: Path) -> list[tuple[int, str]]:
    """The non-blank lines with their numbers, from 1. Raises UserError."""
    try:
        text = read_regular(path, MAX_FILE_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise UserError(f"{path}: cannot be read as a split file ({reason}); list the classes in UTF-8 text") from None
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


def _parse(line: str, where: str, *, as_classes: bool) -> tuple[str, int]:
    """`Alphabet/character[/rotNNN]` -> the class's name and its quarter turns."""
    match = _LINE.match(line)
    if match is None:
        raise UserError(f"{where}: '{line}' is not of the form Alphabet/character; write it so")
    name, degrees = match["name"], match["degrees"]
    if as_classes and degrees not in _TURNS:
        raise UserError(f"{where}: '{line}' must end in /rot000, /rot090, /rot180 or /rot270 (rotations: as-classes)")
    if not as_classes and degrees is not None:
        raise UserError(
            f"{where}: '{line}' names a rotation; declare rotations: as-classes, or leave out /rot{degrees}"
        )
    return name, _TURNS[degrees] if as_classes else 0
