"""What every section is given: the device, how thorough to be, and where to say how far it is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from tests.benchmarks.display import Progress
from tests.benchmarks.measure import Call, Timer


@dataclass(frozen=True)
class Bench:
    """The settings of one benchmark run."""

    device: torch.device
    quick: bool
    compiled: bool
    memory_limit_bytes: int
    progress: Progress = field(default_factory=Progress)

    def choose(self, quick: int, full: int) -> int:
        """The first if this is a quick run."""
        return quick if self.quick else full

    def interleaved(
        self, what: str, candidates: Mapping[str, Call], *, rounds: int, measured: int = 1
    ) -> dict[str, list[float]]:
        """Seconds by candidate, each called in turn; `what` is shown."""
        timer = Timer(rounds, measured=measured, synchronise=self.synchronise)
        return timer.interleaved(candidates, lambda done, turns: self.progress.at(what, done, turns))

    def once(self, call: Call) -> float:
        """Seconds of one call."""
        return Timer(1, synchronise=self.synchronise).once(call)

    @property
    def synchronise(self) -> Callable[[], None]:
        """Wait until the device has done what it was asked."""
        return synchroniser(self.device)


def synchroniser(device: torch.device) -> Callable[[], None]:
    """What waits until `device` has done what it was asked."""
    return (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)
