"""What a benchmark shows: how far it is, and tables. No live display: its thread would be timed too."""

import sys
import time
from typing import TextIO

from rich.console import Console
from rich.table import Table

from norml_cli.results.speed import Measurement, SpeedSection
from tests.benchmarks.load import ALLOWED_CORES

PLAIN_EVERY_S = 10.0  # chosen: a log that a person can follow
LONG_S = 10.0  # from here on a time reads better in seconds


class Progress:
    """One line that says what is measured and how far it is; written between measurements only."""

    def __init__(self, file: TextIO = sys.stderr) -> None:
        self._file, self._live = file, file.isatty()
        self._said_at = 0.0
        self._what = ""

    def at(self, what: str, done: int | None = None, total: int | None = None) -> None:
        """`what` is under way, with `done` of `total` done where that can be said."""
        now = time.monotonic()
        line = what if done is None else f"{what}: {done}/{total}"
        if self._live:
            print(f"\r\x1b[K{line}", end="", file=self._file, flush=True)
        elif what != self._what or now - self._said_at >= PLAIN_EVERY_S:
            self._said_at, self._what = now, what
            print(line, file=self._file, flush=True)

    def clear(self) -> None:
        """Leave the line to what is printed next."""
        if self._live:
            print("\r\x1b[K", end="", file=self._file, flush=True)


def show(console: Console, section: SpeedSection) -> None:
    """The section's medians as a table, under its settings."""
    rows = section.measurements
    labels = list(dict.fromkeys(label for row in rows for label in row.labels))
    derived = list(dict.fromkeys(name for row in rows for name in row.derived))
    notes = any(row.note for row in rows)
    table = Table()
    for label in labels:
        table.add_column(label)
    for heading in ["median", "repeats", *derived]:
        table.add_column(heading, justify="right")
    if notes:
        table.add_column("note")
    group = None
    for row in rows:
        if len(labels) > 1 and group is not None and row.labels.get(labels[0]) != group:
            table.add_section()
        group = row.labels.get(labels[0])
        cells = [str(row.labels.get(label, "")) for label in labels]
        cells += [_median(row), str(len(row.repeats))]
        cells += [_derived(name, row.derived.get(name)) for name in derived]
        table.add_row(*cells, *([row.note or ""] if notes else []))
    console.print(f"{section.name}: {section.title}", style="bold", highlight=False, markup=False, soft_wrap=True)
    console.print(table)
    for name, value in section.settings.items():
        console.print(f"  {name}: {_setting(value)}", highlight=False, markup=False, soft_wrap=True)
    if section.others_busy_cores is not None:
        disturbed = section.others_busy_cores > ALLOWED_CORES
        line = f"  other processes kept {section.others_busy_cores:.2f} cores busy meanwhile"
        line += f": above {ALLOWED_CORES}, so these times are not norml's alone" if disturbed else ""
        console.print(line, style="bold" if disturbed else "", highlight=False, markup=False, soft_wrap=True)
    console.print()


def _median(row: Measurement) -> str:
    if row.median is None:
        return "-"
    if row.unit == "requests":
        return f"{row.median:,.0f}"
    if row.unit == "bytes":
        return f"{row.median / 2**20:,.0f} MiB"
    return f"{row.median:,.1f} s" if row.median >= LONG_S else f"{1e3 * row.median:,.2f} ms"


def _derived(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f} %" if name.startswith("share") else f"{value:,.2f}"


def _setting(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_setting(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_setting, value))
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
