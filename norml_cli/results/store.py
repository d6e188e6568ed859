"""Results folders: where each record is stored, and how to write, read and find records. Torch-free."""

import json
import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from norml_cli.files.atomic import write_atomically
from norml_cli.files.companions import CARD, EVALUATIONS, INSPECTED, Companions
from norml_cli.files.errors import UserError, plain
from norml_cli.files.json_files import read_json
from norml_cli.files.regular import NotRegular
from norml_cli.registry.faults import fault_lines
from norml_cli.registry.protocol import OTHER_PROTOCOLS, PRETRAINING, RESERVED_IDS, SPEED, STUDIES
from norml_cli.registry.resolving import Resolved
from norml_cli.registry.specs import PretrainSpec, RunSpec, json_sha256
from norml_cli.results.evaluations import Card, EvaluationRecord
from norml_cli.results.records import SCHEMA_VERSION, Document, PretrainingRecord, RunRecord, TrialRecord

DEFAULT_FOLDER = Path("results")

T = TypeVar("T")
R = TypeVar("R", bound=Document)
_LONGEST_NAME = 120  # chosen: with all suffixes still below the 255 bytes that file systems allow


@dataclass(frozen=True)
class Scan(Generic[T]):
    """Records of one kind with their paths, sorted by path, and a line for each record that cannot be read."""

    records: list[tuple[Path, T]]
    faults: list[str]

    def sound(self) -> list[tuple[Path, T]]:
        """The records. Raises UserError with all faults if there are any."""
        if self.faults:
            raise UserError("\n".join(self.faults))
        return self.records


class Results:
    """A results folder. It has a folder for each benchmark; RESERVED_IDS are its other folders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def require_folder(self) -> None:
        """Raises UserError for a missing folder, except the default folder, which the first run creates."""
        if not self.folder.is_dir() and (self.folder.exists() or self.folder != DEFAULT_FOLDER):
            what = "not a folder" if self.folder.exists() else "no such folder"
            raise UserError(f"--results {self.folder}: {what}; name the folder that `norml run` wrote to")

    def require_writable(self) -> None:
        """Check before training that records can be written. Raises UserError."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):  # removed with the process, however it ends
                pass
        except OSError as error:
            fault = f"cannot be written ({error.strerror}); choose another folder"
            raise UserError(f"--results {self.folder}: {fault}") from None

    def run_path(self, spec: RunSpec, seed: int, name: str | None = None) -> Path:
        """The path of a run's record: <benchmark>/<k>-shot/<method>[+<name>]/seed-<n>.json."""
        return self.place(spec.benchmark, spec.shots, spec.label(name), seed)

    def place(self, benchmark: str, shots: int, label: str, seed: int) -> Path:
        """As `run_path`. label: <method>[+<name>]."""
        return self.folder / benchmark / f"{shots}-shot" / label / f"seed-{seed}.json"

    def study_folder(self, study: str = "") -> Path:
        """The folder of a study's trials, or of all studies."""
        return self.folder / STUDIES / study

    def trial_path(self, study: str, trial: Resolved, seed: int) -> Path:
        """The path of a trial's record: studies/<study>/<k>-shot/<method>/<changed values>-seed-<n>.json.

        Part of a hash is added if a finished trial with another spec has that name, for example on another benchmark
        or from before a change of the registry.
        """
        spec = trial.spec
        folder = self.study_folder(study) / f"{spec.shots}-shot" / spec.method
        name = trial_name(spec, trial.changed)
        path = folder / f"{name}-seed-{seed}.json"
        if any(record.spec_hash != spec.hash() for _, record in _scan([path], read_trial).records):
            return folder / f"{name}~{spec.hash()[:8]}-seed-{seed}.json"
        return path

    def speed_path(self, name: str) -> Path:
        """The path of a benchmark's record: speed/<name>.json."""
        return self.folder / SPEED / f"{name}.json"

    def pretraining_path(self, spec: PretrainSpec, seed: int) -> Path:
        """The path of a pretraining's record: pretraining/<data set>/<recipe>/<hash of its values>-seed-<n>.json."""
        return self.folder / PRETRAINING / spec.dataset / spec.recipe / f"{spec.hash()[:12]}-seed-{seed}.json"

    def runs(self, benchmarks: Collection[str] | None = None) -> list[tuple[Path, RunRecord]]:
        """The records of all runs (of these benchmarks).

        Raises UserError with every record that is damaged or in the wrong place.
        """
        return self.scan_runs(benchmarks).sound()

    def scan_runs(self, benchmarks: Collection[str] | None = None, *, intervals: bool = True) -> Scan[RunRecord]:
        """As `runs`, but returns the faults. intervals: see `read_record`."""

        def read(path: Path) -> RunRecord:
            record = read_record(path, intervals=intervals)
            _require_in_place(path, self.run_path(record.spec, record.seed, record.name))
            return record

        return _scan(self._run_paths(benchmarks), read)

    def scan_trials(self, study: str = "") -> Scan[TrialRecord]:
        """All trials of a study, or of all studies."""
        return _scan(_seeds_below(self.study_folder(study)), read_trial)

    def scan_pretrainings(self) -> Scan[PretrainingRecord]:
        """All records of pretrainings."""
        return _scan(_seeds_below(self.folder / PRETRAINING), read_pretraining)

    def scan_evaluations(self, benchmarks: Collection[str] | None = None) -> Scan[EvaluationRecord]:
        """All evaluations of runs' weights. An evaluation of weights that another run has replaced is a fault."""
        return _scan(self._paths("*.json", benchmarks, EVALUATIONS), _read_evaluation_in_place)

    def scan_cards(self) -> Scan[Card]:
        """The cards of all published weights."""
        return _scan(self._paths(f"seed-*{CARD}"), read_card)

    def other_protocols(self) -> dict[str, "Results"]:
        """Results folders of runs with other than the declared values; tables of this folder do not show them."""
        folder = self.folder / OTHER_PROTOCOLS
        return {path.name: Results(path) for path in sorted(folder.glob("*")) if path.is_dir()}

    def scan_all(self) -> Scan[Document]:
        """All records in the folder, of all kinds."""
        scans: list[Scan[Any]] = [self.scan_runs(), self.scan_trials(), self.scan_pretrainings()]
        scans += [self.scan_evaluations(), self.scan_cards()]
        scans += [others.scan_all() for others in self.other_protocols().values()]
        return Scan([each for scan in scans for each in scan.records], [each for scan in scans for each in scan.faults])

    def _run_paths(self, benchmarks: Collection[str] | None) -> Iterator[Path]:
        return (path for path in self._paths("seed-*.json", benchmarks) if not path.name.endswith(CARD))

    def _paths(self, pattern: str, benchmarks: Collection[str] | None = None, ending: str = "") -> Iterator[Path]:
        """Files in the benchmarks' folders whose name matches `pattern` and whose folder's name ends with `ending`."""
        for path in sorted(self.folder.rglob(pattern)):
            top = path.relative_to(self.folder).parts[0]
            wanted = top not in RESERVED_IDS and (benchmarks is None or top in benchmarks)
            if wanted and path.parent.name.endswith(ending):
                yield path


