"""Archives are read in memory, in their own order, and never further than their limits."""

import io
import lzma
import stat
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from norml_cli.data.sources import archives
from norml_cli.data.sources.archives import SUFFIXES, is_archive, read_files, stem
from norml_cli.files.errors import UserError
from tests.helpers.photos import write_tar, write_zip

FILES = {"b/2.txt": b"two", "a/1.txt": b"one" * 1000, "b/3.bin": b"\0" * 512, "c": b""}


def written(folder: Path, suffix: str, files: dict[str, bytes]) -> Path:
    return (write_zip if suffix == ".zip" else write_tar)(folder / f"made{suffix}", files)


def everything(_: str) -> int:
    return 10_000


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_kind_gives_its_files_in_order(tmp_path: Path, suffix: str):
    path = written(tmp_path, suffix, FILES)
    assert list(read_files(path, everything)) == list(FILES.items())
    assert is_archive(path)
    assert stem(path) == "made"


def test_only_files_named_as_archives_are_archives(tmp_path: Path):
    (tmp_path / "folder.zip").mkdir()
    (tmp_path / "notes.gz").write_bytes(b"")
    assert not any(is_archive(tmp_path / name) for name in ("folder.zip", "notes.gz", "nowhere.tar"))


@pytest.mark.parametrize("suffix", [".tar.xz", ".zip"])
def test_unwanted_files_are_not_read_and_wanted_ones_have_a_limit(tmp_path: Path, suffix: str):
    path = written(tmp_path, suffix, FILES)
    assert list(read_files(path, lambda name: 3 if name == "b/2.txt" else None)) == [("b/2.txt", b"two")]
    with pytest.raises(UserError, match=r"a/1\.txt: too large, 3,000 bytes \(at most 2,999 expected\)"):
        list(read_files(path, lambda name: 2_999 if name == "a/1.txt" else None))


def test_links_in_a_zip_are_passed_over(tmp_path: Path):
    path = write_zip(tmp_path / "made.zip", FILES)
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    assert dict(read_files(path, everything)) == FILES


def test_an_encrypted_zip_is_told(tmp_path: Path):
    data = bytearray(write_zip(tmp_path / "made.zip", {"a": b"x" * 100}).read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + place] |= 1
    (tmp_path / "made.zip").write_bytes(data)
    with pytest.raises(UserError, match=r"made\.zip: a: encrypted; name an archive without a password$"):
        list(read_files(tmp_path / "made.zip", everything))


def test_a_header_that_asks_for_memory_is_refused_without_it(tmp_path: Path):
    """tarfile reads extended headers whole; this one says that it has 2 GB."""
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, 2_000_000_000
    path = tmp_path / "made.tar.xz"
    with lzma.open(path, "wb") as file:
        file.write(header.tobuf() + bytes(60_000_000))
    tracemalloc.start()
    with pytest.raises(UserError, match=r"made\.tar\.xz: far larger unpacked"):
        list(read_files(path, everything))
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_an_endless_archive_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archives, "MAX_UNPACKED_BYTES", 1_000_000)
    path = write_tar(tmp_path / "made.tar.gz", {"large": bytes(2_000_000), **FILES})
    with pytest.raises(UserError, match="far larger unpacked than any supported data set"):
        list(read_files(path, lambda name: 10 if name == "c" else None))


@pytest.mark.parametrize("suffix", [".tar", ".zip"])
def test_an_archive_of_endless_members_is_left(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    with pytest.raises(UserError, match="holds more than 3 files"):
        list(read_files(written(tmp_path, suffix, FILES), everything))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_other_content_than_the_name_says_is_told(tmp_path: Path, suffix: str):
    path = tmp_path / f"made{suffix}"
    path.write_bytes(b"\x1f\x8b nothing of the kind" * 100)
    with pytest.raises(UserError, match=r"not a complete (tar|zip) archive .*; download it again"):
        list(read_files(path, everything))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_flipped_byte_anywhere_is_other_content_or_one_line(tmp_path: Path, suffix: str):
    path = written(tmp_path, suffix, FILES)
    data = path.read_bytes()
    for place in range(0, len(data), max(1, len(data) // 200)):
        flipped = bytearray(data)
        flipped[place] ^= 0x41
        path.write_bytes(flipped)
        try:
            list(read_files(path, everything))
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017 - tar has no checksums of contents


def test_sparse_files_that_jump_backwards_are_refused(tmp_path: Path):
    """A map of a file's parts, written by hand, whose second part would lie before its first."""
    info = tarfile.TarInfo("sparse")
    info.size = 1024
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    for number, (offset, size) in enumerate([(512, 512), (0, 512)]):
        place = 386 + 24 * number
        header[place : place + 24] = f"{offset:011o}\0{size:011o}\0".encode()
    header[483:495] = b"00000002000\0"
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    target = io.BytesIO()
    target.write(bytes(header) + bytes(1024) + bytes(1024))
    path = tmp_path / "made.tar"
    path.write_bytes(target.getvalue())
    try:
        list(read_files(path, everything))
    except UserError as error:
        assert "made.tar" in str(error)  # noqa: PT017 - newer versions of tarfile refuse such a map themselves
