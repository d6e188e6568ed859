"""What lets a long training be stopped anywhere and taken up again: checkpoints, and signals that ask for a stop."""

import pickle
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from norml_cli.errors import UserError
from norml_cli.files import write_atomically

CHECKPOINT_EVERY_S = 30.0  # chosen: at most half a minute is lost to a kill, under 1% of the time is spent saving


class Stopped(Exception):  # noqa: N818 - not an error: the user asked for it
    """The training was asked to stop."""


class StopRequest:
    """Whether Ctrl-C or SIGTERM asked for a stop."""

    def __init__(self) -> None:
        self.made = False

    def obey(self) -> None:
        """Raise Stopped if a stop was asked for."""
        if self.made:
            raise Stopped

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take those signals as requests, instead of breaking off a step."""

        def request_stop(_signal: int, _frame: FrameType | None) -> None:
            self.made = True

        names = (signal.SIGINT, signal.SIGTERM)
        previous = [signal.signal(name, request_stop) for name in names]
        try:
            yield
        finally:
            for name, handler in zip(names, previous, strict=True):
                signal.signal(name, handler)


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values, whole or not at all. Raises UserError."""
    write_atomically(path, lambda file: torch.save(dict(content), file))


def read_checkpoint(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors and plain values only: nothing in the file is executed.

    Raises UserError for what is no checkpoint, and if a value of `identity` differs.
    """
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{path}: not a readable checkpoint ({type(error).__name__}); start over with --force"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a checkpoint of a run; start over with --force")
    for key, expected in identity.items():
        if content.get(key) != expected:
            raise UserError(
                f"{path}: belongs to another run ({key} differs); start over with --force, "
                f"or keep it and use another --results folder"
            )
    return content
