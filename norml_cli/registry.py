"""YAML files -> validated entries -> resolved run specs. Torch-free; all errors of a registry are told at once."""

import difflib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from norml_cli.errors import UserError
from norml_cli.spec import (
    RULES,
    BenchmarkEntry,
    DatasetEntry,
    Entry,
    FileSplit,
    Method,
    Model,
    Protocol,
    RunSpec,
    TableEntry,
)

MAX_FILE_BYTES = 1_000_000  # chosen: a thousand times a real entry; a larger file is not an entry

E = TypeVar("E", bound=Entry)

KINDS: dict[str, TypeAdapter[Any]] = {
    "datasets": TypeAdapter(DatasetEntry),
    "benchmarks": TypeAdapter(BenchmarkEntry),
    "methods": TypeAdapter(Annotated[Method, Field(discriminator="algorithm")]),
    "tables": TypeAdapter(TableEntry),
}


class RegistryError(UserError):
    """Every fault of a registry, one `file: key: message` a line."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))


# ---------------------------------------------------------------------------------------------------------- reading


class _EntryLoader(yaml.SafeLoader):
    """Safe YAML with YAML 1.2's floats and booleans, without duplicate keys, anchors and aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if getattr(event, "anchor", None) is not None:
            raise yaml.MarkedYAMLError(problem="anchors and aliases are not allowed", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int):
                raise yaml.MarkedYAMLError(problem="a key is not plain text", problem_mark=key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"key '{key}' stands twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


# PyYAML follows YAML 1.1: 1e-3 is text and `no` is false there. Researchers write 1.2.
_EntryLoader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag not in {f"tag:yaml.org,2002:{t}" for t in ("bool", "float", "int", "timestamp")}]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_EntryLoader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
_EntryLoader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))
_EntryLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)


