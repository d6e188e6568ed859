"""What this machine has. Torch-free."""

import os
import shutil

_COMPILERS = ("c++", "g++", "clang++")


def cpp_compiler() -> str | None:
    """A C++ compiler, which torch.compile needs on a CPU: $CXX or a usual one; None: there is none."""
    return next((name for name in (os.environ.get("CXX"), *_COMPILERS) if name and shutil.which(name)), None)


def usable_cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
