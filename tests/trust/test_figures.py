"""The figures of docs/explanation/trust.md are those that the campaigns recorded, and none of these failed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "trust.md").read_text(encoding="utf-8")


def recorded(name: str) -> dict:
    return json.loads((ROOT / "results" / "trust" / f"{name}.json").read_text(encoding="utf-8"))


def test_the_table_of_flips_is_the_one_recorded():
    kinds = recorded("flips")["kinds"]
    assert len(kinds) == 6
    for kind, count in kinds.items():
        assert count["flips"] == 500
        assert count["wrong"] == []
        figures = (f"{count['bytes']:,}", count["flips"], count["refused"], count["read_unchanged"], 0)
        assert f"| {kind} | {' | '.join(str(figure) for figure in figures)} |" in PAGE


@pytest.mark.parametrize("command", ["prepare", "pretrain", "run"])
def test_the_table_of_kills_is_the_one_recorded(command: str):
    """A row stands on the page if, and only if, its campaign is recorded."""
    row = f"| `norml {command}` |"
    if not (ROOT / "results" / "trust" / f"kills-{command}.json").exists():
        assert row not in PAGE
        return
    count = recorded(f"kills-{command}")["count"]
    assert count["kills"] == 200
    assert count["wrong"] == []
    keys = ("kills", "left_half_written", "left_a_checkpoint", "ends_compared", "equal_ends")
    assert f"{row} {' | '.join(str(count[key]) for key in keys)} |" in PAGE


def fuzzing_rows() -> list[str]:
    return [f"| {name} | {of['examples']:,} | {of['escaped_exceptions']} |" for name, of in recorded("fuzzing").items()]


def long_run_rows() -> list[str]:
    found = recorded("long-run")
    memory = found["memory_bytes"]
    growth = f"{memory['growth'] / 1024:.0f} ± {memory['growth_half_width'] / 1024:.0f} KiB"
    return [
        f"| outer steps | {found['outer_steps']:,} |",
        f"| growth of resident memory over the last two thirds | {growth} |",
        f"| growth of open files | {found['open_files']['growth']:.0f} |",
        f"| step time, last window's median over the first's | {found['step_s']['last_over_first']:.2f} |",
        f"| the display's share of CPU time | {100 * found['display']['share']:.2f}% |",
    ]


def test_figures_are_those_that_were_measured():
    lines = PAGE.splitlines()
    for row in [*fuzzing_rows(), *long_run_rows()]:
        assert row in lines


def test_the_long_run_held():
    assert all(recorded("long-run")["holds"].values())


def test_a_short_run_is_watched_as_the_long_one_is(tmp_path: Path):
    """Too short to judge: what it finds has every figure of the long run's record."""
    target = tmp_path / "long-run.json"
    command = [sys.executable, "-m", "tests.trust.long_run", str(target), "--outer-steps", "150"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in {0, 1}, done.stderr
    assert json.loads(target.read_text(encoding="utf-8")).keys() == recorded("long-run").keys()
