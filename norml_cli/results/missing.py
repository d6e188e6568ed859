"""Which runs a table or a sweep still lacks, and how long each may take. Torch-free."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from norml_cli.files.errors import UserError
from norml_cli.registry.entries import TableEntry
from norml_cli.registry.resolving import Registry, Resolved
from norml_cli.registry.specs import RunSpec
from norml_cli.results.comparisons import places_of
from norml_cli.results.records import RunRecord
from norml_cli.results.store import Results, read_record


@dataclass(frozen=True)
class MissingRun:
    """A run without a record. expected_s: what it may take, by finished runs; None: there are none to go by."""

    item: Resolved
    seed: int
    path: Path
    expected_s: float | None


def runs_of(registry: Registry, table: TableEntry) -> list[Resolved]:
    """Every run that `table` shows, by the declared protocol. Raises UserError."""
    places = places_of(table).items()
    return [registry.resolve(method, *place) for place, methods in places for method in dict.fromkeys(methods)]


def missing_runs(results: Results, items: Sequence[Resolved], seeds: Sequence[int]) -> list[MissingRun]:
    """Those of `items` with each of `seeds` that have no record; one seed of every item comes before a second.

    Raises UserError with every record in their places that is damaged or of other values.
    """
    wanted = [(item, seed, results.run_path(item.spec, seed)) for seed in seeds for item in items]
    faults = [fault for item, _, path in wanted if path.exists() for fault in _faults(path, item.spec)]
    if faults:
        raise UserError("\n".join(faults))
    finished = results.scan_runs({item.spec.benchmark for item in items}, intervals=False).records
    took = _seconds([record for _, record in finished])
    return [
        MissingRun(item, seed, path, _expected(item.spec, took)) for item, seed, path in wanted if not path.exists()
    ]


Place = tuple[str, str, int]


def _place(spec: RunSpec) -> Place:
    return spec.method, spec.benchmark, spec.shots


def _seconds(records: Iterable[RunRecord]) -> dict[Place, list[tuple[float, int]]]:
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
