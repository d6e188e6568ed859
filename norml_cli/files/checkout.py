"""The git commit of the checkout that this code runs from, if it runs from one."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import norml_cli

CODE = ("norml", "norml_cli", "registry")


def commit_of_checkout(parts: Sequence[str] = CODE) -> tuple[str | None, bool | None]:
    """The commit, and whether files in `parts` have changed since. None: unknown, or not a checkout."""
    root = Path(norml_cli.__file__).parents[1]
    if not (root / ".git").exists():
        return None, None
    changes = output_of("git", "status", "--porcelain", "--", *parts, folder=root)
    return output_of("git", "rev-parse", "HEAD", folder=root), None if changes is None else changes != ""


def output_of(*command: str, folder: Path | None = None) -> str | None:
    """What the program `command` prints. None: it is not installed, or it failed."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 - fixed words
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
