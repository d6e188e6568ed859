"""Read several results folders as one, to report the runs of several machines together. Torch-free."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeVar

from norml_cli.results.evaluations import EvaluationRecord
from norml_cli.results.records import Document, RunRecord
from norml_cli.results.store import Results, Scan, evaluated_run, stored_digest

R = TypeVar("R", bound=Document)


class Gathered:
    """Several results folders, in order. A record in two of them counts once; if the two differ, it is a fault."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = [Results(folder) for folder in dict.fromkeys(folders)]

    def __str__(self) -> str:
        return ", ".join(str(each.folder) for each in self._folders)

    def require_folder(self) -> None:
        """Raises UserError as `Results.require_folder`."""
        for each in self._folders:
            each.require_folder()

    def runs(self, benchmarks: Collection[str] | None = None) -> list[tuple[Path, RunRecord]]:
        """All runs. Raises UserError with all faults."""
        return self.scan_runs(benchmarks).sound()

    def scan_runs(self, benchmarks: Collection[str] | None = None, *, intervals: bool = True) -> Scan[RunRecord]:
        """As `Results.scan_runs`."""
        return self._joined(lambda results: results.scan_runs(benchmarks, intervals=intervals))

    def scan_evaluations(self, benchmarks: Collection[str] | None = None) -> Scan[EvaluationRecord]:
        """As `Results.scan_evaluations`; each path is next to the run that `scan_runs` returns."""
        found = self._joined(lambda results: results.scan_evaluations(benchmarks))
        return Scan([(self._beside_its_run(path), record) for path, record in found.records], found.faults)

    def _beside_its_run(self, path: Path) -> Path:
        (within,) = [each.folder for each in self._folders if path.is_relative_to(each.folder)][:1]
        places = [each.folder / path.relative_to(within) for each in self._folders]
        return next(place for place in places if evaluated_run(place).exists())

    def _joined(self, scan: Callable[[Results], Scan[R]]) -> Scan[R]:
        taken: dict[Path, tuple[Path, R]] = {}  # by path relative to its results folder
        faults = list[str]()
        for results in self._folders:
            found = scan(results)
            faults += found.faults
            for path, record in found.records:
                first, _ = taken.setdefault(path.relative_to(results.folder), (path, record))
                if first != path and stored_digest(first) != stored_digest(path):
                    faults.append(f"{path}: differs from {first}, the record of the same run; leave out one of them")
        return Scan(list(taken.values()), faults)
