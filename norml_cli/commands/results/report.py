"""`norml report`: print the user's runs, or a table of the paper beside them, as text or as an HTML page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console

from norml_cli.files.atomic import write_atomically
from norml_cli.files.errors import UserError
from norml_cli.files.suggestions import suggested
from norml_cli.registry.resolving import Registry
from norml_cli.reporting.formats import render_sheets, require_format, to_csv, to_json
from norml_cli.reporting.lists import render_runs
from norml_cli.reporting.protocol_sheets import PROTOCOL_KEYS, protocol_sheet, protocol_values
from norml_cli.reporting.table_sheet import render_table
from norml_cli.results.evaluated import Evaluations
from norml_cli.results.evaluations import EvaluationRecord
from norml_cli.results.gathered import Gathered
from norml_cli.results.protocols import protocol_tables
from norml_cli.results.records import RunRecord
from norml_cli.results.series import CURVE_KEYS, EPISODE_KEYS, episode_counts, learning_curves
from norml_cli.results.store import scan_inspections
from norml_cli.results.tables import Table, benchmarks_of, build_table
from norml_cli.terminal.output import name_left_out, print_line, print_text

EVERY = "every"  # in place of a table's id


def report(registry: Registry, *, table_id: str | None, format_: str, results: Gathered, console: Console) -> None:
    """Print the table `table_id` (EVERY: all tables with runs; None: the list of runs) in `format_`.

    The list leaves out damaged records and names them on standard error. A table needs all its records. Raises
    UserError for an unknown table or format, a missing folder, damaged records of a table, a list whose records are all
    damaged, and if no table has runs.
    """
    require_format(format_)
    if table_id is None:
        results.require_folder()
        scan = results.scan_runs(intervals=False)  # intervals as stored; tables recompute them
        runs = scan.records or scan.sound()  # raises if all are damaged
        print_text(render_runs(registry, runs, format_, width=console.width), console)
        name_left_out(scan.faults)
        return
    if table_id == EVERY and format_ in {"csv", "json"}:
        raise UserError(f"--table: name one table for --format {format_}: {', '.join(registry.tables)}")
    tables, *_ = _tables(registry, table_id, results)
    texts = [render_table(table, format_, width=console.width) for table in tables]
    print_text("\n".join(texts), console)


def report_protocols(
    registry: Registry, methods: Sequence[str], *, format_: str, results: Gathered, console: Console
) -> None:
    """Print the accuracy of `methods` (empty: all) in their own test and under every evaluated protocol.

    Raises UserError for an unknown method or format, a missing folder, damaged runs, and if there are no evaluations.
    """
    require_format(format_)
    for method in methods:
        registry.method(method)
    results.require_folder()
    scan = results.scan_evaluations()
    tables = protocol_tables(registry, results.runs(), scan.records, methods)
    name_left_out(scan.faults)
    if not tables:
        makes = f"`{suggested('norml evaluate RECORD --set KEY=VALUE')}`"
        raise UserError(f"{results}: no evaluations of these methods; {makes} makes one")
    sheets = [protocol_sheet(table) for table in tables]
    values = protocol_values(tables)
    print_text(render_sheets(sheets, PROTOCOL_KEYS, values, "protocols", format_, width=console.width), console)


def report_series(
    what: Literal["curves", "episodes"], *, format_: str, results: Sequence[Path], console: Console
) -> None:
    """Print every run's learning curve, or the correct answers of its test episodes, as CSV or JSON.

    Raises UserError for another format, a missing folder, and damaged runs.
    """
    require_format(format_)
    if format_ not in {"csv", "json"}:
        raise UserError(f"--{what}: has only data formats; add --format csv or --format json")
    rows, keys = (learning_curves, CURVE_KEYS) if what == "curves" else (episode_counts, EPISODE_KEYS)
    found = rows(*results)
    print_text(to_csv(keys, found) if format_ == "csv" else to_json({what: found}), console)


def report_html(registry: Registry, *, table_id: str | None, out: Path, results: Gathered, console: Console) -> None:
    """Write an HTML page of the table `table_id`, or of every table with runs, to `out`.

    Raises UserError where `report` does, and if `out` cannot be written.
    """
    from norml_cli.reporting.html import render_html  # noqa: PLC0415 - loads the plotting library, needed here only

    tables, runs, evaluations = _tables(registry, table_id or EVERY, results)
    protocols = protocol_tables(registry, runs, evaluations)
    name_left_out(scan_inspections(path for path, _ in runs).faults)
    page = render_html(registry, tables, runs, protocols).encode()
    write_atomically(out, lambda file: file.write(page))
    print_line(f"wrote {out} ({_size(len(page))})", console)


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e5 else f"{n_bytes / 1e3:.0f} kB"  # noqa: PLR2004 - 0.1 MB


def _tables(
    registry: Registry, table_id: str, results: Gathered
) -> tuple[list[Table], Sequence[tuple[Path, RunRecord]], Sequence[tuple[Path, EvaluationRecord]]]:
    """The table of that id, or every table with runs, and the runs and evaluations read for it. Raises UserError."""
    named = registry.table(table_id) if table_id != EVERY else None
    results.require_folder()
    benchmarks = benchmarks_of(named) if named else None
    runs, scan = results.runs(benchmarks), results.scan_evaluations(benchmarks)
    name_left_out(scan.faults)
    records, evaluations = [record for _, record in runs], Evaluations(runs, scan.records)
    entries = [named] if named else sorted(registry.tables.values(), key=lambda entry: entry.id)
    tables = [build_table(registry, entry, records, evaluations) for entry in entries]
    chosen = tables if named else [table for table in tables if any(cell.ours for _, _, cell in table.cells())]
    if not chosen:
        raise UserError(f"{results}: no table has a finished run; `{suggested('norml run METHOD')}` makes one")
    return chosen, runs, scan.records