def _seeds_below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*-seed-*.json"))


def _scan(paths: Iterable[Path], read: Callable[[Path], T]) -> Scan[T]:
    records, faults = [], []
    for path in paths:
        try:
            records.append((path, read(path)))
        except UserError as error:
            faults.append(str(error))
    return Scan(records, faults)


def trial_name(spec: RunSpec, changed: Collection[str]) -> str:
    """The changed values as a file name, in the spec's order: 'inner_lr=0.2,gate_scale=4.0'."""
    keys = [key for model in (spec.protocol, spec.rule) for key in type(model).model_fields if key in changed]
    values = spec.model_dump(mode="json")
    return _named({key: (values["protocol"] | values["rule"])[key] for key in keys}) or "as-declared"


def evaluation_path(run: Path, changed: Mapping[str, Any], split: str) -> Path:
    """The path of an evaluation of the run with record `run`: <run>-evaluations/<changed values>.json."""
    values = {**changed, **({"split": "meta-val"} if split == "meta_val" else {})}
    return Companions(run).evaluations / f"{_named(values)}.json"


def evaluated_run(path: Path) -> Path:
    """The path of the record of the run whose evaluation is at `path`."""
    return path.parent.with_name(f"{path.parent.name.removesuffix(EVALUATIONS)}.json")


def _named(values: Mapping[str, Any]) -> str:
    texts = {key: json.dumps(value) for key, value in values.items()}
    name = ",".join(f"{key}={re.sub('[^a-zA-Z0-9.+-]+', '_', text).strip('_')}" for key, text in texts.items())
    return f"{name[:_LONGEST_NAME]}~{json_sha256(texts)[:8]}" if len(name) > _LONGEST_NAME else name


def write_record(path: Path, record: Document) -> None:
    """Write a record completely or not at all. Raises UserError if the file cannot be written."""
    content = record.model_dump(mode="json")
    version = content.pop("schema_version")
    whole = {"schema_version": version, "digest": digest_of({"schema_version": version, **content}), **content}
    text = json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False)
    data = f"{_number_lists_on_one_line(text)}\n".encode()
    write_atomically(path, lambda file: file.write(data))


