"""A disk that is full, a folder that is read-only, a cache exchanged under a run, a clock set back."""

import errno
import os
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from norml_cli.data.examples import Examples
from norml_cli.files import atomic
from norml_cli.files.companions import STATUS
from norml_cli.results import records
from norml_cli.training import loop
from norml_cli.training.run import Run
from tests.helpers import synthetic
from tests.helpers.command_line import Shell
from tests.trust.places import PREPARE, PREPARE_PHOTOS, PRETRAIN, RUN, contents


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """A write beyond it fails as on a full disk (EFBIG; Python ignores the signal that comes with it)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """A file system in memory at `folder`; skips the test where none can be mounted."""
    folder.mkdir(exist_ok=True)
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)],  # noqa: S607 - the system's
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        pytest.skip(f"no mount command: {error}")
    if done.returncode != 0:
        pytest.skip(f"a file system in memory cannot be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)  # noqa: S607 - as above


def refused(shell: Shell, arguments: tuple[str, ...], word: str) -> None:
    code, out, err = shell.norml(*arguments)
    assert (code, err.count("\n")) == (2, 1), out + err
    assert "cannot be written" in err
    assert word in err


def half_written(shell: Shell) -> list[str]:
    return [name for name in contents(shell.folder) if name.endswith((".part", ".lock"))]


def results_and_caches(shell: Shell) -> dict[str, str]:
    """All but how far a training came that did not end."""
    return {name: content for name, content in contents(shell.folder).items() if not name.endswith(STATUS)}


# ------------------------------------------------------------------------------------------------------- full disk


@pytest.mark.parametrize(
    ("command", "first", "size"),
    [
        (PREPARE, (), 4_000),
        (PRETRAIN, (PREPARE_PHOTOS,), 20_000),
        (RUN, (("run", "nearest-centroid", *RUN[2:]),), 4_000),
    ],
    ids=["prepare", "pretrain", "run"],
)
def test_a_full_disk_is_told_in_one_line_and_what_was_there_stays(
    shell: Shell, command: tuple[str, ...], first: tuple[tuple[str, ...], ...], size: int
):
    for earlier in first:
        assert shell.norml(*earlier)[0] == 0
    before = results_and_caches(shell)
    with files_no_larger_than(size):
        refused(shell, command, "File too large")
    assert results_and_caches(shell) == before
    assert shell.norml(*command)[0] == 0
    finished = contents(shell.folder)
    with files_no_larger_than(size):
        refused(shell, (*command, "--force"), "File too large")
    assert results_and_caches(shell) == finished


def test_a_disk_that_is_really_full_is_told(shell: Shell):
    with mounted(shell.home, "size=8k"):
        refused(shell, PREPARE, os.strerror(errno.ENOSPC))
        assert half_written(shell) == []
        assert not list(shell.home.glob("*.h5"))


# ------------------------------------------------------------------------------------------------------- read-only


def test_a_read_only_folder_is_told(shell: Shell):
    """A read-only file system, since permissions do not bind root."""
    with mounted(shell.home, "ro"):
        refused(shell, PREPARE, os.strerror(errno.EROFS))
    with mounted(shell.results, "ro"):
        refused(shell, RUN, os.strerror(errno.EROFS))


def test_a_prepared_data_set_needs_no_place_that_can_be_written(shell: Shell):
    assert shell.norml(*RUN, "--results", "first")[0] == 0
    data = (shell.home / "tiny-glyphs.h5").read_bytes()
    with mounted(shell.home, "size=16m"):
        (shell.home / "tiny-glyphs.h5").write_bytes(data)
        subprocess.run(["mount", "-o", "remount,ro", str(shell.home)], check=True)  # noqa: S607 - as above
        assert shell.norml(*RUN, "--results", "second")[0] == 0


@pytest.mark.parametrize("command", [PREPARE, RUN], ids=["prepare", "run"])
def test_a_folder_that_is_a_file_is_told(shell: Shell, command: tuple[str, ...]):
    for name in ("home", "results"):
        (shell.folder / name).write_text("in the way")
    refused(shell, command, "choose")


# ------------------------------------------------------------------------------------------------ an exchanged cache


def exchange_cache(shell: Shell) -> None:
    """Another data set of the same declaration takes the place of the prepared one."""
    for part in ("images_background", "images_evaluation"):
        names = synthetic.members(part)
        drawings = {name: synthetic.png(synthetic.drawing(f"other {name}")) for name in names}
        synthetic.write_zip(shell.folder / "other" / f"{part}.zip", drawings)
    assert shell.norml("prepare", "made-omniglot", "--source", "other", "--force")[0] == 0


MADE = ("run", "nearest-centroid", "--benchmark", "made-3way", "--device", "cpu")


@pytest.mark.parametrize("split", ["meta_train", "meta_val", "meta_test"])
def test_a_cache_exchanged_while_a_run_reads_it_is_not_mixed(shell: Shell, split: str):
    assert shell.norml(*PREPARE)[0] == 0
    classes, exchanged = Examples._classes, []

    def exchanging(self: Examples, wanted: str, **settings: object) -> object:
        if wanted == split and not exchanged:
            exchanged.append(split)
            exchange_cache(shell)
            shell.monkeypatch.setattr("sys.argv", ["norml", *MADE])
        return classes(self, wanted, **settings)

    with shell.monkeypatch.context() as patch:
        patch.setattr(Examples, "_classes", exchanging)
        code, _, err = shell.norml(*MADE)
    assert exchanged
    assert (code, err.count("\n")) == (2, 1)
    assert "made-omniglot.h5: changed while this command ran; start the command again" in err
    assert not list(shell.results.rglob("*.json"))
    assert shell.norml(*MADE)[0] == 0


def test_a_cache_exchanged_once_it_is_read_changes_nothing(shell: Shell):
    assert shell.norml(*PREPARE)[0] == 0
    assert shell.norml(*MADE)[0] == 0
    expected = {name: content for name, content in contents(shell.folder).items() if name.startswith("results")}
    train = Run.train

    def exchanging(self: Run) -> None:
        exchange_cache(shell)
        train(self)

    with shell.monkeypatch.context() as patch:
        patch.setattr(Run, "train", exchanging)
        assert shell.norml(*MADE, "--force")[0] == 0
    assert {name: content for name, content in contents(shell.folder).items() if name.startswith("results")} == expected


# ------------------------------------------------------------------------------------------------- a clock set back


class Killed(BaseException):
    """Stands for SIGKILL: nothing may tidy up."""


def test_a_clock_set_back_changes_nothing(shell: Shell):
    """Files of the future, and a clock that runs backwards while a killed run is taken up again."""
    assert shell.norml(*RUN)[0] == 0
    expected = contents(shell.folder)
    for path in shell.results.rglob("seed-0.*"):
        path.unlink()

    def dies(_: object) -> None:
        raise Killed

    with shell.monkeypatch.context() as patch:
        patch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)
        patch.setattr(Run, "test", dies)
        patch.setattr("sys.argv", ["norml", *RUN])
        with pytest.raises(Killed):
            launch_main()
    (checkpoint,) = shell.results.rglob("*.checkpoint")
    leftover = checkpoint.with_name(".seed-0.json.x.part")
    leftover.write_bytes(b"half")
    for path in (checkpoint, leftover, *shell.home.iterdir()):
        os.utime(path, (2**32, 2**32))
    ticks = iter(range(2**31, 0, -3600))
    shell.monkeypatch.setattr(time, "time", lambda: float(next(ticks)))
    shell.monkeypatch.setattr(records, "now", lambda: "1970-01-01T00:00:00+00:00")
    code, out, err = shell.norml(*RUN)
    assert code == 0, err
    assert "continues from 9 of 9 outer steps" in out
    assert contents(shell.folder) == expected


def launch_main() -> None:
    from norml_cli.app.main import main  # noqa: PLC0415

    main()


def test_a_write_that_fails_at_any_call_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "file"
    atomic.write_atomically(path, lambda file: file.write(b"old"))
    for module, name in ((os, "fsync"), (Path, "chmod"), (Path, "replace")):
        with monkeypatch.context() as patch:

            def fails(*_: object) -> None:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

            patch.setattr(module, name, fails)
            with pytest.raises(atomic.UserError, match="cannot be written"):
                atomic.write_atomically(path, lambda file: file.write(b"new"))
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]
