"""Every run's learning curve and every test episode's count, as rows: one line into a pandas DataFrame. Torch-free."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from norml_cli.results.gathered import Gathered
from norml_cli.results.records import RunRecord
from norml_cli.results.store import DEFAULT_FOLDER

OF_RUN = ("benchmark", "shots", "method", "seed")
CURVE_KEYS = (
    *OF_RUN,
    "step",
    "loss",
    "train_accuracy",
    "validation_accuracy",
    "validation_half_width",
    "outer_lr",
)
EPISODE_KEYS = (*OF_RUN, "episode", "correct", "queries")


def learning_curves(*results: str | Path) -> list[dict[str, Any]]:
    """A row for each meta-validation of each run under the folders `results`; `CURVE_KEYS` are its columns.

    Without a folder: the default, `results`. Raises UserError for a missing folder, and with every damaged record.
    """
    return [_of_run(record) | point.model_dump() for record in _runs(results) for point in record.curve]


def episode_counts(*results: str | Path) -> list[dict[str, Any]]:
    """A row for each meta-test episode of each run: its number, correct answers and queries (`EPISODE_KEYS`).

    Runs of one benchmark, shots and protocol saw the same episodes, so that counts of one number may be paired.
    Raises UserError as `learning_curves`.
    """
    return [
        _of_run(record) | {"episode": number, "correct": correct, "queries": record.episodes.queries_per_episode}
        for record in _runs(results)
        for number, correct in enumerate(record.correct)
    ]


def _runs(results: Sequence[str | Path]) -> list[RunRecord]:
    place = Gathered([Path(folder) for folder in results or (DEFAULT_FOLDER,)])
    place.require_folder()
    return [record for _, record in place.runs()]


def _of_run(record: RunRecord) -> dict[str, Any]:
    spec = record.spec
    return dict(zip(OF_RUN, (spec.benchmark, spec.shots, record.label, record.seed), strict=True))
