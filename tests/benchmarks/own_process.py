"""Something to be timed in a process of its own, as its users run it.

In one process engines would not be alone: what one leaves of the allocator's memory makes another faster or slower
(torch.func compiled by a third, on the CPU).
"""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import torch

from norml_cli.files.errors import UserError
from tests.benchmarks.measure import Call, synchroniser


class OwnProcess:
    """Calls of what `make(device, *arguments)` returns, made when asked for."""

    def __init__(self, title: str, make: Callable[..., Call], device: torch.device, *arguments: Any) -> None:
        """`make` is a function of a module, so that the process finds it. Raises UserError if it fails."""
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, device, arguments), daemon=True)
        self._process.start()
        theirs.close()  # so that the end of the process ends a wait for it
        self._title = title
        self._answer()

    def __call__(self) -> None:
        """One call, done on the device when this returns. Raises UserError if it failed."""
        self._connection.send("call")
        self._answer()

    def _answer(self) -> None:
        try:
            self._connection.recv()
        except EOFError:
            raise UserError(f"{self._title}: failed in its process, as it says above") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        self._process.join()


def _serve(connection: Connection, make: Callable[..., Call], device: torch.device, arguments: tuple[Any, ...]) -> None:
    call, synchronise = make(device, *arguments), synchroniser(device)
    connection.send("ready")
    while True:
        try:
            connection.recv()
        except EOFError:
            return
        call()
        synchronise()
        connection.send("done")
