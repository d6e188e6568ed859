"""Who shares a training's steps. Here: one process alone, which shares with nobody. Torch-free."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, TypeVar

from norml_cli.files.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


class LostRank(Exception):  # noqa: N818 - as Stopped: what happened
    """Another rank has ended, so this one cannot go on."""


class Ranks:
    """One process alone. Of several ranks each is a `JoinedRanks`; the methods say what all of them do together.

    All ranks call the same methods in the same order. rank: in 0..size - 1. local_size: ranks on this machine.
    """

    rank, size, local_size = 0, 1, 1

    @property
    def is_first(self) -> bool:
        """Whether this rank is the one that reads and writes the files of a training."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """The device of this rank where --device names `name`. Raises UserError if it has none."""
        return name

    def share(self, count: int) -> slice:
        """This rank's part of `count` things. Parts differ by one thing at most."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def require_share(self, count: int, what: str) -> None:
        """Raises UserError if a rank would get none of `count` things; `what`: where they are declared."""
        if count < self.size:
            raise UserError(f"{what} {count}: leaves none for some of {self.size} devices; use at most {count}")

    def means(self, tensors: Sequence["Tensor"], _weight: float) -> list["Tensor"]:
        """The mean of each tensor over ranks, each with its weight; the weights of all ranks add up to one."""
        return list(tensors)

    def sum(self, tensor: "Tensor") -> "Tensor":
        """The sum of a tensor over ranks."""
        return tensor

    def copy_first(self, _tensors: Iterable["Tensor"]) -> None:
        """Overwrite the tensors of every rank with those of the first."""

    def any(self, flag: bool) -> bool:  # noqa: FBT001 - the one thing that it is asked
        """Whether `flag` holds on any rank."""
        return flag

    def of_first(self, call: Callable[[], T]) -> T:
        """What `call` returns on the first rank, which alone calls it. Its UserError is raised on every rank."""
        return call()

    @contextmanager
    def first_within(self, context: AbstractContextManager[object]) -> Iterator[None]:
        """Within it the first rank is within `context`. A UserError on entering it is raised on every rank."""
        with ExitStack() as stack:
            self.of_first(lambda: _entered(stack, context))
            yield


def _entered(stack: ExitStack, context: AbstractContextManager[object]) -> None:
    stack.enter_context(context)
