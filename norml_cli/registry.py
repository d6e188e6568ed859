"""YAML files -> validated entries -> resolved run specs. Torch-free; all errors of a registry are told at once."""

import itertools
import json
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError, create_model

from norml_cli.declared import Model, constrained
from norml_cli.errors import UserError, plain
from norml_cli.faults import did_you_mean, fault_lines, value_fault
from norml_cli.spec import (
    EVERYWHERE,
    RULES,
    AnyMethod,
    BenchmarkEntry,
    DatasetEntry,
    Entry,
    FileSplit,
    Method,
    Protocol,
    RecipeEntry,
    RunSpec,
    SourceSplit,
    TableEntry,
)
from norml_cli.yaml_files import read_mapping

SPLIT_AT_THE_SOURCE = {"mini-imagenet"}  # kinds of data set whose raw files say which class is in which split

E = TypeVar("E", bound=Entry)

KINDS: dict[str, TypeAdapter[Any]] = {
    "datasets": TypeAdapter(DatasetEntry),
    "benchmarks": TypeAdapter(BenchmarkEntry),
    "methods": TypeAdapter(AnyMethod),
    "recipes": TypeAdapter(RecipeEntry),
    "tables": TypeAdapter(TableEntry),
}


class RegistryError(UserError):
    """Every fault of a registry, one `file: key: message` a line."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))


# ---------------------------------------------------------------------------------------------------------- reading


def builtin_registry() -> Path:
    """The folder of built-in entries: inside an installed package, or at the top of a checkout."""
    installed = Path(__file__).parent / "_registry"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "registry"


@dataclass(frozen=True)
class Resolved:
    """One run's spec, with the source of each of its values and the keys changed by --set."""

    spec: RunSpec
    sources: dict[str, str]
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Registry:
    """All entries by id. The mappings cannot be changed by who reads them."""

    datasets: MappingProxyType[str, DatasetEntry]
    benchmarks: MappingProxyType[str, BenchmarkEntry]
    methods: MappingProxyType[str, Method]
    recipes: MappingProxyType[str, RecipeEntry]
    tables: MappingProxyType[str, TableEntry]
    files: MappingProxyType[tuple[str, str], Path] = field(repr=False)

    def dataset(self, id_: str) -> DatasetEntry:
        """The data set of that id; raises UserError with the nearest ids."""
        return _find(self.datasets, "data set", id_)

    def benchmark(self, id_: str) -> BenchmarkEntry:
        """The benchmark of that id; raises UserError with the nearest ids."""
        return _find(self.benchmarks, "benchmark", id_)

    def method(self, id_: str) -> Method:
        """The method of that id; raises UserError with the nearest ids."""
        return _find(self.methods, "method", id_)

    def recipe(self, id_: str) -> RecipeEntry:
        """The pretraining recipe of that id; raises UserError with the nearest ids."""
        return _find(self.recipes, "recipe", id_)

    def table(self, id_: str) -> TableEntry:
        """The table of that id; raises UserError with the nearest ids."""
        return _find(self.tables, "table", id_)

    def entry(self, id_: str) -> Entry:
        """The entry of that id, of any kind; raises UserError with the nearest ids."""
        everything: dict[str, Entry] = {}
        for entries in (self.tables, self.datasets, self.benchmarks, self.recipes, self.methods):
            everything.update(entries)
        return _find(MappingProxyType(everything), "entry", id_)

    def resolve(
        self,
        method: str,
        benchmark: str | None = None,
        shots: int | None = None,
        overrides: dict[str, Any] | None = None,
    ) -> Resolved:
        """The run of `method` on `benchmark` (default: the method's) at `shots` (default: the benchmark's first).

        Later wins: benchmark, benchmark by shots, method everywhere, method on this benchmark, method on it by shots,
        its rule, its rule on this benchmark by shots, `overrides` (--set).
        Raises UserError.
        """
        method_entry = self.method(method)
        bench = self.benchmark(method_entry.default_benchmark if benchmark is None else benchmark)
        k_shot = bench.shots[0] if shots is None else shots
        if k_shot not in bench.shots:
            declared = ", ".join(map(str, bench.shots))
            raise UserError(f"--shots {k_shot}: benchmark '{bench.id}' declares {declared}; take one of these")
        values, sources = _layered(bench, k_shot, method_entry)
        changed = _override(values, sources, overrides or {}, method_entry.algorithm)
        spec = _run_spec(method_entry, bench, k_shot, values)
        faults = list(_impossible(spec.protocol, k_shot, self.datasets[bench.dataset], self.recipes))
        if faults:
            raise UserError(
                "\n".join(f"{method} on {bench.id}, {k_shot}-shot: {key}: {fault}" for key, fault in faults)
            )
        return Resolved(spec, sources, changed)