def parse_yaml(text: str) -> Any:
    """Parse one YAML document.

    Raises ValueError with one line (what and where) for anything that is not a plain document.
    """
    try:
        return yaml.load(text, Loader=_EntryLoader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise ValueError(f"{where}{error.problem}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"not readable as YAML: {str(error).splitlines()[0]}") from None


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

    def table(self, id_: str) -> TableEntry:
        """The table of that id; raises UserError with the nearest ids."""
        return _find(self.tables, "table", id_)

    def entry(self, id_: str) -> Entry:
        """The entry of that id, of any kind; raises UserError with the nearest ids."""
        everything: dict[str, Entry] = {}
        for entries in (self.tables, self.datasets, self.benchmarks, self.methods):
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

        Later wins: benchmark, benchmark by shots, method, `overrides` (--set). Raises UserError.
        """
        method_entry = self.method(method)
        bench = self.benchmark(benchmark or method_entry.default_benchmark)
        k_shot = bench.shots[0] if shots is None else shots
        if k_shot not in bench.shots:
            declared = ", ".join(map(str, bench.shots))
            raise UserError(f"--shots {k_shot}: benchmark '{bench.id}' declares {declared}; take one of these")
        values, sources = _layered(bench, k_shot, method_entry)
        changed = _override(values, sources, overrides or {}, method_entry.algorithm)
        spec = _run_spec(method_entry, bench, k_shot, values)
        faults = _impossible(spec, self.datasets[bench.dataset])
        if faults:
            raise UserError("\n".join(f"{bench.id}, {k_shot} shots, {method}: {fault}" for fault in faults))
        return Resolved(spec, sources, changed)


def load_registry(extra: Path | None = None) -> Registry:
    """Read the built-in entries and those under `extra` (default: the folder that NORML_REGISTRY names).

    Raises RegistryError with every fault found.
    """
    if extra is None and os.environ.get("NORML_REGISTRY"):
        extra = Path(os.environ["NORML_REGISTRY"])
    if extra is not None and not extra.is_dir():
        raise UserError(f"--registry {extra}: not a folder; name one that holds datasets/, benchmarks/, methods/ or tables/")
    return read_registry([builtin_registry()] + ([extra] if extra is not None else []))


def read_registry(folders: list[Path]) -> Registry:
    """Read and cross-check the entries of `folders`. Raises RegistryError with every fault found."""
    faults: list[str] = []
    entries: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
    files: dict[tuple[str, str], Path] = {}
    for folder in folders:
        faults += _strays(folder)
        for kind in KINDS:
            for path in sorted((folder / kind).glob("*.yaml")):
                entry = _read_entry(kind, path, faults)
                if entry is None:
                    continue
                if entry.id in entries[kind]:
                    faults.append(f"{path}: id: '{entry.id}' is already declared in {files[kind, entry.id]}")
                    continue
                entries[kind][entry.id] = entry
                files[kind, entry.id] = path
    registry = Registry(
        **{kind: MappingProxyType(found) for kind, found in entries.items()}, files=MappingProxyType(files)
    )
    if not faults:
        faults = list(_cross_faults(registry))
    if faults:
        raise RegistryError(faults)
    return registry


def _strays(folder: Path) -> Iterator[str]:
    """Files that would silently not be read: a misspelt folder, `.yml`, a nested folder."""
    for path in sorted(folder.rglob("*")):
        if path.suffix not in {".yaml", ".yml"}:
            continue
        relative = path.relative_to(folder)
        if len(relative.parts) != 2 or relative.parts[0] not in KINDS or path.suffix == ".yml":  # noqa: PLR2004
            yield f"{path}: entries are read from {', '.join(KINDS)}/<id>.yaml; move or rename this file"


def _read_entry(kind: str, path: Path, faults: list[str]) -> Any:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"larger than {MAX_FILE_BYTES:,} bytes; not an entry")
        data = parse_yaml(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError("holds no mapping; start with 'id: ...'")
        entry = KINDS[kind].validate_python(data)
    except ValidationError as error:
        faults += [f"{path}: {line}" for line in _messages(error, data)]
        return None
    except (OSError, ValueError) as error:
        faults.append(f"{path}: {error}")
        return None
    if entry.id != path.stem:
        faults.append(f"{path}: id: is '{entry.id}', but the file is named '{path.stem}'; make them agree")
        return None
    return entry


# ----------------------------------------------------------------------------------------------------------- errors


def _find(entries: MappingProxyType[str, E], kind: str, id_: str) -> E:
    if id_ in entries:
        return entries[id_]
    raise UserError(f"unknown {kind} '{id_}'{did_you_mean(id_, entries)}; `norml list` shows all")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """', did you mean ...?' with the nearest known words, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f", did you mean {' or '.join(repr(name) for name in near)}?" if near else ""


def _messages(error: ValidationError, data: Any) -> list[str]:
    """One `key: message` a key; what several branches of a union say of one key is joined."""
    by_key: dict[str, list[str]] = {}
    for item in error.errors(include_url=False):
        key = _key(item["loc"], data)
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = f"unknown key{did_you_mean(str(item['loc'][-1]), _vocabulary())}"
        elif item["type"] == "missing":
            message = "is missing"
        elif not isinstance(item["input"], dict | list):
            message = f"{message} (got {item['input']!r})"
        by_key.setdefault(key, []).append(message)
    return [f"{key}: {' or '.join(messages)}" for key, messages in by_key.items()]


def _key(loc: tuple[int | str, ...], data: Any) -> str:
    """The dotted key as it stands in the file: pydantic's names of union branches are left out."""
    parts = []
    for depth, part in enumerate(loc):
        if isinstance(data, dict) and part in data:
            data = data[part]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        elif depth < len(loc) - 1 or not isinstance(data, dict):
            continue
        parts.append(str(part))
    return ".".join(parts) or "entry"


def _vocabulary() -> set[str]:
    words: set[str] = set()
    models: list[type[Any]] = [Model]
    while models:
        model = models.pop()
        words |= set(model.model_fields)
        models += model.__subclasses__()
    return words


# -------------------------------------------------------------------------------------------------------- resolving


def _layered(bench: BenchmarkEntry, shots: int, method: Method) -> tuple[dict[str, Any], dict[str, str]]:
    """Values and their sources, protocol and rule together; later layers win."""
    layers: list[Any] = [bench.protocol, bench.protocol_by_shots.get(shots), method.protocol.get(bench.id), method.rule]
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for layer in layers:
        for key in type(layer).model_fields if layer is not None else ():
            sourced = getattr(layer, key)
            if sourced is not None:
                values[key], sources[key] = sourced.value, sourced.source
    return values, sources


def _override(values: dict[str, Any], sources: dict[str, str], overrides: dict[str, Any], algorithm: str) -> tuple[str, ...]:
    """Put --set values in place; returns the keys whose value changed."""
    changed = []
    for key, value in overrides.items():
        model: type[Model] = Protocol if key in Protocol.model_fields else RULES[algorithm]
        if key not in model.model_fields:
            known = [*Protocol.model_fields, *RULES[algorithm].model_fields]
            raise UserError(f"--set {key}: unknown key{did_you_mean(key, known)}; `norml show` lists a method's keys")
        constraint = model.model_fields[key]
        adapter: TypeAdapter[Any] = TypeAdapter(Annotated[constraint.annotation, *constraint.metadata, Field(strict=True)])
        try:
            checked = adapter.validate_python(value)
        except ValidationError as error:
            texts = " or ".join(item["msg"] for item in error.errors())
            raise UserError(f"--set {key}={value}: {texts}; see `norml show` for its meaning") from None
        if checked != values.get(key):
            changed.append(key)
        values[key], sources[key] = checked, "--set on the command line"
    return tuple(changed)


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


def _impossible(spec: RunSpec, dataset: DatasetEntry) -> Iterator[str] | list[str]:
    """Contradictions between values that are each allowed."""
    faults = []
    p = spec.protocol
    if spec.shots + p.queries_per_class > dataset.examples_per_class:
        faults.append(
            f"shots + queries_per_class = {spec.shots + p.queries_per_class} is more than the "
            f"{dataset.examples_per_class} examples a class of '{dataset.id}' has"
        )
    if not isinstance(dataset.splits, FileSplit):
        for split in ("meta_train", "meta_val", "meta_test"):
            if getattr(dataset.splits, split) < p.n_way:
                faults.append(f"n_way = {p.n_way} is more than the {getattr(dataset.splits, split)} classes of {split}")
    if p.rotations != "none" and dataset.rotations.value != "per-episode":
        faults.append(f"rotations = {p.rotations}, but '{dataset.id}' declares rotations: {dataset.rotations.value}")
    return faults


def _cross_faults(registry: Registry) -> Iterator[str]:
    """What no file shows alone: ids that lead nowhere, protocols with holes, contradictions."""
    files = registry.files
    for dataset in registry.datasets.values():
        yield from _dataset_faults(dataset, files["datasets", dataset.id])
    known_benchmarks = []
    for bench in registry.benchmarks.values():
        faults = list(_benchmark_faults(registry, bench))
        yield from (f"{files['benchmarks', bench.id]}: {fault}" for fault in faults)
        known_benchmarks += [bench.id] if not faults else []
    for method in registry.methods.values():
        for key, id_ in [("default_benchmark", method.default_benchmark), *(("protocol", b) for b in method.protocol)]:
            if id_ not in registry.benchmarks:
                yield f"{files['methods', method.id]}: {key}: unknown benchmark '{id_}'{did_you_mean(id_, registry.benchmarks)}"
    for table in registry.tables.values():
        yield from _table_faults(registry, table)
    for method in registry.methods.values():
        for id_ in known_benchmarks:
            yield from _resolution_faults(registry, method, registry.benchmarks[id_])


def _dataset_faults(dataset: DatasetEntry, path: Path) -> Iterator[str]:
    splits = dataset.splits
    if isinstance(splits, FileSplit):
        for key in ("meta_train", "meta_val", "meta_test"):
            if not (path.parent / getattr(splits, key)).is_file():
                yield f"{path}: splits.{key}: no file '{getattr(splits, key)}' beside this entry"
        return
    total = splits.meta_train + splits.meta_val + splits.meta_test
    if total > dataset.classes:
        yield f"{path}: splits: {total} classes in all, but the data set has {dataset.classes}"
    if dataset.rotations.value == "as-classes":
        yield f"{path}: rotations: 'as-classes' needs split files that list the rotated classes"


def _benchmark_faults(registry: Registry, bench: BenchmarkEntry) -> Iterator[str]:
    if bench.dataset not in registry.datasets:
        yield f"dataset: unknown data set '{bench.dataset}'{did_you_mean(bench.dataset, registry.datasets)}"
    for shots in bench.protocol_by_shots:
        if shots not in bench.shots:
            yield f"protocol_by_shots.{shots}: {shots} is not in shots"
    for shots in bench.shots:
        layers = [bench.protocol, bench.protocol_by_shots.get(shots)]
        for key in Protocol.model_fields:
            if all(layer is None or getattr(layer, key) is None for layer in layers):
                yield f"protocol.{key}: is missing (for {shots} shots)"


def _table_faults(registry: Registry, table: TableEntry) -> Iterator[str]:
    path = registry.files["tables", table.id]
    for number, column in enumerate(table.columns):
        if column.benchmark is None:
            continue
        bench = registry.benchmarks.get(column.benchmark)
        if bench is None:
            near = did_you_mean(column.benchmark, registry.benchmarks)
            yield f"{path}: columns.{number}.benchmark: unknown benchmark '{column.benchmark}'{near}"
        elif column.shots not in bench.shots:
            yield f"{path}: columns.{number}.shots: '{bench.id}' does not declare {column.shots} shots"
    named = [("reference", table.reference), *((f"rows.{n}.method", row.method) for n, row in enumerate(table.rows))]
    for key, method in named:
        if method is not None and method not in registry.methods:
            yield f"{path}: {key}: unknown method '{method}'{did_you_mean(method, registry.methods)}"


def _resolution_faults(registry: Registry, method: Method, bench: BenchmarkEntry) -> Iterator[str]:
    for shots in bench.shots:
        try:
            registry.resolve(method.id, bench.id, shots)
        except UserError as error:
            overridden = bench.id in method.protocol
            path = registry.files[("methods", method.id) if overridden else ("benchmarks", bench.id)]
            yield f"{path}: protocol: {error}"
