"""Tables of the paper beside our runs, and lists of runs, as text: rich, Markdown, LaTeX, CSV and JSON.

Percent appears only in rich, Markdown and LaTeX; CSV and JSON hold fractions in full precision under the keys that
CELL_KEYS and RUN_KEYS describe.
"""

import csv
import io
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from norml.statistics import FORMULA, Interval, OverSeeds
from norml_cli.errors import UserError
from norml_cli.faults import did_you_mean
from norml_cli.grids import Figure, Grid, Page, to_latex, to_markdown, to_rich
from norml_cli.records import RunRecord, TrialRecord
from norml_cli.registry import Registry
from norml_cli.spec import Column, Row, RunSpec
from norml_cli.tables import Cell, Group, Ours, Table, TableRow, protocol_differences, steps_of

FORMATS = ("rich", "markdown", "latex", "csv", "json")

CELL_KEYS = {
    "row": "the row's title",
    "method": "registry id; empty for a published row only",
    "column": "the column's title",
    "benchmark": "registry id; empty for a column of published numbers only",
    "shots": "K",
    "published": "the paper's accuracy",
    "published_half_width": "the paper's half 95% interval, where it prints one",
    "accuracy": "ours: mean over test episodes and seeds",
    "half_width": "half the 95% interval over test episodes, conditional on the seeds",
    "n_episodes": "test episodes",
    "accuracy_over_first": "the same over the table's first_episodes alone, as many as the paper's",
    "half_width_over_first": "half its 95% interval",
    "seeds": "the seeds that were averaged",
    "seed_sd": "standard deviation between the seeds' means; empty for one seed",
    "outer_steps": "outer steps of our runs",
    "minus_published": "accuracy - published",
    "minus_reference": "paired difference from the table's reference method, same episodes and seeds",
    "minus_reference_half_width": "half its 95% interval",
    "missing": "whether this cell could be run and was not",
    "notes": "how the runs differ from the declared protocol, and what was left out",
}

RUN_KEYS = {
    "benchmark": "registry id",
    "shots": "K",
    "method": "registry id",
    "seed": "of initial weights and training episodes",
    "accuracy": "mean over test episodes",
    "half_width": "half the 95% interval over test episodes",
    "n_episodes": "test episodes",
    "outer_steps": "outer steps of this run",
    "declared_outer_steps": "outer steps that the registry declares; empty if it does not know this run",
    "device": "where it ran",
    "created": "UTC",
    "spec_hash": "equal for runs of one protocol",
    "notes": "how the run differs from the declared protocol",
}

TRIAL_KEYS = {
    "method": "registry id",
    "benchmark": "registry id",
    "shots": "K",
    "seed": "of initial weights and training episodes",
    "values": "what was varied in this study, by key",
    "outer_steps": "outer steps of this trial",
    "best_step": "outer steps of its best meta-validation",
    "validation_accuracy": "mean over the meta-validation episodes at best_step",
    "validation_half_width": "half the 95% interval over those episodes",
    "steps_per_s": "outer steps per second",
    "device": "where it ran",
    "spec_hash": "equal for trials of one protocol",
}


def require_format(format_: str) -> None:
    """Raises UserError for a format that is not one of FORMATS."""
    if format_ not in FORMATS:
        near = did_you_mean(format_, FORMATS)
        raise UserError(f"--format {format_}: unknown format{near or ';'} use one of {', '.join(FORMATS)}")


def render_table(table: Table, format_: str, *, width: int) -> str:
    """`table` as text that ends in a newline; only rich looks at `width`. Raises UserError for an unknown format."""
    require_format(format_)
    if format_ == "csv":
        return _csv(CELL_KEYS, (_cell_values(*cell) for cell in table.cells()))
    if format_ == "json":
        return _json(
            {
                "table": table.entry.id,
                "title": table.entry.title,
                "citation": table.entry.citation,
                "reference": table.entry.reference,
                "half_width_formula": FORMULA,
                "cells": [_cell_values(*cell) for cell in table.cells()],
            }
        )
    return _page_text(table_page(table), format_, width)


