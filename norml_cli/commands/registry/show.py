"""`norml list`: all entries of the registry. `norml show ID`: one entry, with the source of each value."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from rich.console import Console

from norml_cli.registry.entries import RULES, Entry, Published, RecipeEntry
from norml_cli.registry.protocol import OF_CONVOLUTIONS, Protocol
from norml_cli.registry.resolving import Registry, Resolved, n_features
from norml_cli.registry.sourced import Sourced
from norml_cli.registry.specs import RunSpec
from norml_cli.reporting.sheets import Grid, Sheet, to_rich
from norml_cli.terminal.output import print_text

Rows = list[tuple[str, Any, str]]  # key, value, source
# Parameters times the examples in all inner steps of one outer step. Below this, a run fits any machine's memory.
# Chosen: above every built-in run, so that `norml show` needs no torch for them.
SURELY_FITS = 5e10


def show(
    registry: Registry, id_: str, console: Console, *, resolve: Callable[[], Resolved], as_json: bool = False
) -> None:
    """Print an entry. For a method, `resolve` gives the values that `norml run` would use on a benchmark."""
    entry = registry.entry(id_)
    if id_ in registry.methods:
        resolved = resolve()
        rows = [*_method_rows(resolved), *_count_rows(registry, resolved), *_memory_rows(registry, resolved)]
    else:
        rows = [row for row in _entry_rows(entry) if row[0] not in Entry.model_fields]  # the title shows these
    if isinstance(entry, RecipeEntry):
        counted = "counted: without the output layer"
        rows.append(("backbone parameters", f"{entry.values.backbone_parameters:,}", counted))
    if as_json:
        values = [{"key": key, "value": value, "source": source} for key, value, source in rows]
        console.print_json(data={"id": entry.id, "title": entry.title, "values": values})
        return
    cells = [[key, _text(value), source] for key, value, source in rows]
    grid = Grid(["key", "value", "source"], cells, n_left=3, title=f"{entry.title} ({entry.id})")
    print_text(to_rich(Sheet(grid, footer=[entry.citation] if entry.citation else []), console.width), console)


def _method_rows(resolved: Resolved) -> Rows:
    spec = resolved.spec
    rows: Rows = [
        ("benchmark", spec.benchmark, ""),
        ("dataset", spec.dataset, ""),
        ("shots", spec.shots, ""),
        ("algorithm", spec.algorithm, ""),
    ]
    rows += [(key, getattr(spec.rule, key), resolved.sources[key]) for key in RULES[spec.algorithm].model_fields]
    hidden = () if spec.protocol.learner == "conv-4" else OF_CONVOLUTIONS
    keys = (key for key in Protocol.model_fields if key not in hidden)
    rows += [(key, getattr(spec.protocol, key), resolved.sources[key]) for key in keys]
    return rows


def _count_rows(registry: Registry, resolved: Resolved) -> Rows:
    counts = resolved.spec.parameter_counts(n_features(registry, resolved.spec))
    if counts is None:  # convolutions, or a rule that cannot count its parameters without torch
        from norml_cli.training.build import parameter_counts  # noqa: PLC0415 - torch

        counts = parameter_counts(registry, resolved.spec)
    if not any(counts.values()):
        return []
    ratio = counts["meta_learner"] / counts["learner"]
    return [
        ("learner parameters", f"{counts['learner']:,}", "counted: weights and biases, without batch norm"),
        *_work_rows(registry, resolved),
        ("meta-learner parameters", f"{counts['meta_learner']:,}", f"counted: {ratio:.2f} times the learner's"),
    ]


def _work_rows(registry: Registry, resolved: Resolved) -> Rows:
    """Multiplications of an inner step, for convolutions only: they use each parameter at every position."""
    if resolved.spec.protocol.learner == "fully-connected":
        return []
    from norml_cli.training.build import multiplications  # noqa: PLC0415 - loads torch

    of_a_step = multiplications(registry, resolved.spec)
    if of_a_step is None:
        return []
    source = "counted: one inner step on one support set, without batch norm"
    return [("learner multiplications", f"{of_a_step:,}", source)]


def _size(spec: RunSpec, counts: Mapping[str, int]) -> int:
    return sum(counts.values()) * spec.examples_of_an_outer_step * spec.protocol.inner_steps


def _memory_rows(registry: Registry, resolved: Resolved) -> Rows:
    """A warning, if a run would clearly not fit into memory."""
    counts = resolved.spec.parameter_counts(n_features(registry, resolved.spec))
    if counts is not None and _size(resolved.spec, counts) < SURELY_FITS:
        return []
    from norml_cli.training.build import least_memory_bytes  # noqa: PLC0415 - torch, as above
    from norml_cli.training.resources import machine_memory_bytes, memory_remedies  # noqa: PLC0415 - as above

    least, here = least_memory_bytes(registry, resolved.spec), machine_memory_bytes()
    if least <= here:
        return []
    remedies = memory_remedies(resolved.spec.protocol)
    return [
        ("memory", f"at least {least / 1e9:,.0f} GB", f"warning: this machine has {here / 1e9:,.0f} GB; {remedies}")
    ]


def _entry_rows(entry: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """The rows of any entry, with dotted keys. A sourced value is one row with its source."""
    for key in type(entry).model_fields:
        value = getattr(entry, key)
        yield from _value_rows(f"{prefix}{key}", value)


def _value_rows(key: str, value: Any) -> Iterator[tuple[str, Any, str]]:
    if value is None:
        return
    if isinstance(value, Sourced):
        yield key, value.value, value.source
    elif isinstance(value, Published):
        yield key, value.text, ""
    elif isinstance(value, BaseModel):
        yield from _entry_rows(value, f"{key}.")
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _value_rows(f"{key}.{name}", item)
    elif isinstance(value, list) and value and isinstance(value[0], BaseModel):
        for number, item in enumerate(value):
            yield from _value_rows(f"{key}.{number}", item)
    else:
        yield key, value, ""


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool | list) or value is None else str(value)


def list_entries(registry: Registry, console: Console, *, as_json: bool) -> None:
    """Print every entry by kind: its id, its title, and what you need to run it."""
    if as_json:
        console.print_json(data=_summary(registry))
        return
    for kind, entries in _summary(registry).items():
        rows = [[_listed(value) for value in entry.values()] for entry in entries]
        grid = Grid(list(entries[0]), rows, n_left=len(entries[0]), title=kind)
        print_text(f"{to_rich(Sheet(grid), console.width)}\n", console)


def _summary(registry: Registry) -> dict[str, list[dict[str, Any]]]:
    return {
        "methods": [
            {"id": m.id, "title": m.title, "default benchmark": m.default_benchmark} for m in registry.methods.values()
        ],
        "benchmarks": [
            {"id": b.id, "title": b.title, "dataset": b.dataset, "shots": b.shots} for b in registry.benchmarks.values()
        ],
        "datasets": [
            {"id": d.id, "title": d.title, "licence": d.licence, "home": d.home} for d in registry.datasets.values()
        ],
        "recipes": [
            {
                "id": r.id,
                "title": r.title,
                "widths": r.values.widths,
                "input": f"{r.values.input_size_px} px",
                "steps": f"{r.values.steps:,}",
            }
            for r in registry.recipes.values()
        ],
        "tables": [{"id": t.id, "title": t.title} for t in registry.tables.values()],
    }


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
