"""Atomic writes: a temporary file beside the target is filled, flushed to disk and moved into place.

And the folder of all caches.
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

from norml_cli.files.companions import PART
from norml_cli.files.errors import UserError
from norml_cli.files.regular import NotRegular, open_regular, require_regular


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file, then move it to `path`. Makes the folder if needed.

    If anything fails, `path` is unchanged and the temporary file is removed. If `path` is a symbolic link, the link
    stays and its target is replaced. The new file takes over the mode of the old one and, where the system allows it,
    its owner. Raises UserError if `path` cannot be written, or is not a regular file (a device, a pipe, a folder).
    """
    with _prepared(path, write) as move:
        move()


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write each file like `write_atomically`, but move none into place before all are on disk."""
    with ExitStack() as stack:
        moves = [stack.enter_context(_prepared(path, partial(_write_bytes, data))) for path, data in contents.items()]
        for move in moves:
            move()


def _write_bytes(data: bytes, file: BinaryIO) -> None:
    file.write(data)


@contextmanager
def _prepared(path: Path, write: Callable[[BinaryIO], object]) -> Iterator[Callable[[], object]]:
    """Fill a temporary file beside `path` and flush it. Yields the function that moves it into place."""
    try:
        place = Path(os.path.realpath(path))
        before = _stat(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{place.name}.", suffix=PART, dir=place.parent)
    except OSError as error:
        remedy = "name another file" if isinstance(error, NotRegular) else "choose a folder you may write to"
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); {remedy}") from error
    try:
        with os.fdopen(handle, "w+b") as file:  # also readable: HDF5 reads back what it wrote
            write(file)
            file.flush()
            os.fsync(file.fileno())
        _take_over_mode(before, Path(name))
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
    """Remove the temporary files that killed writers of `stem` left in `folder`. The caller must hold the lock."""
    for leftover in folder.glob(f".{glob.escape(stem)}.*{PART}"):
        with suppress(OSError):  # a file that cannot be removed does no harm
            leftover.unlink()


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes. Raises UserError if it cannot be read."""
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); restore it or its permissions") from error


def _stat(place: Path) -> os.stat_result | None:
    """The status of the file at `place`, or None if it does not exist. Raises OSError if it is not a regular file."""
    try:
        require_regular(place)
        return place.stat()
    except FileNotFoundError:
        return None


def _take_over_mode(before: os.stat_result | None, new: Path) -> None:
    """Give `new` the mode and owner of the file that it replaces, or the mode that open() gives a new file."""
    if before is None:
        new.chmod(0o666 & ~_umask())
        return
    with suppress(OSError, AttributeError):  # needs root; Windows has no such owners
        os.chown(new, before.st_uid, before.st_gid)
    new.chmod(stat.S_IMODE(before.st_mode))


def _umask() -> int:
    """The process's file mode mask. The only way to read it is to set it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
