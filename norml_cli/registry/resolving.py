"""Resolve entries to run specs: which value wins. Torch-free."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import ValidationError, create_model

from norml_cli.files.errors import UserError, plain
from norml_cli.files.suggestions import suggested
from norml_cli.registry.contradictions import contradictions
from norml_cli.registry.entries import (
    RULES,
    BenchmarkEntry,
    DatasetEntry,
    Entry,
    Method,
    RecipeEntry,
    TableEntry,
)
from norml_cli.registry.faults import did_you_mean, value_fault
from norml_cli.registry.protocol import Protocol
from norml_cli.registry.recipes import widths_of
from norml_cli.registry.sourced import Model, constrained
from norml_cli.registry.specs import RunSpec

E = TypeVar("E", bound=Entry)


@dataclass(frozen=True)
class Resolved:
    """A run's spec with the source of each value.

    changed: keys that --set or a grid changed. varied: keys of a grid.
    """

    spec: RunSpec
    sources: dict[str, str]
    changed: tuple[str, ...] = ()
    varied: tuple[str, ...] = ()


@dataclass(frozen=True)
class Registry:
    """All entries by id, in read-only mappings.

    files, faults: by kind and id. left_out: a line for each faulty entry and each misplaced file.
    """

    datasets: MappingProxyType[str, DatasetEntry]
    benchmarks: MappingProxyType[str, BenchmarkEntry]
    methods: MappingProxyType[str, Method]
    recipes: MappingProxyType[str, RecipeEntry]
    tables: MappingProxyType[str, TableEntry]
    files: MappingProxyType[tuple[str, str], Path] = field(repr=False)
    faults: MappingProxyType[tuple[str, str], tuple[str, ...]] = field(
        default_factory=lambda: MappingProxyType({}), repr=False
    )
    left_out: tuple[str, ...] = ()

    def dataset(self, id_: str) -> DatasetEntry:
        """The data set of that id; raises UserError with the nearest ids."""
        return self._named(self.datasets, "datasets", "data set", id_)

    def dataset_of(self, record: object, id_: str) -> DatasetEntry:
        """The data set that a record names. record: how to call it. Raises UserError if it is not declared here."""
        if id_ not in self.datasets:
            raise UserError(
                f"{record}: its data set '{id_}' is not declared; pass the folder of its entry with --registry"
            )
        return self.datasets[id_]

    def benchmark(self, id_: str) -> BenchmarkEntry:
        """The benchmark of that id; raises UserError with the nearest ids."""
        return self._named(self.benchmarks, "benchmarks", "benchmark", id_)

    def method(self, id_: str) -> Method:
        """The method of that id; raises UserError with the nearest ids."""
        return self._named(self.methods, "methods", "method", id_)

    def recipe(self, id_: str) -> RecipeEntry:
        """The pretraining recipe of that id; raises UserError with the nearest ids."""
        return self._named(self.recipes, "recipes", "recipe", id_)

    def table(self, id_: str) -> TableEntry:
        """The table of that id; raises UserError with the nearest ids."""
        return self._named(self.tables, "tables", "table", id_)

    def entry(self, id_: str) -> Entry:
        """The entry of that id, of any kind; raises UserError with the nearest ids."""
        everything: dict[str, Entry] = {}
        for kind in ("tables", "datasets", "benchmarks", "recipes", "methods"):
            self._refuse_faulty(kind, id_)
            everything.update(getattr(self, kind))
        return _find(everything, "entry", id_)

    def _named(self, entries: Mapping[str, E], kind: str, noun: str, id_: str) -> E:
        self._refuse_faulty(kind, id_)
        return _find(entries, noun, id_)

    def _refuse_faulty(self, kind: str, id_: str) -> None:
        if (kind, id_) in self.faults:
            raise UserError("\n".join(self.faults[kind, id_]))

    def resolve(
        self,
        method: str,
        benchmark: str | None = None,
        shots: int | None = None,
        overrides: dict[str, Any] | None = None,
    ) -> Resolved:
        """The run of `method` on `benchmark` (default: the method's) at `shots` (default: the benchmark's first).

        Later wins: the benchmark's protocol, its protocol_by_shots; the method's protocol everywhere, its protocol for
        the benchmark, its protocol_by_shots; its rule, rule_by_benchmark, rule_by_shots; `overrides` (--set).
        Raises UserError.
        """
        method_entry = self.method(method)
        bench = self.benchmark(method_entry.default_benchmark if benchmark is None else benchmark)
        k_shot = bench.shots[0] if shots is None else shots
        require_declared(bench, k_shot)
        values, sources = layered(bench, k_shot, method_entry)
        changed = _override(values, sources, overrides or {}, method_entry)
        spec = _run_spec(method_entry, bench, k_shot, values)
        if spec.protocol.backbone is not None:
            self._refuse_faulty("recipes", spec.protocol.backbone)
        faults = list(contradictions(spec.protocol, k_shot, self.dataset(bench.dataset), self.recipes))
        faults += spec.rule.contradictions(spec.protocol)
        if faults:
            raise UserError(
                "\n".join(f"{method} on {bench.id}, {k_shot}-shot: {key}: {fault}" for key, fault in faults)
            )
        return Resolved(spec, sources, changed)

    def specs_on(self, benchmark: str, shots: int) -> Iterator[RunSpec]:
        """The specs of all methods that can run on the benchmark."""
        for method in self.methods:
            try:
                yield self.resolve(method, benchmark, shots).spec
            except UserError:
                continue


def n_features(registry: Registry, spec: RunSpec) -> int:
    """D: values of one example, which is a flattened image or the backbone's features of it."""
    if spec.protocol.backbone is not None:
        return widths_of(registry.recipe(spec.protocol.backbone).values, spec.protocol.backbone_width)[-1]
    return registry.dataset(spec.dataset).values_per_image


