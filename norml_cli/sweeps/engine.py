"""The interface between a sweep and what runs its cells: this machine, Ray or Slurm. Torch-free."""

import signal
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType

from typing_extensions import override

from norml_cli.sweeps.cells import SweepCell

TO_STOP = signal.SIGTERM  # stop after the current step
TO_STOP_AT_ONCE = signal.SIGINT  # after TO_STOP: stop now
MOST_ON_A_GPU = 4  # chosen: large learners fit beside each other; small ones leave room for more (--at-once, --gpus)


@dataclass(frozen=True)
class Ended:
    """A cell whose process ended.

    code: its exit code; None if unknown. fault: what happened, as text. began: False if its process was never started.
    """

    cell: SweepCell
    code: int | None
    fault: str
    began: bool = True


class Engine(AbstractContextManager["Engine"], ABC):
    """Starts cells, reports which ended and forwards signals. The sweep decides the order.

    Use it as a context manager: it closes its connections and files, and no cell outlives it.
    """

    look_every_s = 0.1  # chosen: short against the seconds that a process takes to start

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    @abstractmethod
    def room(self) -> int:
        """The number of cells that may start now."""

    @abstractmethod
    def start(self, cells: Sequence[SweepCell]) -> None:
        """Start these cells, at most `room()` of them. Raises UserError."""

    @abstractmethod
    def ended(self) -> list[Ended]:
        """The cells that ended since the last call. No process works on them any more."""

    @abstractmethod
    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every running cell. Cells that have not begun will not begin."""

    @abstractmethod
    def kill(self) -> None:
        """Kill the remaining cells. Their last checkpoints are at most half a minute old."""

    def queued(self) -> Collection[SweepCell]:
        """Cells that were started but still wait in a queue."""
        return ()


def fault_of(code: int) -> str:
    """An exit code, or minus a signal's number, in words."""
    return f"ended by signal {-code}" if code < 0 else f"exit code {code}"