def render_runs(registry: Registry, runs: Sequence[tuple[Path, RunRecord]], format_: str, *, width: int) -> str:
    """The list of `runs` as text that ends in a newline. Raises UserError for an unknown format."""
    require_format(format_)
    if not runs and format_ == "rich":
        return "no finished runs; `norml run METHOD` makes one\n"
    values = [_run_values(registry, record) for _, record in runs]
    return render_pages([_runs_page(values)], RUN_KEYS, values, "runs", format_, width=width)


def runs_page(registry: Registry, runs: Sequence[tuple[Path, RunRecord]]) -> Page:
    """The list of `runs`, with how each differs from the declared protocol."""
    return _runs_page([_run_values(registry, record) for _, record in runs])


def render_trials(trials: Sequence[TrialRecord], format_: str, *, width: int) -> str:
    """A study's trials, the best on meta-validation first in each method and number of shots, as `render_runs`."""
    require_format(format_)
    varied = sorted({key for trial in trials for key in trial.changed})
    values = [_trial_values(trial, varied) for trial in trials]
    values.sort(key=lambda v: (v["benchmark"], v["shots"], v["method"], -v["validation_accuracy"]))
    return render_pages([_trials_page(values)], TRIAL_KEYS, values, "trials", format_, width=width)


# ------------------------------------------------------------------------------------------------------------ tables


def table_page(table: Table) -> Page:
    """The columns side by side and, for less room, one below the other."""
    marks = _marks(note for _, _, cell in table.cells() for note in cell.notes)
    columns = range(len(table.entry.columns))
    return Page(
        _table_grid(table, columns, marks),
        [_column_grid(table, number, marks) for number in columns],
        [*_legend(table), *_notes(marks)],
        _missing(table),
    )


def _table_grid(table: Table, columns: Sequence[int], marks: Mapping[str, str]) -> Grid:
    """The columns side by side, each with the figures that it has."""
    figures = [(number, header) for number in columns for header in _headers(table, number)]
    rows = [
        [row.entry.title, *(_figure(table, row, number, header, marks) for number, header in figures)]
        for row in table.rows
    ]
    spans = [(table.entry.columns[number].title, len(_headers(table, number))) for number in columns]
    headers = ["method", *(header for _, header in figures)]
    return Grid(headers, rows, [("", 1), *spans], title=table.entry.title)


def _column_grid(table: Table, number: int, marks: Mapping[str, str]) -> Grid:
    """One column alone, for a narrow terminal."""
    grid = _table_grid(table, [number], marks)
    headers = [header.replace("ours - paper", "ours\n- paper") for header in grid.headers]
    return replace(grid, headers=headers, groups=(), title=table.entry.columns[number].title)


def _headers(table: Table, number: int) -> list[str]:
    """Which figures a column has: none that no cell of it could hold."""
    has_paper = any(row.cells[number].published for row in table.rows)
    has_ours = any(row.cells[number].benchmark is not None for row in table.rows)
    first = table.entry.first_episodes
    has_reference = has_ours and table.reference_title is not None
    wanted = {
        "paper": has_paper,
        f"first {first:,}" if first else "": has_ours and first is not None,
        "ours": has_ours,
        "ours - paper": has_paper and has_ours,
        "vs reference": has_reference,
    }
    return [header for header, is_wanted in wanted.items() if is_wanted]


def _figure(table: Table, row: TableRow, number: int, header: str, marks: Mapping[str, str]) -> str | Figure:
    """One printed figure; '-' where there is none."""
    cell = row.cells[number]
    if header == "paper":
        return cell.published.text.replace("+-", "±") if cell.published else "-"
    if cell.ours is None:
        return "-"
    if header == "ours":
        shown = _marked(_shown(cell.ours.accuracy), cell.notes, marks)
        return Figure(shown, best=cell is table.best(number), link=f"#{anchor(table, cell.ours.runs)}")
    if header == "ours - paper":
        return "-" if cell.ours.minus_published is None else f"{100 * cell.ours.minus_published:+.2f}"
    if header != "vs reference":
        return _shown(cell.ours.over_first)
    return "reference" if row.entry.method == table.entry.reference else _difference(cell.ours.minus_reference)


