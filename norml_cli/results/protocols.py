"""Tables of trained weights under several test protocols; differences are paired on equal episodes. Torch-free.

Accuracies and differences are over episodes, averaged over seeds first. They describe these trained weights.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from norml_cli.registry.resolving import Registry
from norml_cli.results.evaluated import Counts, Evaluations, Reached, counts_by_protocol, reached
from norml_cli.results.evaluations import EvaluationRecord
from norml_cli.results.groups import choose_runs
from norml_cli.results.records import RunRecord
from norml_cli.results.tables import benchmarks_of


@dataclass(frozen=True)
class ProtocolTable:
    """Results of the methods trained on `benchmark` at `shots`, by protocol title, then by method."""

    benchmark: str
    shots: int
    reference: str
    methods: tuple[str, ...]
    protocols: Mapping[str, Mapping[str, Reached]]


def protocol_tables(
    registry: Registry,
    runs: Sequence[tuple[Path, RunRecord]],
    evaluations: Sequence[tuple[Path, EvaluationRecord]],
    methods: Sequence[str] = (),
) -> list[ProtocolTable]:
    """A table for each benchmark and number of shots that has evaluations.

    methods: the rows, of which the first is the reference; empty: all methods.
    """
    records, by_run = [run for _, run in runs], Evaluations(runs, evaluations)
    places = dict.fromkeys((run.spec.benchmark, run.spec.shots) for run in records if by_run.of(run))
    tables = []
    for benchmark, shots in places:
        found: dict[str, dict[str, Counts]] = {}
        for method in methods or _methods_at(registry, benchmark, shots, records):
            group, _ = choose_runs(registry, method, benchmark, shots, records)
            if group is not None:
                found[method] = counts_by_protocol(group, by_run)
        if found:
            tables.append(_table(registry, (benchmark, shots), found, methods))
    return tables


def _methods_at(registry: Registry, benchmark: str, shots: int, records: Sequence[RunRecord]) -> list[str]:
    """Methods with runs there, in the registry's order."""
    if benchmark not in registry.benchmarks or shots not in registry.benchmarks[benchmark].shots:
        return []
    ran = {run.spec.method for run in records if (run.spec.benchmark, run.spec.shots) == (benchmark, shots)}
    return [method for method in registry.methods if method in ran]


def _table(
    registry: Registry, place: tuple[str, int], found: Mapping[str, Mapping[str, Counts]], named: Sequence[str]
) -> ProtocolTable:
    usual = [table.reference for table in registry.tables.values() if place[0] in benchmarks_of(table)]
    reference = next(method for method in [*named, *usual, *found] if method is not None and method in found)
    every = {title: counts for of_method in found.values() for title, counts in of_method.items()}
    protocols = {
        title: {
            method: reached(method, of_method[title], found[reference].get(title) if method != reference else None)
            for method, of_method in found.items()
            if title in of_method
        }
        for title, _ in sorted(every.items(), key=_order)
    }
    return ProtocolTable(*place, reference, tuple(found), protocols)


def _order(item: tuple[str, Counts]) -> tuple[Any, ...]:
    """Sort key: as trained first, then fewest changes; meta-validation last. Equal keys have values of one type."""
    _, counts = item
    return counts.split == "meta_val", len(counts.changed), *(part for pair in counts.changed.items() for part in pair)


def cells(tables: Sequence[ProtocolTable]) -> Iterator[tuple[ProtocolTable, str, Reached]]:
    """Each result with its table and its protocol's title."""
    for table in tables:
        for title, of_methods in table.protocols.items():
            for each in of_methods.values():
                yield table, title, each
