"""Compare methods on the same test episodes by paired differences. Accuracies are fractions here.

Intervals over episodes and over seeds answer different questions and are never mixed. Over episodes: how far is the
mean of *these* trained weights from their mean over all possible episodes? Over seeds: how far is the mean of these
seeds from the mean over all possible seeds?
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from norml.statistics import Interval, effect_size, episode_means, holm, interval_95, p_value, paired_difference
from norml.statistics import values_to_settle as values_to_settle_at
from norml_cli.files.errors import UserError
from norml_cli.files.suggestions import suggested
from norml_cli.registry.entries import TableEntry
from norml_cli.registry.resolving import Registry
from norml_cli.results.groups import Group, choose_runs, difference_over_new_classes, protocol_differences
from norml_cli.results.records import RunRecord

Level = Literal["episodes", "classes", "seeds"]

LEVEL = 0.05  # significance level of the tests; matches the 95% intervals
ENOUGH_SEEDS = 3  # chosen: two seeds hardly show how much seeds vary


@dataclass(frozen=True)
class Difference:
    """The mean difference a - b with its interval at one level.

    episodes: over test episodes of one seed, or of each episode's mean over seeds; valid for the tested classes only.
    classes: the test classes are a sample of all classes. seeds: the seeds are a sample of all seeds.
    """

    over: Level
    seeds: tuple[int, ...]
    interval: Interval
    adjusted_p: float

    @property
    def p(self) -> float:
        """Two-sided p-value of Student's t-test."""
        return p_value(self.interval)

    @property
    def effect_size(self) -> float:
        """Cohen's d_z."""
        return effect_size(self.interval)

    @property
    def values_to_settle(self) -> int | None:
        """How many episodes (classes, seeds) with this mean and variance would make the interval exclude zero."""
        return values_to_settle_at(self.interval)

    @property
    def settled(self) -> bool:
        """Whether the difference is significant after correction for the number of comparisons."""
        return self.adjusted_p <= LEVEL and self.enough

    @property
    def enough(self) -> bool:
        """Whether there are enough seeds for a verdict over seeds."""
        return self.over != "seeds" or len(self.seeds) >= ENOUGH_SEEDS


@dataclass(frozen=True)
class Comparison:
    """Two methods on one benchmark at one number of shots.

    differences: over episodes, of each seed and of all seeds; over classes if the records have counts by class; over
    seeds if there are several.
    declared: whether both methods ran with the declared protocol.
    """

    a: str
    b: str
    benchmark: str
    shots: int
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]
    declared: bool

    @property
    def over_episodes(self) -> Difference:
        """The difference of the trained weights: over episodes, each averaged over all common seeds."""
        return next(each for each in reversed(self.differences) if each.over == "episodes")

    @property
    def over_classes(self) -> Difference | None:
        """The difference for new classes; None if the records have no counts by class."""
        return next((each for each in self.differences if each.over == "classes"), None)

    @property
    def for_new_classes(self) -> Difference:
        """The less significant of `over_episodes` and `over_classes`, for verdicts about other classes."""
        known = [each for each in (self.over_episodes, self.over_classes) if each is not None]
        return max(known, key=lambda each: each.adjusted_p)

    @property
    def over_seeds(self) -> Difference | None:
        """The difference of the methods: over seeds; None for a single seed."""
        return next((each for each in self.differences if each.over == "seeds"), None)

    def reversed(self) -> "Comparison":
        """The same pair with a and b swapped."""
        differences = tuple(
            replace(each, interval=replace(each.interval, mean=-each.interval.mean)) for each in self.differences
        )
        return replace(self, a=self.b, b=self.a, differences=differences)

    def beside(self, difference: Difference) -> Difference | None:
        """This pair's counterpart of another pair's `difference`: same level, same seeds or all seeds."""
        if difference.over != "episodes":
            return self.over_seeds if difference.over == "seeds" else self.over_classes
        same = [each for each in self.differences if (each.over, each.seeds) == ("episodes", difference.seeds)]
        return same[0] if same else self.over_episodes


def compare(
    registry: Registry,
    methods: Sequence[str],
    benchmark: str,
    shots: int,
    records: Sequence[RunRecord],
) -> list[Comparison]:
    """Compare every pair of `methods`, in their order.

    p-values are corrected for the number of pairs (Holm), even if pairs have different seeds.
    Raises UserError for a method without runs there, and for pairs that were tested on different episodes.
    """
    chosen = {method: _runs(registry, method, benchmark, shots, records) for method in methods}
    pairs = [_compared(a, b, chosen[a], chosen[b]) for a, b in itertools.combinations(methods, 2)]
    return [
        replace(pair, differences=tuple(_adjusted(each, pair, pairs) for each in pair.differences)) for pair in pairs
    ]