def anchor(table: Table, runs: Group) -> str:
    """Names these runs on a page of tables."""
    return f"{table.entry.id}-{runs.spec.benchmark}-{runs.spec.shots}-shot-{runs.spec.method}"


def _shown(accuracy: OverSeeds | None) -> str:
    return "-" if accuracy is None else percent(accuracy.interval.mean, accuracy.interval.half_width)


def _difference(difference: Interval | None) -> str:
    """With a star where the interval excludes zero."""
    if difference is None:
        return "-"
    return f"{percent(difference.mean, difference.half_width, sign='+')}{'*' * _excludes_zero(difference)}"


def _excludes_zero(difference: Interval) -> bool:
    return abs(difference.mean) > difference.half_width


def _legend(table: Table) -> list[str]:
    lines = [f"paper: {table.entry.citation}"] if any(cell.published for _, _, cell in table.cells()) else []
    ours = [cell.ours for _, _, cell in table.cells() if cell.ours is not None]
    if not ours:
        return lines
    episodes = _range([result.accuracy.interval.n for result in ours], "test episode")
    seeds = _range([result.accuracy.n_seeds for result in ours], "seed")
    if table.entry.first_episodes is not None:
        lines.append(
            f"first {table.entry.first_episodes:,}: ours over so many of the test episodes, as many as the paper's"
        )
    lines.append(f"ours: accuracy in percent with its 95% interval over {episodes}, mean of {seeds}")
    scatter = [result.accuracy.seed_sd for result in ours if result.accuracy.seed_sd is not None]
    if scatter:
        lines.append(f"not in the intervals: the seeds' means scatter with a standard deviation of {_scatter(scatter)}")
    if any(result.minus_reference for result in ours):
        lines.append(
            f"vs reference: difference from {table.reference_title} on the same test episodes and seeds, "
            f"paired by episode, with its 95% interval; *: this excludes zero (not adjusted for the number of methods)"
        )
    return lines


def _scatter(deviations: Sequence[float]) -> str:
    low, high = 100 * min(deviations), 100 * max(deviations)
    return f"{low:.2f} points" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f} points"


def _range(numbers: Sequence[int], noun: str) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,} to {high:,} {noun}s" if low != high else f"{low:,} {noun}{'s' if low > 1 else ''}"


