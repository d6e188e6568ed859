"""The README's table and sentences, and the full tables of docs/explanation/reproduction.md, from the records."""

import functools
from collections.abc import Iterator
from pathlib import Path

from norml_cli.registry.reading import builtin_registry, read_registry
from norml_cli.registry.resolving import Registry
from norml_cli.reporting.formats import percent
from norml_cli.reporting.sheets import Grid, Sheet, to_markdown
from norml_cli.reporting.table_sheet import render_table
from norml_cli.results.comparisons import Comparison, compare_table
from norml_cli.results.evaluated import Evaluations
from norml_cli.results.groups import seeds_text
from norml_cli.results.records import RunRecord
from norml_cli.results.store import Results
from norml_cli.results.tables import Cell, Table, build_table

RESULTS = Path(__file__).parents[1] / "results"
NORML, MAML = "norml", "maml-constant-lr"


@functools.cache
def _registry() -> Registry:
    return read_registry([builtin_registry()])


@functools.cache
def _runs() -> list[tuple[Path, RunRecord]]:
    return Results(RESULTS).runs()


@functools.cache
def _table(table_id: str) -> Table:
    evaluations = Evaluations(_runs(), Results(RESULTS).scan_evaluations().sound())
    return build_table(_registry(), _registry().table(table_id), [record for _, record in _runs()], evaluations)


def table_2() -> str:
    """Table 2 of the paper: its numbers, ours, and those of the same weights under its second, stricter test."""
    table = _table("table-2")
    headers = [f"{column.title} {what}" for column in table.entry.columns for what in ("paper", "ours", "strict")]
    rows = [[row.entry.title, *(text for cell in row.cells for text in _three(cell))] for row in table.rows]
    return to_markdown(Sheet(Grid(["method", *headers], rows))).rstrip()


def _three(cell: Cell) -> Iterator[str]:
    yield cell.published.text if cell.published else "-"
    second = cell.ours.second if cell.ours else None
    for reached in (cell.ours.accuracy.interval if cell.ours else None, second.accuracy if second else None):
        yield percent(reached.mean, reached.half_width) if reached else "-"


def lead() -> str:
    """NORML beside MAML with a constant rate, in the paper and here, at each number of shots."""
    table = _table("table-2")
    pairs = compare_table(_registry(), table.entry, [record for _, record in _runs()])
    said = [f"{_lead(pair)} at {_shots(pair.shots)} ({_of(table, pair)})" for pair in pairs if _is_lead(pair)]
    return f"NORML minus MAML (constant lr), in points of accuracy: {'; '.join(said)}."


def _is_lead(pair: Comparison) -> bool:
    return {pair.a, pair.b} == {NORML, MAML}


def _lead(pair: Comparison) -> str:
    interval = pair.over_episodes.interval
    return percent(interval.mean if pair.a == NORML else -interval.mean, interval.half_width, sign="+")


def _of(table: Table, pair: Comparison) -> str:
    """The common seeds, and the paper's difference."""
    return f"{seeds_text(pair.over_episodes.seeds)}; paper: {_in_paper(table, pair.shots)}"


def _in_paper(table: Table, shots: int) -> str:
    of = {
        row.entry.method: cell.published.accuracy
        for row in table.rows
        for column, cell in zip(table.entry.columns, row.cells, strict=True)
        if cell.published and column.shots == shots
    }
    return f"{100 * (of[NORML] - of[MAML]):+.1f}"


def _shots(shots: int) -> str:
    return f"{shots} shot{'s' * (shots > 1)}"


def seeds() -> str:
    """Number of seeds of a cell, and number of test episodes of a seed."""
    ours = [cell.ours for _, _, cell in _table("table-2").cells() if cell.ours]
    counts = sorted({len(each.runs.seeds) for each in ours})
    many = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
    [episodes] = {each.accuracy.interval.n for each in ours}
    return f"Ours are means over {episodes:,} test episodes and {many} seeds, with 95% intervals over episodes."


def full(table_id: str) -> str:
    """A table as `norml report --table ID --format markdown` prints it."""
    return render_table(_table(table_id), "markdown", width=80).strip()


BLOCKS = {
    "table-2": table_2,
    "table-2-lead": lead,
    "table-2-seeds": seeds,
    "full-table-2": functools.partial(full, "table-2"),
    "full-table-1-42px": functools.partial(full, "table-1-42px"),
    "full-table-1-42px-one-by-one": functools.partial(full, "table-1-42px-one-by-one"),
}
