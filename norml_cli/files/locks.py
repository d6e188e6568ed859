"""One writer at a time: a lock a cache, run or backbone, which dies with the process that holds it. Torch-free.

The lock is the operating system's on an open file (flock), so that of a killed process stops nobody: the next command
that writes there takes the file over, clears away what the killed one was writing, and removes it when it ends.
"""

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from norml_cli.files.atomic import clear_leftovers
from norml_cli.files.companions import lock_path
from norml_cli.files.errors import UserError, reason
from norml_cli.files.regular import require_regular

POLL_S = 0.05  # how often a waiting command looks


class Busy(UserError):  # noqa: N818 - a state, which a study takes for no error
    """Another process is at work there."""


@contextmanager
def held(target: Path, *more: Path, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Be the only one that writes `target` and whatever else shares its stem, and the files `more`.

    `waiting` is told who holds it, and then this waits; without it, raises Busy, which names the process.
    """
    path = lock_path(target)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _acquired(path, target, waiting)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({reason(error)}); choose a folder you may write to") from error
    ours = not isinstance(lock, SoftFileLock)  # what filelock becomes where there is no flock; its file is its own
    try:
        with suppress(OSError):  # who holds it is for messages only; Windows lets nobody write a locked file
            if ours:
                path.write_text(_holder(), encoding="utf-8")
        for place in (target, *more):
            clear_leftovers(place.parent, place.stem)
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file
            if ours:
                path.unlink()  # while it is held: who waits for it finds it gone and makes another
        lock.release()


def is_held(target: Path) -> bool:
    """Whether another process is at work on `target`."""
    path = lock_path(target)
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        return True
    with suppress(OSError):  # Windows removes no open file
        path.unlink()  # a killed process left it
    lock.release()
    return False


def _acquired(path: Path, target: Path, waiting: Callable[[str], None] | None) -> FileLock:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if waiting is None:
            raise Busy(
                f"{target}: {_told(path)} is at work on it; wait until it ends, or stop it, and start this again"
            ) from None
        waiting(f"waits for {_told(path)}, which is at work on {target.name}")
        lock.acquire(poll_interval=POLL_S)
    return lock


def _holder() -> str:
    return f"process {os.getpid()} on {platform.node()}, since {datetime.now(UTC).isoformat(timespec='seconds')}"


def _told(path: Path) -> str:
    """Who holds the lock; another process where it has not yet said."""
    with suppress(OSError, UnicodeDecodeError):
        require_regular(path)
        return " ".join(path.read_text(encoding="utf-8").split()) or "another process"
    return "another process"
