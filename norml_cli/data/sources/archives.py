"""Files in tar and zip archives, read one after the other into memory: nothing is ever unpacked to disk.

An archive is taken for hostile: every size has a limit before anything is read, links and devices are passed over, and
a name that leads out of the archive condemns it.
"""

import bz2
import gzip
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from norml_cli.data.sources import web_pages
from norml_cli.files.errors import UserError, reason
from norml_cli.files.regular import open_regular

MAX_MEMBERS = 1_000_000  # chosen: over ten times what a data set here holds
MAX_UNPACKED_BYTES = 1 << 34  # chosen: 16 GiB, over ten times the largest data set here
MAX_HEADER_BYTES = 1 << 24  # chosen: 16 MiB; tarfile reads a header whole, and real ones have a few kilobytes

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".zip")  # whatever the content turns out to be
_OPENERS: dict[bytes, Callable[[Path], Any]] = {  # by a compressed file's first bytes
    b"\x1f\x8b": gzip.open,
    b"\xfd7zXZ\0": lzma.open,
    b"BZh": bz2.open,
}
ENCRYPTED = 1  # of a member's flags
_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")

_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,  # encrypted, and headers nested too deep
    NotImplementedError,
    ValueError,
    OverflowError,
    struct.error,
    OSError,
)

Limit = Callable[[str], int | None]


def is_archive(path: Path) -> bool:
    """Whether `path` is a file whose name ends as an archive's."""
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def stem(path: Path) -> str:
    """The archive's name without its suffix."""
    suffix = max((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), key=len)
    return path.name[: -len(suffix)]


def read_files(path: Path, limit_bytes: Limit) -> Iterator[tuple[str, bytes]]:
    """Name and content of each regular file in the archive that is wanted, in the archive's order.

    What kind of archive it is, its content says; its name may be wrong.
    limit_bytes: the most bytes that a file of that name may have, or None for a file that is not wanted.
    Raises UserError with one line for an archive that is damaged, too large or leads out of itself.
    """
    kind = "zip" if path.name.lower().endswith(".zip") else "tar"
    try:
        with open_regular(path) as file:
            head = file.read(web_pages.HEAD_BYTES)
        web_pages.refuse(path, head)
        kind = "zip" if head.startswith(_ZIP_STARTS) else "tar" if _is_tar(head) else kind
        yield from (_in_zip if kind == "zip" else _in_tar)(path, limit_bytes)
    except _DAMAGED as error:
        raise UserError(f"{path}: not a complete {kind} archive ({reason(error)}); fetch it again") from None


def _is_tar(head: bytes) -> bool:
    return head.startswith(tuple(_OPENERS)) or head[257:262] == b"ustar"


def _in_zip(path: Path, limit_bytes: Limit) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for count, info in enumerate(archive.infolist()):
            name = _checked_name(path, info.filename, count)
            if (
                info.is_dir()
                or stat.S_ISLNK(info.external_attr >> 16)
                or not _wanted(path, name, info.file_size, limit_bytes)
            ):
                continue
            if info.flag_bits & ENCRYPTED:
                raise UserError(f"{path}: {name}: is encrypted; name an archive without a password")
            try:
                content = archive.read(info)
            except _DAMAGED as error:
                raise UserError(f"{path}: {name}: cannot be read ({reason(error)}); fetch it again") from None
            yield name, content


def _in_tar(path: Path, limit_bytes: Limit) -> Iterator[tuple[str, bytes]]:
    with _uncompressed(path) as stream, tarfile.open(fileobj=_Forwards(stream, path), mode="r:") as archive:  # type: ignore[call-overload]
        for count, info in enumerate(archive):
            name = _checked_name(path, info.name, count)
            if info.isreg() and _wanted(path, name, info.size, limit_bytes):
                content = archive.extractfile(info)
                assert content is not None  # noqa: S101 - a regular file has content
                yield name, content.read()


def _uncompressed(path: Path) -> Any:
    with open_regular(path) as file:
        head = file.read(max(map(len, _OPENERS)))
    opener = next((opener for start, opener in _OPENERS.items() if head.startswith(start)), None)
    return open_regular(path) if opener is None else opener(path)


def _checked_name(path: Path, name: str, count: int) -> str:
    """`name` without './', if it stays inside the archive and the archive within its limit of members."""
    if count >= MAX_MEMBERS:
        raise UserError(f"{path}: holds more than {MAX_MEMBERS:,} files; no data set here is like that")
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts or "\\" in name:
        raise UserError(f"{path}: holds {name!r}, which leads out of the archive; do not trust this file")
    return str(inside)


def _wanted(path: Path, name: str, size_bytes: int, limit_bytes: Limit) -> bool:
    limit = limit_bytes(name) if name.isprintable() else None  # as macOS's 'Icon\r'
    if limit is not None and size_bytes > limit:
        raise UserError(
            f"{path}: {name}: {size_bytes:,} bytes are too many (at most {limit:,} expected); fetch the archive again"
        )
    return limit is not None


class _Forwards:
    """A stream as tarfile reads it, forwards only and with an end: neither a header nor the whole can be endless."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self._stream, self._path, self._position = stream, path, 0

    def tell(self) -> int:
        return self._position

    def read(self, size: int) -> bytes:
        if size > MAX_HEADER_BYTES or self._position > MAX_UNPACKED_BYTES:
            raise UserError(f"{self._path}: is far larger unpacked than any data set here; do not trust this file")
        data = self._stream.read(size)
        self._position += len(data)
        return data

    def seek(self, position: int) -> None:
        if position < self._position:
            raise tarfile.ReadError("its files overlap")
        while self._position < position and self.read(min(position - self._position, 1 << 16)):
            pass
