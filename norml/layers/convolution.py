"""What lies between the maps of a convolutional learner and its matrices: windows and pools, each with its adjoint.

A convolution is a linear layer on patches. Maps are kept as rows, E episodes * B examples * P positions: [E, B * P, C],
position after position, with the C channels of one side by side. So batch norm over rows is batch norm over examples
and positions, and a step is a sum of outer products over both. `Window` cuts patches out of maps; what `Pool`s do to
maps is linear, too, once a forward pass has chosen the maxima. The adjoints move what comes from above back to where it
came from, and second order needs both directions again: every map here is its own derivative.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from norml.map_sizes import Padding, windows_in_a_row

Choice = Tensor | None  # which values a forward pass took; None: all


@dataclass(frozen=True)
class Window:
    """The k x k windows of a convolution over square maps [side, side, channels].

    padding 'same': zeros around the maps, so that ceil(side / stride) windows fit in a row; of an odd number of zeros
    one more lies at the end, as in TensorFlow. 'none': windows within the maps.
    """

    side: int
    channels: int
    kernel: int
    stride: int
    padding: Padding

    @property
    def side_out(self) -> int:
        """Windows in a row."""
        return windows_in_a_row(self.side, kernel=self.kernel, stride=self.stride, padding=self.padding)

    @property
    def positions(self) -> int:
        """P of what the convolution gives."""
        return self.side_out**2

    @property
    def patch_size(self) -> int:
        """Values of a patch: rows of the window, then columns, then channels."""
        return self.kernel**2 * self.channels

    def patches(self, maps: Tensor) -> Tensor:
        """[E, B * P_in, C] -> [E, B * P_out, k * k * C]."""
        before, after = self._zeros()
        images = maps.reshape(-1, self.side, self.side, self.channels)
        if before or after:
            images = functional.pad(images, (0, 0, before, after, before, after))
        windows = images.unfold(1, self.kernel, self.stride).unfold(2, self.kernel, self.stride)
        return windows.permute(0, 1, 2, 4, 5, 3).reshape(maps.shape[0], -1, self.patch_size)

    def maps(self, patches: Tensor) -> Tensor:
        """The adjoint of `patches`: every value is added to where it was cut out.

        Windows are taken apart into tiles of stride x stride values. What all windows have in the same tile does not
        overlap, and is added at once.
        """
        n = self.side_out
        windows = patches.reshape(-1, n, n, self.kernel, self.kernel, self.channels)
        images = self._placed(windows, 0, 0)
        for y, x in list(product(range(self._tiles), repeat=2))[1:]:
            if torch.compiler.is_compiling():  # it makes one loop of a sum, but not of writes
                images = images + self._placed(windows, y, x)
            else:
                tile = self._tile(windows, y, x)
                images[:, y : y + n, : tile.shape[2], x : x + n, : tile.shape[4]] += tile
        return self._cut(images).reshape(patches.shape[0], -1, self.channels)

    @property
    def _tiles(self) -> int:
        """Tiles of a window in a row; the last is narrower where the stride does not divide the kernel."""
        return -(-self.kernel // self.stride)

    def _tile(self, windows: Tensor, y: int, x: int) -> Tensor:
        """A tile of all windows [E * B, P, P, k, k, C] -> [E * B, rows, tile's rows, columns, tile's columns, C]."""
        first_row, first_column, stride = y * self.stride, x * self.stride, self.stride
        tile = windows[:, :, :, first_row : first_row + stride, first_column : first_column + stride]
        return tile.transpose(2, 3)

    def _placed(self, windows: Tensor, y: int, x: int) -> Tensor:
        """A tile amid zeros: [E * B, P + tiles - 1, stride, P + tiles - 1, stride, C]."""
        tile = self._tile(windows, y, x)
        of_columns = (0, 0, 0, self.stride - tile.shape[4], x, self._tiles - 1 - x)
        of_rows = (0, self.stride - tile.shape[2], y, self._tiles - 1 - y)
        return functional.pad(tile, (*of_columns, *of_rows))

    def _cut(self, images: Tensor) -> Tensor:
        """Images in tiles -> maps, without what was padding; pixels that no window reaches are zero."""
        before, _ = self._zeros()
        side = images.shape[1] * self.stride
        whole = images.reshape(-1, side, side, self.channels)
        missing = max(0, before + self.side - side)
        if missing:
            whole = functional.pad(whole, (0, 0, 0, missing, 0, missing))
        return whole[:, before : before + self.side, before : before + self.side]

    def _zeros(self) -> tuple[int, int]:
        """Zeros before a row of a map and after it."""
        if self.padding == "none":
            return 0, 0
        missing = max(0, self.stride * (self.side_out - 1) + self.kernel - self.side)
        return missing // 2, missing - missing // 2


class Pool(ABC):
    """What follows a hidden layer's ReLU."""

    @abstractmethod
    def forward(self, maps: Tensor) -> tuple[Tensor, Choice]:
        """[E, B * P, C] -> what goes on, and which values were taken for it."""

    @abstractmethod
    def taken(self, maps: Tensor, choice: Choice) -> Tensor:
        """The same values taken of other maps: linear."""

    @abstractmethod
    def spread(self, pooled: Tensor, choice: Choice) -> Tensor:
        """The adjoint of `taken`: values back to the places they were taken from, [E, B * P, C]."""


