"""Files that are whole or not there: written beside their place, flushed to disk, then moved into it. And where caches
lie.
"""

import glob
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

from platformdirs import user_cache_path

from norml_cli.files.errors import UserError
from norml_cli.files.regular import NotRegular, open_regular, require_regular


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file and move it to `path`, making the folder if needed.

    Whatever goes wrong, `path` holds what it held before and the temporary file is gone. A symbolic link stays, and
    what it leads to is written; a file that is replaced hands on its mode and, where the system allows it, its owner.
    Raises UserError if the place cannot be written, or holds what is no regular file: a device, a pipe, a folder.
    """
    with _written(path, write) as move:
        move()


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write each file as `write_atomically` does, and none to its place before all are on the disk."""
    with ExitStack() as stack:
        moves = [stack.enter_context(_written(path, partial(_fill, data))) for path, data in contents.items()]
        for move in moves:
            move()


def _fill(data: bytes, file: BinaryIO) -> None:
    file.write(data)


@contextmanager
def _written(path: Path, write: Callable[[BinaryIO], object]) -> Iterator[Callable[[], object]]:
    """A temporary file beside `path`, filled by `write` and flushed; what is yielded moves it to its place."""
    try:
        place = Path(os.path.realpath(path))
        before = _stat(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{place.name}.", suffix=".part", dir=place.parent)
    except OSError as error:
        remedy = "name another file" if isinstance(error, NotRegular) else "choose a folder you may write to"
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); {remedy}") from error
    try:
        with os.fdopen(handle, "w+b") as file:  # readable too: HDF5 reads back what it wrote
            write(file)
            file.flush()
            os.fsync(file.fileno())
        _hand_on(before, Path(name))
        yield partial(Path(name).replace, place)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); free space or choose another folder"
        ) from error
    finally:
        Path(name).unlink(missing_ok=True)


def home() -> Path:
    """The folder of all caches: NORML_HOME, or the platform's cache folder."""
    return Path(os.environ["NORML_HOME"]) if os.environ.get("NORML_HOME") else user_cache_path("norml")


def clear_leftovers(folder: Path, stem: str) -> None:
    """Remove what killed writers of `folder`'s files named `stem` left; for who knows that no other writer is alive."""
    for leftover in folder.glob(f".{glob.escape(stem)}.*.part"):
        with suppress(OSError):  # what cannot be removed is in nobody's way
            leftover.unlink()


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes. Raises UserError if it cannot be read."""
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def _stat(place: Path) -> os.stat_result | None:
    """Of the file there; None if there is none. Raises OSError for what is no regular file."""
    try:
        require_regular(place)
        return place.stat()
    except FileNotFoundError:
        return None


def _hand_on(before: os.stat_result | None, new: Path) -> None:
    """Mode and owner of the file that is replaced, or the mode that open() would give a new one."""
    if before is None:
        new.chmod(0o666 & ~_umask())
        return
    with suppress(OSError, AttributeError):  # only root may; Windows has no such owners
        os.chown(new, before.st_uid, before.st_gid)
    new.chmod(stat.S_IMODE(before.st_mode))


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
