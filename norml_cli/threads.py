"""How long torch's threads spin while they wait for each other."""

import os


def spin_briefly() -> None:
    """Let waiting threads spin for microseconds only, unless GOMP_SPINCOUNT is set. Call this before torch loads.

    Threads that spin for long stall each other when another process wants one of their cores. Threads that never spin
    take twice as long on idle cores. A short spin does well on both.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
