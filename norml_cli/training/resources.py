"""Threads and memory: how many threads are worth their while, what a training needs at least, what to do without."""

import os
import sys

import psutil
import torch

from norml_cli.registry.protocol import Protocol

ALL_THREADS = torch.get_num_threads()  # OMP_NUM_THREADS, or one a core
# Multiply-adds of one pass of a step's examples from which more threads are faster than one. Measured on two cores,
# outer steps a second with one thread and with two: glyphs 1-shot (NORML, 9e6) 45 and 23; omniglot-20way 1-shot
# (8e7) MAML 15.7 and 10.4, NORML 5.4 and 4.1; 5-shot (4e8) MAML 4.43 and 4.82, NORML 1.66 and 1.90.
WORTH_THREADS = 2e8
_SAID_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc")


def use_threads(wanted: int | None, work: float = 0.0, *, processes: int = 1) -> int:
    """Have torch use `wanted` threads; None: as many as are worth their while for `work`. Returns how many.

    By sizes, never by a look at the clock, so that one command gives one number of threads. processes: that share the
    machine's cores, where OMP_NUM_THREADS does not say how many threads each has.
    """
    if wanted is None:
        declared = "OMP_NUM_THREADS" in os.environ
        share = ALL_THREADS if declared else max(1, ALL_THREADS // processes)
        wanted = share if declared or work >= WORTH_THREADS else 1
    torch.set_num_threads(wanted)
    return wanted


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it is what torch, numpy or Python raise where there is no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID_OF_MEMORY)


def memory_remedies(protocol: Protocol) -> str:
    """What to change so that a run needs less memory."""
    remedies = [] if protocol.recompute else ["--set recompute=true (slower)"]
    if protocol.meta_batch_size > 1:
        remedies.append(f"a smaller meta_batch_size (--set meta_batch_size={max(1, protocol.meta_batch_size // 2)})")
    return ", ".join([*remedies, "a smaller learner"])


def machine_memory_bytes() -> int:
    """What this process may have: the machine's memory, or less where a limit says so."""
    total = int(psutil.virtual_memory().total)
    if sys.platform == "win32":
        return total
    import resource  # noqa: PLC0415 - POSIX only

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return total if limit == resource.RLIM_INFINITY else min(total, limit)
