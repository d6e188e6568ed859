"""Write results/REPORT.md, the report on the reproduction, from the records in this checkout: `nox -s reproduction`.

The text is in docs/findings.md.jinja. All numbers come from records and the registry.
"""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

from claims import FAILS, FAILS_ONCE, HOLDS, HOLDS_ONCE, LEVEL, claims_markdown, verdict_of
from equal_work import work_markdown, work_pictures
from findings import TABLE, Numbers
from jinja2 import Environment, StrictUndefined
from many_steps import many_steps_markdown, many_steps_pictures

from norml_cli.registry.reading import builtin_registry, read_registry
from norml_cli.registry.resolving import Registry
from norml_cli.reporting.comparison_sheets import matrix_sheets
from norml_cli.reporting.formats import percent
from norml_cli.reporting.html import Picture, cost_grid, groups_of, pictures_of
from norml_cli.reporting.lists import render_trials
from norml_cli.reporting.sheets import Grid, Sheet, to_markdown
from norml_cli.reporting.table_sheet import goal_lines, render_table
from norml_cli.results.records import TrialRecord
from norml_cli.results.store import Results
from norml_cli.results.tables import Table, build_table

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "results"
PICTURES = RESULTS / "pictures"
MADE = "<!-- made by `nox -s reproduction` from docs/findings.md.jinja and the records; edit docs/findings.md.jinja -->"
EXTERNAL, RIVALS = "table-omniglot-5way", "table-omniglot-methods"


def report() -> str:
    """The page; also writes its pictures."""
    registry = read_registry([builtin_registry()])
    numbers = Numbers(registry, Results(RESULTS))
    others = {name: Numbers(registry, folder) for name, folder in Results(RESULTS).other_protocols().items()}
    return "\n".join(
        [
            *(MADE, "", findings(registry, numbers, others)),
            *_table_2(registry, numbers),
            *_table_1(registry, numbers),
            *_other_protocols(registry, others),
            *_external(registry, numbers),
            *_rivals(registry, numbers),
            *_studies(numbers.trials),
        ]
    )


def findings(registry: Registry, numbers: Numbers, others: dict[str, Numbers]) -> str:
    """The text of docs/findings.md.jinja with verdicts, numbers and pictures.

    others: numbers of Table 2 under other protocols. Raises an error if a number is missing.
    """
    environment = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)  # noqa: S701 - Markdown
    template = (DOCS / "findings.md.jinja").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        numbers=numbers,
        others=others,
        claims=claims_markdown(registry, numbers),
        trials=trials_markdown(registry, numbers),
        work="\n\n".join([work_markdown(numbers), *_drawn(work_pictures(numbers))]),
        many_steps="\n\n".join([many_steps_markdown(numbers), *_drawn(many_steps_pictures(numbers))]),
    )


def trials_markdown(registry: Registry, numbers: Numbers) -> str:
    """Numbers of trials of each method of Table 2, by outer steps."""
    table = registry.table(TABLE)
    methods = [row.method for row in table.rows if row.method is not None]
    rows = [[numbers.title(method), *(numbers.trials_of(method, c.shots) for c in table.columns)] for method in methods]
    headers = ["trials, by outer steps", *(column.title for column in table.columns)]
    return to_markdown(Sheet(Grid(headers, rows, n_left=len(headers)))).rstrip()


def _table_2(registry: Registry, numbers: Numbers) -> Iterator[str]:
    table = build_table(registry, registry.table(TABLE), numbers.records, numbers.evaluations)
    yield "## Table 2\n"
    yield _markdown(table)
    yield from _pictures(table)
    yield "## Pair by pair\n"
    yield (
        "The paper's differences come from its printed accuracies, ours from the same test episodes.\n\n"
        "- *weights*: about the trained weights, by the tests over episodes and over classes, with Holm correction "
        "for all pairs of a column. Our difference *agrees* with the sign of the paper's, *contradicts* it (also if "
        "the paper's two numbers are equal), or is *not significant*.\n"
        "- *methods*: about the methods, by the test over seeds, which needs three seeds of both. With fewer, it says "
        "*too few seeds*, or *within seed variation* if the difference is not larger than differences between seeds "
        "of the methods that have several.\n"
        "- *preliminary*: one of the two did not run with the declared protocol.\n"
    )
    yield to_markdown(_pairs(numbers, table))
    for matrix in matrix_sheets(numbers.comparisons):
        yield to_markdown(matrix)
    yield "## Cost\n"
    yield to_markdown(Sheet(cost_grid(list(groups_of(table)))))


