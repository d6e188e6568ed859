"""Find the images, csv files and pickles in a folder or in archives. Files in a folder are read later."""

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

from norml_cli.data.sources import archives
from norml_cli.data.splits import SplitName
from norml_cli.files.errors import UserError, reason
from norml_cli.files.regular import open_regular

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp"}
PICKLE_SUFFIXES = {".pkl", ".pickle"}
SYSTEM_FILES = {"thumbs.db", "desktop.ini"}
MAX_CSV_BYTES = 20_000_000  # chosen: over ten times mini-ImageNet's train.csv
MAX_LIST_BYTES = 1_000_000  # chosen: over a hundred times tieredImageNet's 351 names
MAX_INFO_BYTES = 1_000_000  # chosen: over a hundred times one of Meta-Album's
KINDS_NAMED = 4  # chosen: kinds of ignored files that one line names
MAX_FILES = 3_000_000  # chosen: over twice ImageNet's training images
MAX_HELD_BYTES = 1 << 30  # chosen: 1 GiB of encoded images from archives; mini-ImageNet has 0.15
SPLIT_OF: dict[str, SplitName] = {  # names of splits in folders, files and csv files
    **dict.fromkeys(("train", "training", "meta-train", "meta_train", "base"), "meta_train"),
    **dict.fromkeys(("val", "valid", "validation", "meta-val", "meta_val"), "meta_val"),
    **dict.fromkeys(("test", "testing", "meta-test", "meta_test", "novel"), "meta_test"),
}
HIDDEN = "hidden or system files"
READ = {
    "image": 0,
    "table": MAX_CSV_BYTES,
    "list": MAX_LIST_BYTES,
    "info": MAX_INFO_BYTES,
}  # kinds that are read, and the most bytes of each; 0: the data set's own limit


@dataclass(frozen=True, slots=True)
class File:
    """A file: its path inside the source, its name in messages, and a function that reads its bytes."""

    place: PurePosixPath
    where: str
    read: Callable[[], bytes]


@dataclass
class SourceFiles:
    """The files of a source, its folders without images, and the number of ignored files by kind."""

    text: str
    images: list[File] = field(default_factory=list)
    tables: list[File] = field(default_factory=list)
    lists: list[File] = field(default_factory=list)  # text files named after a split, which may list its classes
    info: File | None = None  # Meta-Album's info.json, which names the columns of the csv file
    pickles: list[Path] = field(default_factory=list)  # in a folder
    packed_pickles: list[tuple[Path, str]] = field(default_factory=list)  # archive and name
    empty_folders: list[PurePosixPath] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, file: File) -> None:
        """Add a file to the list of its kind."""
        if kind == "info":
            self.info = self.info or file
        else:
            {"image": self.images, "table": self.tables, "list": self.lists}[kind].append(file)

    def remark(self) -> list[str]:
        """One line on ignored files, or none."""
        kinds = self.ignored.most_common()
        named = [*sorted(kinds[:KINDS_NAMED]), ("others", sum(count for _, count in kinds[KINDS_NAMED:]))]
        counts = [f"{count:,} {what}" for what, count in named if count]
        return [f"ignored: {', '.join(counts)}"] if counts else []

    def seen(self) -> str:
        """' (ignored: 3 .rar files)' for messages, or an empty text."""
        return "".join(f" ({line})" for line in self.remark())


def place_of(name: str) -> PurePosixPath:
    """The file's path in NFC, so that names from macOS, which separates accents from letters, compare equal."""
    return PurePosixPath(unicodedata.normalize("NFC", name))


def kind_of(name: str) -> str:
    """'image', 'table', 'list', 'info' or 'pickle'; for an ignored file, its kind in words."""
    inside = PurePosixPath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in inside.parts)
    if hidden or inside.name.lower() in SYSTEM_FILES or not name.isprintable():
        return HIDDEN
    suffix = inside.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return "image"
    if suffix == ".csv":
        return "table"
    if inside.name.lower() == "info.json":
        return "info"
    if suffix == ".txt" and inside.stem.lower() in SPLIT_OF:
        return "list"
    return "pickle" if suffix in PICKLE_SUFFIXES else f"{suffix or 'nameless'} files"


