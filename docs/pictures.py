"""Make the README's pictures from the records in this checkout: what a terminal shows, and the page.

python docs/pictures.py     (the picture of the page needs Chromium)
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
COLUMNS = 96
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
COMMANDS = ("norml compare norml maml-constant-lr",)


def output_of(command: str) -> str:
    """What `command` prints to a terminal of COLUMNS characters."""
    words = [sys.executable, "-m", "norml_cli", *shlex.split(command)[1:]]
    settings = os.environ | {"COLUMNS": str(COLUMNS)}
    return subprocess.run(words, cwd=ROOT, env=settings, capture_output=True, text=True, check=True).stdout  # noqa: S603 - our own words


def terminal_picture(path: Path) -> None:
    """A picture of a terminal with the commands and their output."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere)
        for command in COMMANDS:
            console.print(Text(f"$ {command}", style="bold"))
            console.print(Text(output_of(command)))
    path.write_text(console.export_svg(title="norml", unique_id="norml"), encoding="utf-8")


def page_picture(path: Path, width: int, height: int) -> None:
    """The top of the page in a headless browser. Raises SystemExit without one."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit("the picture of the page needs Chromium: install it and run this again; the others are made")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        output_of(f"norml report --table table-2 --html {shlex.quote(str(page))}")
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--window-size={width},{height}", f"--screenshot={path}", page.as_uri()]
        subprocess.run(command, capture_output=True, check=True)  # noqa: S603 - our own words


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    terminal_picture(PICTURES / "terminal.svg")
    page_picture(PICTURES / "page.png", 1250, 1350)
