"""What lies below a results folder: where each record is, how it is written, read and found. Torch-free."""

import json
import re
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from norml_cli.files.atomic import write_atomically
from norml_cli.files.errors import UserError, plain
from norml_cli.files.json_files import read_json
from norml_cli.registry.faults import fault_lines
from norml_cli.registry.protocol import RESERVED_IDS
from norml_cli.registry.resolving import Resolved
from norml_cli.registry.specs import PretrainSpec, RunSpec, content_hash
from norml_cli.results.records import SCHEMA_VERSION, PretrainingRecord, Record, RunRecord, TrialRecord

DEFAULT_FOLDER = Path("results")

R = TypeVar("R", bound=Record)
_LONGEST_NAME = 120  # chosen: with its ending and a temporary file's, below the 255 bytes that file systems allow


@dataclass(frozen=True)
class Scan(Generic[R]):
    """The records of one kind with their paths, in order of path, and a line for each that cannot be read."""

    records: list[tuple[Path, R]]
    faults: list[str]

    def sound(self) -> list[tuple[Path, R]]:
        """The records. Raises UserError with every fault if there is one."""
        if self.faults:
            raise UserError("\n".join(self.faults))
        return self.records


class Results:
    """One results folder. Benchmarks have a folder each; RESERVED_IDS name the others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def require_folder(self) -> None:
        """Raises UserError for a folder that was named and is not there; the default is made by the first run."""
        if not self.folder.is_dir() and (self.folder.exists() or self.folder != DEFAULT_FOLDER):
            what = "not a folder" if self.folder.exists() else "no such folder"
            raise UserError(f"--results {self.folder}: {what}; name the folder that `norml run` wrote to")

    def require_writable(self) -> None:
        """Found out before hours of training, not after. Raises UserError."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):  # gone with the process, however it ends
                pass
        except OSError as error:
            fault = f"cannot be written ({error.strerror}); choose another folder"
            raise UserError(f"--results {self.folder}: {fault}") from None

    def run_path(self, spec: RunSpec, seed: int, name: str | None = None) -> Path:
        """Where the record of this run lies: <benchmark>/<k>-shot/<method>[+<name>]/seed-<n>.json."""
        return self.folder / spec.benchmark / f"{spec.shots}-shot" / spec.label(name) / f"seed-{seed}.json"

    def trial_path(self, study: str, trial: Resolved, seed: int) -> Path:
        """Where a trial's record lies: studies/<study>/<k>-shot/<method>/<what it varies>-seed-<n>.json.

        If a finished trial of another spec has that name (on another benchmark, or of before the registry was
        changed), part of a hash follows.
        """
        spec = trial.spec
        folder = self.folder / "studies" / study / f"{spec.shots}-shot" / spec.method
        name = trial_name(spec, trial.changed)
        path = folder / f"{name}-seed-{seed}.json"
        if any(record.spec_hash != spec.hash() for _, record in _scan([path], read_trial).records):
            return folder / f"{name}~{spec.hash()[:8]}-seed-{seed}.json"
        return path

    def pretraining_path(self, spec: PretrainSpec, seed: int) -> Path:
        """Where its record lies: pretraining/<data set>/<recipe>/<hash of its values>-seed-<n>.json."""
        return self.folder / "pretraining" / spec.dataset / spec.recipe / f"{spec.hash()[:12]}-seed-{seed}.json"

    def runs(self, benchmarks: Collection[str] | None = None) -> list[tuple[Path, RunRecord]]:
        """The record of every run (of these benchmarks).

        Raises UserError with every record that is damaged or lies where its content does not belong.
        """
        return self.scan_runs(benchmarks).sound()

    def scan_runs(self, benchmarks: Collection[str] | None = None, *, intervals: bool = True) -> Scan[RunRecord]:
        """The same with the faults beside it. intervals: see `read_record`."""

        def read(path: Path) -> RunRecord:
            record = read_record(path, intervals=intervals)
            _require_in_place(path, self.run_path(record.spec, record.seed, record.name))
            return record

        return _scan(self._run_paths(benchmarks), read)

    def scan_trials(self, study: str = "") -> Scan[TrialRecord]:
        """Every trial of a study, or of all."""
        return _scan(_seeds_below(self.folder / "studies" / study), read_trial)

    def scan_pretrainings(self) -> Scan[PretrainingRecord]:
        """Every pretraining's record."""
        return _scan(_seeds_below(self.folder / "pretraining"), read_pretraining)

    def other_protocols(self) -> dict[str, "Results"]:
        """Results folders of runs by other values than the declared ones, which no table of this folder shows."""
        folder = self.folder / "other-protocols"
        return {path.name: Results(path) for path in sorted(folder.glob("*")) if path.is_dir()}

    def scan_all(self) -> Scan[Record]:
        """Every record below the folder, each read by the one reader of its kind."""
        runs, trials, pretrainings = self.scan_runs(), self.scan_trials(), self.scan_pretrainings()
        records: list[tuple[Path, Record]] = [*runs.records, *trials.records, *pretrainings.records]
        faults = [*runs.faults, *trials.faults, *pretrainings.faults]
        for others in self.other_protocols().values():
            scan = others.scan_all()
            records, faults = records + scan.records, faults + scan.faults
        return Scan(records, faults)

    def _run_paths(self, benchmarks: Collection[str] | None) -> Iterator[Path]:
        for path in sorted(self.folder.rglob("seed-*.json")):
            top = path.relative_to(self.folder).parts[0]
            if top not in RESERVED_IDS and (benchmarks is None or top in benchmarks):
                yield path


