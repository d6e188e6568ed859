"""Run cells as tasks of Slurm array jobs. Torch-free.

It submits a plain sbatch script. Each cell is a command line that a person can read and start again, and no other
package is needed. Exit codes come back as files, so Slurm's accounting is not needed either.
"""

import getpass
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from typing_extensions import override

from norml_cli.files.companions import Companions
from norml_cli.files.errors import UserError, plain
from norml_cli.sweeps.cells import Asked, SweepCell, environment
from norml_cli.sweeps.engine import Ended, Engine, fault_of
from norml_cli.sweeps.process import PROGRAM
from norml_cli.training.stopping import STOPPED_EXIT_CODE

ASK_EVERY_S = 2.0  # chosen: how often to call squeue, which many users share
GRACE_S = 15.0  # chosen: a shared file system may show another node's file this late
MOST_TASKS = 1000  # of an array; Slurm's default limit is 1001

SCRIPT = """#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=1-{count}{limit}
#SBATCH --cpus-per-task={threads}
#SBATCH --output=/dev/null
#SBATCH --signal=B:TERM@90
{options}# Line N of 'cells' is the command of task N. Its exit code goes into 'N.code'.
cd {folder} || exit
trap 'heard=yes; kill -TERM "$pid"' TERM USR1
trap 'heard=yes; kill -INT "$pid"' INT
eval "exec $(sed -n "${{SLURM_ARRAY_TASK_ID}}p" cells)" &
pid=$!
heard=yes  # a signal ends a wait, too
while [ -n "$heard" ]; do heard=; wait "$pid"; code=$?; done
echo "$code" > "$SLURM_ARRAY_TASK_ID.new" && mv "$SLURM_ARRAY_TASK_ID.new" "$SLURM_ARRAY_TASK_ID.code"
"""


class _Task(NamedTuple):
    """A task of an array job, and the job's folder."""

    job: str
    number: int  # from 1 on
    folder: Path

    @property
    def code(self) -> int | None:
        """Its exit code; None if it has not ended or left none."""
        try:
            return int(self.folder.joinpath(f"{self.number}.code").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None


class OnSlurm(Engine):
    """Submits one array job for all cells that can start, and another for those that start later or again."""

    look_every_s = 1.0  # chosen: a queue moves in seconds

    def __init__(self, asked: Asked) -> None:
        self._asked, self._where = asked, asked.where
        self._tasks: dict[SweepCell, _Task] = {}
        self._states: dict[tuple[str, int], str] = {}  # of the tasks in the queue
        self._asked_at = float("-inf")
        self._seen_at: dict[SweepCell, float] = {}  # in the queue, or submitted
        self._folders: list[Path] = []

    @override
    def __enter__(self) -> Self:
        for program in ("sbatch", "squeue", "scancel"):
            if shutil.which(program) is None:
                raise UserError(f"--on slurm: there is no {program} here; start it on a machine that submits jobs")
        return self

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)

    @override
    def room(self) -> int:
        return MOST_TASKS - len(self._tasks)

    @override
    def start(self, cells: Sequence[SweepCell]) -> None:
        for cell in cells:
            cell.path.parent.mkdir(parents=True, exist_ok=True)  # of its log
        folder = Path(tempfile.mkdtemp(prefix=".slurm-", dir=self._asked.results.absolute()))
        self._folders.append(folder)
        folder.joinpath("cells").write_text("".join(f"{line}\n" for line in map(_line, cells)), encoding="utf-8")
        script = folder / "script"
        script.write_text(self._script(folder, len(cells)), encoding="utf-8")
        job = _called("sbatch", "--parsable", str(script)).split(";")[0].strip()
        for number, cell in enumerate(cells, start=1):
            self._tasks[cell] = _Task(job, number, folder)
            self._seen_at[cell] = time.monotonic()

    def _script(self, folder: Path, count: int) -> str:
        gpus = [f"gres=gpu:{self._where.gpus:g}"] if self._where.gpus else []
        return SCRIPT.format(
            name="norml",
            count=count,
            limit="" if self._where.at_once is None else f"%{self._where.at_once}",
            threads=self._asked.threads or 1,
            options="".join(f"#SBATCH --{option.lstrip('-')}\n" for option in (*gpus, *self._where.sbatch)),
            folder=shlex.quote(str(folder)),
        )

    # ---------------------------------------------------------------------------------------------------- following

    @override
    def ended(self) -> list[Ended]:
        self._ask()
        return [self._gone(*each) for each in list(self._over())]

    def _over(self) -> Iterator[tuple[SweepCell, int | None, str]]:
        """Cells that left an exit code, and cells that left the queue without one."""
        now = time.monotonic()
        for cell, task in self._tasks.items():
            state = self._states.get((task.job, task.number))
            code = None if state == "PENDING" else task.code
            if code is not None:
                yield cell, code, fault_of(code)
            elif state is not None:
                self._seen_at[cell] = now
            elif now - self._seen_at[cell] > GRACE_S:
                yield cell, None, "left the queue without an exit code: cancelled, killed, or its node lacks the folder"

    def _gone(self, cell: SweepCell, code: int | None, fault: str) -> Ended:
        del self._tasks[cell]
        return Ended(cell, code, fault)

    def _ask(self) -> None:
        """Read the queue every `ASK_EVERY_S`. If Slurm does not answer, keep the last state."""
        now = time.monotonic()
        if now - self._asked_at < ASK_EVERY_S:
            return
        self._asked_at = now
        done = _ran("squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%F %K %T")
        if done.returncode:
            self._seen_at = dict.fromkeys(self._seen_at, now)
            return
        rows = [line.split() for line in done.stdout.splitlines()]
        self._states = {(row[0], int(row[1])): row[2] for row in rows if len(row) > 2 and row[1].isdecimal()}  # noqa: PLR2004 - all three columns

    @override
    def queued(self) -> Collection[SweepCell]:
        states = {cell: self._states.get((task.job, task.number)) for cell, task in self._tasks.items()}
        return {cell for cell, state in states.items() if state in {None, "PENDING"}}

    # ----------------------------------------------------------------------------------------------------- stopping

    @override
    def signal(self, number: signal.Signals) -> None:
        jobs = {task.job for task in self._tasks.values()}
        if jobs:
            _cancel("--state=PENDING", *jobs)
            _cancel("--batch", f"--signal={number.name.removeprefix('SIG')}", *jobs)
            self._asked_at = float("-inf")
            self._ask()
        for task in self._tasks.values():
            if (task.job, task.number) not in self._states and task.code is None:
                task.folder.joinpath(f"{task.number}.code").write_text(f"{STOPPED_EXIT_CODE}\n", encoding="utf-8")

    @override
    def kill(self) -> None:
        jobs = {task.job for task in self._tasks.values()}
        if jobs:
            _cancel(*jobs)


def _line(cell: SweepCell) -> str:
    variables = [f"{key}={value}" for key, value in environment().items()]
    log = shlex.quote(str(Companions(cell.path).log.absolute()))
    return f"{shlex.join(['env', *variables, *PROGRAM, *cell.arguments])} >> {log} 2>&1"


def _called(*words: str) -> str:
    """The output of a Slurm program. Raises UserError with its message if it refuses."""
    done = _ran(*words)
    if done.returncode:
        said = plain(" ".join(done.stderr.split()), 300)
        raise UserError(
            f"--on slurm: {words[0]} refuses the job ({said}); change it with --sbatch, --gpus or --threads"
        )
    return done.stdout


def _cancel(*words: str) -> None:
    _ran("scancel", "--quiet", *words)


def _ran(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603 - a Slurm program
