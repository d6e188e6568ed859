"""What the pages show in a console is what the commands print, but for numbers."""

import importlib
import re
import shutil
from pathlib import Path

import pytest
import yaml

from norml_cli.registry.reading import builtin_registry
from tests.helpers import tiny
from tests.helpers.command_line import Shell

ROOT = Path(__file__).parents[2]
PAGES = [page for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")) if "```console" in page.read_text()]

# What two runs of one command may print in different ways.
VARIES = [
    (r"[0-9a-f]{40,}", "HASH"),
    (r"(?m)on cpu \(.*\)$", "on DEVICE"),
    (r"\d{4}-\d{2}-\d{2}", "DATE"),
    (r"(?:[<±+-] ?)?\d[\d,]*(?:\.\d+)?(?:e-\d+)?", "#"),
    (r"(?:# to )+#", "#"),
    (r"(?:# )*# (?:s|min|h)\b|#(?::#)+", "TIME"),
    (r"\S+ is ahead|not significant(?:;\s+#\s+\w+\s+needed)?|too few seeds(?:; # needed)?", "VERDICT"),
    (r"[─*]+", ""),
]


@pytest.fixture
def small_glyphs(shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shell:
    """The built-in registry with glyphs and its benchmark cut down, and a home of its own."""
    registry = tmp_path / "registry"
    shutil.copytree(builtin_registry(), registry)
    made = tiny.write_registry(tmp_path / "tiny")
    for kind, name, small in (("datasets", "glyphs", "tiny-glyphs"), ("benchmarks", "glyphs-5way", "tiny-5way")):
        entry = yaml.safe_load((made / kind / f"{small}.yaml").read_text()) | {"id": name}
        tiny.write_entry(registry, kind, entry | ({"dataset": "glyphs"} if kind == "benchmarks" else {}))
    monkeypatch.setattr("norml_cli.registry.reading.builtin_registry", lambda: registry)
    monkeypatch.delenv("NORML_REGISTRY")
    monkeypatch.setenv("NORML_HOME", str(tmp_path / "home"))
    return shell


def masked(text: str) -> list[str]:
    """The words of an output without what may differ."""
    for pattern, replacement in VARIES:
        text = re.sub(pattern, replacement, text)
    return text.split()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_console_shows_what_its_commands_print(page: Path, small_glyphs: Shell, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    transcripts = importlib.import_module("transcripts")
    text = page.read_text(encoding="utf-8")
    transcripts.write_files(text, small_glyphs.folder)
    monkeypatch.setenv("COLUMNS", str(transcripts.COLUMNS))
    steps = list(transcripts.steps_of(text))
    assert steps
    for command, shown in steps:
        code, printed, err = small_glyphs.norml(*command.split()[1:])
        assert code == 0, err
        assert masked(transcripts.shown(printed)) == masked(shown), command
