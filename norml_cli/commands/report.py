"""`norml report`: a table of the paper beside our numbers, or the runs at hand, in a terminal or as a page."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from norml_cli.files.atomic import write_atomically
from norml_cli.files.errors import UserError
from norml_cli.registry.resolving import Registry
from norml_cli.reporting.formats import require_format
from norml_cli.reporting.lists import render_runs
from norml_cli.reporting.table_sheet import render_table
from norml_cli.results.records import RunRecord
from norml_cli.results.store import find_records
from norml_cli.results.tables import Table, benchmarks_of, build_table
from norml_cli.terminal.output import print_text

EVERY = "every"  # in place of a table's id


def report(registry: Registry, *, table_id: str | None, format_: str, results: Path, console: Console) -> None:
    """Print the table `table_id` (EVERY: all that have runs), or the list of runs without one, in `format_`.

    Raises UserError for an unknown table or format, for every damaged record that it reads, and if no table has runs.
    """
    require_format(format_)
    if table_id is None:
        runs = find_records(results)
        print_text(render_runs(registry, runs, format_, width=console.width), console)
        return
    if table_id == EVERY and format_ in {"csv", "json"}:
        raise UserError(f"--table: name one table for --format {format_}: {', '.join(registry.tables)}")
    tables, _ = _tables(registry, table_id, results)
    print_text("\n".join(render_table(table, format_, width=console.width) for table in tables), console)


def report_html(registry: Registry, *, table_id: str | None, out: Path, results: Path, console: Console) -> None:
    """Write one page of the table `table_id`, or of every table that has runs, to `out`.

    Raises UserError as `report`, and if `out` cannot be written.
    """
    from norml_cli.reporting.html import render_html  # noqa: PLC0415 - brings the pictures, which only pages need

    if str(out) == "-":
        raise UserError("--html -: a page is written to a file; name one, such as --html report.html")
    tables, runs = _tables(registry, table_id or EVERY, results)
    page = render_html(registry, tables, runs).encode()
    write_atomically(out, lambda file: file.write(page))
    console.print(f"wrote {out} ({len(page) / 1e6:.1f} MB)", highlight=False, soft_wrap=True)


def _tables(registry: Registry, table_id: str, results: Path) -> tuple[list[Table], Sequence[tuple[Path, RunRecord]]]:
    """The table of that id, or every one with runs; and the runs that were read for it."""
    named = registry.table(table_id) if table_id != EVERY else None
    runs = find_records(results, benchmarks_of(named) if named else None)
    records = [record for _, record in runs]
    entries = [named] if named else sorted(registry.tables.values(), key=lambda entry: entry.id)
    tables = [build_table(registry, entry, records) for entry in entries]
    shown = tables if named else [table for table in tables if any(cell.ours for _, _, cell in table.cells())]
    if not shown:
        raise UserError(f"{results}: no table has a finished run; `norml run METHOD` makes one")
    return shown, runs