def in_folder(source: Path, max_image_bytes: int, *, links_out: bool) -> tuple[SourceFiles, list[Path]]:
    """The files anywhere in a folder, and the archives there.

    links_out: whether symbolic links may lead out of the folder. Raises UserError.
    """
    found, packed = SourceFiles("a folder"), list[Path]()
    for path in _walk(source, found, links_out=links_out):
        place = place_of(path.relative_to(source).as_posix())
        kind = kind_of(str(place))
        if kind == "pickle":
            found.pickles.append(path)
        elif kind in READ:
            limit_bytes = READ[kind] or max_image_bytes
            found.add(kind, File(place, str(path), partial(content, path, limit_bytes)))
        elif archives.is_archive(path) and kind != HIDDEN:
            packed.append(path)
        else:
            found.ignored[kind] += 1
    return found, packed


def _walk(source: Path, found: SourceFiles, *, links_out: bool) -> Iterator[Path]:
    """The files under a folder, sorted by name. Visits no folder twice, even if links lead to it. Raises UserError."""
    root, seen, count = source.resolve(), set[Path](), 0
    for folder, folders, names in os.walk(source, followlinks=True, onerror=_unreadable):
        here = Path(folder)
        if here.resolve() in seen:
            folders.clear()
            continue
        seen.add(here.resolve())
        folders.sort()
        for name in (*folders, *names) if not links_out else ():
            if (here / name).is_symlink() and not (here / name).resolve().is_relative_to(root):
                raise UserError(f"{here / name}: a link to a place outside {source}; replace it by the files")
        found.ignored[HIDDEN] += sum(kind_of(name) == HIDDEN for name in folders)
        folders[:] = [name for name in folders if kind_of(name) != HIDDEN]
        count += len(names)
        if count > MAX_FILES:
            raise UserError(f"--source {source}: holds more than {MAX_FILES:,} files; name the data set's folder")
        if not folders and not any(kind_of(name) == "image" for name in names):
            found.empty_folders.append(PurePosixPath(here.relative_to(source).as_posix()))
        yield from (here / name for name in sorted(names))
    found.ignored += Counter()  # removes zeros


def _unreadable(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot be read ({reason(error)}); name another folder")


def content(path: Path, limit_bytes: int) -> bytes:
    """The bytes of a file. Raises UserError if it cannot be read, or has more than `limit_bytes`."""
    try:
        with open_regular(path) as file:
            data = file.read(limit_bytes + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); get the original file") from None
    if len(data) > limit_bytes:
        raise UserError(f"{path}: too large, more than {limit_bytes:,} bytes; get the original file")
    return data


def in_archives(paths: list[Path], max_image_bytes: int) -> SourceFiles:
    """The files of all archives, as if each were unpacked into a folder with the archive's name. Raises UserError."""
    found = SourceFiles("an archive" if len(paths) == 1 else f"{len(paths)} archives")
    held_bytes = 0
    limits = {kind: limit_bytes or max_image_bytes for kind, limit_bytes in READ.items()}
    for path in paths:

        def limit_bytes(name: str, path: Path = path) -> int | None:
            kind = kind_of(name)
            if kind == "pickle":
                found.packed_pickles.append((path, name))
            elif kind not in limits:
                found.ignored[kind] += 1
            return limits.get(kind)

        for name, data in archives.read_files(path, limit_bytes):
            held_bytes += len(data)
            if held_bytes > MAX_HELD_BYTES:
                raise UserError(
                    f"{path}: its images take more than {MAX_HELD_BYTES:,} bytes; unpack it and name the folder"
                )
            file = File(place_of(f"{archives.stem(path)}/{name}"), f"{path}: {name}", partial(bytes, data))
            found.add(kind_of(name), file)
    return found


def tables_beside(source: Path) -> Iterator[File]:
    """The csv files beside an archive, or in the folder of several archives."""
    folder = source if source.is_dir() else source.parent
    for path in sorted(folder.glob("*.[cC][sS][vV]")):
        if path.is_file() and kind_of(path.name) == "table":
            yield File(PurePosixPath(path.name), str(path), partial(content, path, MAX_CSV_BYTES))
