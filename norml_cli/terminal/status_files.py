"""Status files: a small JSON file beside each checkpoint says how far its training is. Torch-free.

A training rewrites its status file every few seconds, atomically, and removes it when it finishes. `norml status` asks
the system whether the process still runs, by number and start time. A killed training counts as paused. So does a
training on another machine that shares the folder: this machine cannot see its process.
"""

import hashlib
import os
import platform
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
from pydantic import Field, ValidationError
from typing_extensions import override

from norml_cli.files.atomic import write_atomically
from norml_cli.files.clock import now
from norml_cli.files.companions import STATUS
from norml_cli.files.errors import UserError, reason
from norml_cli.files.json_files import read_json
from norml_cli.registry.sourced import Model, Text
from norml_cli.terminal.command_line import command_line
from norml_cli.terminal.progress import Follower, Progress

WRITE_EVERY_S = 2.0  # chosen: looks live, costs little
CLOCK_STEP_S = 5.0  # chosen: adjusting the clock shifts the start times that the system reports


class Process(Model):
    """A process on a machine. It names no user and no host."""

    pid: int
    started: float | None = Field(
        description="start time in seconds since 1970; with `pid` it identifies the process; null: unknown"
    )
    machine: str = Field(description="hash of the machine's name")

    @classmethod
    def own(cls) -> "Process":
        """This process."""
        return cls(pid=os.getpid(), started=_started(os.getpid()), machine=_machine())

    def is_alive(self) -> bool:
        """Whether the process is running on this machine."""
        started = _started(self.pid) if self.machine == _machine() else None
        return started is not None and self.started is not None and abs(started - self.started) < CLOCK_STEP_S


class TrainingStatus(Model):
    """The progress of one training."""

    title: Text
    phase: str
    done: int
    total: int
    per_s: float
    seconds_left: float | None = Field(description="until the end of this phase")
    loss: float | None
    validation: float | None = Field(description="last accuracy on meta-validation")
    command: Text = Field(description="resumes the training")
    process: Process
    updated: Text = Field(description="UTC, ISO 8601")


@dataclass(frozen=True)
class Unfinished:
    """A training that has not finished; `path` is the stem of its files."""

    path: Path
    state: Literal["running", "paused"]
    status: TrainingStatus


class StatusFile(Follower):
    """Keeps the status file of one training, from `begin` on."""

    def __init__(self, path: Path, title: str) -> None:
        self._path, self._title = path, title
        self._last: Progress | None = None
        self._written_at = 0.0

    def begin(self, phase: str, step: int, steps: int) -> None:
        """The training starts, or resumes, at `step` of `steps`."""
        self._last = Progress(phase, step, steps, 0.0, "")
        self._write(self._last)

    @override
    def progressed(self, progress: Progress) -> None:
        self._last = progress
        if time.perf_counter() - self._written_at >= WRITE_EVERY_S:
            self._write(progress)

    @override
    def close(self) -> None:
        if self._last is not None and self._path.exists():  # started and not finished
            self._write(self._last)

    def remove(self) -> None:
        """Remove the file. Call this when the training has finished and its record exists."""
        self._path.unlink(missing_ok=True)

    def _write(self, progress: Progress) -> None:
        self._written_at = time.perf_counter()
        status = TrainingStatus(
            title=self._title,
            phase=progress.phase,
            done=progress.done,
            total=progress.total,
            per_s=progress.rate,
            seconds_left=progress.seconds_left,
            loss=progress.numbers.get("loss"),
            validation=progress.numbers.get("validation"),
            command=command_line(sys.argv[1:]),
            process=Process.own(),
            updated=now(),
        )
        content = f"{status.model_dump_json(indent=2)}\n".encode()
        with suppress(UserError):  # a training must not fail because of this file; its checkpoint matters
            write_atomically(self._path, lambda file: file.write(content))


def find_unfinished(*folders: Path) -> tuple[list[Unfinished], list[str]]:
    """Every unfinished training under `folders`, sorted by path, and a line for each damaged status file."""
    unfinished, faults = list[Unfinished](), list[str]()
    for path in (path for folder in folders for path in sorted(folder.rglob(f"*{STATUS}"))):
        try:
            found = read_status(path)
        except UserError as error:
            faults.append(str(error))
        else:
            unfinished += [] if found is None else [found]
    return unfinished, faults


def read_status(path: Path) -> Unfinished | None:
    """The training whose status file is `path`. None: no such file. Raises UserError for a damaged file."""
    try:
        content = read_json(path)
    except FileNotFoundError:  # the training has just finished
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); delete it") from None
    try:
        status = TrainingStatus.model_validate(content)
    except ValidationError:
        raise UserError(f"{path}: not a status file of this version of norml; delete it") from None
    return Unfinished(path.with_suffix(""), "running" if status.process.is_alive() else "paused", status)


def _machine() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:16]


def _started(pid: int) -> float | None:
    """When the process started, in seconds since 1970. None: no such process, or no permission to ask."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None
