"""What a sweep asks of whatever runs its cells: this machine, a Ray cluster or Slurm. Torch-free."""

import signal
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType

from typing_extensions import override

from norml_cli.sweeps.cells import SweepCell

TO_STOP = signal.SIGTERM  # after its step
TO_STOP_AT_ONCE = signal.SIGINT  # after TO_STOP
MOST_ON_A_GPU = 4  # chosen: large learners fit beside each other; small ones leave room for more (--at-once, --gpus)


@dataclass(frozen=True)
class Ended:
    """A cell whose process has ended. code: of its exit; None: unknown. fault: what happened to it, for a person."""

    cell: SweepCell
    code: int | None
    fault: str


class Engine(AbstractContextManager["Engine"], ABC):
    """Starts cells, tells which have ended and hands signals on. Which cell begins when is the sweep's to say.

    As a context it holds what it has opened, a connection or files; no cell outlives it.
    """

    look_every_s = 0.1  # chosen: nothing beside the seconds that a process takes to start

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    @abstractmethod
    def room(self) -> int:
        """How many more cells may be started now."""

    @abstractmethod
    def start(self, cells: Sequence[SweepCell]) -> None:
        """Start as many cells as there is room for. Raises UserError."""

    @abstractmethod
    def ended(self) -> list[Ended]:
        """The cells that have ended since this was asked last; no process is at work on them any more."""

    @abstractmethod
    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every cell that runs; what has not begun does not begin any more."""

    @abstractmethod
    def kill(self) -> None:
        """End what is left, whatever it is doing; its last checkpoint is at most half a minute old."""

    def queued(self) -> Collection[SweepCell]:
        """Started cells that still wait for their turn."""
        return ()


def fault_of(code: int) -> str:
    """What an exit code, or minus a signal's number, says."""
    return f"ended by signal {-code}" if code < 0 else f"exit code {code}"
