"""Sheets and their values as text: rich, Markdown, LaTeX, CSV and JSON.

Percent appears only in rich, Markdown and LaTeX; CSV and JSON hold fractions to 12 digits.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from norml.statistics import FORMULA
from norml_cli.files.errors import UserError
from norml_cli.registry.faults import did_you_mean
from norml_cli.reporting.latex import to_latex
from norml_cli.reporting.sheets import Sheet, to_markdown, to_rich

FORMATS = ("rich", "markdown", "latex", "csv", "json")


def require_format(format_: str) -> None:
    """Raises UserError for a format that is not one of FORMATS."""
    if format_ not in FORMATS:
        near = did_you_mean(format_, FORMATS)
        raise UserError(f"--format {format_}: unknown format{near or ';'} use one of {', '.join(FORMATS)}")


# ------------------------------------------------------------------------------------------------------------- texts


def render_sheets(
    sheets: Sequence[Sheet],
    keys: Mapping[str, str],
    values: Sequence[Mapping[str, Any]],
    name: str,
    format_: str,
    *,
    width: int,
) -> str:
    """`sheets` as text, or their `values` as CSV with columns `keys`, or as JSON under `name`."""
    if format_ == "csv":
        return to_csv(keys, values)
    if format_ == "json":
        return to_json({"half_width_formula": FORMULA, name: values})
    return "\n".join(sheet_text(sheet, format_, width) for sheet in sheets)


def sheet_text(sheet: Sheet, format_: str, width: int) -> str:
    """One sheet as rich, Markdown or LaTeX."""
    if format_ == "markdown":
        return to_markdown(sheet)
    return to_latex(sheet) if format_ == "latex" else to_rich(sheet, width)


def percent(mean: float, half_width: float, *, sign: Literal["", "+"] = "") -> str:
    """Fractions as percent: '80.45 ± 0.19'; `sign` '+' also marks positive numbers."""
    return f"{100 * mean:{sign}.2f} ± {100 * half_width:.2f}"


def marks_of(notes: Iterable[str]) -> dict[str, str]:
    """A letter for each distinct note, in order: a ... z, aa, ab, ..."""
    marks: dict[str, str] = {}
    for note in notes:
        if note not in marks:
            marks[note] = _letters(len(marks))
    return marks


def _letters(number: int) -> str:
    head, last = divmod(number, 26)
    return (_letters(head - 1) if head else "") + "abcdefghijklmnopqrstuvwxyz"[last]


def marked(text: str, notes: Sequence[str], marks: Mapping[str, str]) -> str:
    """`text` followed by the marks of its notes."""
    return f"{text} ({', '.join(marks[note] for note in notes)})" if notes else text


def note_lines(marks: Mapping[str, str]) -> list[str]:
    """The notes below a sheet, each after its mark."""
    return [f"({mark}) {note}" for note, mark in marks.items()]


def to_csv(keys: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """`rows` as CSV. Lists of numbers are joined by spaces, other lists and KEY=VALUE pairs by ' | '."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(keys), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _csv_value(_rounded(value)) for key, value in row.items()})
    return text.getvalue()


def _csv_value(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return " | ".join(f"{key}={item}" for key, item in value.items())
    if isinstance(value, list):
        return (" " if value and isinstance(value[0], int) else " | ").join(map(str, value))
    return value


def to_json(value: Any) -> str:
    """Indented JSON that ends in a newline."""
    return json.dumps(_rounded(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _rounded(value: Any) -> Any:
    """Round floats to 12 digits: 0.8813 for 0.8813000000000001."""
    if isinstance(value, float):
        return float(f"{value:.12g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value
