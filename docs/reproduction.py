"""Write results/README.md, what was reproduced of the paper, from the records in this checkout: `nox -s reproduction`.

Its words are those of docs/findings.md.jinja, its numbers all come from records and the registry.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

from figures import OTHER_PROTOCOLS, TABLE, Figures
from jinja2 import Environment, StrictUndefined

from norml_cli.registry.reading import builtin_registry, read_registry
from norml_cli.registry.resolving import Registry
from norml_cli.reporting.comparison_sheets import matrix_sheets
from norml_cli.reporting.formats import percent
from norml_cli.reporting.html import cost_grid, groups_of, pictures_of
from norml_cli.reporting.lists import render_trials
from norml_cli.reporting.sheets import Grid, Sheet, to_markdown
from norml_cli.reporting.table_sheet import render_table
from norml_cli.results.comparisons import Comparison, Difference
from norml_cli.results.records import TrialRecord
from norml_cli.results.tables import Table, build_table

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "results"
PICTURES = RESULTS / "pictures"
MADE = "<!-- made by `nox -s reproduction` from docs/findings.md.jinja and the records; edit the former instead -->"
EXTERNAL = "table-omniglot-5way"


def report() -> str:
    """The page; pictures are written beside it."""
    registry = read_registry([builtin_registry()])
    figures = Figures(registry, RESULTS)
    others = {folder.name: Figures(registry, folder) for folder in sorted((RESULTS / OTHER_PROTOCOLS).iterdir())}
    return "\n".join(
        [
            *(MADE, "", findings(figures, others)),
            *_table_2(registry, figures),
            *_other_protocols(registry, others),
            *_external(registry, figures),
            *_studies(figures.trials),
        ]
    )


def findings(figures: Figures, others: dict[str, Figures]) -> str:
    """What the numbers say, in words: those of the table, and of what `others` made of it by other protocols.

    Raises whatever a number that is not there raises.
    """
    environment = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)  # noqa: S701 - Markdown
    template = (DOCS / "findings.md.jinja").read_text(encoding="utf-8")
    return environment.from_string(template).render(figures=figures, others=others)


def _table_2(registry: Registry, figures: Figures) -> Iterator[str]:
    table = build_table(registry, registry.table(TABLE), figures.records)
    yield "## Table 2\n"
    yield _markdown(table)
    yield from _pictures(table)
    yield "## Pair by pair\n"
    yield (
        "The paper's differences, from its printed accuracies, beside ours on the same test episodes. *agrees*: ours "
        "has the paper's sign, and its test tells it from zero (Holm's method over all pairs of a column); "
        "*contradicts*: it is told from zero with the other sign, or where the paper's two numbers are equal. "
        "*preliminary*: one of the two has not yet been run by the declared protocol.\n"
    )
    yield to_markdown(_pairs(table, figures.comparisons))
    for matrix in matrix_sheets(figures.comparisons):
        yield to_markdown(matrix)
    yield "## What it cost\n"
    yield to_markdown(Sheet(cost_grid(list(groups_of(table)))))


def _pairs(table: Table, comparisons: list[Comparison]) -> Sheet:
    """Every pair of methods with what the paper says of it."""
    titles = {row.entry.method: row.entry.title for row in table.rows}
    published = {
        (row.entry.method, column.shots): cell.published.accuracy
        for row in table.rows
        for column, cell in zip(table.entry.columns, row.cells, strict=True)
        if cell.published is not None
    }
    rows = []
    for pair in comparisons:
        paper = published[pair.a, pair.shots] - published[pair.b, pair.shots]
        ours = next(each for each in pair.differences[::-1] if each.over == "episodes")
        shown = percent(ours.interval.mean, ours.interval.half_width, sign="+")
        names = f"{titles[pair.a]} - {titles[pair.b]}"
        verdict = f"{_verdict(round(paper, 6), ours)}{', preliminary' if pair.notes else ''}"
        rows.append([f"{pair.shots}-shot", names, f"{100 * paper:+.1f}", shown, verdict])
    return Sheet(Grid(["", "pair", "paper", "ours", "verdict"], rows, n_left=2))


def _verdict(paper: float, ours: Difference) -> str:
    if not ours.settled:
        return "no difference found" if paper == 0 else "not told apart"
    return "agrees" if paper * ours.interval.mean > 0 else "contradicts"


def _other_protocols(registry: Registry, others: dict[str, Figures]) -> Iterator[str]:
    """What was made of Table 2 by other values than the declared ones, too; the notes name them."""
    for name, figures in others.items():
        if not figures.records:  # git leaves the folders of records that were moved
            continue
        ran = {(record.spec.benchmark, record.spec.shots) for record in figures.records}
        methods = {record.spec.method for record in figures.records}
        entry = registry.table(TABLE)
        columns = [column for column in entry.columns if (column.benchmark, column.shots) in ran]
        rows = [row for row in entry.rows if row.method in methods]
        yield f"## Table 2 by another protocol: {name}\n"
        part = entry.model_copy(update={"columns": columns, "rows": rows})
        yield _markdown(build_table(registry, part, figures.records))
        for matrix in matrix_sheets(figures.comparisons):
            yield to_markdown(matrix)


def _external(registry: Registry, figures: Figures) -> Iterator[str]:
    table = build_table(registry, registry.table(EXTERNAL), figures.records)
    yield "## The engine against the outside world\n"
    yield _markdown(table)
    yield from _pictures(table)


def _studies(trials: list[TrialRecord]) -> Iterator[str]:
    """Every trial that a protocol value was chosen by."""
    yield "## Studies on meta-validation\n"
    for name, of_study in itertools.groupby(
        sorted(trials, key=lambda trial: trial.study), key=lambda trial: trial.study
    ):
        yield f"### {name}\n"
        yield render_trials(list(of_study), "markdown", width=80)


def _markdown(table: Table) -> str:
    return render_table(table, "markdown", width=80)


def _pictures(table: Table) -> Iterator[str]:
    PICTURES.mkdir(exist_ok=True)
    for picture in pictures_of(table):
        (PICTURES / f"{picture.name}.svg").write_text(picture.svg, encoding="utf-8")
        yield f"![{picture.says}](pictures/{picture.name}.svg)\n"


if __name__ == "__main__":
    (RESULTS / "README.md").write_text(report(), encoding="utf-8")
