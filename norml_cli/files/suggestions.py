"""The commands that messages suggest. They repeat the --results, --registry and --source of the user's own command."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_DEFAULTS = {"results": Path("results"), "registry": None, "source": None}
_TAKES = {  # which of these options each command has
    "prepare": ("registry", "source"),
    "new": ("registry",),  # its --source is for a new data set only
    "status": ("results",),
    **dict.fromkeys(("list", "show", "validate", "evaluate", "verify", "inspect", "classify", "export"), ("registry",)),
    **dict.fromkeys(("run", "pretrain", "study", "compare", "report", "doctor"), ("results", "registry")),
    **dict.fromkeys(("sweep", "reproduce"), ("results", "registry", "source")),
}
_named: dict[str, str] = {}  # the places of this process's command


def remember_places(parameters: Mapping[str, Any]) -> None:
    """Add the places in a command's `parameters` that are not defaults to all commands suggested from now on.

    Of several folders, the last one counts.
    """
    _named.clear()
    for name, default in _DEFAULTS.items():
        value = parameters.get(name)
        place = value[-1] if isinstance(value, list) and value else value
        if place not in (None, default):
            _named[name] = shlex.quote(str(place))


def suggested(command: str) -> str:
    """`command`, such as 'norml prepare omniglot', plus ' --registry mine' if the user gave that option."""
    given = [name for name in _TAKES.get(command.split()[1], ()) if name in _named and f"--{name} " not in command]
    return command + "".join(f" --{name} {_named[name]}" for name in given)
