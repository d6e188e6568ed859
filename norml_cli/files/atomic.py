"""Files that are whole or not there: written beside their place, flushed to disk, then moved into it. And where caches
lie.
"""

import glob
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from platformdirs import user_cache_path

from norml_cli.files.errors import UserError
from norml_cli.files.regular import open_regular, require_regular


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file and move it to `path`, making the folder if needed.

    Whatever goes wrong, `path` holds what it held before and the temporary file is gone. A symbolic link stays, and
    what it leads to is written; a file that is replaced hands its mode on.
    Raises UserError if the place cannot be written, or holds what is no regular file: a device, a pipe, a folder.
    """
    try:
        place = Path(os.path.realpath(path))
        mode = _mode(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{place.name}.", suffix=".part", dir=place.parent)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); choose a folder you may write to"
        ) from error
    try:
        with os.fdopen(handle, "w+b") as file:  # readable too: HDF5 reads back what it wrote
            write(file)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(mode)
        Path(name).replace(place)
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


def _mode(place: Path) -> int:
    """The mode of the file there, or what open() would give a new one. Raises OSError for what is no regular file."""
    try:
        require_regular(place)
        return stat.S_IMODE(place.stat().st_mode)
    except FileNotFoundError:
        return 0o666 & ~_umask()


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
