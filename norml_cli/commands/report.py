"""`norml report`: a table of the paper beside our numbers, or the runs at hand."""

from pathlib import Path

from rich.console import Console

from norml_cli.records import find_records
from norml_cli.registry import Registry
from norml_cli.report import render_runs, render_table, require_format
from norml_cli.tables import benchmarks_of, build_table

_ASCII = str.maketrans({"±": "+-", "─": "-"})


def report(registry: Registry, *, table_id: str | None, format_: str, results: Path, console: Console) -> None:
    """Print the table `table_id`, or the list of runs without one, in `format_`.

    Raises UserError for an unknown table or format, and for every damaged record that it reads.
    """
    require_format(format_)
    table = registry.table(table_id) if table_id is not None else None
    runs = find_records(results, None if table is None else benchmarks_of(table))
    if table is None:
        text = render_runs(registry, runs, format_, width=console.width)
    else:
        text = render_table(build_table(registry, table, [record for _, record in runs]), format_, width=console.width)
    print_text(text, console)


def print_text(text: str, console: Console) -> None:
    """Write `text` as it is: not wrapped, not read as markup, and in ASCII where the output holds no more."""
    try:
        text.encode(console.encoding)
    except UnicodeEncodeError:
        text = text.translate(_ASCII).encode(console.encoding, "replace").decode(console.encoding)
    console.out(text, end="", highlight=False)
