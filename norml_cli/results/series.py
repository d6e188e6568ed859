"""Learning curves and test episodes as rows, ready for a pandas DataFrame. Torch-free."""

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
    """A row for each meta-validation of each run in the folders `results`, with the columns `CURVE_KEYS`.

    The default folder is `results`. Raises UserError for a missing folder and for damaged records.
    """
    return [_of_run(record) | point.model_dump() for record in _runs(results) for point in record.curve]


def episode_counts(*results: str | Path) -> list[dict[str, Any]]:
    """A row for each meta-test episode of each run, with the columns `EPISODE_KEYS`.

    Runs with the same benchmark, shots and protocol have the same episodes, so counts of one episode number may be
    paired. Raises UserError as `learning_curves`.
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