# ----------------------------------------------------------------------------------------------------------- errors


def _find(entries: Mapping[str, E], kind: str, id_: str) -> E:
    if id_ in entries:
        return entries[id_]
    raise UserError(f"unknown {kind} '{plain(id_)}'{did_you_mean(id_, entries)}; `{suggested('norml list')}` shows all")


# -------------------------------------------------------------------------------------------------------- resolving


def require_declared(bench: BenchmarkEntry, shots: int) -> None:
    """Raises UserError for a number of shots that the benchmark does not declare."""
    if shots not in bench.shots:
        declared = ", ".join(map(str, bench.shots))
        raise UserError(f"--shots {shots}: benchmark '{bench.id}' declares {declared}; use one of these")


def layered(bench: BenchmarkEntry, shots: int, method: Method) -> tuple[dict[str, Any], dict[str, str]]:
    """Values and their sources, of the protocol and the rule together; later layers win."""
    layers: list[Any] = [
        bench.protocol,
        bench.protocol_by_shots.get(shots),
        *method.protocol_layers(bench.id, shots).values(),
        method.rule,
        method.rule_by_benchmark.get(bench.id),
        method.rule_by_shots.get(bench.id, {}).get(shots),
    ]
    values = {**defaults(Protocol), **defaults(RULES[method.algorithm])}
    sources = dict.fromkeys(values, "norml's default")
    for layer in layers:
        for key in layer.model_fields_set if layer is not None else ():
            sourced = getattr(layer, key)
            if sourced is not None:
                values[key], sources[key] = sourced.value, sourced.source
    for key, why in RULES[method.algorithm].lacks.items():
        values[key], sources[key] = 0, f"{method.algorithm} {why}"
    return values, sources


@cache
def defaults(model: type[Model]) -> Mapping[str, Any]:
    """The values of a protocol or a rule that have defaults."""
    found = {key: field.default for key, field in model.model_fields.items() if not field.is_required()}
    return MappingProxyType(found)


def _override(
    values: dict[str, Any], sources: dict[str, str], overrides: dict[str, Any], method: Method
) -> tuple[str, ...]:
    """Apply --set values to `values` and `sources`; return the keys whose value changed."""
    changed, algorithm = [], method.algorithm
    for key, value in overrides.items():
        if key in RULES[algorithm].lacks:
            continue  # --set of several methods may change a number of steps that this method does not have
        model: type[Model] = Protocol if key in Protocol.model_fields else RULES[algorithm]
        if key not in model.model_fields:
            raise UserError(f"--set {plain(key)}: {_unknown_key(key, method)}")
        checked = checked_value(model, key, value)
        if checked != values.get(key):
            changed.append(key)
        values[key], sources[key] = checked, "--set on the command line"
    return tuple(changed)


def _unknown_key(key: str, method: Method) -> str:
    """Why a method does not have `key`: it belongs to other algorithms, or to none."""
    takers = [algorithm for algorithm, rule in RULES.items() if key in rule.model_fields]
    if takers:
        why = f"'{method.id}' has no such key; it belongs to algorithm {' or '.join(takers)}"
    else:
        near = did_you_mean(key, [*Protocol.model_fields, *RULES[method.algorithm].model_fields])
        why = f"unknown key of '{method.id}'{near}"
    return f"{why}; `{suggested(f'norml show {method.id}')}` lists its keys"


def checked_value(model: type[Model], key: str, value: Any) -> Any:
    """`value`, checked as the field `key` of `model`. Raises UserError."""
    alone: dict[str, Any] = {key: (constrained(model.model_fields[key]), ...)}
    try:
        return getattr(create_model("Override", __base__=Model, **alone).model_validate({key: value}), key)
    except ValidationError as error:
        shown = json.dumps(value) if value is None or isinstance(value, bool) else value
        fault = value_fault(error)
        written = f", written {key}=[64,64]" if "must be a list" in fault else ""
        written = (
            f", in lower case: {key}={value.lower()}"
            if str(value) in {"True", "False"} and isinstance(value, str)
            else written
        )
        raise UserError(
            f"--set {plain(key)}={plain(shown)}: {fault}{written}; `norml show` lists a method's keys"
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
