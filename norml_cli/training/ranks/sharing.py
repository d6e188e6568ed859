"""How ranks share a training's steps. The class here is for a single process. Torch-free."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, TypeVar

from norml_cli.files.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


class LostRank(Exception):  # noqa: N818 - as Stopped: what happened
    """Another rank has ended, so this rank cannot continue."""


class Ranks:
    """A single process. With several ranks, each has a `JoinedRanks`.

    All ranks must call the same methods in the same order. rank: in 0..size - 1. local_size: ranks on this machine.
    """

    rank, size, local_size = 0, 1, 1

    @property
    def is_first(self) -> bool:
        """Whether this rank reads and writes the training's files."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """This rank's device for --device `name`. Raises UserError if there is none."""
        return name

    def share(self, count: int) -> slice:
        """This rank's part of `count` items. Parts differ by at most one item."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def require_share(self, count: int, what: str) -> None:
        """Raises UserError if some rank would get none of `count` items. what: the option or key that sets `count`."""
        if count < self.size:
            raise UserError(f"{what} {count}: is less than the {self.size} devices; use at most {count} devices")

    def means(self, tensors: Sequence["Tensor"], _weight: float) -> list["Tensor"]:
        """The weighted mean of each tensor over ranks; the weights of all ranks add up to one."""
        return list(tensors)

    def sum(self, tensor: "Tensor") -> "Tensor":
        """The sum of a tensor over ranks."""
        return tensor

    def copy_first(self, _tensors: Iterable["Tensor"]) -> None:
        """Overwrite the tensors of every rank with those of the first."""

    def any(self, flag: bool) -> bool:  # noqa: FBT001 - its only argument
        """Whether `flag` is true on any rank."""
        return flag

    def of_first(self, call: Callable[[], T]) -> T:
        """Call `call` on the first rank only; return its value, or raise its UserError, on every rank."""
        return call()

    @contextmanager
    def first_within(self, context: AbstractContextManager[object]) -> Iterator[None]:
        """Enter `context` on the first rank only; raise a UserError from entering it on every rank."""
        with ExitStack() as stack:
            self.of_first(lambda: _entered(stack, context))
            yield


def _entered(stack: ExitStack, context: AbstractContextManager[object]) -> None:
    stack.enter_context(context)
