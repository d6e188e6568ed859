"""Something to be timed on several ranks, each a process of its own, as `norml run --devices` starts them."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist

from norml_cli.files.errors import UserError
from norml_cli.training.ranks.joining import JoinedRanks
from norml_cli.training.ranks.sharing import Ranks
from tests.benchmarks.measure import Call

MakeOfRank = Callable[..., Call]  # (ranks, *arguments) -> what each rank calls


class OwnRanks:
    """Calls of what `make(ranks, *arguments)` returns on each of `size` ranks with `threads` threads each."""

    def __init__(self, title: str, size: int, threads: int, make: MakeOfRank, *arguments: Any) -> None:
        """`make` is a function of a module, so that the processes find it. Raises UserError if one fails."""
        context, port = multiprocessing.get_context("spawn"), _free_port()
        self._title, self._connections, self._processes = title, [], []
        for rank in range(size):
            connection, theirs = context.Pipe()
            place = (rank, size, port, threads)
            process = context.Process(target=_serve, args=(theirs, place, make, arguments), daemon=True)
            process.start()
            theirs.close()  # so that the end of the process ends a wait for it
            self._connections.append(connection)
            self._processes.append(process)
        self._answers()

    def __call__(self) -> None:
        """One call on every rank, done when this returns. Raises UserError if one failed."""
        for connection in self._connections:
            connection.send("call")
        self._answers()

    def _answers(self) -> None:
        try:
            for connection in self._connections:
                connection.recv()
        except EOFError:
            raise UserError(f"{self._title}: a rank failed, as it says above") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.join()


def _serve(
    connection: Connection, place: tuple[int, int, int, int], make: MakeOfRank, arguments: tuple[Any, ...]
) -> None:
    rank, size, port, threads = place
    torch.set_num_threads(threads)
    call = make(_joined(rank, size, port) if size > 1 else Ranks(), *arguments)
    connection.send("ready")
    with suppress(EOFError):  # nobody calls any more
        while True:
            connection.recv()
            call()
            connection.send("done")
    if size > 1:
        dist.destroy_process_group()


def _joined(rank: int, size: int, port: int) -> Ranks:
    """As torchrun's environment has it."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "localhost"}
    ranks = JoinedRanks()
    ranks.join("cpu")
    return ranks


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])
