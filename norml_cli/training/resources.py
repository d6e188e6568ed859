"""Threads and memory: how many threads to use, what memory a process may have, how to need less."""

import os
import sys

import psutil
import torch

from norml_cli.registry.protocol import Protocol

ALL_THREADS = torch.get_num_threads()  # OMP_NUM_THREADS, or one per core
# Multiply-adds of one forward pass of a step's examples from which several threads are faster than one. Measured on two
# cores, outer steps per second with one and with two threads: glyphs 1-shot (9e6), NORML 45 and 23; omniglot-20way
# 1-shot (8e7), MAML 15.7 and 10.4, NORML 5.4 and 4.1; 5-shot (4e8), MAML 4.43 and 4.82, NORML 1.66 and 1.90.
WORTH_THREADS = 2e8
_MEMORY_MESSAGES = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc")


def use_threads(wanted: int | None, work: float = 0.0, *, processes: int = 1) -> int:
    """Make torch use `wanted` threads; None: as many as speed up `work`. Returns the number of threads.

    The number follows from sizes, not from timing, so that a command always uses the same number. processes: how many
    share the machine's cores, if OMP_NUM_THREADS does not set the threads of each.
    """
    if wanted is None:
        declared = "OMP_NUM_THREADS" in os.environ
        share = ALL_THREADS if declared else max(1, ALL_THREADS // processes)
        wanted = share if declared or work >= WORTH_THREADS else 1
    torch.set_num_threads(wanted)
    return wanted


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, numpy or Python raised `error` because memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MEMORY_MESSAGES)


def memory_remedies(protocol: Protocol) -> str:
    """Changes that make a run need less memory."""
    remedies = [] if protocol.recompute else ["--set recompute=true (slower)"]
    if protocol.meta_batch_size > 1:
        remedies.append(f"a smaller meta_batch_size (--set meta_batch_size={max(1, protocol.meta_batch_size // 2)})")
    return ", ".join([*remedies, "a smaller learner"])


def machine_memory_bytes() -> int:
    """Memory that this process may use: the machine's, or less if the process has a limit."""
    total = int(psutil.virtual_memory().total)
    if sys.platform == "win32":
        return total
    import resource  # noqa: PLC0415 - POSIX only

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return total if limit == resource.RLIM_INFINITY else min(total, limit)
