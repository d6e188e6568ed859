"""The process of a cell, on this machine or on a Ray worker. Torch-free."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from norml_cli.files.companions import Companions
from norml_cli.files.errors import UserError, reason
from norml_cli.sweeps.cells import FETCHED

PROGRAM = (sys.executable, "-m", "norml_cli")
WAIT_S = 1.0  # chosen: a worker answers this often while a cell runs

Files = dict[str, bytes]  # contents by file name


class CellProcess:
    """An ordinary `norml` process that appends its output to a log."""

    def __init__(
        self, arguments: Sequence[str], log: Path, environment: Mapping[str, str], before: Sequence[str] = ()
    ) -> None:
        """`before`: a program to run the command with. Raises UserError if the log cannot be written."""
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as file:
                self._process = subprocess.Popen(  # noqa: S603 - our own
                    [*before, *PROGRAM, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **environment},
                    process_group=0,  # so Ctrl-C reaches only the sweep, which then stops its cells
                )
        except OSError as error:
            raise UserError(f"{log}: cannot be written ({reason(error)}); choose another folder") from error

    def code(self, wait_s: float = 0.0) -> int | None:
        """Its exit code, or minus the signal that ended it; None if it still runs after `wait_s`."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(wait_s)
        return None

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


class CellOnWorker:
    """A cell on a Ray worker: the class of the actor.

    If the worker cannot see the results folder, the cell gets a folder of its own, and each answer brings the changed
    files.
    """

    def __init__(
        self, arguments: Sequence[str], log: str, environment: Mapping[str, str], brought: Files | None
    ) -> None:
        """`log`: its path; relative to the results folder if files are fetched.

        brought: files to continue from. None: the worker sees the results folder.
        """
        self._folder = None if brought is None else Path(tempfile.mkdtemp(prefix="norml-"), "results")
        self._log = Path(log) if self._folder is None else self._folder / log
        self._seen: dict[str, int] = {}  # each file's time of change
        if brought is not None:
            self._log.parent.mkdir(parents=True)
            for name, content in brought.items():
                self._log.with_name(name).write_bytes(content)
            self._changed()
        words = [str(self._folder) if word == FETCHED else word for word in arguments]
        self._process = CellProcess(words, self._log, environment, before=_leash())

    def look(self) -> tuple[int | None, Files]:
        """Its exit code (None while it runs) and the files to fetch. Answers when it ends, or after a second."""
        code = self._process.code(WAIT_S)
        files = self._changed()
        if code is not None and self._folder is not None:
            shutil.rmtree(self._folder.parent, ignore_errors=True)
        return code, files

    def send(self, number: int) -> None:
        """Send it a signal."""
        self._process.send(signal.Signals(number))

    def _changed(self) -> Files:
        files = Files()
        for path in Companions(self._log).existing() if self._folder is not None else ():
            with suppress(FileNotFoundError):  # it has just been removed
                changed_at = path.stat().st_mtime_ns
                if self._seen.get(path.name) != changed_at:
                    files[path.name] = path.read_bytes()
                    self._seen[path.name] = changed_at
        return files


def _leash() -> tuple[str, ...]:
    """A prefix that ends the process if its worker is lost, so that it keeps no lock. Linux only."""
    program = shutil.which("setpriv")
    return (program, "--pdeathsig", "KILL") if program is not None else ()