def _pairs(numbers: Numbers, table: Table) -> Sheet:
    """Every pair of methods with the paper's difference."""
    published = {
        (row.entry.method, column.shots): cell.published.accuracy
        for row in table.rows
        for column, cell in zip(table.entry.columns, row.cells, strict=True)
        if cell.published is not None
    }
    rows = []
    for pair in numbers.comparisons:
        paper = round(published[pair.a, pair.shots] - published[pair.b, pair.shots], 6)
        ours, preliminary = pair.over_episodes.interval, "" if pair.declared else ", preliminary"
        weights = _beside(paper, ours.mean) if pair.for_new_classes.settled else LEVEL
        methods = _of_methods(verdict_of(numbers, pair), _beside(paper, ours.mean))
        names = f"{numbers.title(pair.a)} - {numbers.title(pair.b)}"
        difference, seeds = percent(ours.mean, ours.half_width, sign="+"), str(len(pair.over_episodes.seeds))
        words = [f"{weights}{preliminary}", methods]
        rows.append([f"{pair.shots}-shot", names, f"{100 * paper:+.1f}", difference, seeds, *words])
    headers = ["shots", "pair", "paper", "ours", "seeds", "weights", "methods"]
    return Sheet(Grid(headers, rows, n_left=2, words=[5, 6]))


def _of_methods(verdict: str, beside: str) -> str:
    if verdict in {HOLDS, FAILS}:
        return beside
    return "too few seeds" if verdict in {HOLDS_ONCE, FAILS_ONCE} else verdict


def _beside(paper: float, ours: float) -> str:
    """Whether a significant difference has the sign of the paper's."""
    return "agrees" if paper * ours > 0 else "contradicts"


def _table_1(registry: Registry, numbers: Numbers) -> Iterator[str]:
    """Which methods reach the paper's numbers, and the tables of ours that have records."""
    yield "## Table 1\n"
    table = build_table(registry, registry.table("table-1"), numbers.records)
    for goal in table.goals:
        yield from (f"- {line}" for line in goal_lines(goal))
    yield ""
    for table_id in ("table-1-42px", "table-1-42px-one-by-one", "table-1-narrow"):
        part = build_table(registry, registry.table(table_id), numbers.records)
        if any(cell.ours for _, _, cell in part.cells()):
            yield _markdown(part)


def _other_protocols(registry: Registry, others: dict[str, Numbers]) -> Iterator[str]:
    """Table 2 from runs with other than the declared values, which the notes name."""
    for name, numbers in others.items():
        if not numbers.records:  # git leaves the folders of records that were moved
            continue
        ran = {(record.spec.benchmark, record.spec.shots) for record in numbers.records}
        methods = {record.spec.method for record in numbers.records}
        entry = registry.table(TABLE)
        columns = [column for column in entry.columns if (column.benchmark, column.shots) in ran]
        rows = [row for row in entry.rows if row.method in methods]
        yield f"## Table 2 under another protocol: {name}\n"
        part = entry.model_copy(update={"columns": columns, "rows": rows})
        yield _markdown(build_table(registry, part, numbers.records))
        for matrix in matrix_sheets(numbers.comparisons):
            yield to_markdown(matrix)


def _external(registry: Registry, numbers: Numbers) -> Iterator[str]:
    table = build_table(registry, registry.table(EXTERNAL), numbers.records)
    yield "## Comparison with published MAML\n"
    yield _markdown(table)
    yield from _pictures(table)


def _rivals(registry: Registry, numbers: Numbers) -> Iterator[str]:
    """Short runs of the methods that such a learner is usually compared with."""
    table = build_table(registry, registry.table(RIVALS), numbers.records)
    yield "## Beside other methods, after short training\n"
    yield (
        "All methods train the same fully connected learner, for 3,000 outer steps of 16 episodes; the runs of Table 2 "
        "take 20,000. The inner rate is the one that was best for MAML on meta-validation, and no method was tuned by "
        "itself. Each row is one seed, so its differences are about these weights, not about methods.\n"
    )
    yield _markdown(table)
    yield ("The cost of each run, on one core of a machine with other work. Compare the times only roughly.\n")
    yield to_markdown(Sheet(cost_grid(list(groups_of(table)))))


def _studies(trials: list[TrialRecord]) -> Iterator[str]:
    """All trials that helped to choose a protocol value."""
    yield "## Studies on meta-validation\n"
    for name, of_study in itertools.groupby(
        sorted(trials, key=lambda trial: trial.study), key=lambda trial: trial.study
    ):
        yield f"### {name}\n"
        yield render_trials(list(of_study), "markdown", width=80)


def _markdown(table: Table) -> str:
    return render_table(table, "markdown", width=80)


def _pictures(table: Table) -> Iterator[str]:
    return (f"{line}\n" for line in _drawn(pictures_of(table)))


def _drawn(pictures: Iterable[Picture]) -> Iterator[str]:
    """Write each picture next to the report, and yield the line that shows it."""
    PICTURES.mkdir(exist_ok=True)
    for picture in pictures:
        (PICTURES / f"{picture.name}.svg").write_text(picture.svg, encoding="utf-8")
        yield f"![{picture.says}](pictures/{picture.name}.svg)"


if __name__ == "__main__":
    (RESULTS / "REPORT.md").write_text(report(), encoding="utf-8")
