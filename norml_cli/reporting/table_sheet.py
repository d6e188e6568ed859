"""A table with published numbers and our runs, as text."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from norml.statistics import FORMULA, Interval, OverSeeds
from norml_cli.files.suggestions import suggested
from norml_cli.registry.entries import Column, Row
from norml_cli.reporting.formats import (
    marked,
    marks_of,
    note_lines,
    percent,
    require_format,
    sheet_text,
    to_csv,
    to_json,
)
from norml_cli.reporting.sheets import CellText, Grid, Sheet
from norml_cli.results.evaluated import protocol_title
from norml_cli.results.goals import Entrant, Goal
from norml_cli.results.groups import Group
from norml_cli.results.tables import Cell, Ours, Table

CELL_KEYS = {
    "row": "title of the row",
    "method": "registry id; empty for a row of published numbers",
    "column": "title of the column",
    "benchmark": "registry id; empty for a column of published numbers",
    "shots": "K",
    "published": "published accuracy",
    "published_half_width": "published half-width of its 95% interval, if any",
    "accuracy": "our accuracy: mean over test episodes and seeds",
    "half_width": "half-width of its 95% interval over test episodes, for these seeds",
    "half_width_over_classes": "half-width of its 95% interval over test classes; empty for older records",
    "n_episodes": "number of test episodes",
    "accuracy_over_first": "our accuracy on the table's first_episodes",
    "half_width_over_first": "half-width of its 95% interval",
    "seeds": "averaged seeds",
    "seed_sd": "standard deviation of the seeds' means; empty for one seed",
    "outer_steps": "outer steps of our runs",
    "minus_published": "accuracy - published",
    "minus_reference": "paired difference from the table's reference method, same episodes and seeds",
    "minus_reference_half_width": "half-width of its 95% interval",
    "minus_reference_half_width_over_classes": "half-width over test classes; empty for older records",
    "second_accuracy": "accuracy of the same weights in the table's second_test; empty if not evaluated",
    "second_half_width": "half-width of its 95% interval over test episodes",
    "second_seeds": "seeds averaged in the second test",
    "second_minus_reference": "paired difference from the table's reference method in the second test",
    "second_minus_reference_half_width": "half-width of its 95% interval",
    "missing": "whether the cell has no run yet",
    "notes": "differences from the declared protocol, and runs left out",
}


_VS = "vs reference"


def render_table(table: Table, format_: str, *, width: int) -> str:
    """`table` as text with a final newline; only rich uses `width`. Raises UserError for an unknown format."""
    require_format(format_)
    if format_ == "csv":
        return to_csv(CELL_KEYS, (_cell_values(*cell) for cell in table.cells()))
    if format_ == "json":
        return to_json(
            {
                "table": table.entry.id,
                "title": table.entry.title,
                "citation": table.entry.citation,
                "reference": table.entry.reference,
                "second_test": table.entry.second_test.changed if table.entry.second_test else None,
                "half_width_formula": FORMULA,
                "cells": [_cell_values(*cell) for cell in table.cells()],
            }
        )
    return sheet_text(table_sheet(table), format_, width)


# ------------------------------------------------------------------------------------------------------------ tables


def table_sheet(table: Table) -> Sheet:
    """The table with its columns side by side and, as pieces, one below the other."""
    marks = marks_of(note for _, _, cell in table.cells() for note in cell.notes)
    numbers = range(len(table.entry.columns))
    places = [(number, header) for number in numbers for header in _headers(table, number)]
    spans = [(table.entry.columns[number].title, len(_headers(table, number))) for number in numbers]
    return Sheet(
        replace(_grid(table, places, marks), groups=[("", 1), *spans], title=table.entry.title),
        [piece for number in numbers for piece in _pieces(table, number, marks)],
        [*_legend(table), *(line for each in table.goals for line in goal_lines(each)), *note_lines(marks)],
        _missing(table),
        _legend_of_bold(table) if any(table.highest) else "",
    )


def _legend_of_bold(table: Table) -> str:
    of_classes = any(cell.ours and cell.ours.over_classes for _, _, cell in table.cells())
    tests = "paired tests over episodes and over classes" if of_classes else "paired test"
    return f"highest of its column, and all that do not differ from it significantly ({tests}, Holm correction)"


def _grid(table: Table, places: Sequence[tuple[int, str]], marks: Mapping[str, str]) -> Grid:
    """A grid of the cells at `places`, which are pairs of a column's index and a header."""
    rows = [
        [table.rows[row].entry.title, *(_cell_text(table, row, number, header, marks) for number, header in places)]
        for row in range(len(table.rows))
    ]
    return Grid(["method", *(header for _, header in places)], rows)


