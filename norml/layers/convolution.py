"""Windows and pools of a convolutional learner, each with its adjoint.

A convolution is a linear layer on patches. Maps are stored as rows [E, B * P, C]: one row for each episode, example and
position, with its C channels. So batch norm over rows is batch norm over examples and positions, and a step is a sum of
outer products over both. `Window` cuts patches out of maps. A `Pool` is linear once a forward pass has chosen the
maxima. All these operations are linear, so each is its own derivative; second order needs each and its adjoint again.
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

Choice = Tensor | None  # indices of the values that a forward pass took; None: all


@dataclass(frozen=True)
class Window:
    """The k x k windows of a convolution over square maps [side, side, channels].

    padding: 'same' adds zeros around the maps so that ceil(side / stride) windows fit in a row; of an odd number of
    zeros, one more is at the end, as in TensorFlow. 'none' keeps windows within the maps.
    """

    side: int
    channels: int
    kernel: int
    stride: int
    padding: Padding

    @property
    def side_out(self) -> int:
        """Number of windows in a row."""
        return windows_in_a_row(self.side, kernel=self.kernel, stride=self.stride, padding=self.padding)

    @property
    def positions(self) -> int:
        """P: positions of the convolution's output."""
        return self.side_out**2

    @property
    def patch_size(self) -> int:
        """Number of values of a patch, which are ordered by row, column and channel."""
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
        """The adjoint of `patches`: adds every value to the place that it was cut from.

        Splits windows into tiles of stride x stride values. The same tile of all windows does not overlap, so it is
        added in one operation.
        """
        n = self.side_out
        windows = patches.reshape(-1, n, n, self.kernel, self.kernel, self.channels)
        images = self._placed(windows, 0, 0)
        for y, x in list(product(range(self._tiles), repeat=2))[1:]:
            if torch.compiler.is_compiling():  # torch.compile fuses sums, but not writes
                images = images + self._placed(windows, y, x)
            else:
                tile = self._tile(windows, y, x)
                images[:, y : y + n, : tile.shape[2], x : x + n, : tile.shape[4]] += tile
        return self._cut(images).reshape(patches.shape[0], -1, self.channels)

    @property
    def _tiles(self) -> int:
        """Number of tiles of a window in a row; the last is narrower if the stride does not divide the kernel."""
        return -(-self.kernel // self.stride)

    def _tile(self, windows: Tensor, y: int, x: int) -> Tensor:
        """One tile of all windows: [E * B, P, P, k, k, C] -> [E * B, rows, tile's rows, columns, tile's columns, C]."""
        first_row, first_column, stride = y * self.stride, x * self.stride, self.stride
        tile = windows[:, :, :, first_row : first_row + stride, first_column : first_column + stride]
        return tile.transpose(2, 3)

    def _placed(self, windows: Tensor, y: int, x: int) -> Tensor:
        """One tile of all windows, padded with zeros: [E * B, P + tiles - 1, stride, P + tiles - 1, stride, C]."""
        tile = self._tile(windows, y, x)
        of_columns = (0, 0, 0, self.stride - tile.shape[4], x, self._tiles - 1 - x)
        of_rows = (0, self.stride - tile.shape[2], y, self._tiles - 1 - y)
        return functional.pad(tile, (*of_columns, *of_rows))

    def _cut(self, images: Tensor) -> Tensor:
        """Images in tiles -> maps, without the padding; pixels that no window covers are zero."""
        before, _ = self._zeros()
        side = images.shape[1] * self.stride
        whole = images.reshape(-1, side, side, self.channels)
        missing = max(0, before + self.side - side)
        if missing:
            whole = functional.pad(whole, (0, 0, 0, missing, 0, missing))
        return whole[:, before : before + self.side, before : before + self.side]

    def _zeros(self) -> tuple[int, int]:
        """Numbers of zeros before and after a row of a map."""
        if self.padding == "none":
            return 0, 0
        missing = max(0, self.stride * (self.side_out - 1) + self.kernel - self.side)
        return missing // 2, missing - missing // 2


class Pool(ABC):
    """Pooling after a hidden layer's ReLU."""

    @abstractmethod
    def forward(self, maps: Tensor) -> tuple[Tensor, Choice]:
        """Pool [E, B * P, C]; also returns which values were taken."""

    @abstractmethod
    def taken(self, maps: Tensor, choice: Choice) -> Tensor:
        """Take the values at the same places of other maps; linear."""

    @abstractmethod
    def spread(self, pooled: Tensor, choice: Choice) -> Tensor:
        """The adjoint of `taken`: put values back to their places, [E, B * P, C]."""


@dataclass(frozen=True)
class MaxPool(Pool):
    """The maximum of each 2 x 2 square of maps [side, side, C]; an odd last row and column are dropped."""

    side: int

    @property
    def side_out(self) -> int:
        """Number of squares in a row."""
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
    """Joins all values of an example in one row: [E, B * P, C] -> [E, B, P * C]."""

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
    """Apply all of `pools` to maps; also returns the choice of each."""
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
        raise ValueError("the choice of the forward pass is missing")
    return choice
