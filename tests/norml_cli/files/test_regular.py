"""What is written and read is a regular file: nothing else is replaced, and no pipe is waited for."""

import json
import os
import socket
import stat
from pathlib import Path

import pytest

from norml_cli.data.array_files import reading
from norml_cli.data.splits import _lines
from norml_cli.files.atomic import file_sha256, write_atomically, write_together
from norml_cli.files.errors import UserError
from norml_cli.files.json_files import read_json
from norml_cli.files.yaml_files import read_mapping
from norml_cli.training.checkpoints import read_checkpoint

pytestmark = pytest.mark.timeout(20)


def write(path: Path, content: bytes = b"new") -> None:
    write_atomically(path, lambda file: file.write(content))


@pytest.fixture(params=["named pipe", "socket", "folder"])
def other(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A path where no regular file stands, and what does."""
    monkeypatch.chdir(tmp_path)
    path = Path("other")
    if request.param == "named pipe":
        os.mkfifo(path)
    elif request.param == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    else:
        path.mkdir()
    return path, request.param


def test_a_write_replaces_no_other_kind_of_file(other: tuple[Path, str]):
    path, kind = other
    before = path.stat()
    with pytest.raises(UserError, match=rf"other: cannot be written \(it is a {kind}, not a file\); name another file"):
        write(path)
    assert (path.stat().st_mode, path.stat().st_ino) == (before.st_mode, before.st_ino)
    assert os.listdir() == ["other"]  # noqa: PTH208 - names alone


def test_a_device_is_not_replaced_through_a_link(tmp_path: Path):
    link = tmp_path / "link"
    link.symlink_to(os.devnull)
    with pytest.raises(UserError, match="it is a device, not a file"):
        write(link)
    assert link.is_symlink()
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


def test_a_link_stays_and_its_target_is_written(tmp_path: Path):
    target, link = tmp_path / "www" / "index.html", tmp_path / "link.html"
    link.symlink_to("www/index.html")
    write(link, b"first")  # a dangling link makes its target
    assert (link.is_symlink(), target.read_bytes()) == (True, b"first")
    write(link, b"second")
    assert (link.is_symlink(), target.read_bytes()) == (True, b"second")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["index.html", "link.html", "www"]


def test_a_loop_of_links_is_refused(tmp_path: Path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(UserError, match="cannot be written"):
        write(tmp_path / "a")
    assert (tmp_path / "a").is_symlink()


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_a_mode_is_kept(tmp_path: Path, mode: int):
    path = tmp_path / "page.html"
    path.write_text("old")
    path.chmod(mode)
    write(path)
    assert (stat.S_IMODE(path.stat().st_mode), path.read_bytes()) == (mode, b"new")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may give files away")
def test_an_owner_is_kept(tmp_path: Path):
    path = tmp_path / "page.html"
    path.write_text("old")
    os.chown(path, 1234, 2345)
    path.chmod(0o4755)
    write(path)
    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1234, 2345, 0o4755)


def test_of_several_files_none_is_written_where_one_cannot_be(tmp_path: Path):
    first, second, third = (tmp_path / name for name in ("1", "2", "3"))
    first.write_bytes(b"old")
    third.mkdir()
    with pytest.raises(UserError, match="it is a folder, not a file"):
        write_together({first: b"new", second: b"new", third: b"new"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "3"]
    assert first.read_bytes() == b"old"
    third.rmdir()
    write_together({first: b"new", second: b"new", third: b"new"})
    assert [path.read_bytes() for path in (first, second, third)] == [b"new"] * 3


@pytest.mark.parametrize(
    ("read", "error"),
    [
        (read_json, OSError),
        (read_mapping, OSError),
        (file_sha256, UserError),
        (_lines, UserError),
        (lambda path: read_checkpoint(path, {}), UserError),
        (lambda path: reading(path, "norml prepare x").__enter__(), UserError),
    ],
)
def test_nothing_else_is_read_or_waited_for(other: tuple[Path, str], read, error: type[Exception]):
    with pytest.raises(error):
        read(other[0])


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path):
    for read in (read_json, read_mapping):
        path = tmp_path / "large"
        with path.open("wb") as file:
            file.truncate(1 << 30)
        with pytest.raises(ValueError, match="larger than"):
            read(path)


def test_a_json_file_is_read(tmp_path: Path):
    (tmp_path / "a.json").write_text(json.dumps({"a": 1}))
    assert read_json(tmp_path / "a.json") == {"a": 1}
