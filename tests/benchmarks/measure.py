"""Time: candidates in turn, round after round, so that a busy minute of the machine falls on all of them alike."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

PEAK_SIZE = 1024  # of the square matrices whose product is taken as the machine's peak
PEAK_FLOP = 2 * PEAK_SIZE**3

Call = Callable[[], object]


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Timer:
    """Every round gives each candidate a turn: `unmeasured` calls, so that it finds its own data in the caches again,
    then `measured` ones. `synchronise` waits for the device; `on_turn(done, turns)` hears how far it is.
    """

    rounds: int
    measured: int = 1
    unmeasured: int = 1
    clock: Callable[[], float] = time.perf_counter
    synchronise: Callable[[], object] = _nothing

    def interleaved(
        self, candidates: Mapping[str, Call], on_turn: Callable[[int, int], object] = lambda _done, _turns: None
    ) -> dict[str, list[float]]:
        """Seconds of every measured call, by candidate, in their order."""
        seconds: dict[str, list[float]] = {name: [] for name in candidates}
        turns = self.rounds * len(candidates)
        for round_ in range(self.rounds):
            for place, (name, call) in enumerate(candidates.items()):
                for _ in range(self.unmeasured):
                    call()
                seconds[name] += [self.once(call) for _ in range(self.measured)]
                on_turn(round_ * len(candidates) + place + 1, turns)
        return seconds

    def once(self, call: Call) -> float:
        """Seconds of one call."""
        self.synchronise()
        start = self.clock()
        call()
        self.synchronise()
        return self.clock() - start


def synchroniser(device: torch.device) -> Callable[[], None]:
    """What waits until `device` has done what it was asked."""
    return (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)


def matrix_product(device: torch.device) -> Call:
    """The product whose speed is the machine's peak: two 1024 x 1024 matrices in float32."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(PEAK_SIZE, PEAK_SIZE, generator=generator).to(device) for _ in range(2))
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out)
