"""`norml compare`: paired differences between methods on the same test episodes, with plain verdicts."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from norml_cli.files.errors import UserError
from norml_cli.registry.resolving import Registry
from norml_cli.reporting.comparison_sheets import COMPARISON_KEYS, comparison_page, comparison_values, matrix_pages
from norml_cli.reporting.formats import render_pages, require_format
from norml_cli.results.comparisons import compare, compare_table
from norml_cli.results.store import find_records
from norml_cli.terminal.output import print_text


@dataclass(frozen=True)
class Compared:
    """What is compared: methods on a benchmark at so many shots (None: the first method's), or a table's."""

    methods: list[str]
    table: str | None = None
    benchmark: str | None = None
    shots: int | None = None


def compare_methods(registry: Registry, asked: Compared, *, format_: str, results: Path, console: Console) -> None:
    """Print the comparison of every pair of methods, or of the methods of a table that have runs.

    Raises UserError for fewer than two methods, and as `compare`.
    """
    require_format(format_)
    methods, table, benchmark, shots = asked.methods, asked.table, asked.benchmark, asked.shots
    records = [record for _, record in find_records(results)]
    if table is not None:
        if methods or benchmark is not None or shots is not None:
            raise UserError("--all: takes the methods and columns of its table; leave out METHOD, --benchmark, --shots")
        comparisons = compare_table(registry, registry.table(table), records)
        if not comparisons:
            raise UserError(f"--all {table}: no column has finished runs of two methods; `norml report` lists the runs")
    else:
        if len(set(methods)) != len(methods) or len(methods) < 2:  # noqa: PLR2004 - a pair
            raise UserError("compare: name two or more different methods, or a table with --all")
        spec = registry.resolve(methods[0], benchmark, shots).spec
        comparisons = compare(registry, methods, spec.benchmark, spec.shots, records)
    values = [comparison_values(comparison, each) for comparison in comparisons for each in comparison.differences]
    pages = [*(matrix_pages(comparisons) if table is not None else []), comparison_page(comparisons)]
    print_text(render_pages(pages, COMPARISON_KEYS, values, "comparisons", format_, width=console.width), console)