def _adjusted(difference: Difference, of_pair: Comparison, pairs: Sequence[Comparison]) -> Difference:
    """`difference` with its p-value corrected for the number of pairs, each of which counts once."""
    family = [difference] + [other for pair in pairs if pair is not of_pair and (other := pair.beside(difference))]
    return replace(difference, adjusted_p=holm([each.p for each in family])[0])


def compare_table(registry: Registry, table: TableEntry, records: Sequence[RunRecord]) -> list[Comparison]:
    """Compare every pair of `table`'s methods that have runs, separately for each benchmark and number of shots."""
    comparisons = []
    for place, methods in places_of(table).items():
        ran = {r.label for r in records if (r.spec.benchmark, r.spec.shots) == place}
        comparisons += compare(registry, [method for method in methods if method in ran], *place, records)
    return comparisons


def places_of(table: TableEntry) -> dict[tuple[str, int], list[str]]:
    """The methods that `table` shows, by benchmark and number of shots."""
    places: dict[tuple[str, int], list[str]] = {}
    for column, row in itertools.product(table.columns, table.rows):
        benchmark = row.benchmark or column.benchmark
        if benchmark is not None and row.method is not None:
            places.setdefault((benchmark, column.shots), []).append(row.method)
    return places


@dataclass(frozen=True)
class _Runs:
    """A method's runs on one benchmark at one number of shots. declared: whether with the declared protocol."""

    group: Group
    notes: list[str]
    declared: bool


def _runs(registry: Registry, method: str, benchmark: str, shots: int, records: Sequence[RunRecord]) -> _Runs:
    id_, _, name = method.partition("+")
    registry.method(id_)
    group, notes = choose_runs(registry, method, benchmark, shots, records)
    if group is None:
        named = f" --name {name}" if name else ""
        command = suggested(f"norml run {id_} --benchmark {benchmark} --shots {shots}{named}")
        raise UserError(f"{method}: no finished run on {benchmark}, {shots}-shot; run `{command}`")
    declared = group.spec == registry.resolve(id_, benchmark, shots).spec
    return _Runs(group, [f"{method}: {note}" for note in notes], declared)


def _compared(a: str, b: str, of_a: _Runs, of_b: _Runs) -> Comparison:
    left, right = of_a.group, of_b.group
    _require_same_episodes(a, b, left, right)
    seeds = tuple(seed for seed in left.seeds if seed in right.seeds)
    if not seeds:
        raise UserError(f"{a} and {b}: no seed in common; run both with the same --seed")
    notes = of_a.notes + of_b.notes
    if set(seeds) != set(left.seeds) | set(right.seeds):
        notes.append(f"compared over the common seeds: {', '.join(map(str, seeds))}")
    differences, declared = tuple(_differences(left, right, seeds)), of_a.declared and of_b.declared
    return Comparison(a, b, left.spec.benchmark, left.spec.shots, differences, tuple(notes), declared)


def _differences(left: Group, right: Group, seeds: tuple[int, ...]) -> list[Difference]:
    def over_episodes(of: tuple[int, ...]) -> Difference:
        means = [episode_means(group.counts(of)) for group in (left, right)]
        return _difference("episodes", of, paired_difference(*means).divided_by(left.queries))

    of_classes = difference_over_new_classes(left, right, seeds)
    over_classes = [] if of_classes is None else [_difference("classes", seeds, of_classes.divided_by(left.queries))]
    if len(seeds) == 1:
        return [over_episodes(seeds), *over_classes]
    each = [over_episodes((seed,)) for seed in seeds]
    over_seeds = interval_95([difference.interval.mean for difference in each])
    return [*each, over_episodes(seeds), *over_classes, _difference("seeds", seeds, over_seeds)]


def _difference(over: Level, seeds: tuple[int, ...], interval: Interval) -> Difference:
    return Difference(over, seeds, interval, p_value(interval))


def _require_same_episodes(a: str, b: str, left: Group, right: Group) -> None:
    if left.episodes == right.episodes:
        return
    ours, theirs = left.episodes, right.episodes
    if ours[0] != theirs[0]:
        why = "the data sets have different content"
    else:
        keys = ("n_way", "queries_per_class", "rotations", "test_episodes", "episode_seed")
        changed = [d for d in protocol_differences(left.spec, right.spec) if d.startswith(keys)]
        why = "; ".join(changed) or "the fixed episodes were drawn again"
    raise UserError(
        f"{a} and {b}: cannot be paired, because they were tested on different episodes ({a} against {b}: {why}); "
        "run one of them again"
    )
