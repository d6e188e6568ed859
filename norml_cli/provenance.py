"""Where a run's figures come from: the device that computed them and the commit of the code."""

import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch

from norml_cli.records import GitState


def device_name(device: torch.device) -> str:
    """The GPU's model, or the CPU's architecture and the number of threads torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"


def git_state(parts: Sequence[str] = ("norml", "norml_cli", "registry")) -> GitState:
    """The checkout's commit and whether `parts` of it were changed since; unknown outside a checkout."""
    root = Path(__file__).parents[1]
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
