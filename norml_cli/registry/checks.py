"""Checks across entries: unknown ids, missing protocol values, contradictions."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from norml_cli.registry.contradictions import contradictions
from norml_cli.registry.entries import (
    EVERYWHERE,
    RULES,
    BenchmarkEntry,
    DatasetEntry,
    FileSplit,
    Method,
    SourceSplit,
    TableEntry,
    Unequal,
)
from norml_cli.registry.evaluating import OF_ADAPTATION, OF_EPISODES
from norml_cli.registry.faults import did_you_mean
from norml_cli.registry.protocol import RESERVED_IDS, Protocol
from norml_cli.registry.resolving import Registry, defaults, layered

SPLIT_AT_THE_SOURCE = {"mini-imagenet", "image-folder"}  # kinds whose raw files can assign classes to splits
SPLIT_HERE = {"omniglot", "glyphs", "image-folder"}  # kinds whose entry can assign classes to splits
OMNIGLOT_PX = 105  # brendenlake/omniglot, README: 105x105 images


# ----------------------------------------------------------------------------------------------------- cross-checking


@dataclass(frozen=True)
class _Ids:
    """The ids that an entry may name. Ids of faulty files count, because their own faults are reported already."""

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
    """Unknown ids, missing protocol values and contradictions: pairs of (kind, id) and the fault's line."""
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
    yield from declaration_faults(dataset)
    if dataset.kind not in (SPLIT_AT_THE_SOURCE if isinstance(splits, SourceSplit) else SPLIT_HERE):
        yield f"splits.kind: '{splits.kind}' is not for kind: {dataset.kind}; 'from-source' needs a source with splits"
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


def declaration_faults(dataset: DatasetEntry) -> Iterator[str]:
    """Values that the entry's kind of data set does not allow."""
    kind = dataset.kind
    yield from _KIND_FAULTS[kind](dataset)
    folders = kind in {"mini-imagenet", "image-folder"}
    if kind != "image-folder" and dataset.channels is not None:
        yield f"channels: not for kind: {kind}; leave it out"
    if dataset.crop is not None and dataset.crop.value != "none" and dataset.resize.value == "none":
        yield "crop: needs a resize filter, because cropping changes the size; declare resize, or leave crop out"
    for key in () if folders else ("crop", "background"):
        if getattr(dataset, key) is not None:
            yield f"{key}: not for kind: {kind}; leave it out"
    if isinstance(dataset.examples_per_class, Unequal):
        yield from _size_faults(dataset.examples_per_class, kind, unequal=folders)


def _glyphs_faults(dataset: DatasetEntry) -> Iterator[str]:
    if dataset.generator_seed is None:
        yield "generator_seed: is missing; embedded images are generated from it"
    if dataset.resize.value != "none" or dataset.invert.value:
        yield "resize, invert: glyphs are drawn at their size with ink as 1; declare resize: none, invert: false"


def _omniglot_faults(dataset: DatasetEntry) -> Iterator[str]:
    resize, size_px = dataset.resize.value, dataset.image_size_px.value
    if resize not in {"lanczos", "nearest", "none"}:
        yield f"resize: '{resize}' is not for kind: omniglot; declare lanczos, nearest or none"
    if resize == "none" and size_px != OMNIGLOT_PX:
        yield f"resize: none leaves images of {OMNIGLOT_PX} px, but image_size_px is {size_px}; make them agree"


def _mini_imagenet_faults(dataset: DatasetEntry) -> Iterator[str]:
    if (dataset.invert.value, dataset.rotations.value) != (False, "none"):
        yield "invert, rotations: photographs are not changed; declare invert: false, rotations: none"


def _image_folder_faults(dataset: DatasetEntry) -> Iterator[str]:
    if dataset.channels is None:
        yield "channels: is missing; declare grey or rgb"
    if dataset.rotations.value == "as-classes":
        yield "rotations: 'as-classes' is for omniglot's split files; declare per-episode or none"


_KIND_FAULTS: dict[str, Callable[[DatasetEntry], Iterator[str]]] = {
    "glyphs": _glyphs_faults,
    "omniglot": _omniglot_faults,
    "mini-imagenet": _mini_imagenet_faults,
    "image-folder": _image_folder_faults,
}


def _size_faults(sizes: Unequal, kind: str, *, unequal: bool) -> Iterator[str]:
    if not unequal:
        yield f"examples_per_class: all classes of kind: {kind} have the same size; declare one number"
    if sizes.min > sizes.max:
        yield f"examples_per_class: min {sizes.min:,} is more than max {sizes.max:,}"


