"""Which runs a table, a sweep or a study still lacks, and how long each may take. Torch-free."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from norml_cli.files.errors import UserError
from norml_cli.registry.entries import TableEntry
from norml_cli.registry.resolving import Registry, Resolved
from norml_cli.registry.specs import RunSpec, content_hash
from norml_cli.results.comparisons import places_of
from norml_cli.results.records import TrainingRecord
from norml_cli.results.store import Results, read_record

LONGEST_GRID_NAME = 40  # characters; a method's id and a name fit into a line


@dataclass(frozen=True)
class Missing:
    """A run, or a trial of `study`, without a record. name: of the run (--name).

    expected_s: what it may take, by finished ones; None: there are none to go by.
    """

    item: Resolved
    seed: int
    path: Path
    expected_s: float | None
    name: str | None = None
    study: str | None = None


def runs_of(registry: Registry, table: TableEntry) -> list[Resolved]:
    """Every run that `table` shows, by the declared protocol. Raises UserError."""
    places = places_of(table).items()
    return [registry.resolve(method, *place) for place, methods in places for method in dict.fromkeys(methods)]


def grid_name(item: Resolved) -> str | None:
    """'inner-lr-0-2': the values of the grid as the name of a run, which keeps the runs of a grid apart.

    A value that is more than a word or a number ends it with part of a hash. None: there is no grid.
    """
    if not item.varied:
        return None
    said = item.spec.model_dump(mode="json")
    texts = {key: json.dumps((said["protocol"] | said["rule"])[key]) for key in item.varied}
    name = "-".join(re.findall("[a-z0-9]+", " ".join(f"{key} {text}" for key, text in texts.items()).lower()))
    if len(name) <= LONGEST_GRID_NAME and all(re.fullmatch(r'"?[a-z0-9.]+"?', text) for text in texts.values()):
        return name
    return f"{name[:LONGEST_GRID_NAME].rstrip('-')}-{content_hash(texts)[:8]}"


def missing_runs(results: Results, items: Sequence[Resolved], seeds: Sequence[int]) -> list[Missing]:
    """Those of `items` with each of `seeds` that have no record; one seed of every item comes before a second.

    Raises UserError with every record in their places that is damaged or of other values.
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
    return [
        Missing(item, seed, path, _expected(item.spec, took), name)
        for item, seed, path, name in wanted
        if not path.exists()
    ]


def missing_trials(results: Results, study: str, items: Sequence[Resolved], seeds: Sequence[int]) -> list[Missing]:
    """The same of the trials of `study`."""
    took = _seconds(record for _, record in results.scan_trials(study).records)
    wanted = [(item, seed, results.trial_path(study, item, seed)) for seed in seeds for item in items]
    return [
        Missing(item, seed, path, _expected(item.spec, took), study=study)
        for item, seed, path in wanted
        if not path.exists()
    ]


Place = tuple[str, str, int]


def _place(spec: RunSpec) -> Place:
    return spec.method, spec.benchmark, spec.shots


def _seconds(records: Iterable[TrainingRecord]) -> dict[Place, list[tuple[float, int]]]:
    """Wall time and outer steps of finished runs."""
    took: dict[Place, list[tuple[float, int]]] = {}
    for record in records:
        took.setdefault(_place(record.spec), []).append((record.cost.wall_s, record.spec.protocol.outer_steps))
    return took


def _expected(spec: RunSpec, took: dict[Place, list[tuple[float, int]]]) -> float | None:
    """The median of finished runs, in proportion to their outer steps."""
    steps = max(1, spec.protocol.outer_steps)
    seconds = [wall_s * steps / max(1, theirs) for wall_s, theirs in took.get(_place(spec), [])]
    return median(seconds) if seconds else None


def _faults(path: Path, spec: RunSpec) -> list[str]:
    try:
        if read_record(path, intervals=False).spec_hash == spec.hash():
            return []
    except UserError as error:
        return [str(error)]
    return [f"{path}: holds a finished run under other values; move it away, or choose another --results folder"]