def _pieces(table: Table, number: int, marks: Mapping[str, str]) -> Iterator[Grid]:
    """One column for a narrow terminal, with the second test below it."""
    title, second, headers = table.entry.columns[number].title, _second_title(table), _headers(table, number)
    of_second = [header for header in headers if second and header.startswith(second)]
    parts = {title: [header for header in headers if header not in of_second]}
    if of_second:
        parts[f"{title}, {second}"] = ["ours", *of_second]
    for name, shown in parts.items():
        grid = _grid(table, [(number, header) for header in shown], marks)
        narrow = [header.replace("ours - paper", "ours\n- paper") for header in grid.headers]
        yield replace(grid, headers=narrow, title=name)


def _headers(table: Table, number: int) -> list[str]:
    """The headers of a column; headers that no cell can fill are left out."""
    has_paper = any(row.cells[number].published for row in table.rows)
    has_ours = any(row.cells[number].benchmark is not None for row in table.rows)
    first, second = table.entry.first_episodes, _second_title(table)
    has_reference = has_ours and table.reference_title is not None
    seconds = [ours.second for row in table.rows if (ours := row.cells[number].ours)]
    wanted = {
        "paper": has_paper,
        f"first {first:,}" if first else "": has_ours and first is not None,
        "ours": has_ours,
        second: any(seconds),
        "ours - paper": has_paper and has_ours,
        _VS: has_reference,
        f"{second} {_VS}": any(each and each.minus_reference for each in seconds),
    }
    return [header for header, is_wanted in wanted.items() if is_wanted]


def _second_title(table: Table) -> str:
    return table.entry.second_test.title if table.entry.second_test else ""


def _cell_text(table: Table, row_number: int, number: int, header: str, marks: Mapping[str, str]) -> str | CellText:
    """A cell's text under `header`; '-' if empty."""
    row = table.rows[row_number]
    cell = row.cells[number]
    if header == "paper":
        return cell.published.text.replace("+-", "±") if cell.published else "-"
    if cell.ours is None:
        return "-"
    if header == "ours":
        text = marked(_accuracy_text(cell.ours.accuracy), cell.notes, marks)
        return CellText(text, best=row_number in table.highest[number], link=f"#{anchor(table, cell.ours.runs)}")
    if header.endswith(_VS) and row.entry.method == table.entry.reference:
        return "reference"
    return _number_text(table, cell.ours, header)


def _number_text(table: Table, ours: Ours, header: str) -> str:
    """A cell's number under a `header` other than our accuracy; '-' if empty."""
    second, title = ours.second, _second_title(table)
    texts = {
        "ours - paper": None if ours.minus_published is None else f"{100 * ours.minus_published:+.2f}",
        _VS: _difference(ours.minus_reference, ours.minus_reference_over_classes),
        title: percent(second.accuracy.mean, second.accuracy.half_width) if second else None,
        f"{title} {_VS}": _difference(second.minus_reference) if second else None,
    }
    return (texts[header] if header in texts else _accuracy_text(ours.over_first)) or "-"


def anchor(table: Table, runs: Group) -> str:
    """The HTML anchor of these runs."""
    return f"{table.entry.id}-{runs.spec.benchmark}-{runs.spec.shots}-shot-{runs.spec.method}"


def _accuracy_text(accuracy: OverSeeds | None) -> str:
    return "-" if accuracy is None else percent(accuracy.interval.mean, accuracy.interval.half_width)


def _difference(difference: Interval | None, over_classes: Interval | None = None) -> str:
    """The difference, with a star if the intervals over episodes and (if known) over classes exclude zero."""
    if difference is None:
        return "-"
    levels = [each for each in (difference, over_classes) if each is not None]
    star = "*" * all(abs(each.mean) > each.half_width for each in levels)
    return f"{percent(difference.mean, difference.half_width, sign='+')}{star}"


def goal_lines(goal: Goal) -> list[str]:
    """Which of our rows reach a published number, and how far classifiers on frozen features get."""
    says = f"{goal.column}, paper: {goal.published.text.replace('+-', '±')} ({goal.title})"
    if goal.highest is None:
        lines = [f"{says}; we have no record"]
    elif goal.reached_by:
        lines = [f"{says}; reached by {'; '.join(map(_entrant_text, goal.reached_by))}"]
    else:
        lines = [f"{says}; none of ours reaches it, the highest is {_entrant_text(goal.highest)}"]
    heads = [f"{name}: {_entrant_text(best) if best else 'no record'}" for name, best in goal.frozen]
    return [*lines, f"{goal.column}, best classifier on frozen features; {'; '.join(heads)}"][: 1 + bool(heads)]


def _entrant_text(entrant: Entrant) -> str:
    interval = entrant.accuracy
    return f"{entrant.title}, {percent(interval.mean, interval.half_width)}" if interval else entrant.title


