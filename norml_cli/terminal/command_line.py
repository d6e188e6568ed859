"""The command line of this process, without private paths, for records and status files."""

import shlex
from collections.abc import Sequence
from pathlib import Path

_PATH_OPTIONS = frozenset({"--results", "--registry", "--source"})


def command_line(arguments: Sequence[str], program: Sequence[str] = ("norml",)) -> str:
    """The command line as one text. Each path is cut to its last part, so that records can be published.

    arguments: the words after the program's name, as in sys.argv[1:].
    """
    words = [*program]
    previous = ""
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if previous in _PATH_OPTIONS or _is_file(argument):
            words.append(_last_part(argument))
        elif equals and option in _PATH_OPTIONS:
            words.append(f"{option}={_last_part(value)}")
        else:
            words.append(argument)
        previous = argument
    return shlex.join(words)


def _is_file(word: str) -> bool:
    """Whether the word names an entry file or a record."""
    return not word.startswith("-") and word.endswith((".yaml", ".json"))


def _last_part(path: str) -> str:
    return Path(path).name or "."
