"""TensorBoard event files of a run: loss and speed, meta-validations, and the meta-test."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import override

from norml_cli.files.errors import UserError
from norml_cli.terminal.progress import Follower, Progress


class EventFiles(Follower):
    """Writes event files to one folder. A resumed run adds a file there; TensorBoard joins them by step."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError if the tensorboard package is not installed or the folder cannot be written."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # from tensorboard's own dependencies
                from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - an extra
        except ImportError:
            raise UserError(
                "--tensorboard: the package tensorboard is not installed; pip install 'norml[tensorboard]'"
            ) from None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = SummaryWriter(str(folder))
        except OSError as error:
            raise UserError(
                f"--tensorboard {folder}: cannot be written ({error.strerror}); choose a folder you may write to"
            ) from None

    @override
    def progressed(self, progress: Progress) -> None:
        if "loss" in progress.numbers:
            self._add("loss/query, last look", progress.numbers["loss"], progress.done)
            self._add("speed/outer steps a second", progress.rate, progress.done)

    @override
    def validated(self, point: Mapping[str, Any]) -> None:
        step = point["step"]
        for name, key in _KEYS_BY_TAG.items():
            if point[key] is not None:
                self._add(name, point[key], step)
        self._writer.flush()

    @override
    def tested(self, step: int, accuracy: float) -> None:
        self._add("accuracy/meta-test", accuracy, step)

    @override
    def close(self) -> None:
        self._writer.close()

    def _add(self, name: str, value: float, step: int) -> None:
        self._writer.add_scalar(name, value, step)


_KEYS_BY_TAG = {
    "loss/query, mean since the last meta-validation": "loss",
    "accuracy/meta-training": "train_accuracy",
    "accuracy/meta-validation": "validation_accuracy",
    "outer learning rate": "outer_lr",
}
