"""Run records beside a paper's table: which runs a cell takes, what they reached, and how they differ from it.

Nothing is mixed silently. A cell averages only runs of one protocol on the same episodes; what was left out, and every
value that differs from the registry's, becomes a note of the cell. Accuracies are fractions here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from norml.statistics import Interval, OverSeeds, episode_means, over_seeds, paired_difference
from norml_cli.records import RunRecord
from norml_cli.registry import Registry
from norml_cli.spec import Column, Published, Row, RunSpec, TableEntry


@dataclass(frozen=True)
class Group:
    """Runs that may be averaged: one spec on the same data and test episodes, by seed."""

    records: tuple[RunRecord, ...]

    @property
    def spec(self) -> RunSpec:
        """What all of these runs did."""
        return self.records[0].spec

    @property
    def seeds(self) -> tuple[int, ...]:
        """In rising order."""
        return tuple(record.seed for record in self.records)

    @property
    def episodes(self) -> tuple[str, str, int]:
        """Equal for two groups whose accuracies may be paired episode by episode."""
        first = self.records[0]
        return first.dataset.content_hash, first.episodes.test_hash, self.queries

    @property
    def queries(self) -> int:
        """M: what the counts are out of."""
        return self.records[0].episodes.queries_per_episode

    def counts(self, seeds: Sequence[int]) -> list[list[int]]:
        """Correctly classified queries: [len(seeds), episodes]."""
        return [record.correct for record in self.records if record.seed in seeds]


@dataclass(frozen=True)
class Ours:
    """What our runs of one cell reached. `over_first`: over the table's `first_episodes` alone."""

    runs: Group
    accuracy: OverSeeds
    over_first: OverSeeds | None
    minus_published: float | None
    minus_reference: Interval | None


@dataclass(frozen=True)
class Cell:
    """One row in one column, which is about `benchmark`, if any. `missing`: it could be run, and was not."""

    published: Published | None
    benchmark: str | None = None
    ours: Ours | None = None
    missing: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableRow:
    """A row's declaration with its cells, one a column."""

    entry: Row
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A table's declaration with its rows, and the title of the method that differences are taken against."""

    entry: TableEntry
    rows: tuple[TableRow, ...]
    reference_title: str | None

    def best(self, number: int) -> Cell | None:
        """The cell of a column where ours is highest; None without another to be higher than."""
        ours = [row.cells[number] for row in self.rows if row.cells[number].ours is not None]
        return max(ours, key=lambda cell: cell.ours.accuracy.interval.mean if cell.ours else 0) if ours[1:] else None

    def cells(self) -> Iterator[tuple[Row, Column, Cell]]:
        """Row by row."""
        for row in self.rows:
            for column, cell in zip(self.entry.columns, row.cells, strict=True):
                yield row.entry, column, cell


def build_table(registry: Registry, table: TableEntry, records: Sequence[RunRecord]) -> Table:
    """Put the `records` that belong to `table` beside its published numbers."""
    title = registry.method(table.reference).title if table.reference is not None else None
    rows = [
        TableRow(row, tuple(_cell(registry, table, row, column, records) for column in table.columns))
        for row in table.rows
    ]
    return Table(table, tuple(rows), title)


def benchmarks_of(table: TableEntry) -> set[str]:
    """The benchmarks whose runs a table may show."""
    named = [*(row.benchmark for row in table.rows), *(column.benchmark for column in table.columns)]
    return {benchmark for benchmark in named if benchmark is not None}


def steps_of(steps: int, declared: int | None) -> str:
    """'2,000 of 60,000' for a run that was cut short, else the number alone."""
    return f"{steps:,} of {declared:,}" if declared is not None and steps < declared else f"{steps:,}"


def protocol_differences(spec: RunSpec, declared: RunSpec) -> list[str]:
    """'inner_lr 0.2 instead of 0.4' for each value of `spec` that is not the declared one, in the spec's order."""
    ours, theirs = _flat(spec), _flat(declared)
    differences = []
    for key in [*ours, *(key for key in theirs if key not in ours)]:
        mine, expected = ours.get(key), theirs.get(key)
        if key in ours and key in theirs and mine == expected:
            continue
        if key == "outer_steps" and isinstance(mine, int) and isinstance(expected, int) and mine < expected:
            differences.append(f"{steps_of(mine, expected)} outer steps")
        else:
            differences.append(f"{key} {_shown(ours, key)} instead of {_shown(theirs, key)}")
    return differences


