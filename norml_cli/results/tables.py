"""Put our runs next to a table's published numbers.

A cell averages only runs with one protocol and the same episodes. Its notes list the runs that were left out and the
values that differ from the registry's. Accuracies are fractions here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from norml.statistics import Interval, OverSeeds, episode_means, holm, over_seeds, p_value, paired_difference
from norml_cli.registry.entries import Column, Published, Row, SecondTest, TableEntry
from norml_cli.registry.resolving import Registry
from norml_cli.results.comparisons import LEVEL
from norml_cli.results.evaluated import Counts, Evaluations, Reached, counts_by_protocol, reached
from norml_cli.results.goals import Entrant, Goal, goal
from norml_cli.results.groups import Group, choose_runs, difference_over_new_classes, over_new_classes, seeds_text
from norml_cli.results.records import RunRecord

NONE = Evaluations()


@dataclass(frozen=True)
class Ours:
    """Results of our runs in one cell.

    over_first: over the table's `first_episodes` only. second: under the table's `second_test`, if evaluated.
    over_classes, minus_reference_over_classes: intervals over test classes; None without counts by class.
    """

    runs: Group
    accuracy: OverSeeds
    over_first: OverSeeds | None
    minus_published: float | None
    minus_reference: Interval | None
    second: Reached | None = None
    over_classes: Interval | None = None
    minus_reference_over_classes: Interval | None = None


@dataclass(frozen=True)
class Cell:
    """One row in one column. benchmark: of the run, if any. missing: there is no run yet."""

    published: Published | None
    benchmark: str | None = None
    ours: Ours | None = None
    missing: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableRow:
    """A row's declaration with its cells, one per column."""

    entry: Row
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A table's declaration with its rows and the title of its reference method.

    highest: for each column, the row with our highest accuracy and the rows that do not differ from it significantly.
    goals: published numbers of methods that we run, in tables whose rows have their own benchmarks.
    """

    entry: TableEntry
    rows: tuple[TableRow, ...]
    reference_title: str | None
    highest: tuple[frozenset[int], ...]
    goals: tuple[Goal, ...] = ()

    def cells(self) -> Iterator[tuple[Row, Column, Cell]]:
        """All cells, row by row."""
        for row in self.rows:
            for column, cell in zip(self.entry.columns, row.cells, strict=True):
                yield row.entry, column, cell


def build_table(
    registry: Registry, table: TableEntry, records: Sequence[RunRecord], evaluations: Evaluations = NONE
) -> Table:
    """Put the `records` of `table`, and the `evaluations` of their weights, next to its published numbers."""
    title = registry.method(table.reference).title if table.reference is not None else None
    maker = _Cells(registry, table, records, evaluations)
    rows = [TableRow(row, tuple(maker.cell(row, column) for column in table.columns)) for row in table.rows]
    columns = zip(*(row.cells for row in rows), strict=True)
    highest = tuple(_highest([cell.ours for cell in column]) for column in columns)
    return Table(table, tuple(rows), title, highest, tuple(_goals(registry, table, rows)))


def _goals(registry: Registry, table: TableEntry, rows: Sequence[TableRow]) -> Iterator[Goal]:
    if not any(row.benchmark for row in table.rows):
        return
    for number, column in enumerate(table.columns):
        entrants = [each for row in rows if (each := _entrant(row.entry, row.cells[number])) is not None]
        for row in rows:
            published = row.cells[number].published
            if published is not None and row.entry.method is not None:
                yield goal(registry, column.title, row.entry.title, published, entrants)


def _entrant(row: Row, cell: Cell) -> Entrant | None:
    if row.method is None or cell.benchmark is None:
        return None
    return Entrant(row.title, row.method, cell.benchmark, cell.ours.accuracy.interval if cell.ours else None)


def _highest(column: Sequence[Ours | None]) -> frozenset[int]:
    """The highest row and the rows that do not differ from it significantly; empty with fewer than two rows.

    p-values are corrected for the number of rows compared with the highest (Holm).
    """
    ours = {number: each for number, each in enumerate(column) if each is not None}
    if len(ours) < 2:  # noqa: PLR2004 - a pair
        return frozenset()
    highest, *others = sorted(ours, key=lambda number: ours[number].accuracy.interval.mean, reverse=True)
    adjusted = holm([_p_of_equality(ours[highest], ours[number]) for number in others])
    level = [number for number, p in zip(others, adjusted, strict=True) if p > LEVEL]
    return frozenset([highest, *level])


def _p_of_equality(a: Ours, b: Ours) -> float:
    """The larger p-value of the paired tests over episodes and over classes.

    Runs that cannot be paired give 1 if their intervals overlap, otherwise 0.
    """
    seeds = [seed for seed in a.runs.seeds if seed in b.runs.seeds]
    if a.runs.episodes == b.runs.episodes and seeds:
        of_classes = difference_over_new_classes(a.runs, b.runs, seeds)
        p = p_value(paired_difference(*(episode_means(each.runs.counts(seeds)) for each in (a, b))))
        return p if of_classes is None else max(p, p_value(of_classes))
    (left, right) = (each.accuracy.interval for each in (a, b))
    return float(abs(left.mean - right.mean) <= left.half_width + right.half_width)


def benchmarks_of(table: TableEntry) -> set[str]:
    """The benchmarks of all runs that a table may show."""
    named = [*(row.benchmark for row in table.rows), *(column.benchmark for column in table.columns)]
    return {benchmark for benchmark in named if benchmark is not None}


@dataclass(frozen=True)
class _Cells:
    """Builds the cells of one table."""

    registry: Registry
    table: TableEntry
    records: Sequence[RunRecord]
    evaluations: Evaluations

    def cell(self, row: Row, column: Column) -> Cell:
        published, benchmark = row.published.get(column.title), row.benchmark or column.benchmark
        if row.method is None or benchmark is None:
            return Cell(published, benchmark)
        group, notes = self._runs(row.method, benchmark, column.shots)
        if group is None:
            return Cell(published, benchmark, missing=True)
        reference = None
        if self.table.reference is not None and row.method != self.table.reference:
            reference, _ = self._runs(self.table.reference, benchmark, column.shots)
        ours, more_notes = self._ours(group, reference, published)
        return Cell(published, benchmark, ours, notes=(*notes, *more_notes))

    def _runs(self, method: str, benchmark: str, shots: int) -> tuple[Group | None, list[str]]:
        return choose_runs(self.registry, method, benchmark, shots, self.records)

    def _ours(self, group: Group, reference: Group | None, published: Published | None) -> tuple[Ours, list[str]]:
        paired = of_classes = None
        notes: list[str] = []
        if reference is not None and self.table.reference is not None:
            paired, of_classes, notes = _paired(group, reference, self.registry.method(self.table.reference).title)
        counts = group.counts(group.seeds)
        accuracy = over_seeds(counts).divided_by(group.queries)
        difference = accuracy.interval.mean - published.accuracy if published is not None else None
        over_first = _over_first(counts, self.table.first_episodes, group.queries)
        over_classes = over_new_classes(group, group.seeds)
        over_classes = over_classes and over_classes.divided_by(group.queries)
        second, more_notes = self._second(group, reference)
        return Ours(
            group, accuracy, over_first, difference, paired, second, over_classes, of_classes
        ), notes + more_notes

    def _second(self, group: Group, reference: Group | None) -> tuple[Reached | None, list[str]]:
        """The result of the same weights under the table's second test, if any of their seeds were evaluated."""
        test = self.table.second_test
        ours = None if test is None else self._counts(group, test)
        if test is None or ours is None:
            return None, []
        beside = None if reference is None else self._counts(reference, test)
        second = reached(group.spec.method, ours, beside)
        part = set(second.seeds) != set(group.seeds)
        return second, [f"{test.title}: {seeds_text(second.seeds)} only"] if part else []

    def _counts(self, group: Group, test: SecondTest) -> Counts | None:
        every = counts_by_protocol(group, self.evaluations).values()
        found = [each for each in every if (each.split, dict(each.changed)) == ("meta_test", test.changed)]
        return found[0] if found else None


def _over_first(counts: list[list[int]], episodes: int | None, queries: int) -> OverSeeds | None:
    """Accuracy over the first test episodes only; None if not requested, or if there are fewer episodes."""
    if episodes is None or len(counts[0]) < episodes:
        return None
    return over_seeds([of_seed[:episodes] for of_seed in counts]).divided_by(queries)


def _paired(group: Group, reference: Group, title: str) -> tuple[Interval | None, Interval | None, list[str]]:
    """Difference from the reference over common seeds, over episodes and over classes, or a note why there is none."""
    if group.episodes != reference.episodes:
        return None, None, [f"no paired difference: test episodes differ from those of {title}"]
    common = [seed for seed in group.seeds if seed in reference.seeds]
    if not common:
        return None, None, [f"no paired difference: no common seed with {title}"]
    means = [episode_means(runs.counts(common)) for runs in (group, reference)]
    difference = paired_difference(*means).divided_by(group.queries)
    of_classes = difference_over_new_classes(group, reference, common)
    of_classes = of_classes and of_classes.divided_by(group.queries)
    partial = set(common) != set(group.seeds) | set(reference.seeds)
    return difference, of_classes, [f"paired with {title} over {seeds_text(common)}"] if partial else []