def _seeds_below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*-seed-*.json"))


def _scan(paths: Iterator[Path] | list[Path], read: Callable[[Path], R]) -> Scan[R]:
    records, faults = [], []
    for path in paths:
        try:
            records.append((path, read(path)))
        except UserError as error:
            faults.append(str(error))
    return Scan(records, faults)


def trial_name(spec: RunSpec, changed: Collection[str]) -> str:
    """'inner_lr=0.2,gate_scale=4.0': the changed values in the spec's order, in characters that every system allows."""
    keys = [key for model in (spec.protocol, spec.rule) for key in type(model).model_fields if key in changed]
    values = spec.model_dump(mode="json")
    texts = {key: json.dumps((values["protocol"] | values["rule"])[key]) for key in keys}
    name = ",".join(f"{key}={re.sub('[^a-zA-Z0-9.+-]+', '_', text).strip('_')}" for key, text in texts.items())
    if len(name) > _LONGEST_NAME:
        name = f"{name[:_LONGEST_NAME]}~{content_hash(texts)[:8]}"
    return name or "as-declared"


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


def read_record(path: Path, *, intervals: bool = True) -> RunRecord:
    """The run's record at `path`. Raises UserError with `file: key: message` lines for anything else.

    intervals: whether its half-width is computed again, which loads scipy. The digest is held against it in any case.
    """
    return _read(path, RunRecord, intervals=intervals)


def read_trial(path: Path) -> TrialRecord:
    """The trial's record at `path`. Raises UserError with `file: key: message` lines for anything else."""
    return _read(path, TrialRecord)


def read_pretraining(path: Path) -> PretrainingRecord:
    """The pretraining's record at `path`. Raises UserError with `file: key: message` lines for anything else."""
    return _read(path, PretrainingRecord)


def _read(path: Path, kind: type[R], *, intervals: bool = True) -> R:
    data = _read_json(path)
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version is None:
        raise UserError(f"{path}: not a run record (no schema_version); move it out of the results folder")
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path}: written by another version of norml (schema_version {version}, this one reads {SCHEMA_VERSION}); "
            f"report it with that version or run it again"
        )
    _require_kind(path, data, kind)
    digest = data.pop("digest", None)
    if digest != digest_of(data):
        raise UserError(
            f"{path}: digest: is not that of the rest, so it was changed or damaged since it was written; take it from "
            f"a copy, or run it again with --force"
        )
    try:
        return kind.model_validate(data, context={"intervals": intervals})
    except ValidationError as error:
        raise UserError("\n".join(f"{path}: {line}" for line in fault_lines(error, data))) from None


_KINDS: dict[type[Record], tuple[str, str]] = {  # a key that no other kind has, and what the kind is called
    RunRecord: ("correct", "a run's record"),
    TrialRecord: ("study", "the record of a study's trial, which has no meta-test"),
    PretrainingRecord: ("weights_sha256", "a pretraining's record"),
}


def _require_kind(path: Path, data: Mapping[str, Any], kind: type[Record]) -> None:
    for other, (key, title) in _KINDS.items():
        if other is not kind and key in data:
            raise UserError(f"{path}: is {title}; name {_KINDS[kind][1]} instead")


def _number_lists_on_one_line(text: str) -> str:
    """Indented JSON with its lists of numbers joined: a count an episode would fill ten thousand lines."""
    return re.sub(r"\[\n([\s\d.,eE+-]+)\]", lambda match: f"[{' '.join(match[1].split())}]", text)


def _read_json(path: Path) -> Any:
    try:
        return read_json(path)
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; a run's record lies at results/BENCHMARK/K-shot/METHOD/seed-N.json"
        ) from None
    except IsADirectoryError:
        raise UserError(f"{path}: cannot be read, for it is a folder; name a record in it (seed-N.json)") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); mend its permissions or move it away") from error
    except ValueError as error:
        if path.suffix != ".json":
            raise UserError(f"{path}: is no record; name a run's record (seed-N.json)") from None
        fault = plain(str(error))
        raise UserError(f"{path}: not JSON ({fault}), so damaged or cut off; delete it and run again") from None


def _require_in_place(path: Path, expected: Path) -> None:
    if path != expected:
        raise UserError(f"{path}: holds the run that belongs at {expected}; move it there or delete it")
