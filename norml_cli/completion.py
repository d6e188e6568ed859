"""Ids of the registry for the shell's completion: by file names alone, since a key press cannot wait for YAML."""

import os
from collections.abc import Callable
from pathlib import Path

from typer import Context

from norml_cli.registry import builtin_registry


def ids_of(*kinds: str) -> Callable[[Context, str], list[str]]:
    """What completes an id of these kinds (folders of a registry), of the built-in and of the user's own entries."""

    def complete(context: Context, incomplete: str) -> list[str]:
        extra = context.params.get("registry") or os.environ.get("NORML_REGISTRY")
        folders = [builtin_registry(), *([Path(extra)] if extra else [])]
        given = context.params.get("methods") or []  # on the line already
        ids = {path.stem for folder in folders for kind in kinds for path in (folder / kind).glob("*.yaml")}
        return sorted(id_ for id_ in ids if id_.startswith(incomplete) and id_ not in given)

    return complete