def digest_of(content: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical JSON of a record without its digest.

    Canonical JSON has sorted keys, no spaces, and numbers as Python writes them. So the digest does not depend on
    order and layout, but on every value.
    """
    return json_sha256({key: value for key, value in content.items() if key != "digest"})


def read_record(path: Path, *, intervals: bool = True) -> RunRecord:
    """The run's record at `path`. Raises UserError with `file: key: message` lines for anything else.

    intervals: whether to check its half-width, which loads scipy. The digest is always checked.
    """
    return _read(path, RunRecord, intervals=intervals)


def read_trial(path: Path) -> TrialRecord:
    """The trial's record at `path`. Raises UserError with `file: key: message` lines for anything else."""
    return _read(path, TrialRecord)


def read_pretraining(path: Path) -> PretrainingRecord:
    """The pretraining's record at `path`. Raises UserError with `file: key: message` lines for anything else."""
    return _read(path, PretrainingRecord)


def read_evaluation(path: Path) -> EvaluationRecord:
    """The evaluation's record at `path`. Raises UserError with `file: key: message` lines for anything else."""
    return _read(path, EvaluationRecord)


def read_card(path: Path) -> Card:
    """The card at `path`. Raises UserError with `file: key: message` lines for anything else."""
    return _read(path, Card)


def stored_digest(path: Path) -> str:
    """The digest in the record at `path`. Raises UserError if the file is not a record."""
    data = _read_json(path)
    if not isinstance(data, dict) or not isinstance(data.get("digest"), str):
        raise UserError(f"{path}: is not a record; name a run's record (seed-N.json)")
    return str(data["digest"])


def _read_evaluation_in_place(path: Path) -> EvaluationRecord:
    record, run = read_evaluation(path), evaluated_run(path)
    _require_in_place(path, evaluation_path(run, record.changed, record.split), "evaluation")
    if not run.exists() or stored_digest(run) != record.run_digest:
        raise UserError(f"{path}: evaluates other weights than those of {run.name} next to it; delete it")
    return record


def scan_inspections(runs: Iterable[Path]) -> Scan[Path]:
    """The folder of `norml inspect` of each of these runs that has one. One of replaced weights is a fault."""
    return _scan((run for run in runs if (Companions(run).inspection / INSPECTED).exists()), _read_inspection)


def _read_inspection(run: Path) -> Path:
    folder = Companions(run).inspection
    data = _read_json(folder / INSPECTED)
    about = data.get("about") if isinstance(data, dict) else None
    if not isinstance(about, dict) or about.get("run_digest") != stored_digest(run):
        fault = f"shows other weights than those of {run.name} next to it"
        raise UserError(f"{folder}: {fault}; delete it, or inspect that again")
    return folder


def _read(path: Path, kind: type[R], *, intervals: bool = True) -> R:
    data = _read_json(path)
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version is None:
        raise UserError(f"{path}: is not a record (no schema_version); move it out of the results folder")
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path}: was written by another version of norml (schema_version {version}, this version reads "
            f"{SCHEMA_VERSION}); report it with that version, or run it again"
        )
    _require_kind(path, data, kind)
    digest = data.pop("digest", None)
    if digest != digest_of(data):
        raise UserError(
            f"{path}: digest: does not match the content, so the file was changed or damaged; restore it from a copy, "
            f"or run it again with --force"
        )
    try:
        return kind.model_validate(data, context={"intervals": intervals})
    except ValidationError as error:
        raise UserError("\n".join(f"{path}: {line}" for line in fault_lines(error, data))) from None


_KINDS: dict[type[Document], tuple[str, str]] = {  # a key that no kind below has, and the kind's name
    EvaluationRecord: ("split", "the record of an evaluation"),
    Card: ("file_sha256", "the card of published weights"),
    TrialRecord: ("study", "the record of a study's trial, which has no meta-test"),
    PretrainingRecord: ("weights_sha256", "a pretraining's record"),
    RunRecord: ("correct", "a run's record"),
}


def _require_kind(path: Path, data: Mapping[str, Any], kind: type[Document]) -> None:
    found = next((other for other, (key, _) in _KINDS.items() if key in data), kind)
    if found is not kind:
        raise UserError(f"{path}: is {_KINDS[found][1]}; name {_KINDS[kind][1]} instead")


def _number_lists_on_one_line(text: str) -> str:
    """Put each list of numbers on one line; a line per episode would fill ten thousand lines."""
    return re.sub(r"\[\n([\s\d.,eE+-]+)\]", lambda match: f"[{' '.join(match[1].split())}]", text)


def _read_json(path: Path) -> Any:
    try:
        return read_json(path)
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; a run's record is at results/BENCHMARK/K-shot/METHOD/seed-N.json"
        ) from None
    except NotRegular as error:
        where = "a record in it" if path.is_dir() else "a run's record"
        raise UserError(f"{path}: cannot be read ({error.strerror}); name {where} (seed-N.json)") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); fix its permissions or move it away") from error
    except ValueError as error:
        if path.suffix != ".json":
            raise UserError(f"{path}: is not a record; name a run's record (seed-N.json)") from None
        fault = plain(str(error))
        raise UserError(f"{path}: is not JSON ({fault}); it is damaged or cut off, delete it and run again") from None


def _require_in_place(path: Path, expected: Path, what: str = "run") -> None:
    if path != expected:
        raise UserError(f"{path}: holds the {what} that belongs at {expected}; move it there or delete it")
