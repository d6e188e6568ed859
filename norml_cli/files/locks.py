"""One writer at a time: each cache, run and backbone has a lock. Torch-free.

The operating system holds the lock on an open file (flock) and releases it when the process dies. The next command
that writes there removes what a killed process left behind, and removes the lock file when it ends.
"""

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from norml_cli.files.atomic import clear_leftovers
from norml_cli.files.clock import now
from norml_cli.files.companions import lock_path
from norml_cli.files.errors import UserError, reason
from norml_cli.files.regular import require_regular

POLL_S = 0.05  # seconds between two attempts of a waiting command


class Busy(UserError):  # noqa: N818 - a state: a study does not count it as an error
    """Another process holds the lock."""


@contextmanager
def held(target: Path, *more: Path, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the lock of `target` and of all files that share its stem. It also covers the files `more`.

    If another process holds the lock: calls `waiting` with a line that names the process, then waits. Without
    `waiting`, raises Busy, which names the process. Raises UserError if the lock file cannot be written.
    """
    path = lock_path(target)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _acquired(path, target, waiting)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({reason(error)}); choose a folder you may write to") from error
    ours = not isinstance(lock, SoftFileLock)  # filelock's fallback without flock; it manages its file itself
    try:
        with suppress(OSError):  # only messages need the holder's name; Windows cannot write a locked file
            if ours:
                path.write_text(_this_process(), encoding="utf-8")
        for place in (target, *more):
            clear_leftovers(place.parent, place.stem)
        yield
    finally:
        with suppress(OSError):  # Windows cannot remove an open file
            if ours:
                path.unlink()  # before the release: a waiting process then makes a new lock file
        lock.release()


def is_held(target: Path) -> bool:
    """Whether another process holds the lock of `target`. Removes the lock file that a killed process left."""
    path = lock_path(target)
    return path.exists() and is_locked(path, clear=True)


def is_locked(path: Path, *, clear: bool = False) -> bool:
    """Whether another process holds the lock file `path`. clear: remove the file if no process does."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        return True
    with suppress(OSError):  # Windows cannot remove an open file
        if clear:
            path.unlink()
    lock.release()
    return False


def _acquired(path: Path, target: Path, waiting: Callable[[str], None] | None) -> FileLock:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if waiting is None:
            raise Busy(
                f"{target}: in use by {_holder_of(path)}; wait until it ends or stop it, then run this again"
            ) from None
        waiting(f"waiting for {_holder_of(path)}, which is writing {target.name}")
        lock.acquire(poll_interval=POLL_S)
    return lock


def _this_process() -> str:
    return f"process {os.getpid()} on {platform.node()}, since {now()}"


def _holder_of(path: Path) -> str:
    """The process that the lock file names, or 'another process' if it does not name one yet."""
    with suppress(OSError, UnicodeDecodeError):
        require_regular(path)
        return " ".join(path.read_text(encoding="utf-8").split()) or "another process"
    return "another process"