def _cell(registry: Registry, table: TableEntry, row: Row, column: Column, records: Sequence[RunRecord]) -> Cell:
    published, benchmark = row.published.get(column.title), row.benchmark or column.benchmark
    if row.method is None or benchmark is None:
        return Cell(published, benchmark)
    group, notes = choose_runs(registry, row.method, benchmark, column.shots, records)
    if group is None:
        return Cell(published, benchmark, missing=True)
    paired: Interval | None = None
    if table.reference is not None and row.method != table.reference:
        reference, _ = choose_runs(registry, table.reference, benchmark, column.shots, records)
        if reference is not None:
            paired, pairing_notes = _paired(group, reference, registry.method(table.reference).title)
            notes += pairing_notes
    counts = group.counts(group.seeds)
    accuracy = over_seeds(counts).divided_by(group.queries)
    difference = accuracy.interval.mean - published.accuracy if published is not None else None
    over_first = _over_first(counts, table.first_episodes, group.queries)
    ours = Ours(group, accuracy, over_first, difference, paired)
    return Cell(published, benchmark, ours, notes=tuple(notes))


def _over_first(counts: list[list[int]], episodes: int | None, queries: int) -> OverSeeds | None:
    """Over the first test episodes alone; None if as many were not asked for or are not there."""
    if episodes is None or len(counts[0]) < episodes:
        return None
    return over_seeds([of_seed[:episodes] for of_seed in counts]).divided_by(queries)


def choose_runs(
    registry: Registry, method: str, benchmark: str, shots: int, records: Sequence[RunRecord]
) -> tuple[Group | None, list[str]]:
    """The runs of one method at one place, with notes on how they differ and on the runs that are left out.

    The declared protocol comes first, then the most outer steps, then the most seeds.
    """
    place = (method, benchmark, shots)
    groups = _groups([r for r in records if (r.spec.method, r.spec.benchmark, r.spec.shots) == place])
    if not groups:
        return None, []
    declared = registry.resolve(*place).spec
    groups.sort(key=lambda g: (g.spec != declared, -g.spec.protocol.outer_steps, -len(g.seeds), g.seeds))
    chosen, *others = groups
    differences = protocol_differences(chosen.spec, declared)
    notes = ["; ".join(differences)] if differences else []
    return chosen, notes + [_left_out(other, chosen, declared) for other in others]


def _groups(records: Sequence[RunRecord]) -> list[Group]:
    by_protocol: dict[tuple[str, ...], list[RunRecord]] = {}
    for record in sorted(records, key=lambda record: record.seed):
        data = record.dataset
        key = (record.spec_hash, data.content_hash, data.features or "", record.episodes.test_hash)
        by_protocol.setdefault(key, []).append(record)
    return [Group(tuple(group)) for group in by_protocol.values()]


def _left_out(other: Group, chosen: Group, declared: RunSpec) -> str:
    elsewhere = "other test episodes" if other.episodes != chosen.episodes else "other features"
    differences = protocol_differences(other.spec, declared) or [elsewhere]
    return f"left out: {_seeds(other.seeds)} ({'; '.join(differences)})"


def _paired(group: Group, reference: Group, title: str) -> tuple[Interval | None, list[str]]:
    """Difference from the reference over the seeds in common, or a note that says why there is none."""
    if group.episodes != reference.episodes:
        return None, [f"no paired difference: other test episodes than {title}"]
    common = [seed for seed in group.seeds if seed in reference.seeds]
    if not common:
        return None, [f"no paired difference: no seed in common with {title}"]
    means = [episode_means(runs.counts(common)) for runs in (group, reference)]
    difference = paired_difference(*means).divided_by(group.queries)
    partial = set(common) != set(group.seeds) | set(reference.seeds)
    return difference, [f"paired with {title} over {_seeds(common)}"] if partial else []


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _flat(spec: RunSpec) -> dict[str, Any]:
    """Every value by its own key; no two models of a spec share one."""
    values = spec.model_dump(mode="json")
    return {**values.pop("protocol"), **values.pop("rule"), **values}


def _shown(values: dict[str, Any], key: str) -> str:
    if key not in values:
        return "(none)"
    value = values[key]
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:,}"
    return "null" if value is None else str(value)
