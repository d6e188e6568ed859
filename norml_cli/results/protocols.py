"""Trained weights under several protocols: methods beside each other, paired where their episodes agree. Torch-free.

Every accuracy and difference is over episodes, averaged over seeds first: about these trained weights.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from norml.statistics import Interval, episode_means, interval_95, paired_difference
from norml_cli.registry.resolving import Registry
from norml_cli.results.evaluations import EvaluationRecord
from norml_cli.results.groups import Group, choose_runs
from norml_cli.results.records import RunRecord
from norml_cli.results.store import evaluated_run
from norml_cli.results.tables import benchmarks_of

AS_TRAINED = "as trained"


@dataclass(frozen=True)
class Reached:
    """What one method's weights reached under one protocol. minus_reference: None where nothing can be paired."""

    method: str
    changed: Mapping[str, Any]
    split: str
    seeds: tuple[int, ...]
    accuracy: Interval
    minus_reference: Interval | None


@dataclass(frozen=True)
class ProtocolTable:
    """The methods that were trained on `benchmark` at `shots`, by the title of each protocol and then by method."""

    benchmark: str
    shots: int
    reference: str
    methods: tuple[str, ...]
    protocols: Mapping[str, Mapping[str, Reached]]


@dataclass(frozen=True)
class _Counts:
    """Correct answers by seed, on episodes of which equal ones may be paired."""

    changed: Mapping[str, Any]
    split: str
    episodes: tuple[str, str, int]
    correct: dict[int, list[int]] = field(default_factory=dict)

    @property
    def queries(self) -> int:
        return self.episodes[2]


def protocol_title(changed: Mapping[str, Any], split: str) -> str:
    """'queries_per_class 15, rotations none'."""
    parts = [f"{key} {value}" for key, value in changed.items()] + ["meta-validation"] * (split == "meta_val")
    return ", ".join(parts) or AS_TRAINED


def protocol_tables(
    registry: Registry,
    runs: Sequence[tuple[Path, RunRecord]],
    evaluations: Sequence[tuple[Path, EvaluationRecord]],
    methods: Sequence[str] = (),
) -> list[ProtocolTable]:
    """A table for each benchmark and number of shots with evaluations (of these methods; the first: the reference)."""
    by_run: dict[Path, list[EvaluationRecord]] = {}
    for path, evaluation in evaluations:
        by_run.setdefault(evaluated_run(path), []).append(evaluation)
    paths, records = {id(run): path for path, run in runs}, [run for _, run in runs]
    places = dict.fromkeys((run.spec.benchmark, run.spec.shots) for path, run in runs if path in by_run)
    tables = []
    for benchmark, shots in places:
        reached: dict[str, dict[str, _Counts]] = {}
        for method in methods or _methods_at(registry, benchmark, shots, records):
            group, _ = choose_runs(registry, method, benchmark, shots, records)
            if group is not None:
                reached[method] = _counts(group, {run.seed: by_run.get(paths[id(run)], []) for run in group.records})
        if reached:
            tables.append(_table(registry, (benchmark, shots), reached, methods))
    return tables


def _methods_at(registry: Registry, benchmark: str, shots: int, records: Sequence[RunRecord]) -> list[str]:
    """In the registry's order."""
    if benchmark not in registry.benchmarks or shots not in registry.benchmarks[benchmark].shots:
        return []
    ran = {run.spec.method for run in records if (run.spec.benchmark, run.spec.shots) == (benchmark, shots)}
    return [method for method in registry.methods if method in ran]


def _counts(group: Group, evaluations: Mapping[int, Sequence[EvaluationRecord]]) -> dict[str, _Counts]:
    """What a method's weights reached, by the title of each protocol; seeds on other episodes than the first's: out."""
    trained = _Counts({}, "meta_test", group.episodes, {run.seed: run.correct for run in group.records})
    found = {AS_TRAINED: trained}
    for seed, of_seed in evaluations.items():
        for each in of_seed:
            episodes = (each.dataset.content_hash, each.episodes.hash, each.episodes.queries_per_episode)
            title = protocol_title(each.changed, each.split)
            counts = found.setdefault(title, _Counts(each.changed, each.split, episodes))
            if counts.episodes == episodes:
                counts.correct[seed] = each.correct
    return found


def _table(
    registry: Registry, place: tuple[str, int], reached: Mapping[str, Mapping[str, _Counts]], named: Sequence[str]
) -> ProtocolTable:
    usual = [table.reference for table in registry.tables.values() if place[0] in benchmarks_of(table)]
    reference = next(method for method in [*named, *usual, *reached] if method is not None and method in reached)
    every = {title: counts for of_method in reached.values() for title, counts in of_method.items()}
    protocols = {
        title: {
            method: _reached(method, of_method[title], reached[reference].get(title) if method != reference else None)
            for method, of_method in reached.items()
            if title in of_method
        }
        for title, _ in sorted(every.items(), key=_order)
    }
    return ProtocolTable(*place, reference, tuple(reached), protocols)


def _order(item: tuple[str, _Counts]) -> tuple[Any, ...]:
    """As trained first, then what changes least; meta-validation last. Equal keys have values of one type."""
    _, counts = item
    return counts.split == "meta_val", len(counts.changed), *(part for pair in counts.changed.items() for part in pair)


def _reached(method: str, ours: _Counts, reference: _Counts | None) -> Reached:
    accuracy = interval_95(episode_means(list(ours.correct.values()))).divided_by(ours.queries)
    paired: Interval | None = None
    if reference is not None and reference.episodes == ours.episodes:
        common = [seed for seed in ours.correct if seed in reference.correct]
        if common:
            means = [episode_means([each.correct[seed] for seed in common]) for each in (ours, reference)]
            paired = paired_difference(*means).divided_by(ours.queries)
    return Reached(method, ours.changed, ours.split, tuple(ours.correct), accuracy, paired)


def cells(tables: Sequence[ProtocolTable]) -> Iterator[tuple[ProtocolTable, str, Reached]]:
    """Every accuracy with its table and its protocol's title."""
    for table in tables:
        for title, of_methods in table.protocols.items():
            for reached in of_methods.values():
                yield table, title, reached