def _benchmark_faults(ids: _Ids, bench: BenchmarkEntry) -> Iterator[str]:
    if bench.id in RESERVED_IDS:
        yield f"id: '{bench.id}' is reserved for a folder in results/; choose another id"
    unknown = ids.fault("datasets", "data set", bench.dataset)
    if unknown:
        yield f"dataset: {unknown}"
    for shots in bench.protocol_by_shots:
        if shots not in bench.shots:
            yield f"protocol_by_shots.{shots}: {shots} is not in shots"
    dataset = ids.registry.datasets.get(bench.dataset)
    reported = set()
    for shots in bench.shots:
        values = {**defaults(Protocol), **_values([bench.protocol, bench.protocol_by_shots.get(shots)])}
        for key in Protocol.model_fields:
            if key not in values:
                yield f"protocol.{key}: is missing ({shots}-shot)"
        if dataset is not None and set(values) == set(Protocol.model_fields):
            protocol = Protocol.model_validate(values)
            faults = [
                f"protocol.{key}: {fault}" for key, fault in contradictions(protocol, shots, dataset, ids.recipes)
            ]
            yield from (fault for fault in faults if fault not in reported)
            reported.update(faults)


def _values(layers: list[Any]) -> dict[str, Any]:
    """The values of all `layers`, without their sources; later layers win."""
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
        yield from dict.fromkeys(_own_protocol_faults(ids, method, bench))  # once, not for each number of shots


def _own_protocol_faults(ids: _Ids, method: Method, bench: BenchmarkEntry) -> Iterator[str]:
    for shots in bench.shots:
        layers = method.protocol_layers(bench.id, shots)
        if not layers:
            continue  # the benchmark's own values are checked already
        values, _ = layered(bench, shots, method)
        protocol = Protocol.model_validate({key: values[key] for key in Protocol.model_fields})
        for key, fault in contradictions(protocol, shots, ids.registry.datasets[bench.dataset], ids.recipes):
            yield f"{[*layers, *_saying(layers, key)][-1]}.{key}: {fault}"
        rule = RULES[method.algorithm]
        settings = rule.model_validate({key: values[key] for key in rule.model_fields})
        for key, fault in settings.contradictions(protocol):
            if places := _saying(layers, key):  # otherwise the value is the benchmark's
                yield f"{places[-1]}.{key}: {fault}"


def _saying(layers: Mapping[str, Any], key: str) -> list[str]:
    """The places of the layers that state a value for `key`."""
    return [place for place, layer in layers.items() if getattr(layer, key) is not None]


def _table_faults(ids: _Ids, table: TableEntry) -> Iterator[str]:
    for number, row in enumerate(table.rows):
        if row.benchmark is not None:
            yield from (f"rows.{number}.benchmark: {fault}" for fault in _row_faults(ids, table, row.benchmark))
    changed = table.second_test.changed if table.second_test else {}
    for key in changed.keys() - {*OF_EPISODES, *OF_ADAPTATION}:
        yield f"second_test.changed: `norml evaluate` cannot change '{key}'"
    yield from _column_faults(ids, table)
    named = [("reference", table.reference), *((f"rows.{n}.method", row.method) for n, row in enumerate(table.rows))]
    for key, method in named:
        unknown = ids.fault("methods", "method", method) if method is not None else None
        if unknown:
            yield f"{key}: {unknown}"


def _column_faults(ids: _Ids, table: TableEntry) -> Iterator[str]:
    for number, column in enumerate(table.columns):
        if column.benchmark is None:
            continue
        unknown = ids.fault("benchmarks", "benchmark", column.benchmark)
        bench = ids.registry.benchmarks.get(column.benchmark)
        if unknown:
            yield f"columns.{number}.benchmark: {unknown}"
        elif bench is not None and column.shots not in bench.shots:
            yield f"columns.{number}.shots: '{bench.id}' does not declare {column.shots} shots"


def _row_faults(ids: _Ids, table: TableEntry, benchmark: str) -> Iterator[str]:
    """Faults of a row's own benchmark, which replaces every column's benchmark."""
    unknown = ids.fault("benchmarks", "benchmark", benchmark)
    if unknown:
        yield unknown
    bench = ids.registry.benchmarks.get(benchmark)
    shots = [str(column.shots) for column in table.columns if bench is not None and column.shots not in bench.shots]
    if shots:
        yield f"'{benchmark}' does not declare {' or '.join(shots)} shots"
