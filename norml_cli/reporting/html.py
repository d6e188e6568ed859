"""Results as one self-contained HTML page without scripts: tables, charts, cost, and the runs behind each cell."""

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from typing import Any

from norml_cli import __version__
from norml_cli.registry.resolving import Registry
from norml_cli.reporting.colours import PAGE, light_and_dark
from norml_cli.reporting.comparison_sheets import comparison_sheet, matrix_sheets
from norml_cli.reporting.drawings import Bar, Curve, draw_accuracies, draw_curves
from norml_cli.reporting.formats import percent
from norml_cli.reporting.lists import runs_sheet
from norml_cli.reporting.protocol_sheets import protocol_sheet
from norml_cli.reporting.sheets import CellText, Grid, Sheet, plain_text
from norml_cli.reporting.table_sheet import anchor, table_sheet
from norml_cli.results.comparisons import compare_table
from norml_cli.results.groups import Group
from norml_cli.results.protocols import ProtocolTable
from norml_cli.results.records import RunRecord
from norml_cli.results.store import scan_inspections
from norml_cli.results.tables import Table
from norml_cli.terminal.progress import duration

Runs = Sequence[tuple[Path, RunRecord]]

_INSPECTED = {
    "freezing.svg": "accuracy when parts of the learner keep their initial weights",
    "accuracy-by-step.svg": "accuracy after each inner step",
    "effective-rates.svg": "effective learning rates of neurons",
    "gates.svg": "gates over inner steps",
    "gates-and-loss.svg": "gates and the loss of an example",
}


@dataclass(frozen=True)
class Picture:
    """An SVG with a file name and a description for screen readers."""

    name: str
    svg: str
    says: str

    @property
    def address(self) -> str:
        """The picture as a data URL for an `img` element, which runs no scripts."""
        return f"data:image/svg+xml;base64,{base64.b64encode(self.svg.encode()).decode()}"


@dataclass(frozen=True)
class Provenance:
    """What a cell's numbers depend on. runs: facts about each seed. inspected: pictures of `norml inspect`."""

    anchor: str
    title: str
    runs: Sequence[dict[str, str]]
    values: str
    inspected: Sequence[Picture]


@dataclass(frozen=True)
class Section:
    """A table of the page with its charts, comparisons, cost and runs."""

    id: str
    title: str
    sheet: Sheet
    pictures: Sequence[Picture]
    matrices: Sequence[Sheet]
    pairs: Sheet | None
    cost: Grid
    provenance: Sequence[Provenance]


def render_html(
    registry: Registry,
    tables: Sequence[Table],
    runs: Runs,
    protocols: Sequence[ProtocolTable] = (),
) -> str:
    """The page with `tables`, `protocols` and all `runs`, in their order. Does not check the records again."""
    return rendered(
        "page.html.jinja",
        sections=[_section(registry, table, runs) for table in tables],
        protocols=[protocol_sheet(table) for table in protocols],
        runs=runs_sheet(registry, runs),
        places=places_by_column,
        n_runs=len(runs),
        newest=max((record.created for _, record in runs), default="")[:10],
        version=__version__,
    )


