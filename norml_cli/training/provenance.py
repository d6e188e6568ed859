"""Where a run's figures come from: the device that computed them, its memory, and the commit of the code."""

import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import torch

import norml_cli
from norml.matrix_products import onednn_multiplies
from norml_cli.results.records import GitState


def device_name(device: torch.device, examples: int = 0) -> str:
    """The GPU's model, or the CPU's architecture, threads, and who multiplies so many examples, if not MKL."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    products = ", oneDNN" if onednn_multiplies(examples) else ""
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads{products})"


def git_state(parts: Sequence[str] = ("norml", "norml_cli", "registry")) -> GitState:
    """The checkout's commit and whether `parts` of it were changed since; unknown outside a checkout."""
    root = Path(norml_cli.__file__).parents[1]
    if not (root / ".git").exists():
        return GitState(commit=None, dirty=None)

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)  # noqa: S603, S607 - fixed words, the user's own git
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--", *parts)
    return GitState(commit=commit, dirty=None if changes is None else changes != "")


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory held so far: of the GPU's allocator, or of the whole process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # noqa: PLC0415 - POSIX only, where psutil knows no peak

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes on Linux
