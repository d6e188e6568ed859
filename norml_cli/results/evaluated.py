"""Results of trained weights under other test protocols; differences are paired on equal episodes. Torch-free.

Accuracies and differences are over episodes, averaged over seeds first. They describe these trained weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from norml.statistics import Interval, episode_means, interval_95, paired_difference
from norml_cli.results.evaluations import EvaluationRecord
from norml_cli.results.groups import Group
from norml_cli.results.records import RunRecord
from norml_cli.results.store import evaluated_run

AS_TRAINED = "as trained"


class Evaluations:
    """All evaluations, by the run whose weights they test."""

    def __init__(
        self,
        runs: Sequence[tuple[Path, RunRecord]] = (),
        evaluations: Sequence[tuple[Path, EvaluationRecord]] = (),
    ) -> None:
        by_path: dict[Path, list[EvaluationRecord]] = {}
        for path, evaluation in evaluations:
            by_path.setdefault(evaluated_run(path), []).append(evaluation)
        self._of = {id(run): by_path[path] for path, run in runs if path in by_path}

    def of(self, run: RunRecord) -> Sequence[EvaluationRecord]:
        """The evaluations of the weights of `run`."""
        return self._of.get(id(run), ())


@dataclass(frozen=True)
class Reached:
    """The accuracy of a method's weights under one protocol.

    minus_reference: over episodes, each averaged over the common seeds first; None if nothing can be paired.
    seed_differences: the mean difference of each common seed.
    """

    method: str
    changed: Mapping[str, Any]
    split: str
    seeds: tuple[int, ...]
    accuracy: Interval
    minus_reference: Interval | None
    seed_differences: tuple[float, ...]


@dataclass(frozen=True)
class Counts:
    """Correct answers of each episode, by seed. Counts may be paired if their `episodes` are equal."""

    changed: Mapping[str, Any]
    split: str
    episodes: tuple[str, str, int]
    correct: dict[int, list[int]] = field(default_factory=dict)

    @property
    def queries(self) -> int:
        """M: queries per episode."""
        return self.episodes[2]


def protocol_title(changed: Mapping[str, Any], split: str) -> str:
    """The protocol's title, such as 'queries_per_class 15, rotations none'."""
    parts = [f"{key} {value}" for key, value in changed.items()] + ["meta-validation"] * (split == "meta_val")
    return ", ".join(parts) or AS_TRAINED


def counts_by_protocol(group: Group, evaluations: Evaluations) -> dict[str, Counts]:
    """Counts of a method's weights by protocol title. Seeds with other episodes than the first are left out."""
    trained = Counts({}, "meta_test", group.episodes, {run.seed: run.correct for run in group.records})
    found = {AS_TRAINED: trained}
    for run in group.records:
        for each in evaluations.of(run):
            episodes = (each.dataset.content_hash, each.episodes.hash, each.episodes.queries_per_episode)
            title = protocol_title(each.changed, each.split)
            counts = found.setdefault(title, Counts(each.changed, each.split, episodes))
            if counts.episodes == episodes:
                counts.correct[run.seed] = each.correct
    return found


def reached(method: str, ours: Counts, reference: Counts | None) -> Reached:
    """The accuracy of `ours`, and the paired difference from `reference` if episodes are equal and seeds overlap."""
    accuracy = interval_95(episode_means(list(ours.correct.values()))).divided_by(ours.queries)
    pairs: list[tuple[list[int], list[int]]] = []
    if reference is not None and reference.episodes == ours.episodes:
        pairs = [(ours.correct[seed], reference.correct[seed]) for seed in ours.correct if seed in reference.correct]
    means = [episode_means(of_one) for of_one in zip(*pairs, strict=True)]
    paired = paired_difference(*means).divided_by(ours.queries) if means else None
    by_seed = tuple(paired_difference(*pair).mean / ours.queries for pair in pairs)
    return Reached(method, ours.changed, ours.split, tuple(ours.correct), accuracy, paired, by_seed)
