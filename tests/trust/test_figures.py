"""The figures of docs/trust.md are those of results/trust."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def kept(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / "results/trust" / name).read_text())
    return content


def fuzzing_rows() -> list[str]:
    return [
        f"| {name} | {of['examples']:,} | {of['escaped_exceptions']} |" for name, of in kept("fuzzing.json").items()
    ]


def long_run_rows() -> list[str]:
    found = kept("long-run.json")
    memory = found["memory_bytes"]
    growth = f"{memory['growth'] / 1024:.0f} ± {memory['growth_half_width'] / 1024:.0f} KiB"
    return [
        f"| outer steps | {found['outer_steps']:,} |",
        f"| growth of resident memory over the last two thirds | {growth} |",
        f"| growth of open files | {found['open_files']['growth']:.0f} |",
        f"| the display's share of CPU time | {100 * found['display']['share']:.2f}% |",
    ]


def test_figures_are_those_that_were_measured():
    lines = (ROOT / "docs/trust.md").read_text(encoding="utf-8").splitlines()
    for row in [*fuzzing_rows(), *long_run_rows()]:
        assert row in lines


def test_the_long_run_held():
    assert all(kept("long-run.json")["holds"].values())