def _legend(table: Table) -> list[str]:
    lines = [f"paper: {table.entry.citation}"] if any(cell.published for _, _, cell in table.cells()) else []
    ours = [cell.ours for _, _, cell in table.cells() if cell.ours is not None]
    if not ours:
        return lines
    episodes = _range([result.accuracy.interval.n for result in ours], "test episode")
    seeds = _range([result.accuracy.n_seeds for result in ours], "seed")
    if table.entry.first_episodes is not None:
        lines.append(
            f"first {table.entry.first_episodes:,}: our accuracy on the first {table.entry.first_episodes:,} test "
            "episodes, as many as the paper's"
        )
    lines.append(f"ours: accuracy in percent with its 95% interval over {episodes}, mean of {seeds}")
    scatter = [result.accuracy.seed_sd for result in ours if result.accuracy.seed_sd is not None]
    if scatter:
        lines.append(f"seeds: their means have a standard deviation of {_scatter(scatter)}, not part of the intervals")
    lines += _legend_of_classes(ours)
    seconds = [result.second for result in ours if result.second is not None]
    if seconds and table.entry.second_test is not None:
        by = protocol_title(table.entry.second_test.changed, "meta_test")
        of = _range([len(each.seeds) for each in seconds], "seed")
        lines.append(f"{_second_title(table)}: the same weights, tested with {by}, mean of {of}")
    if any(result.minus_reference for result in ours):
        of_classes = any(result.minus_reference_over_classes for result in ours)
        excludes = "the intervals over episodes and over classes exclude" if of_classes else "the interval excludes"
        lines.append(
            f"vs reference: paired difference from {table.reference_title} on the same test episodes and seeds, with "
            f"its 95% interval over episodes; *: {excludes} zero (not corrected for the number of methods)"
        )
    return lines


def _legend_of_classes(ours: Sequence[Ours]) -> list[str]:
    """The legend's line on intervals over classes, if the records have counts by class."""
    accuracies = [each.over_classes for each in ours if each.over_classes is not None]
    if not accuracies:
        return []
    widths = _scatter([each.half_width for each in accuracies])
    classes = _range([each.n for each in accuracies], "test class")
    lines = [f"new classes: half-widths over {classes} are {widths}"]
    differences = [e.minus_reference_over_classes for e in ours if e.minus_reference_over_classes is not None]
    if differences:
        lines[0] += f", those of the differences {_scatter([each.half_width for each in differences])}"
    return lines


def _scatter(deviations: Sequence[float]) -> str:
    low, high = 100 * min(deviations), 100 * max(deviations)
    return f"{low:.2f} points" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f} points"


def _range(numbers: Sequence[int], noun: str) -> str:
    low, high = min(numbers), max(numbers)
    plural = f"{noun}{'es' if noun.endswith('s') else 's'}"
    return f"{low:,} to {high:,} {plural}" if low != high else f"{low:,} {plural if low > 1 else noun}"


def _missing(table: Table) -> list[str]:
    """The commands that fill the missing cells, one line per benchmark and number of shots."""
    methods: dict[tuple[str, int], dict[str, None]] = {}
    for row, column, cell in table.cells():
        if cell.missing and row.method and cell.benchmark:
            methods.setdefault((cell.benchmark, column.shots), {})[row.method] = None
    return [
        "missing: " + suggested(f"norml run {' '.join(names)} --benchmark {benchmark} --shots {shots}")
        for (benchmark, shots), names in methods.items()
    ]


def _cell_values(row: Row, column: Column, cell: Cell) -> dict[str, Any]:
    published = cell.published
    return {
        "row": row.title,
        "method": row.method,
        "column": column.title,
        "benchmark": cell.benchmark,
        "shots": column.shots,
        "published": published.accuracy if published else None,
        "published_half_width": published.half_width if published else None,
        **_ours_values(cell.ours),
        "missing": cell.missing,
        "notes": list(cell.notes),
    }


def _ours_values(ours: Ours | None) -> dict[str, Any]:
    interval = ours.accuracy.interval if ours else None
    first = ours.over_first.interval if ours and ours.over_first else None
    second = ours.second if ours else None
    beside = second.minus_reference if second else None
    difference, of_classes = (ours.minus_reference, ours.minus_reference_over_classes) if ours else (None, None)
    return {
        "accuracy": interval.mean if interval else None,
        "half_width": interval.half_width if interval else None,
        "half_width_over_classes": ours.over_classes.half_width if ours and ours.over_classes else None,
        "n_episodes": interval.n if interval else None,
        "accuracy_over_first": first.mean if first else None,
        "half_width_over_first": first.half_width if first else None,
        "seeds": list(ours.runs.seeds) if ours else None,
        "seed_sd": ours.accuracy.seed_sd if ours else None,
        "outer_steps": ours.runs.spec.protocol.outer_steps if ours else None,
        "minus_published": ours.minus_published if ours else None,
        "minus_reference": difference.mean if difference else None,
        "minus_reference_half_width": difference.half_width if difference else None,
        "minus_reference_half_width_over_classes": of_classes.half_width if of_classes else None,
        "second_accuracy": second.accuracy.mean if second else None,
        "second_half_width": second.accuracy.half_width if second else None,
        "second_seeds": list(second.seeds) if second else None,
        "second_minus_reference": beside.mean if beside else None,
        "second_minus_reference_half_width": beside.half_width if beside else None,
    }
