"""Which class belongs to meta-train, meta-val and meta-test: by a seeded shuffle, by text files, or by the source."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
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

OnProgress = Callable[[int, int], None]  # (done, total): called now and then; may raise to stop

MAX_FILE_BYTES = 16_000_000  # chosen: a hundred times Omniglot's largest
_LINE = re.compile(r"^(?P<name>.+?)(?:/rot(?P<degrees>[^/]*))?$")
_TURNS = {"000": 0, "090": 1, "180": 2, "270": 3}  # quarter turns counter-clockwise, as norml.episodes


class ClassStream(Protocol):
    """C named classes with their P examples each, one after the other: they need not lie in memory together."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[C, P, height, width] of grey images, [C, P, height, width, 3] of colour ones, [C, P, F] of features."""

    def __iter__(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """Each class's name and its examples [P, ...]. Raises UserError where a class cannot be read."""


@dataclass(frozen=True)
class ImageClasses:
    """Named classes and their images in memory. names: C distinct texts; images: [C, P, height, width] uint8."""

    names: tuple[str, ...]
    images: NDArray[np.uint8]

    @property
    def shape(self) -> tuple[int, ...]:
        """[C, P, height, width]."""
        return self.images.shape

    def __iter__(self) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Each class's name and its images [P, height, width]."""
        return zip(self.names, self.images, strict=True)


def _nothing() -> list[str]:
    return []


@dataclass(frozen=True)
class LoadedDataset:
    """A data set's classes by split, to be read through once, and what they are read from (never a path)."""

    splits: Mapping[SplitName, ClassStream]
    source: str
    content_hash: str | None = None  # which the cache must turn out to have; None: any
    remarks: Callable[[], list[str]] = _nothing  # one line each on what was seen, once all classes have been read


def cut(entry: DatasetEntry, entry_file: Path, drawn: ImageClasses) -> dict[SplitName, ImageClasses]:
    """The classes of each split, as `entry.splits` declares them.

    Raises UserError where the declaration and the classes at hand contradict each other.
    """
    if isinstance(entry.splits, SeededSplit):
        return _cut_by_seed(entry.splits, entry_file, drawn)
    assert isinstance(entry.splits, FileSplit)  # noqa: S101 - the registry admits no other for data that comes unsplit
    return _cut_by_files(entry, entry.splits, entry_file, drawn)


def identity(entry: DatasetEntry, entry_file: Path) -> dict[str, Any]:
    """What decides the splits, as JSON values: seed and sizes, the lines of the split files, or sizes alone."""
    if isinstance(entry.splits, SeededSplit | SourceSplit):
        return entry.splits.model_dump(mode="json", exclude={"source"})
    values: dict[str, Any] = {"kind": entry.splits.kind}
    for split in SPLITS:
        values[split] = [text for _, text in _lines(_path(entry.splits, split, entry_file))]
    return values


# ----------------------------------------------------------------------------------------------------- seeded splits


def seeded_order(names: tuple[str, ...], seed: int) -> list[str]:
    """`names` shuffled by the SHA-256 of 'seed/name': the order they came in does not matter."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())


def _cut_by_seed(splits: SeededSplit, entry_file: Path, drawn: ImageClasses) -> dict[SplitName, ImageClasses]:
    sizes = {split: int(getattr(splits, split)) for split in SPLITS}
    if sum(sizes.values()) > len(drawn.names):
        raise UserError(f"{entry_file}: splits: {sum(sizes.values())} classes in all, but there are {len(drawn.names)}")
    order = seeded_order(drawn.names, splits.seed)
    place = {name: index for index, name in enumerate(drawn.names)}
    parts: dict[SplitName, ImageClasses] = {}
    for split, size in sizes.items():
        names, order = order[:size], order[size:]
        parts[split] = ImageClasses(tuple(names), drawn.images[[place[name] for name in names]])
    return parts


# ------------------------------------------------------------------------------------------------------- file splits


def _cut_by_files(
    entry: DatasetEntry, splits: FileSplit, entry_file: Path, drawn: ImageClasses
) -> dict[SplitName, ImageClasses]:
    place = {name: index for index, name in enumerate(drawn.names)}
    split_of: dict[str, SplitName] = {}
    parts: dict[SplitName, ImageClasses] = {}
    for split in SPLITS:
        path = _path(splits, split, entry_file)
        listed: dict[str, tuple[int, int]] = {}  # line -> (class index, turn)
        for number, line in _lines(path):
            name, turn = _parse(line, f"{path}:{number}", as_classes=entry.rotations.value == "as-classes")
            if name not in place:
                raise UserError(f"{path}:{number}: '{entry.id}' has no class '{name}'{did_you_mean(name, place)}")
            if line in listed:
                raise UserError(f"{path}:{number}: '{line}' stands twice in this file; remove one")
            if split_of.setdefault(name, split) != split:
                raise UserError(f"{path}:{number}: '{name}' is in {split_of[name]} already; keep it in one split")
            listed[line] = (place[name], turn)
        if not listed:
            raise UserError(f"{path}: lists no classes; write one a line")
        images = np.stack([np.rot90(drawn.images[index], turn, axes=(1, 2)) for index, turn in listed.values()])
        parts[split] = ImageClasses(tuple(listed), images)
    return parts


def _path(splits: FileSplit, split: SplitName, entry_file: Path) -> Path:
    return entry_file.parent / str(getattr(splits, split))


def _lines(path: Path) -> list[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1."""
    try:
        text = read_regular(path, MAX_FILE_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise UserError(f"{path}: cannot be read as a split file: {reason}") from None
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


def _parse(line: str, where: str, *, as_classes: bool) -> tuple[str, int]:
    """`Alphabet/character[/rotNNN]` -> the class's name and its quarter turns."""
    match = _LINE.match(line)
    if match is None:
        raise UserError(f"{where}: '{line}' is not of the form Alphabet/character")
    name, degrees = match["name"], match["degrees"]
    if as_classes and degrees not in _TURNS:
        raise UserError(f"{where}: '{line}' must end in /rot000, /rot090, /rot180 or /rot270 (rotations: as-classes)")
    if not as_classes and degrees is not None:
        raise UserError(
            f"{where}: '{line}' names a rotation; declare rotations: as-classes, or leave /rot{degrees} out"
        )
    return name, _TURNS[degrees] if as_classes else 0