def load_registry(extra: Path | None = None) -> Registry:
    """Read the built-in entries and those under `extra` (default: the folder that NORML_REGISTRY names).

    Raises RegistryError with every fault found.
    """
    origin = "--registry"
    if extra is None and os.environ.get("NORML_REGISTRY"):
        extra, origin = Path(os.environ["NORML_REGISTRY"]), "NORML_REGISTRY"
    if extra is not None and not extra.is_dir():
        raise UserError(f"{origin} {extra}: not a folder; name one that holds {', '.join(KINDS)}")
    return read_registry([builtin_registry()] + ([extra] if extra is not None else []))


@dataclass
class _Reading:
    """What has been read so far, and every fault met."""

    entries: dict[str, dict[str, Any]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    files: dict[tuple[str, str], Path] = field(default_factory=dict)
    unread: set[tuple[str, str]] = field(default_factory=set)  # kind and file name of what could not be read
    faults: list[str] = field(default_factory=list)

    def add(self, kind: str, path: Path) -> None:
        """Read one file into the entries, or its faults into the faults."""
        entry = _read_entry(kind, path, self.faults)
        if entry is None:
            self.unread.add((kind, path.stem))
        elif entry.id in self.entries[kind]:
            other = self.files[kind, entry.id]
            self.faults.append(f"{path}: id: '{entry.id}' is already declared in {other}; choose another id")
        else:
            self.entries[kind][entry.id] = entry
            self.files[kind, entry.id] = path

    def registry(self) -> Registry:
        frozen = {kind: MappingProxyType(found) for kind, found in self.entries.items()}
        return Registry(**frozen, files=MappingProxyType(self.files))


def read_registry(folders: list[Path]) -> Registry:
    """Read and cross-check the entries of `folders`. Raises RegistryError with every fault found."""
    reading = _Reading()
    for folder in folders:
        reading.faults += _strays(folder)
        for kind in KINDS:
            for path in sorted((folder / kind).glob("*.yaml")):
                reading.add(kind, path)
    registry = reading.registry()
    faults = reading.faults + list(_cross_faults(registry, frozenset(reading.unread)))
    if faults:
        raise RegistryError(faults)
    return registry


def _strays(folder: Path) -> Iterator[str]:
    """Files that would silently not be read: a misspelt folder, `.yml`, a nested folder."""
    for path in sorted(folder.rglob("*")):
        if path.suffix not in {".yaml", ".yml"}:
            continue
        in_place = path.parent.parent == folder and path.parent.name in KINDS
        if not in_place or path.suffix == ".yml":
            yield f"{path}: entries are read from {', '.join(KINDS)}/<id>.yaml; move or rename this file"


def _read_entry(kind: str, path: Path, faults: list[str]) -> Any:
    try:
        data = read_mapping(path)
    except OSError as error:
        faults.append(f"{path}: cannot be read ({error.strerror})")
        return None
    except ValueError as error:
        faults.append(f"{path}: {error}")
        return None
    try:
        entry = KINDS[kind].validate_python(data)
    except ValidationError as error:
        faults += [f"{path}: {line}" for line in fault_lines(error, data)]
        return None
    if entry.id != path.stem:
        faults.append(f"{path}: id: is '{entry.id}', but the file is named '{path.stem}'; make them agree")
        return None
    return entry


# ----------------------------------------------------------------------------------------------------------- errors


def _find(entries: MappingProxyType[str, E], kind: str, id_: str) -> E:
    if id_ in entries:
        return entries[id_]
    raise UserError(f"unknown {kind} '{plain(id_)}'{did_you_mean(id_, entries)}; `norml list` shows all")


# -------------------------------------------------------------------------------------------------------- resolving


def _layered(bench: BenchmarkEntry, shots: int, method: Method) -> tuple[dict[str, Any], dict[str, str]]:
    """Values and their sources, protocol and rule together; later layers win."""
    layers: list[Any] = [
        bench.protocol,
        bench.protocol_by_shots.get(shots),
        *method.protocol_layers(bench.id, shots).values(),
        method.rule,
        method.rule_by_shots.get(bench.id, {}).get(shots),
    ]
    values = _defaults()
    sources = dict.fromkeys(values, "norml's default")
    for layer in layers:
        for key in type(layer).model_fields if layer is not None else ():
            sourced = getattr(layer, key)
            if sourced is not None:
                values[key], sources[key] = sourced.value, sourced.source
    if not RULES[method.algorithm].meta_trained:
        values["outer_steps"], sources["outer_steps"] = 0, f"{method.algorithm} has no outer loop"
    return values, sources


def _defaults() -> dict[str, Any]:
    """Those values of a protocol that a benchmark need not declare."""
    return {key: field.default for key, field in Protocol.model_fields.items() if not field.is_required()}


def _override(
    values: dict[str, Any], sources: dict[str, str], overrides: dict[str, Any], algorithm: str
) -> tuple[str, ...]:
    """Put --set values in place; returns the keys whose value changed."""
    changed = []
    for key, value in overrides.items():
        if key == "outer_steps" and not RULES[algorithm].meta_trained:
            continue  # of several methods run together, a shorter schedule leaves these as they are
        model: type[Model] = Protocol if key in Protocol.model_fields else RULES[algorithm]
        if key not in model.model_fields:
            known = [*Protocol.model_fields, *RULES[algorithm].model_fields]
            raise UserError(f"--set {key}: unknown key{did_you_mean(key, known)}; `norml show` lists a method's keys")
        checked = _checked(model, key, value)
        if checked != values.get(key):
            changed.append(key)
        values[key], sources[key] = checked, "--set on the command line"
    return tuple(changed)


def _checked(model: type[Model], key: str, value: Any) -> Any:
    """`value` as `model` would hold it under `key`. Raises UserError."""
    alone: dict[str, Any] = {key: (constrained(model.model_fields[key]), ...)}
    try:
        return getattr(create_model("Override", __base__=Model, **alone).model_validate({key: value}), key)
    except ValidationError as error:
        shown = json.dumps(value) if value is None or isinstance(value, bool) else value
        raise UserError(
            f"--set {plain(key)}={plain(shown)}: {value_fault(error)}; `norml show` lists a method's keys"
        ) from None


def _run_spec(method: Method, bench: BenchmarkEntry, shots: int, values: dict[str, Any]) -> RunSpec:
    rule = RULES[method.algorithm]
    return RunSpec(
        method=method.id,
        benchmark=bench.id,
        dataset=bench.dataset,
        shots=shots,
        algorithm=method.algorithm,
        protocol=Protocol.model_validate({key: values[key] for key in Protocol.model_fields if key in values}),
        rule=rule.model_validate({key: values[key] for key in rule.model_fields}),
    )


def _impossible(
    protocol: Protocol, shots: int, dataset: DatasetEntry, recipes: Collection[str]
) -> Iterator[tuple[str, str]]:
    """Contradictions between values that are each allowed: the key to change, and what is wrong."""
    per_class, available = shots + protocol.queries_per_class, dataset.examples_per_class
    if per_class > available:
        fault = f"shots + queries_per_class = {per_class} is more than the {available} examples a class"
        yield "queries_per_class", f"{fault} of '{dataset.id}' has"
    if not isinstance(dataset.splits, FileSplit):
        sizes = {split: getattr(dataset.splits, split) for split in ("meta_train", "meta_val", "meta_test")}
        smallest = min(sizes, key=sizes.__getitem__)
        if protocol.n_way > sizes[smallest]:
            fault = f"{protocol.n_way} is more than the {sizes[smallest]} classes"
            yield "n_way", f"{fault} of '{dataset.id}' in {smallest}"
    if protocol.backbone is None and dataset.in_colour:
        yield "backbone", f"'{dataset.id}' has colour images, which a learner does not take; name a recipe for features"
    if protocol.backbone is not None and not dataset.in_colour:
        yield "backbone", f"'{dataset.id}' has grey images, which no recipe takes; leave it out"
    if protocol.backbone is None and protocol.feature_scaling != "none":
        yield "feature_scaling", f"is {protocol.feature_scaling}, but no backbone makes features; leave it out"
    if protocol.backbone is not None and protocol.backbone not in recipes:
        yield "backbone", f"unknown recipe '{protocol.backbone}'{did_you_mean(protocol.backbone, recipes)}"
    if protocol.rotations != "none" and dataset.rotations.value != "per-episode":
        fault = f"{protocol.rotations}, but '{dataset.id}' declares rotations: {dataset.rotations.value}"
        yield "rotations", fault


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


def _cross_faults(registry: Registry, unread: frozenset[tuple[str, str]]) -> Iterator[str]:
    """What no file shows alone: ids that lead nowhere, protocols with holes, contradictions."""
    ids = _Ids(registry, unread)
    for dataset in registry.datasets.values():
        path = registry.files["datasets", dataset.id]
        yield from (f"{path}: {fault}" for fault in _dataset_faults(dataset, path))
    sound = []
    for bench in registry.benchmarks.values():
        faults = list(_benchmark_faults(ids, bench))
        yield from (f"{registry.files['benchmarks', bench.id]}: {fault}" for fault in faults)
        if not faults and bench.dataset in registry.datasets:
            sound.append(bench)
    for method in registry.methods.values():
        path = registry.files["methods", method.id]
        yield from (f"{path}: {fault}" for fault in _method_faults(ids, method, sound))
    for table in registry.tables.values():
        path = registry.files["tables", table.id]
        yield from (f"{path}: {fault}" for fault in _table_faults(ids, table))


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
    unknown = ids.fault("datasets", "data set", bench.dataset)
    if unknown:
        yield f"dataset: {unknown}"
    for shots in bench.protocol_by_shots:
        if shots not in bench.shots:
            yield f"protocol_by_shots.{shots}: {shots} is not in shots"
    dataset = ids.registry.datasets.get(bench.dataset)
    told = set()
    for shots in bench.shots:
        values = _defaults() | _values([bench.protocol, bench.protocol_by_shots.get(shots)])
        for key in Protocol.model_fields:
            if key not in values:
                yield f"protocol.{key}: is missing ({shots}-shot)"
        if dataset is not None and set(values) == set(Protocol.model_fields):
            protocol = Protocol.model_validate(values)
            faults = [f"protocol.{key}: {fault}" for key, fault in _impossible(protocol, shots, dataset, ids.recipes)]
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
    for key in ("protocol", *by_shots):
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
        values, _ = _layered(bench, shots, method)
        protocol = Protocol.model_validate({key: values[key] for key in Protocol.model_fields})
        for key, fault in _impossible(protocol, shots, ids.registry.datasets[bench.dataset], ids.recipes):
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
