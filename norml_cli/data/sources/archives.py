"""Read files from tar and zip archives, one after the other, into memory. Nothing is unpacked to disk.

Archives are treated as hostile: every size is checked before reading, links and devices are skipped, and a name that
leads out of the archive is an error.
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

MAX_MEMBERS = 1_000_000  # chosen: over ten times the files of any data set here
MAX_UNPACKED_BYTES = 1 << 34  # chosen: 16 GiB, over ten times the largest data set here
MAX_HEADER_BYTES = 1 << 24  # chosen: 16 MiB; tarfile loads a whole header, and real ones have a few kilobytes

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".zip")  # of names; the content decides the kind
_OPENERS: dict[bytes, Callable[[Path], Any]] = {  # by a compressed file's first bytes
    b"\x1f\x8b": gzip.open,
    b"\xfd7zXZ\0": lzma.open,
    b"BZh": bz2.open,
}
ENCRYPTED = 1  # bit in a zip member's flags
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
    """Whether `path` is a file with an archive's suffix."""
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def stem(path: Path) -> str:
    """The archive's name without its suffix."""
    suffix = max((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), key=len)
    return path.name[: -len(suffix)]


def read_files(path: Path, limit_bytes: Limit) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each wanted regular file, in the archive's order.

    The content decides whether it is a tar or a zip archive: its name may be wrong.
    limit_bytes: given a file's name, the most bytes that it may have, or None to skip it.
    Raises UserError with one line for an archive that is damaged, too large, or has names that lead out of it.
    """
    kind = "zip" if path.name.lower().endswith(".zip") else "tar"
    try:
        with open_regular(path) as file:
            head = file.read(web_pages.HEAD_BYTES)
        web_pages.refuse(path, head)
        kind = "zip" if head.startswith(_ZIP_STARTS) else "tar" if _is_tar(head) else kind
        yield from (_in_zip if kind == "zip" else _in_tar)(path, limit_bytes)
    except _DAMAGED as error:
        raise UserError(f"{path}: not a complete {kind} archive ({reason(error)}); download it again") from None


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
                raise UserError(f"{path}: {name}: encrypted; name an archive without a password")
            try:
                content = archive.read(info)
            except _DAMAGED as error:
                raise UserError(f"{path}: {name}: cannot be read ({reason(error)}); download it again") from None
            yield name, content


def _in_tar(path: Path, limit_bytes: Limit) -> Iterator[tuple[str, bytes]]:
    with _uncompressed(path) as stream, tarfile.open(fileobj=_ForwardStream(stream, path), mode="r:") as archive:  # type: ignore[call-overload]
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
    """`name` without './'. Raises UserError if it leads out of the archive, or if the archive has too many files."""
    if count >= MAX_MEMBERS:
        raise UserError(f"{path}: holds more than {MAX_MEMBERS:,} files; no supported data set has so many")
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts or "\\" in name:
        raise UserError(f"{path}: holds {name!r}, which leads out of the archive; do not trust this file")
    return str(inside)


def _wanted(path: Path, name: str, size_bytes: int, limit_bytes: Limit) -> bool:
    limit = limit_bytes(name) if name.isprintable() else None  # skips names such as macOS's 'Icon\r'
    if limit is not None and size_bytes > limit:
        raise UserError(
            f"{path}: {name}: too large, {size_bytes:,} bytes (at most {limit:,} expected); download the archive again"
        )
    return limit is not None


class _ForwardStream:
    """A forward-only stream for tarfile, with limits for each header and for the whole archive."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self._stream, self._path, self._position = stream, path, 0

    def tell(self) -> int:
        return self._position

    def read(self, size: int) -> bytes:
        if size > MAX_HEADER_BYTES or self._position > MAX_UNPACKED_BYTES:
            raise UserError(f"{self._path}: far larger unpacked than any supported data set; do not trust this file")
        data = self._stream.read(size)
        self._position += len(data)
        return data

    def seek(self, position: int) -> None:
        if position < self._position:
            raise tarfile.ReadError("its files overlap")
        while self._position < position and self.read(min(position - self._position, 1 << 16)):
            pass
