"""Methods against each other on the same test episodes: paired differences and what they settle. Fractions here.

Episodes and seeds are two levels of chance and never mixed. Over episodes: how far the mean of *these* trained weights
may be from their mean over all episodes. Over seeds: how far the mean of these seeds may be from that of all seeds.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from norml.statistics import Interval, effect_size, episode_means, holm, interval_95, p_value, paired_difference
from norml.statistics import values_to_settle as values_to_settle_at
from norml_cli.files.errors import UserError
from norml_cli.registry.entries import TableEntry
from norml_cli.registry.resolving import Registry
from norml_cli.results.groups import Group, choose_runs, protocol_differences
from norml_cli.results.records import RunRecord

LEVEL = 0.05  # of the tests, as the 95% of the intervals


@dataclass(frozen=True)
class Difference:
    """a - b at one level: over test episodes (of one seed, or of each episode's mean over seeds), or over seeds."""

    over: Literal["episodes", "seeds"]
    seeds: tuple[int, ...]
    interval: Interval
    adjusted_p: float

    @property
    def p(self) -> float:
        """Two-sided, of Student's t-test."""
        return p_value(self.interval)

    @property
    def effect_size(self) -> float:
        """Cohen's d_z."""
        return effect_size(self.interval)

    @property
    def values_to_settle(self) -> int | None:
        """Episodes (or seeds) of this scatter and mean whose interval would just exclude zero."""
        return values_to_settle_at(self.interval)

    @property
    def settled(self) -> bool:
        """Whether zero is excluded, the number of comparisons taken into account."""
        return self.adjusted_p <= LEVEL


@dataclass(frozen=True)
class Comparison:
    """Two methods at one place: a difference for each seed and, if there are several, over all episodes and seeds."""

    a: str
    b: str
    benchmark: str
    shots: int
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]


def compare(
    registry: Registry, methods: Sequence[str], benchmark: str, shots: int, records: Sequence[RunRecord]
) -> list[Comparison]:
    """Every pair of `methods`, in their order.

    p-values are adjusted for the number of pairs (Holm), each level and choice of seeds apart.
    Raises UserError for a method without runs there, and for pairs that were tested on different episodes.
    """
    chosen = {method: _runs(registry, method, benchmark, shots, records) for method in methods}
    pairs = list(itertools.combinations(methods, 2))
    made = [_compared(a, b, chosen[a], chosen[b]) for a, b in pairs]
    families: dict[tuple[str, tuple[int, ...]], list[Difference]] = {}
    for comparison in made:
        for difference in comparison.differences:
            families.setdefault((difference.over, difference.seeds), []).append(difference)
    adjusted = {
        id(difference): p
        for family in families.values()
        for difference, p in zip(family, holm([each.p for each in family]), strict=True)
    }
    return [replace(c, differences=tuple(replace(d, adjusted_p=adjusted[id(d)]) for d in c.differences)) for c in made]


def compare_table(registry: Registry, table: TableEntry, records: Sequence[RunRecord]) -> list[Comparison]:
    """Every pair of the methods of `table` that have runs, each benchmark and number of shots apart."""
    made = []
    for place, methods in _places(table).items():
        ran = {r.spec.method for r in records if (r.spec.benchmark, r.spec.shots) == place}
        made += compare(registry, [method for method in methods if method in ran], *place, records)
    return made


def _places(table: TableEntry) -> dict[tuple[str, int], list[str]]:
    """The methods of each benchmark and number of shots that `table` shows."""
    places: dict[tuple[str, int], list[str]] = {}
    for column, row in itertools.product(table.columns, table.rows):
        benchmark = row.benchmark or column.benchmark
        if benchmark is not None and row.method is not None:
            places.setdefault((benchmark, column.shots), []).append(row.method)
    return places


def _runs(
    registry: Registry, method: str, benchmark: str, shots: int, records: Sequence[RunRecord]
) -> tuple[Group, list[str]]:
    registry.method(method)
    group, notes = choose_runs(registry, method, benchmark, shots, records)
    if group is None:
        command = f"norml run {method} --benchmark {benchmark} --shots {shots}"
        raise UserError(f"{method}: no finished run on {benchmark}, {shots}-shot; `{command}` makes one")
    return group, [f"{method}: {note}" for note in notes]


def _compared(a: str, b: str, of_a: tuple[Group, list[str]], of_b: tuple[Group, list[str]]) -> Comparison:
    (left, left_notes), (right, right_notes) = of_a, of_b
    _require_same_episodes(a, b, left, right)
    seeds = tuple(seed for seed in left.seeds if seed in right.seeds)
    if not seeds:
        raise UserError(f"{a} and {b}: no seed in common; run both with the same --seed")
    notes = left_notes + right_notes
    if set(seeds) != set(left.seeds) | set(right.seeds):
        notes.append(f"compared over the seeds in common: {', '.join(map(str, seeds))}")
    return Comparison(a, b, left.spec.benchmark, left.spec.shots, tuple(_differences(left, right, seeds)), tuple(notes))


def _differences(left: Group, right: Group, seeds: tuple[int, ...]) -> list[Difference]:
    def over_episodes(of: tuple[int, ...]) -> Difference:
        means = [episode_means(group.counts(of)) for group in (left, right)]
        return _difference("episodes", of, paired_difference(*means).divided_by(left.queries))

    if len(seeds) == 1:
        return [over_episodes(seeds)]
    each = [over_episodes((seed,)) for seed in seeds]
    over_seeds = interval_95([difference.interval.mean for difference in each])
    return [*each, over_episodes(seeds), _difference("seeds", seeds, over_seeds)]


def _difference(over: Literal["episodes", "seeds"], seeds: tuple[int, ...], interval: Interval) -> Difference:
    return Difference(over, seeds, interval, p_value(interval))


def _require_same_episodes(a: str, b: str, left: Group, right: Group) -> None:
    if left.episodes == right.episodes:
        return
    ours, theirs = left.episodes, right.episodes
    if ours[0] != theirs[0]:
        why = "the data set has other content"
    else:
        keys = ("n_way", "queries_per_class", "rotations", "test_episodes", "episode_seed")
        told = [d for d in protocol_differences(left.spec, right.spec) if d.startswith(keys)]
        why = "; ".join(told) or "the fixed episodes were drawn anew"
    raise UserError(
        f"{a} and {b}: tested on different episodes, so nothing can be paired ({a} against {b}: {why}); run one again"
    )
