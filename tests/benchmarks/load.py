"""How many cores other processes keep busy: what is timed beside them takes longer, and by how much is chance."""

import contextlib
import time
from collections.abc import Callable, Iterator

import psutil

ALLOWED_CORES = 0.2  # chosen: above what an idle system's services take, far below one busy process
NOT_BUSY = {"idle", "iowait", "guest", "guest_nice"}  # a guest's time is in user's, too


class Others:
    """Watches what the cores do that is not this process's or its children's work."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        all_s: Callable[[], float] | None = None,
        own_s: Callable[[], float] | None = None,
    ) -> None:
        """`all_s`, `own_s`: seconds of work so far, of everyone and of this process with its children."""
        self._clock, self._all_s, self._own_s = clock, all_s or busy_seconds, own_s or own_seconds
        self._last = self._now()

    def busy_cores(self) -> float | None:
        """Cores that others kept busy on average since the last call (the first: since this was made).

        None where the system does not tell, as in some sandboxes.
        """
        (start, all_s, own_s), self._last = self._last, self._now()
        if self._last[1] == 0:
            return None
        elapsed = self._last[0] - start
        others_s = (self._last[1] - all_s) - (self._last[2] - own_s)
        return max(0.0, others_s / elapsed) if elapsed > 0 else 0.0

    def _now(self) -> tuple[float, float, float]:
        return self._clock(), self._all_s(), self._own_s()


def busy_seconds() -> float:
    """Seconds so far in which a core was busy, over all cores that this process may use."""
    of_cores = psutil.cpu_times(percpu=True)
    process = psutil.Process()
    mine = process.cpu_affinity() if hasattr(process, "cpu_affinity") else range(len(of_cores))
    return sum(seconds for core in mine for what, seconds in of_cores[core]._asdict().items() if what not in NOT_BUSY)


def own_seconds() -> float:
    """Seconds of work so far of this process and its children, those that have ended included."""
    return sum(_process_seconds(psutil.Process()))


def _process_seconds(process: psutil.Process) -> Iterator[float]:
    for each in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            yield sum(each.cpu_times()[:4])  # user and system, its own and of children that it has waited for