def _missing(table: Table) -> list[str]:
    """The commands that fill the missing cells, one line a benchmark and number of shots."""
    methods: dict[tuple[str, int], dict[str, None]] = {}
    for row, column, cell in table.cells():
        if cell.missing and row.method and cell.benchmark:
            methods.setdefault((cell.benchmark, column.shots), {})[row.method] = None
    return [
        f"missing: norml run {' '.join(names)} --benchmark {benchmark} --shots {shots}"
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
    difference = ours.minus_reference if ours else None
    return {
        "accuracy": interval.mean if interval else None,
        "half_width": interval.half_width if interval else None,
        "n_episodes": interval.n if interval else None,
        "accuracy_over_first": first.mean if first else None,
        "half_width_over_first": first.half_width if first else None,
        "seeds": list(ours.runs.seeds) if ours else None,
        "seed_sd": ours.accuracy.seed_sd if ours else None,
        "outer_steps": ours.runs.spec.protocol.outer_steps if ours else None,
        "minus_published": ours.minus_published if ours else None,
        "minus_reference": difference.mean if difference else None,
        "minus_reference_half_width": difference.half_width if difference else None,
    }


# -------------------------------------------------------------------------------------------------------------- runs


def _run_values(registry: Registry, record: RunRecord) -> dict[str, Any]:
    declared = _declared(registry, record.spec)
    steps = record.spec.protocol.outer_steps
    return {
        "benchmark": record.spec.benchmark,
        "shots": record.spec.shots,
        "method": record.spec.method,
        "seed": record.seed,
        "accuracy": record.accuracy.mean,
        "half_width": record.accuracy.half_width,
        "n_episodes": record.accuracy.n,
        "outer_steps": steps,
        "declared_outer_steps": declared.protocol.outer_steps if declared else None,
        "device": record.device,
        "created": record.created,
        "spec_hash": record.spec_hash,
        "notes": _run_notes(record.spec, declared),
    }


def _declared(registry: Registry, spec: RunSpec) -> RunSpec | None:
    """What the registry says of this run today; None if it declares no such run."""
    bench = registry.benchmarks.get(spec.benchmark)
    if spec.method not in registry.methods or bench is None or spec.shots not in bench.shots:
        return None
    return registry.resolve(spec.method, spec.benchmark, spec.shots).spec


def _run_notes(spec: RunSpec, declared: RunSpec | None) -> list[str]:
    """Differences from the declared protocol, but fewer outer steps, which have a column of their own."""
    if declared is None:
        return ["not declared by this registry"]
    if spec.protocol.outer_steps < declared.protocol.outer_steps:
        protocol = declared.protocol.model_copy(update={"outer_steps": spec.protocol.outer_steps})
        declared = declared.model_copy(update={"protocol": protocol})
    return protocol_differences(spec, declared)


def _runs_page(runs: Sequence[Mapping[str, Any]]) -> Page:
    marks = _marks(note for run in runs for note in _joined_notes(run))
    headers = ["benchmark", "shots", "method", "device", "seed", "accuracy", "outer steps", "date"]
    wide = Grid(headers, [[*_place(run), *_result(run, marks)] for run in runs], n_left=4)
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for run in runs:
        benchmark, shots, _, device = _place(run)
        groups.setdefault((benchmark, shots, device), []).append(run)
    pieces = [
        Grid(
            ["method", *headers[4:]],
            [[run["method"], *_result(run, marks)] for run in members],
            title=f"{benchmark}, {shots}-shot, on {device}",
        )
        for (benchmark, shots, device), members in groups.items()
    ]
    legend = ["accuracy: meta-test, in percent, with its 95% interval over test episodes"]
    return Page(wide, pieces, [*legend, *_notes(marks)])


def _place(run: Mapping[str, Any]) -> list[str]:
    return [run["benchmark"], str(run["shots"]), run["method"], run["device"]]


def _result(run: Mapping[str, Any], marks: Mapping[str, str]) -> list[str]:
    accuracy = _marked(percent(run["accuracy"], run["half_width"]), _joined_notes(run), marks)
    steps = steps_of(run["outer_steps"], run["declared_outer_steps"])
    return [str(run["seed"]), accuracy, steps, run["created"][:10]]


def _joined_notes(run: Mapping[str, Any]) -> list[str]:
    return ["; ".join(run["notes"])] if run["notes"] else []


# ------------------------------------------------------------------------------------------------------------ trials


def _trial_values(trial: TrialRecord, varied: Sequence[str]) -> dict[str, Any]:
    best = trial.best
    return {
        "method": trial.spec.method,
        "benchmark": trial.spec.benchmark,
        "shots": trial.spec.shots,
        "seed": trial.seed,
        "values": trial.spec.values_of(key for key in varied if key != "outer_steps"),
        "outer_steps": trial.spec.protocol.outer_steps,
        "best_step": best.step,
        "validation_accuracy": best.validation_accuracy,
        "validation_half_width": best.validation_half_width,
        "steps_per_s": trial.cost.steps_per_s,
        "device": trial.device,
        "spec_hash": trial.spec_hash,
    }


def _trials_page(trials: Sequence[Mapping[str, Any]]) -> Page:
    keys = list(dict.fromkeys(key for trial in trials for key in trial["values"]))
    headers = ["method", "shots", *keys, "seed", "meta-validation", "at step"]
    rows = [[trial["method"], str(trial["shots"]), *_trial_figures(trial, keys)] for trial in trials]
    groups = itertools.groupby(trials, key=lambda trial: (trial["method"], trial["shots"]))
    pieces = [_trials_piece(f"{method}, {shots}-shot", list(group), headers[-3:]) for (method, shots), group in groups]
    footer = ["meta-validation: percent ± 95% interval over its episodes, at the best step"]
    return Page(Grid(headers, rows), pieces, footer)


def _trials_piece(title: str, trials: Sequence[Mapping[str, Any]], headers: Sequence[str]) -> Grid:
    """For a narrow terminal: what most trials share stands in the title, and a row names only what it changed."""
    shared = {
        key: Counter(str(trial["values"].get(key)) for trial in trials).most_common(1)[0][0]
        for key in trials[0]["values"]
    }
    rows = [[_changes(trial["values"], shared), *_trial_figures(trial, [])] for trial in trials]
    return Grid(["changed", *headers], rows, title=f"{title}: {', '.join(f'{k} {v}' for k, v in shared.items())}")


def _changes(values: Mapping[str, Any], shared: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items() if str(value) != shared.get(key)) or "-"


def _trial_figures(trial: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    values = [str(trial["values"].get(key, "")) for key in keys]
    accuracy = percent(trial["validation_accuracy"], trial["validation_half_width"])
    return [*values, str(trial["seed"]), accuracy, f"{trial['best_step']:,} of {trial['outer_steps']:,}"]


# ------------------------------------------------------------------------------------------------------------- texts


def render_pages(
    pages: Sequence[Page],
    keys: Mapping[str, str],
    values: Sequence[Mapping[str, Any]],
    name: str,
    format_: str,
    *,
    width: int,
) -> str:
    """`pages`, or for CSV and JSON their `values` under `keys`; JSON says `name` and how half-widths are made."""
    if format_ == "csv":
        return _csv(keys, values)
    if format_ == "json":
        return _json({"half_width_formula": FORMULA, name: values})
    return "\n".join(_page_text(page, format_, width) for page in pages)


def _page_text(page: Page, format_: str, width: int) -> str:
    if format_ == "markdown":
        return to_markdown(page)
    return to_latex(page) if format_ == "latex" else to_rich(page, width)


def percent(mean: float, half_width: float, *, sign: Literal["", "+"] = "") -> str:
    """Fractions as '80.45 ± 0.19', with `sign` '+' before a positive one, too."""
    return f"{100 * mean:{sign}.2f} ± {100 * half_width:.2f}"


def _marks(notes: Iterable[str]) -> dict[str, str]:
    """A letter for each different note, in order: a ... z, aa, ab, ..."""
    marks: dict[str, str] = {}
    for note in notes:
        if note not in marks:
            marks[note] = _letters(len(marks))
    return marks


def _letters(number: int) -> str:
    head, last = divmod(number, 26)
    return (_letters(head - 1) if head else "") + "abcdefghijklmnopqrstuvwxyz"[last]


def _marked(text: str, notes: Sequence[str], marks: Mapping[str, str]) -> str:
    return f"{text} ({', '.join(marks[note] for note in notes)})" if notes else text


def _notes(marks: Mapping[str, str]) -> list[str]:
    return [f"({mark}) {note}" for note, mark in marks.items()]


def _csv(keys: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Lists and mappings are joined: numbers by spaces, texts and KEY=VALUE by ' | '."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(keys), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _csv_value(value) for key, value in row.items()})
    return text.getvalue()


def _csv_value(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return " | ".join(f"{key}={item}" for key, item in value.items())
    if isinstance(value, list):
        return (" " if value and isinstance(value[0], int) else " | ").join(map(str, value))
    return value


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
