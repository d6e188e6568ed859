"""What no entry shows alone: ids that lead nowhere, protocols with holes, contradictions."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from norml_cli.registry.entries import (
    EVERYWHERE,
    BenchmarkEntry,
    DatasetEntry,
    FileSplit,
    Method,
    SourceSplit,
    TableEntry,
)
from norml_cli.registry.faults import did_you_mean
from norml_cli.registry.protocol import RESERVED_IDS, Protocol
from norml_cli.registry.resolving import Registry, contradictions, defaults, layered

SPLIT_AT_THE_SOURCE = {"mini-imagenet"}  # kinds of data set whose raw files say which class is in which split


# ----------------------------------------------------------------------------------------------------- cross-checking


@dataclass(frozen=True)
class _Ids:
    """The ids that may be named: those of entries, and of files whose own faults are told already."""

    registry: Registry
    unread: frozenset[tuple[str, str]]

    @property
    def recipes(self) -> set[str]:
        return {*self.registry.recipes, *(id_ for kind, id_ in self.unread if kind == "recipes")}

    def fault(self, kind: str, noun: str, id_: str) -> str | None:
        known = getattr(self.registry, kind)
        if id_ in known or (kind, id_) in self.unread:
            return None
        return f"unknown {noun} '{id_}'{did_you_mean(id_, known)}"


def cross_faults(registry: Registry, unread: frozenset[tuple[str, str]]) -> Iterator[tuple[tuple[str, str], str]]:
    """What no file shows alone: ids that lead nowhere, protocols with holes, contradictions. By kind and id."""
    ids = _Ids(registry, unread)
    sound: list[BenchmarkEntry] = []
    checks: dict[str, Callable[[Any, Path], Iterator[str]]] = {
        "datasets": _dataset_faults,
        "benchmarks": lambda bench, _: _benchmark_faults(ids, bench),
        "methods": lambda method, _: _method_faults(ids, method, sound),
        "tables": lambda table, _: _table_faults(ids, table),
    }
    for kind, check in checks.items():
        for entry in getattr(registry, kind).values():
            path = registry.files[kind, entry.id]
            faults = list(check(entry, path))
            yield from (((kind, entry.id), f"{path}: {fault}") for fault in faults)
            if kind == "benchmarks" and not faults and entry.dataset in registry.datasets:
                sound.append(entry)


def _dataset_faults(dataset: DatasetEntry, path: Path) -> Iterator[str]:
    splits = dataset.splits
    if isinstance(splits, SourceSplit) != (dataset.kind in SPLIT_AT_THE_SOURCE):
        yield f"splits.kind: '{splits.kind}' is not for kind: {dataset.kind}; 'from-source' is for what comes split"
    if isinstance(splits, FileSplit):
        for key in ("meta_train", "meta_val", "meta_test"):
            if not (path.parent / getattr(splits, key)).is_file():
                yield f"splits.{key}: no file '{getattr(splits, key)}' beside this entry"
        return
    total = splits.meta_train + splits.meta_val + splits.meta_test
    if total > dataset.classes or (isinstance(splits, SourceSplit) and total < dataset.classes):
        yield f"splits: {total:,} classes in all, but the data set has {dataset.classes:,}"
    if dataset.rotations.value == "as-classes":
        yield "rotations: 'as-classes' needs split files that list the rotated classes"


def _benchmark_faults(ids: _Ids, bench: BenchmarkEntry) -> Iterator[str]:
    if bench.id in RESERVED_IDS:
        yield f"id: '{bench.id}' is the name of another folder under results/; choose another id"
    unknown = ids.fault("datasets", "data set", bench.dataset)
    if unknown:
        yield f"dataset: {unknown}"
    for shots in bench.protocol_by_shots:
        if shots not in bench.shots:
            yield f"protocol_by_shots.{shots}: {shots} is not in shots"
    dataset = ids.registry.datasets.get(bench.dataset)
    told = set()
    for shots in bench.shots:
        values = defaults(Protocol) | _values([bench.protocol, bench.protocol_by_shots.get(shots)])
        for key in Protocol.model_fields:
            if key not in values:
                yield f"protocol.{key}: is missing ({shots}-shot)"
        if dataset is not None and set(values) == set(Protocol.model_fields):
            protocol = Protocol.model_validate(values)
            faults = [
                f"protocol.{key}: {fault}" for key, fault in contradictions(protocol, shots, dataset, ids.recipes)
            ]
            yield from (fault for fault in faults if fault not in told)
            told.update(faults)


def _values(layers: list[Any]) -> dict[str, Any]:
    """The values that layers of sourced values hold together; later layers win."""
    return {
        key: getattr(layer, key).value
        for layer in layers
        if layer is not None
        for key in type(layer).model_fields
        if getattr(layer, key) is not None
    }


def _method_faults(ids: _Ids, method: Method, sound: list[BenchmarkEntry]) -> Iterator[str]:
    by_shots = ("protocol_by_shots", "rule_by_shots")
    unknown = ids.fault("benchmarks", "benchmark", method.default_benchmark)
    if unknown:
        yield f"default_benchmark: {unknown}"
    for key in ("protocol", "rule_by_benchmark", *by_shots):
        for id_ in getattr(method, key):
            unknown = ids.fault("benchmarks", "benchmark", id_)
            if unknown and (key, id_) != ("protocol", EVERYWHERE):
                yield f"{key}.{id_}: {unknown}"
    for key, bench in itertools.product(by_shots, ids.registry.benchmarks.values()):
        for shots in getattr(method, key).get(bench.id, {}):
            if shots not in bench.shots:
                yield f"{key}.{bench.id}.{shots}: '{bench.id}' does not declare {shots} shots"
    for bench in sound:
        yield from dict.fromkeys(_own_protocol_faults(ids, method, bench))  # told once, not for each number of shots


def _own_protocol_faults(ids: _Ids, method: Method, bench: BenchmarkEntry) -> Iterator[str]:
    for shots in bench.shots:
        layers = method.protocol_layers(bench.id, shots)
        if not layers:
            continue  # what the benchmark says alone has been checked
        values, _ = layered(bench, shots, method)
        protocol = Protocol.model_validate({key: values[key] for key in Protocol.model_fields})
        for key, fault in contradictions(protocol, shots, ids.registry.datasets[bench.dataset], ids.recipes):
            saying = [place for place, layer in layers.items() if getattr(layer, key) is not None]
            yield f"{[*layers, *saying][-1]}.{key}: {fault}"


def _table_faults(ids: _Ids, table: TableEntry) -> Iterator[str]:
    for number, column in enumerate(table.columns):
        if column.benchmark is None:
            continue
        unknown = ids.fault("benchmarks", "benchmark", column.benchmark)
        bench = ids.registry.benchmarks.get(column.benchmark)
        if unknown:
            yield f"columns.{number}.benchmark: {unknown}"
        elif bench is not None and column.shots not in bench.shots:
            yield f"columns.{number}.shots: '{bench.id}' does not declare {column.shots} shots"
    for number, row in enumerate(table.rows):
        if row.benchmark is not None:
            yield from (f"rows.{number}.benchmark: {fault}" for fault in _row_faults(ids, table, row.benchmark))
    named = [("reference", table.reference), *((f"rows.{n}.method", row.method) for n, row in enumerate(table.rows))]
    for key, method in named:
        unknown = ids.fault("methods", "method", method) if method is not None else None
        if unknown:
            yield f"{key}: {unknown}"


def _row_faults(ids: _Ids, table: TableEntry, benchmark: str) -> Iterator[str]:
    """What is wrong with a row's own benchmark, which takes the place of every column's."""
    unknown = ids.fault("benchmarks", "benchmark", benchmark)
    if unknown:
        yield unknown
    bench = ids.registry.benchmarks.get(benchmark)
    shots = [str(column.shots) for column in table.columns if bench is not None and column.shots not in bench.shots]
    if shots:
        yield f"'{benchmark}' does not declare {' or '.join(shots)} shots"