def rendered(template: str, **values: Any) -> str:
    """Render a template of this folder with `values`, which are escaped."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined  # noqa: PLC0415 - takes 50 ms to import

    folder = files("norml_cli.reporting")
    environment = Environment(
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = lambda cell: cell if isinstance(cell, CellText) else CellText(cell)
    light, dark = light_and_dark(PAGE)
    return environment.get_template(template).render(light=light, dark=dark, **values)


def places_by_column(grid: Grid) -> list[list[int]]:
    """For each row, its position when sorted by each column: texts from A to Z, numbers from the largest."""
    columns = [[plain_text(row[number]) for row in grid.rows] for number in range(len(grid.headers))]
    return [list(of_row) for of_row in zip(*map(_places, columns), strict=True)]


def _places(column: Sequence[str]) -> list[int]:
    numbers = [_number(text) for text in column]
    values = [-n for n in numbers if n is not None] if None not in numbers else column
    order = sorted(range(len(column)), key=lambda row: values[row])
    return [order.index(row) for row in range(len(column))]


def _number(text: str) -> float | None:
    """The number at the start of a cell: 90.5 of '90.50 ± 0.12', 1000 of '1,000 of 20,000'."""
    found = re.match(r"[\d,]+(?:\.\d+)?(?![\w-])", text)
    return float(found[0].replace(",", "")) if found else None


def _section(registry: Registry, table: Table, runs: Runs) -> Section:
    groups = list(groups_of(table))
    comparisons = compare_table(registry, table.entry, [record for _, record in runs])
    paths = {id(record): path for path, record in runs}
    return Section(
        id=table.entry.id,
        title=table.entry.title,
        sheet=table_sheet(table),
        pictures=list(pictures_of(table)),
        matrices=matrix_sheets(comparisons),
        pairs=comparison_sheet(comparisons) if comparisons else None,
        cost=cost_grid(groups),
        provenance=[_provenance(anchor(table, group), title, group, paths) for title, group in groups],
    )


def groups_of(table: Table) -> Iterator[tuple[str, Group]]:
    """The runs of each cell with the title of its row, column by column; cells without runs are left out."""
    for number in range(len(table.entry.columns)):
        for row in table.rows:
            ours = row.cells[number].ours
            if ours is not None:
                yield row.entry.title, ours.runs


def pictures_of(table: Table) -> Iterator[Picture]:
    """Charts of accuracies, one per column, and of learning curves, one per benchmark and number of shots."""
    yield from _accuracies(table)
    yield from _curves(list(groups_of(table)))


def _accuracies(table: Table) -> Iterator[Picture]:
    """A chart for each column that has runs of ours."""
    for number, column in enumerate(table.entry.columns):
        cells = [(row.entry.title, row.cells[number]) for row in table.rows]
        bars = [
            Bar(
                title,
                (100 * (interval := cell.ours.accuracy.interval).mean, 100 * interval.half_width)
                if cell.ours
                else None,
                (100 * cell.published.accuracy, 100 * (cell.published.half_width or 0)) if cell.published else None,
            )
            for title, cell in cells
            if cell.ours or cell.published
        ]
        if any(bar.ours for bar in bars):
            says = f"Our and published accuracies of {column.title}, as in the table"
            yield Picture(f"{table.entry.id}-{column.title}", draw_accuracies(bars, column.title), says)


def _curves(groups: Sequence[tuple[str, Group]]) -> Iterator[Picture]:
    """A chart for each benchmark and number of shots, with all seeds of all meta-trained methods."""
    places: dict[tuple[str, int], dict[str, list[Curve]]] = {}
    for title, group in groups:
        of_seeds: list[Curve] = [record.curve for record in group.records if len(record.curve) > 1]
        if of_seeds:
            places.setdefault((group.spec.benchmark, group.spec.shots), {})[title] = of_seeds
    order = list(dict.fromkeys(title for title, _ in groups))
    for (benchmark, shots), curves in places.items():
        title = f"{benchmark}, {shots}-shot: learning curves"
        ends = ", ".join(f"{method} {100 * _end(each):.1f}%" for method, each in curves.items())
        says = f"{title}; meta-validation accuracy at the end: {ends}"
        yield Picture(f"{benchmark}-{shots}-shot-curves", draw_curves(curves, title, order=order), says)


def _end(of_seeds: Sequence[Curve]) -> float:
    """The mean final meta-validation accuracy of a method's seeds."""
    return fmean(curve[-1].validation_accuracy for curve in of_seeds)


def cost_grid(groups: Sequence[tuple[str, Group]]) -> Grid:
    """Time, memory and parameters of each run."""
    headers = [
        "method",
        "benchmark",
        "seed",
        "device",
        "outer steps/s",
        "training",
        "meta-test",
        "memory",
        "parameters",
    ]
    rows = [[title, *_cost_cells(record)] for title, group in groups for record in group.records]
    return Grid(headers, rows, n_left=4)


def _cost_cells(record: RunRecord) -> list[str]:
    cost, learned = record.cost, record.parameters
    return [
        f"{record.spec.benchmark}, {record.spec.shots}-shot",
        str(record.seed),
        record.device,
        f"{cost.steps_per_s:,.1f}" if cost.steps_per_s else "-",
        duration(cost.training_s),
        duration(cost.evaluation_s),
        f"{cost.peak_memory_bytes / 2**30:.2f} GiB" if cost.peak_memory_bytes else "-",
        f"{learned.learner + learned.meta_learner:,}",
    ]


def _provenance(name: str, title: str, group: Group, paths: Mapping[int, Path]) -> Provenance:
    spec = group.spec
    return Provenance(
        anchor=name,
        title=f"{title}, {spec.benchmark}, {spec.shots}-shot",
        runs=[_facts(record, paths[id(record)]) for record in group.records],
        values=json.dumps(spec.model_dump(mode="json"), indent=2, ensure_ascii=False),
        inspected=[picture for record in group.records for picture in _inspected(paths[id(record)])],
    )


def _facts(record: RunRecord, path: Path) -> dict[str, str]:
    """What a run's numbers depend on, by name."""
    commit = f"{record.git.commit}{' with changes' if record.git.dirty else ''}" if record.git.commit else "unknown"
    features = {"features": record.dataset.features} if record.dataset.features else {}
    return {
        "record": str(path),
        "command": record.command,
        "test again with": f"norml verify {path}",
        "seed": str(record.seed),
        "accuracy": f"{percent(record.accuracy.mean, record.accuracy.half_width)} over {record.accuracy.n:,} episodes",
        "best step": f"{record.best_step:,} of {record.spec.protocol.outer_steps:,}",
        "finished": record.created,
        "device": record.device,
        **({"repeatability": record.repeatability} if record.repeatability else {}),
        "versions": ", ".join(f"{name} {version}" for name, version in record.versions.items()),
        "commit": commit,
        "data": f"{record.dataset.id}, content {record.dataset.content_hash}",
        **features,
        "test episodes": record.episodes.test_hash,
        "protocol": record.spec_hash,
    }


def _inspected(path: Path) -> Iterator[Picture]:
    """The pictures of `norml inspect` next to the record at `path`, if they show its weights."""
    for _, folder in scan_inspections([path]).records:
        for name, says in _INSPECTED.items():
            picture = folder / name
            if picture.is_file():
                yield Picture(picture.stem, picture.read_text(encoding="utf-8"), f"{path.stem}: {says}")
