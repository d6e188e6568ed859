"""What a user waits for: commands as whole processes."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from norml_cli.results.speed import SpeedSection
from tests.benchmarks.bench import Bench
from tests.benchmarks.record import ROOT, measured

STARTED = ("--help", "list", "report --table table-2", "show norml", "validate")
PREPARED = "prepare glyphs --force"


def commands(bench: Bench) -> SpeedSection:
    """Start-up of the commands that compute nothing, and the preparation of the embedded data set."""
    with tempfile.TemporaryDirectory() as home:
        calls = {line: (lambda line=line: _norml(line, Path(home))) for line in STARTED}
        seconds = bench.interleaved("commands, turns", calls, rounds=9)
        preparation = {PREPARED: lambda: _norml(PREPARED, Path(home))}
        seconds |= bench.interleaved("commands, preparation, turns", preparation, rounds=5)
    return SpeedSection(
        name="commands",
        title="commands as whole processes",
        measurements=[measured({"command": f"norml {line}"}, spent) for line, spent in seconds.items()],
    )


def _norml(line: str, home: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "norml_cli", *line.split()],
        cwd=ROOT,
        env=os.environ | {"NORML_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=True,
    )
