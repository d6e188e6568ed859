"""Runs that a table, a sweep or a study still needs, and how long each may take. Torch-free."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from norml_cli.files.errors import UserError
from norml_cli.registry.entries import TableEntry
from norml_cli.registry.resolving import Registry, Resolved
from norml_cli.registry.specs import RunSpec, json_sha256
from norml_cli.results.comparisons import places_of
from norml_cli.results.records import TrainingRecord
from norml_cli.results.store import Results, read_record

LONGEST_GRID_NAME = 40  # characters, so that a method's id and a name fit on a line


@dataclass(frozen=True)
class Missing:
    """A run, or a trial of `study`, without a record. name: the run's name (--name).

    expected_s: expected wall time from finished runs; None if there are none.
    """

    item: Resolved
    seed: int
    path: Path
    expected_s: float | None
    name: str | None = None
    study: str | None = None


@dataclass(frozen=True)
class Plan:
    """What is missing of the wanted runs or trials, and the records that exist."""

    missing: list[Missing]
    finished: list[Path]


def runs_of(registry: Registry, table: TableEntry) -> list[Resolved]:
    """All runs that `table` shows, with the declared protocol. Raises UserError."""
    places = places_of(table).items()
    return [registry.resolve(method, *place) for place, methods in places for method in dict.fromkeys(methods)]


def grid_name(item: Resolved) -> str | None:
    """A run's name from its values in a grid: 'inner-lr-0-2'. None without a grid.

    A name that is too long, or has a value that is not a word or number, ends with part of a hash.
    """
    if not item.varied:
        return None
    values = item.spec.model_dump(mode="json")
    texts = {key: json.dumps((values["protocol"] | values["rule"])[key]) for key in item.varied}
    name = "-".join(re.findall("[a-z0-9]+", " ".join(f"{key} {text}" for key, text in texts.items()).lower()))
    if len(name) <= LONGEST_GRID_NAME and all(re.fullmatch(r'"?[a-z0-9.]+"?', text) for text in texts.values()):
        return name
    return f"{name[:LONGEST_GRID_NAME].rstrip('-')}-{json_sha256(texts)[:8]}"


def plan_runs(results: Results, items: Sequence[Resolved], seeds: Sequence[int]) -> Plan:
    """The plan of the runs of `items` with `seeds`. All items come with the first seed, then with the second.

    Raises UserError with every record in these places that is damaged or has other values.
    """
    names = [grid_name(item) for item in items]
    wanted = [
        (item, seed, results.run_path(item.spec, seed, name), name)
        for seed in seeds
        for item, name in zip(items, names, strict=True)
    ]
    faults = [fault for item, _, path, _ in wanted if path.exists() for fault in _faults(path, item.spec)]
    if faults:
        raise UserError("\n".join(faults))
    finished = results.scan_runs({item.spec.benchmark for item in items}, intervals=False).records
    took = _seconds(record for _, record in finished)
    return _plan([Missing(item, seed, path, _expected(item.spec, took), name) for item, seed, path, name in wanted])


def plan_trials(results: Results, study: str, items: Sequence[Resolved], seeds: Sequence[int]) -> Plan:
    """The plan of the trials of `study`, as `plan_runs`."""
    took = _seconds(record for _, record in results.scan_trials(study).records)
    wanted = [(item, seed, results.trial_path(study, item, seed)) for seed in seeds for item in items]
    return _plan([Missing(item, seed, path, _expected(item.spec, took), study=study) for item, seed, path in wanted])


def _plan(wanted: Sequence[Missing]) -> Plan:
    exists = [each.path.exists() for each in wanted]
    missing = [each for each, there in zip(wanted, exists, strict=True) if not there]
    return Plan(missing, [each.path for each, there in zip(wanted, exists, strict=True) if there])


Place = tuple[str, str, int]


def _place(spec: RunSpec) -> Place:
    return spec.method, spec.benchmark, spec.shots


def _seconds(records: Iterable[TrainingRecord]) -> dict[Place, list[tuple[float, int]]]:
    """Wall times in seconds and outer steps of finished runs."""
    took: dict[Place, list[tuple[float, int]]] = {}
    for record in records:
        took.setdefault(_place(record.spec), []).append((record.cost.wall_s, record.spec.protocol.outer_steps))
    return took


def _expected(spec: RunSpec, took: dict[Place, list[tuple[float, int]]]) -> float | None:
    """The median wall time of finished runs, scaled to the outer steps of `spec`."""
    steps = max(1, spec.protocol.outer_steps)
    seconds = [wall_s * steps / max(1, theirs) for wall_s, theirs in took.get(_place(spec), [])]
    return median(seconds) if seconds else None


def _faults(path: Path, spec: RunSpec) -> list[str]:
    try:
        if read_record(path, intervals=False).spec_hash == spec.hash():
            return []
    except UserError as error:
        return [str(error)]
    return [f"{path}: is a finished run with other values; move it away, or choose another --results folder"]
