"""Communication between the ranks that torchrun started: gloo between CPUs, NCCL between GPUs."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from typing_extensions import override

from norml_cli.files.errors import UserError
from norml_cli.training.launch import device_of
from norml_cli.training.ranks.sharing import LostRank, Ranks

T = TypeVar("T")
LONGEST_WAIT = timedelta(minutes=30)  # chosen: enough for one rank to compile or prepare data while others wait
CPU = torch.device("cpu")


class JoinedRanks(Ranks):
    """One of several ranks; its number comes from torchrun's environment variables."""

    def __init__(self) -> None:
        self.local_rank, self.local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
        store, self.rank, self.size = next(rendezvous("env://", timeout=LONGEST_WAIT))
        self._store = store_of_this_start(store, self.rank, self.size)
        self._own = CPU

    def join(self, device: str) -> None:
        """Connect to the other ranks. device: as in --device. Raises UserError for a missing device."""
        self._own = self._device_of(device)
        on_gpu = self._own.type == "cuda"
        if on_gpu:
            torch.cuda.set_device(self._own)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            store=self._store,
            rank=self.rank,
            world_size=self.size,
            timeout=LONGEST_WAIT,
        )

    def _device_of(self, name: str) -> torch.device:
        device = device_of(name)
        if device.type == "cpu":
            return device
        if device.index is not None:
            raise UserError(f"--device {name}: is one device for {self.size} ranks; use --device cuda")
        if self.local_size > torch.cuda.device_count():
            raise UserError(f"torchrun started {self.local_size} ranks for {torch.cuda.device_count()} CUDA devices")
        return torch.device("cuda", self.local_rank)

    def is_first_to_fail(self) -> bool:
        """Whether this rank is the first to call this method."""
        return bool(self._store.add("failed", 1) == 1)

    @override
    def device(self, name: str) -> str:
        return str(self._own)

    @override
    def means(self, tensors: Sequence[Tensor], weight: float) -> list[Tensor]:
        flat = torch.cat([tensor.flatten() for tensor in tensors]).mul_(weight)
        parts = torch.split(self.sum(flat), [tensor.numel() for tensor in tensors])
        return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]

    @override
    def sum(self, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        with _others_there():
            dist.all_reduce(total)
        return total

    @override
    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        with _others_there():
            for tensor in tensors:
                sent = tensor.contiguous()
                dist.broadcast(sent, src=0)
                tensor.copy_(sent)

    @override
    def any(self, flag: bool) -> bool:
        return bool(self.sum(torch.tensor(int(flag))) > 0)

    @override
    def of_first(self, call: Callable[[], T]) -> T:
        answer: list[Any] = [_answer(call) if self.is_first else None]
        with _others_there():
            dist.broadcast_object_list(answer, src=0, device=CPU)
        [(value, fault)] = answer
        if fault is not None:
            raise fault
        return value  # type: ignore[no-any-return]  # what the first rank's call returned


def store_of_this_start(store: Store, rank: int, size: int) -> Store:
    """The part of a store that no earlier start of the same ranks has written to.

    torchrun can start ranks again on their old store, as that of torch 2.14 does. A dead rank's address is then still
    there, and would be used. So rank 0 chooses a new prefix for all keys. The other ranks confirm it, each under a name
    that is new too; a dead rank confirms nothing. Waits until every rank is there. Source: this project.
    """
    own = uuid4().hex
    store.set(f"start/{rank}", own)
    if rank != 0:
        prefix = store.get(f"prefix/{own}").decode()
        store.set(f"heard/{own}/{prefix}", "")
        return PrefixStore(prefix, store)
    missing = set(range(1, size))
    while missing:
        for other in sorted(missing):
            theirs = store.get(f"start/{other}").decode()
            store.set(f"prefix/{theirs}", own)
            if store.check([f"heard/{theirs}/{own}"]):
                missing.remove(other)
        time.sleep(0.01)
    return PrefixStore(own, store)


def _answer(call: Callable[[], T]) -> tuple[T | None, UserError | None]:
    try:
        return call(), None
    except UserError as error:
        return None, error


@contextmanager
def _others_there() -> Iterator[None]:
    """Raise LostRank if another rank does not answer."""
    try:
        yield
    except RuntimeError as error:
        raise LostRank(str(error)) from error


@contextmanager
def joined_by(device: str) -> Iterator[Ranks]:
    """Join the other ranks. Only the first rank prints; if several ranks fail, only one prints its error.

    The other ranks end here, without Python's own shutdown. With torch 2.14 that sometimes aborts ("terminate called
    without an active exception"), although the rank has nothing left to do.
    """
    ranks, code = JoinedRanks(), 0
    try:
        with _joined(ranks, device):
            yield ranks
    except SystemExit as left:
        if ranks.is_first:
            raise
        code = int(left.code or 0)
    if not ranks.is_first:
        os._exit(code)


@contextmanager
def _joined(ranks: JoinedRanks, device: str) -> Iterator[None]:
    try:
        ranks.join(device)
        with _silent_unless(ranks.is_first):
            yield
    except LostRank:
        raise SystemExit(1) from None  # the rank that ended first has printed why
    except UserError:
        if not ranks.is_first_to_fail():
            raise SystemExit(2) from None
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


@contextmanager
def _silent_unless(heard: bool) -> Iterator[None]:  # noqa: FBT001 - its only argument
    if heard:
        yield
        return
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield
