"""The console of a command: text for people, JSON for programs, or nothing (--quiet)."""

import json
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from typing_extensions import override

_ASCII = str.maketrans({"±": "+-", "─": "-"})


def writable(text: str, encoding: str) -> str:
    """`text` in characters that `encoding` has: ± and ─ become ASCII, other missing characters '?'."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
    return text


def print_text(text: str, console: Console) -> None:
    """Write `text` as it is: no wrapping and no markup. Characters that the output lacks become ASCII."""
    console.out(writable(text, console.encoding), end="", highlight=False)


def print_line(line: str, console: Console) -> None:
    """Write `line` as it is: no markup, and the terminal wraps it."""
    console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)


def name_left_out(faults: Iterable[str]) -> None:
    """Name on standard error what a list leaves out, so that standard output holds the list alone."""
    for line in "\n".join(faults).splitlines():
        print_line(f"left out: {line}", Console(stderr=True))


class Output(Console):
    """A rich console. `quiet`: prints errors only. `as_json`: prints only the result on standard output, as JSON.

    With `as_json`, progress and other lines go to standard error as JSON objects, one per line, unless `quiet`.
    """

    def __init__(self, *, quiet: bool = False, as_json: bool = False, **settings: Any) -> None:
        super().__init__(quiet=quiet and not as_json, **settings)
        self.silent, self.as_json = quiet, as_json

    @property
    def result_format(self) -> str:
        """The format of `--format` that results are printed in."""
        return "json" if self.as_json else "rich"

    @override
    def print(self, *objects: Any, **settings: Any) -> None:
        if self.as_json:
            self.event("line", line=" ".join(map(str, objects)))
        else:
            texts = (writable(item, self.encoding) if isinstance(item, str) else item for item in objects)
            super().print(*texts, **settings)

    @override
    def out(self, *objects: Any, sep: str = " ", end: str = "\n", **settings: Any) -> None:
        if self.as_json:
            self.file.write(sep.join(map(str, objects)) + end)
        else:
            super().out(*objects, sep=sep, end=end, **settings)

    def event(self, kind: str, **values: Any) -> None:
        """Write one JSON object to standard error, unless `quiet`."""
        if not self.silent:
            sys.stderr.write(json.dumps({"event": kind, **values}) + "\n")
            sys.stderr.flush()

    def result(self, data: Any) -> None:
        """Write the command's result as JSON, with `as_json` only: without it, the command's lines say the same."""
        if self.as_json:
            self.out(json.dumps(data, indent=2), highlight=False)
