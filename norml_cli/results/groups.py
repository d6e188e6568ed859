"""Group runs that may be averaged, choose the group for a table's cell, and note differences from the protocol."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from norml.statistics import Interval, episode_means, over_classes
from norml_cli.registry.resolving import Registry
from norml_cli.registry.specs import RunSpec
from norml_cli.results.records import RunRecord


@dataclass(frozen=True)
class Group:
    """Runs that may be averaged: one spec, the same data and test episodes, different seeds."""

    records: tuple[RunRecord, ...]

    @property
    def spec(self) -> RunSpec:
        """The spec of these runs."""
        return self.records[0].spec

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds in ascending order."""
        return tuple(record.seed for record in self.records)

    @property
    def episodes(self) -> tuple[str, str, int]:
        """Identifies the test episodes. Groups with equal values may be paired episode by episode."""
        first = self.records[0]
        return first.dataset.content_hash, first.episodes.test_hash, self.queries

    @property
    def queries(self) -> int:
        """M: queries per episode."""
        return self.records[0].episodes.queries_per_episode

    def counts(self, seeds: Sequence[int]) -> list[list[int]]:
        """Correctly classified queries: [len(seeds), episodes]."""
        return [record.correct for record in self.records if record.seed in seeds]

    def by_class(self, seeds: Sequence[int]) -> dict[str, tuple[int, float]] | None:
        """Episodes and mean correct answers over seeds, by test class; None if the records have no counts by class."""
        of_seeds = [record.by_class for record in self.records if record.seed in seeds]
        known = [by_class for by_class in of_seeds if by_class is not None]
        if not known or len(known) < len(of_seeds):
            return None
        return {
            name: (first.episodes, sum(by_class[name].correct for by_class in known) / len(known))
            for name, first in known[0].items()
        }


def over_new_classes(group: Group, seeds: Sequence[int]) -> Interval | None:
    """Correct queries per episode, with an interval over test classes; None if the records have no counts by class."""
    return _over_classes(group.counts(seeds), group.by_class(seeds))


def difference_over_new_classes(group: Group, reference: Group, seeds: Sequence[int]) -> Interval | None:
    """`group` minus `reference` on the same episodes, otherwise as `over_new_classes`."""
    left, right = group.by_class(seeds), reference.by_class(seeds)
    if left is None or right is None or left.keys() != right.keys():
        return None
    held = {name: (n, value - right[name][1]) for name, (n, value) in left.items()}
    differences = map(operator.sub, *(episode_means(each.counts(seeds)) for each in (group, reference)))
    return _over_classes([list(differences)], held)


def _over_classes(values: Sequence[Sequence[float]], held: dict[str, tuple[int, float]] | None) -> Interval | None:
    means = episode_means(values)
    return None if held is None else over_classes(sum(means), len(means), held.values())


def steps_of(steps: int, declared: int | None) -> str:
    """'2,000 of 60,000' for a run with fewer steps than declared, otherwise the number alone."""
    return f"{steps:,} of {declared:,}" if declared is not None and steps < declared else f"{steps:,}"


def protocol_differences(spec: RunSpec, declared: RunSpec) -> list[str]:
    """'inner_lr 0.2 instead of 0.4' for each value of `spec` that differs from `declared`, in the spec's order."""
    ours, theirs = _flat(spec), _flat(declared)
    differences = []
    for key in [*ours, *(key for key in theirs if key not in ours)]:
        mine, expected = ours.get(key), theirs.get(key)
        if key in ours and key in theirs and mine == expected:
            continue
        if key == "outer_steps" and isinstance(mine, int) and isinstance(expected, int) and mine < expected:
            differences.append(f"{steps_of(mine, expected)} outer steps")
        else:
            differences.append(f"{key} {_value_text(ours, key)} instead of {_value_text(theirs, key)}")
    return differences


def choose_runs(
    registry: Registry, method: str, benchmark: str, shots: int, records: Sequence[RunRecord]
) -> tuple[Group | None, list[str]]:
    """Choose the runs of a method (or METHOD+NAME) for a cell; also return notes on differences and on runs left out.

    Prefers the declared protocol, then the most outer steps, then the most seeds.
    """
    place = (method, benchmark, shots)
    groups = _groups([r for r in records if (r.label, r.spec.benchmark, r.spec.shots) == place])
    if not groups:
        return None, []
    declared = registry.resolve(method_of(method), benchmark, shots).spec
    groups.sort(key=lambda g: (g.spec != declared, -g.spec.protocol.outer_steps, -len(g.seeds), g.seeds))
    chosen, *others = groups
    differences = protocol_differences(chosen.spec, declared)
    notes = ["; ".join(differences)] if differences else []
    notes += provenance_differences(chosen)
    return chosen, notes + [_left_out(other, chosen, declared) for other in others]


def method_of(label: str) -> str:
    """The method's id in METHOD or METHOD+NAME."""
    return label.partition("+")[0]


def provenance_differences(group: Group) -> list[str]:
    """A note if the averaged seeds come from different devices, different versions or changed code."""
    if len(group.records) == 1:
        return []
    facts = {"device": [record.device for record in group.records]} | {
        name: [record.versions.get(name, "unknown") for record in group.records] for name in ("norml", "torch")
    }
    parts = [
        f"{name} {' and '.join(dict.fromkeys(of_seeds))}" for name, of_seeds in facts.items() if len({*of_seeds}) > 1
    ]
    dirty = [record.seed for record in group.records if record.git.dirty]
    parts += [f"{seeds_text(dirty)} ran code with uncommitted changes"] if dirty else []
    return [f"{seeds_text(group.seeds)} differ: {'; '.join(parts)}"] if parts else []


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
    return f"left out: {seeds_text(other.seeds)} ({'; '.join(differences)})"


def seeds_text(seeds: Sequence[int]) -> str:
    """'seed 0' or 'seeds 0, 1'."""
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _flat(spec: RunSpec) -> dict[str, Any]:
    """All values of a spec by key; keys are unique across its models."""
    values = spec.model_dump(mode="json")
    return {**values.pop("protocol"), **values.pop("rule"), **values}


def _value_text(values: dict[str, Any], key: str) -> str:
    if key not in values:
        return "(none)"
    value = values[key]
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:,}"
    return "null" if value is None else str(value)
