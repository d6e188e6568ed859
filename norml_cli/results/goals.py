"""Which published numbers our runs reach, and what frozen features alone reach on each backbone. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from norml.statistics import Interval
from norml_cli.registry.entries import RULES, Published
from norml_cli.registry.resolving import Registry


@dataclass(frozen=True)
class Entrant:
    """One of our rows in one column. accuracy: None without a record."""

    title: str
    method: str
    benchmark: str
    accuracy: Interval | None


@dataclass(frozen=True)
class Goal:
    """A published number of a method that we also run.

    reached_by: meta-trained rows with at least that accuracy, highest first. highest: the best meta-trained row with a
    record. frozen: by backbone, the best classifier on frozen features; None without a record.
    """

    column: str
    title: str
    published: Published
    reached_by: tuple[Entrant, ...]
    highest: Entrant | None
    frozen: tuple[tuple[str, Entrant | None], ...]


def goal(registry: Registry, column: str, title: str, published: Published, entrants: Sequence[Entrant]) -> Goal:
    """Compare the `entrants` of a column with the `published` number of the row `title`."""
    trained = _ranked([each for each in entrants if _is_trained(registry, each)])
    reached_by = tuple(each for each in trained if _mean(each) >= published.accuracy)
    by_backbone: dict[str, list[Entrant]] = {}
    for each in entrants:
        protocol: Any = registry.benchmark(each.benchmark).protocol  # a model generated from `Protocol`
        backbone = protocol.backbone
        if backbone is not None and not _is_trained(registry, each):
            by_backbone.setdefault(backbone.value, []).append(each)
    frozen = tuple((backbone, next(iter(_ranked(heads)), None)) for backbone, heads in by_backbone.items())
    return Goal(column, title, published, reached_by, next(iter(trained), None), frozen)


def _is_trained(registry: Registry, entrant: Entrant) -> bool:
    return RULES[registry.method(entrant.method).algorithm].meta_trained


def _ranked(entrants: Sequence[Entrant]) -> list[Entrant]:
    """The entrants with a record, highest first."""
    return sorted((each for each in entrants if each.accuracy is not None), key=_mean, reverse=True)


def _mean(entrant: Entrant) -> float:
    return entrant.accuracy.mean if entrant.accuracy is not None else float("-inf")
