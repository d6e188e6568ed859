"""The commands that messages suggest, with the places that the user's own command named: pasted, they find the same."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_DEFAULTS = {"results": Path("results"), "registry": None, "source": None}
_TAKE = {  # which of these options a command has
    "prepare": ("registry", "source"),
    "new": ("registry",),  # a data set's --source says nothing of what else is made anew
    "status": ("results",),
    **dict.fromkeys(("list", "show", "validate", "evaluate", "verify", "inspect", "classify", "export"), ("registry",)),
    **dict.fromkeys(("run", "pretrain", "study", "compare", "report", "doctor"), ("results", "registry")),
    **dict.fromkeys(("sweep", "reproduce"), ("results", "registry", "source")),
}
_named: dict[str, str] = {}  # of this process


def remember_places(parameters: Mapping[str, Any]) -> None:
    """From now on suggest commands with the places among a command's `parameters` that are not the defaults.

    Of several folders the last one, for who makes something new.
    """
    _named.clear()
    for name, default in _DEFAULTS.items():
        value = parameters.get(name)
        place = value[-1] if isinstance(value, list) and value else value
        if place not in (None, default):
            _named[name] = shlex.quote(str(place))


def suggested(command: str) -> str:
    """`command`, such as 'norml prepare omniglot', with ' --registry mine' where the user named that."""
    given = [name for name in _TAKE.get(command.split()[1], ()) if name in _named and f"--{name} " not in command]
    return command + "".join(f" --{name} {_named[name]}" for name in given)
