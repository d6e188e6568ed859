"""Open regular files only: a pipe may never end, and devices and folders hold no data."""

import errno
import stat
from io import BufferedReader
from pathlib import Path

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotRegular(OSError):  # noqa: N818 - names what was found
    """The path is not a regular file."""


def other_kind(mode: int) -> str | None:
    """What a file of this mode is, in words. None: a regular file."""
    return None if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "a special file")


def require_regular(path: Path) -> int:
    """The size in bytes of the regular file at `path`, unopened. Raises OSError; NotRegular for any other kind."""
    found = path.stat()
    kind = other_kind(found.st_mode)
    if kind is not None:
        raise NotRegular(errno.EINVAL, f"it is {kind}, not a file")
    return found.st_size


def open_regular(path: Path) -> BufferedReader:
    """Open the regular file at `path` for reading. Raises OSError."""
    require_regular(path)
    return path.open("rb")


def read_regular(path: Path, limit_bytes: int) -> bytes:
    """The bytes of the regular file at `path`. Raises OSError, and ValueError above `limit_bytes`."""
    if require_regular(path) > limit_bytes:
        raise ValueError(f"larger than {limit_bytes:,} bytes")
    return path.read_bytes()
