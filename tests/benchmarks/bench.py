"""What every section is given: the device, how thorough to be, and where to say how far it is."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch

from tests.benchmarks.display import Progress
from tests.benchmarks.measure import Call, Timer, synchroniser
from tests.benchmarks.own_process import OwnProcess
from tests.benchmarks.workloads import SHOTS_AND_QUERIES, SMALL, Workload


@dataclass(frozen=True)
class Bench:
    """The settings of one benchmark run. A quick one takes seconds: it shows that everything works, not how fast."""

    device: torch.device
    quick: bool
    compiled: bool
    memory_limit_bytes: int
    progress: Progress = field(default_factory=Progress)

    @property
    def workloads(self) -> tuple[Workload, ...]:
        """What is timed."""
        return (SMALL,) if self.quick else SHOTS_AND_QUERIES

    def choose(self, quick: int, full: int) -> int:
        """The first if this is a quick run."""
        return quick if self.quick else full

    def candidate(self, stack: ExitStack, title: str, make: Callable[..., Call], *arguments: Any) -> Call:
        """What `make(device, *arguments)` returns, in a process of its own that ends with `stack`.

        In a quick run it is in this process, since starting another takes seconds.
        """
        if self.quick:
            return make(self.device, *arguments)
        return stack.enter_context(OwnProcess(title, make, self.device, *arguments))

    def interleaved(
        self, what: str, candidates: Mapping[str, Call], *, rounds: int, measured: int = 1
    ) -> dict[str, list[float]]:
        """Seconds by candidate, each called in turn; `what` is shown. A quick run calls each once."""
        times = {"rounds": 1, "unmeasured": 0} if self.quick else {"rounds": rounds, "measured": measured}
        timer = Timer(**times, synchronise=self.synchronise)
        return timer.interleaved(candidates, lambda done, turns: self.progress.at(what, done, turns))

    def once(self, call: Call) -> float:
        """Seconds of one call."""
        return Timer(1, synchronise=self.synchronise).once(call)

    @property
    def synchronise(self) -> Callable[[], None]:
        """Wait until the device has done what it was asked."""
        return synchroniser(self.device)
