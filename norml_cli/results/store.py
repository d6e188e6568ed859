"""Where records lie below a results folder, and how they are written, read and found. Torch-free."""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from norml_cli.files.atomic import write_atomically
from norml_cli.files.errors import UserError, plain
from norml_cli.files.json_files import read_json
from norml_cli.registry.faults import fault_lines
from norml_cli.registry.specs import PretrainSpec, RunSpec, content_hash
from norml_cli.results.records import SCHEMA_VERSION, PretrainingRecord, Record, RunRecord, TrialRecord

NOT_RUNS = frozenset(
    {"studies", "speed", "pretraining", "trust", "other-protocols"}
)  # folders under results/ that hold no runs of a table: other-protocols/<name> is a results folder of its own


R = TypeVar("R", bound="Record")


def record_path(results: Path, spec: RunSpec, seed: int) -> Path:
    """Where the record of this run lies: <results>/<benchmark>/<k>-shot/<method>/seed-<n>.json."""
    return results / spec.benchmark / f"{spec.shots}-shot" / spec.method / f"seed-{seed}.json"


def trial_path(results: Path, study: str, spec: RunSpec, seed: int) -> Path:
    """Where a trial's record lies: <results>/studies/<study>/<k>-shot/<method>/<hash of its values>-seed-<n>.json."""
    folder = results / "studies" / study / f"{spec.shots}-shot" / spec.method
    return folder / f"{spec.hash()[:12]}-seed-{seed}.json"


def pretraining_path(results: Path, spec: PretrainSpec, seed: int) -> Path:
    """Where its record lies: <results>/pretraining/<data set>/<recipe>/<hash of its values>-seed-<n>.json."""
    return results / "pretraining" / spec.dataset / spec.recipe / f"{spec.hash()[:12]}-seed-{seed}.json"


def write_record(path: Path, record: Record) -> None:
    """Write the whole record or nothing. Raises UserError if the place cannot be written."""
    content = record.model_dump(mode="json")
    version = content.pop("schema_version")
    whole = {"schema_version": version, "digest": digest_of({"schema_version": version, **content}), **content}
    text = json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False)
    data = f"{_number_lists_on_one_line(text)}\n".encode()
    write_atomically(path, lambda file: file.write(data))


def digest_of(content: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical JSON of every key and value of a record but the digest itself.

    Canonical: sorted keys, no spaces, numbers as Python writes them. So it holds whatever the order and the layout, and
    changes with any figure, name, date or cost.
    """
    return content_hash({key: value for key, value in content.items() if key != "digest"})


def read_record(path: Path) -> RunRecord:
    """The run's record at `path`. Raises UserError with `file: key: message` lines for anything else."""
    return _read(path, RunRecord)


def read_trial(path: Path) -> TrialRecord:
    """The trial's record at `path`. Raises UserError with `file: key: message` lines for anything else."""
    return _read(path, TrialRecord)


def read_pretraining(path: Path) -> PretrainingRecord:
    """The pretraining's record at `path`. Raises UserError with `file: key: message` lines for anything else."""
    return _read(path, PretrainingRecord)


def find_trials(results: Path, study: str) -> list[TrialRecord]:
    """Every trial of `study`, in order of path; none if it has none. Raises UserError for what is damaged."""
    return [read_trial(path) for path in sorted((results / "studies" / study).rglob("*-seed-*.json"))]


def find_studies(results: Path) -> list[tuple[Path, TrialRecord]]:
    """Every trial of every study with its path, in order of path. Raises UserError for what is damaged."""
    return [(path, read_trial(path)) for path in sorted((results / "studies").rglob("*-seed-*.json"))]


def find_pretrainings(results: Path) -> list[tuple[Path, PretrainingRecord]]:
    """Every pretraining's record with its path, in order of path. Raises UserError for what is damaged."""
    return [(path, read_pretraining(path)) for path in sorted((results / "pretraining").rglob("*-seed-*.json"))]


def _read(path: Path, kind: type[R]) -> R:
    data = _read_json(path)
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version is None:
        raise UserError(f"{path}: not a run record (no schema_version); move it out of the results folder")
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path}: written by another version of norml (schema_version {version}, this one reads {SCHEMA_VERSION}); "
            f"report it with that version or run it again"
        )
    digest = data.pop("digest", None)
    if digest != digest_of(data):
        raise UserError(
            f"{path}: digest: is not that of the rest, so it was changed or damaged since it was written; take it from "
            f"a copy, or run it again with --force"
        )
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise UserError("\n".join(f"{path}: {line}" for line in fault_lines(error, data))) from None


def find_records(results: Path, benchmarks: Collection[str] | None = None) -> list[tuple[Path, RunRecord]]:
    """Every seed-*.json below `results` with its content, in order of path; none if the folder does not exist.

    `benchmarks`: only the records of these are read.

    Raises UserError with every record that is damaged or lies where its content does not belong.
    """
    if not results.exists():
        return []
    if not results.is_dir():
        raise UserError(f"--results {results}: not a folder; name the folder that `norml run` wrote to")
    found, faults = [], []
    for path in sorted(results.rglob("seed-*.json")):
        folder = path.relative_to(results).parts[0]
        if folder in NOT_RUNS or (benchmarks is not None and folder not in benchmarks):
            continue
        try:
            record = read_record(path)
            _require_in_place(path, record_path(results, record.spec, record.seed))
            found.append((path, record))
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("\n".join(faults))
    return found


def _number_lists_on_one_line(text: str) -> str:
    """Indented JSON with its lists of numbers joined: a count an episode would fill ten thousand lines."""
    return re.sub(r"\[\n([\s\d.,eE+-]+)\]", lambda match: f"[{' '.join(match[1].split())}]", text)


def _read_json(path: Path) -> Any:
    try:
        return read_json(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); mend its permissions or move it away") from error
    except ValueError as error:
        fault = plain(str(error))
        raise UserError(f"{path}: not JSON ({fault}), so damaged or cut off; delete it and run again") from None


def _require_in_place(path: Path, expected: Path) -> None:
    if path != expected:
        raise UserError(f"{path}: holds the run that belongs at {expected}; move it there or delete it")