@dataclass(frozen=True)
class MaxPool(Pool):
    """The maximum of each 2 x 2 square of maps [side, side, C]; an odd last row and column are dropped."""

    side: int

    @property
    def side_out(self) -> int:
        """Squares in a row."""
        return self.side // 2

    @override
    def forward(self, maps: Tensor) -> tuple[Tensor, Choice]:
        largest, choice = self._quarters(maps).max(dim=0)
        return largest, choice

    @override
    def taken(self, maps: Tensor, choice: Choice) -> Tensor:
        return self._quarters(maps).gather(0, _chosen(choice).unsqueeze(0)).squeeze(0)

    @override
    def spread(self, pooled: Tensor, choice: Choice) -> Tensor:
        n_episodes, n_rows, n_channels = pooled.shape
        images = pooled.new_zeros(n_episodes, n_rows // self.side_out**2, self.side, self.side, n_channels)
        for quarter, corner in enumerate(self._corners(images)):
            corner.copy_(torch.where(_chosen(choice) == quarter, pooled, 0).view(corner.shape))
        return images.flatten(1, 3)

    def _quarters(self, maps: Tensor) -> Tensor:
        """The four corners of all squares: [4, E, B * P_out, C]."""
        images = maps.reshape(maps.shape[0], -1, self.side, self.side, maps.shape[2])
        return torch.stack([corner.flatten(1, 3) for corner in self._corners(images)])

    def _corners(self, images: Tensor) -> list[Tensor]:
        end = 2 * self.side_out
        return [images[:, :, y:end:2, x:end:2] for y, x in product(range(2), repeat=2)]


@dataclass(frozen=True)
class MeanPool(Pool):
    """The mean of each channel over its positions: [E, B * P, C] -> [E, B, C]."""

    positions: int

    @override
    def forward(self, maps: Tensor) -> tuple[Tensor, Choice]:
        return self.taken(maps, None), None

    @override
    def taken(self, maps: Tensor, choice: Choice) -> Tensor:
        return maps.reshape(maps.shape[0], -1, self.positions, maps.shape[2]).mean(dim=2)

    @override
    def spread(self, pooled: Tensor, choice: Choice) -> Tensor:
        return (pooled / self.positions).repeat_interleave(self.positions, dim=1)


@dataclass(frozen=True)
class Flatten(Pool):
    """All values of an example in one row: [E, B * P, C] -> [E, B, P * C]."""

    positions: int

    @override
    def forward(self, maps: Tensor) -> tuple[Tensor, Choice]:
        return self.taken(maps, None), None

    @override
    def taken(self, maps: Tensor, choice: Choice) -> Tensor:
        return maps.reshape(maps.shape[0], -1, self.positions * maps.shape[2])

    @override
    def spread(self, pooled: Tensor, choice: Choice) -> Tensor:
        return pooled.reshape(pooled.shape[0], -1, pooled.shape[2] // self.positions)


def pooled(pools: Sequence[Pool], maps: Tensor) -> tuple[Tensor, list[Choice]]:
    """Maps through all of `pools`, and what each chose."""
    choices = []
    for pool in pools:
        maps, choice = pool.forward(maps)
        choices.append(choice)
    return maps, choices


def taken(pools: Sequence[Pool], maps: Tensor, choices: Sequence[Choice]) -> Tensor:
    """`Pool.taken` of all of `pools`."""
    for pool, choice in zip(pools, choices, strict=True):
        maps = pool.taken(maps, choice)
    return maps


def spread(pools: Sequence[Pool], above: Tensor, choices: Sequence[Choice]) -> Tensor:
    """`Pool.spread` of all of `pools`, the last one first."""
    for pool, choice in reversed(list(zip(pools, choices, strict=True))):
        above = pool.spread(above, choice)
    return above


def _chosen(choice: Choice) -> Tensor:
    if choice is None:
        raise ValueError("a maximum is taken back to where the forward pass chose it; it left no choice")
    return choice
