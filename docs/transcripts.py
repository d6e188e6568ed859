"""The console blocks of pages: `python docs/transcripts.py PAGE...` runs their commands and writes what they print.

A block is fenced as `console`. A command begins with `$ `; its output follows. The blocks of a page run from top to
bottom in one new folder. The files that the page shows are written there first: each is a fenced block below a line
that ends in the file's name and a colon, as in "Write `mine/methods/slow.yaml`:". A test runs the same commands on a
smaller data set and compares the output, but not its numbers. Lines of progress are left out.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

COLUMNS = 88
_PASSING = re.compile(r"^.*: [\w -]+ [\d,]+/[\d,]+\b.*\n", re.MULTILINE)
_CONSOLE = re.compile(r"(?<=```console\n).*?(?=```)", re.DOTALL)
_FILE = re.compile(r"`([\w/-]+\.\w+)`:\n\n```\w+\n(.*?)```", re.DOTALL)


def files_of(text: str) -> dict[str, str]:
    """The files that a page shows, by their names."""
    return dict(_FILE.findall(text))


def steps_of(text: str) -> Iterator[tuple[str, str]]:
    """Each command of a page's console blocks, with what it is shown to print."""
    for block in _CONSOLE.findall(text):
        yield from re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)


def with_outputs(text: str, run: Callable[[str], str]) -> str:
    """The page with what `run` says that each command prints."""

    def block(found: re.Match[str]) -> str:
        commands = re.findall(r"^\$ (.*)$", found[0], re.MULTILINE)
        return "\n".join(f"$ {command}\n{shown(run(command))}" for command in commands)

    return _CONSOLE.sub(block, text)


def shown(printed: str) -> str:
    """What a page shows of what a command printed."""
    return _PASSING.sub("", printed).rstrip() + "\n"


def write_files(text: str, folder: Path) -> None:
    """The files that a page shows, into `folder`."""
    for name, content in files_of(text).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


def _in_a_shell(command: str, folder: Path) -> str:
    words = [sys.executable, "-m", "norml_cli", *shlex.split(command)[1:]]
    settings = os.environ | {"COLUMNS": str(COLUMNS), "NORML_HOME": str(folder / "home")}
    return subprocess.run(words, cwd=folder, env=settings, stdout=subprocess.PIPE, text=True, check=True).stdout  # noqa: S603 - the page's own commands


def main() -> None:
    """Write the outputs of the pages that are named."""
    for name in sys.argv[1:]:
        page = Path(name)
        text = page.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as folder:
            write_files(text, Path(folder))
            written = with_outputs(text, lambda command, place=Path(folder): _in_a_shell(command, place))
        page.write_text(written, encoding="utf-8")


if __name__ == "__main__":
    main()
