"""An engine in a process of its own, as its users run it.

In one process they would not be alone: what one of them leaves of the allocator's memory, and of compiled code, makes
another faster or slower (torch.func compiled by a third, on the CPU).
"""

import multiprocessing
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

import torch
from bench import synchroniser
from engines import Engine, Ours
from workloads import MAML, Workload, apart, from_registry, made_episodes

from norml_cli.errors import UserError


class OwnProcess:
    """Outer steps of one engine, taken when asked for."""

    def __init__(self, engine: type[Engine], workload: Workload, device: torch.device) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, engine, workload, device), daemon=True)
        self._process.start()
        theirs.close()  # so that the end of the process ends a wait for it
        self._engine = engine
        self._answer()

    def step(self) -> None:
        """One outer step, done on the device when this returns. Raises UserError if the engine failed."""
        self._connection.send("step")
        self._answer()

    def _answer(self) -> None:
        try:
            self._connection.recv()
        except EOFError:
            raise UserError(f"{self._engine.title}: failed in its process, as it says above") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        self._process.join()


def _serve(connection: Connection, engine: type[Engine], workload: Workload, device: torch.device) -> None:
    meta_learner, batch = from_registry(MAML, workload, device=device), made_episodes(workload, device=device)
    given = batch if issubclass(engine, Ours) else apart(batch)
    made = engine(meta_learner.learner, inner_lr=meta_learner.inner_loop.inner_lr, inner_steps=workload.inner_steps)
    synchronise = synchroniser(device)
    connection.send("ready")
    while True:
        try:
            connection.recv()
        except EOFError:
            return
        made.step(given)
        synchronise()
        connection.send("done")
