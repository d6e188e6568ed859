"""How torch's threads wait for each other."""

import os


def spin_briefly() -> None:
    """Let waiting threads spin for microseconds only, unless GOMP_SPINCOUNT says otherwise; call it before torch loads.

    Threads that spin for long stall each other as soon as another process wants one of their cores; threads that never
    spin take twice as long on idle cores. A short spin does well in both.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
