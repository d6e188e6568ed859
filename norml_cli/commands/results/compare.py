"""`norml compare`: paired differences between methods on the same test episodes, with a verdict in words."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from norml_cli.files.errors import UserError
from norml_cli.files.suggestions import suggested
from norml_cli.registry.resolving import Registry
from norml_cli.reporting.comparison_sheets import COMPARISON_KEYS, comparison_sheet, comparison_values, matrix_sheets
from norml_cli.reporting.formats import render_sheets, require_format
from norml_cli.results.comparisons import compare, compare_table
from norml_cli.results.groups import method_of
from norml_cli.results.records import RunRecord
from norml_cli.results.store import Results
from norml_cli.terminal.output import print_text


@dataclass(frozen=True)
class Compared:
    """What to compare: methods on a benchmark and shots (None: the first method's), or all methods of a table."""

    methods: list[str]
    table: str | None = None
    benchmark: str | None = None
    shots: int | None = None


def compare_methods(registry: Registry, asked: Compared, *, format_: str, results: Path, console: Console) -> None:
    """Print the comparison of every pair of methods, or of the methods of a table that have runs.

    Raises UserError for fewer than two methods, for a missing folder, and where `compare` does.
    """
    require_format(format_)
    methods, table, benchmark, shots = asked.methods, asked.table, asked.benchmark, asked.shots
    if table is not None:
        if methods or benchmark is not None or shots is not None:
            raise UserError("--all: compares the methods of the table; leave out METHOD, --benchmark and --shots")
        comparisons = compare_table(registry, registry.table(table), _records(results))
        if not comparisons:
            lists = f"`{suggested('norml report')}` lists the runs"
            raise UserError(f"--all {table}: no column has finished runs of two methods; {lists}")
    else:
        if len(set(methods)) != len(methods) or len(methods) < 2:  # noqa: PLR2004 - a pair
            raise UserError("compare: name two or more different methods, or a table with --all")
        spec = registry.resolve(method_of(methods[0]), benchmark, shots).spec
        comparisons = compare(registry, methods, spec.benchmark, spec.shots, _records(results))
    values = [comparison_values(comparison, each) for comparison in comparisons for each in comparison.differences]
    sheets = [*(matrix_sheets(comparisons) if table is not None else []), comparison_sheet(comparisons)]
    print_text(render_sheets(sheets, COMPARISON_KEYS, values, "comparisons", format_, width=console.width), console)


def _records(results: Path) -> list[RunRecord]:
    Results(results).require_folder()
    return [record for _, record in Results(results).runs()]
