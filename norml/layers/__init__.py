"""The layers of a learner: which nodes each joins, through which windows and pools."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import Tensor

from norml.layers.convolution import Flatten, MaxPool, MeanPool, Pool, Window
from norml.map_sizes import Padding


@dataclass(frozen=True)
class LayerShape:
    """One linear layer. Its nodes are neurons, or the channels of a convolution (the paper's "node").

    window: of a convolution; None: fully connected. pools: what follows a hidden layer's ReLU. tied: its output nodes
    start alike, at zero, and what a rule learns of one it learns of all, so that there may be any number of them.
    """

    nodes_in: int
    nodes_out: int
    window: Window | None = None
    pools: tuple[Pool, ...] = ()
    tied: bool = False

    @property
    def learned_out(self) -> int:
        """Of how many output nodes something is learned: all, or one for all where they are tied."""
        return 1 if self.tied else self.nodes_out

    @property
    def weight_shape(self) -> tuple[int, int]:
        """[O, I]; of a convolution I is the size of a patch."""
        return self.nodes_out, self.nodes_in if self.window is None else self.window.patch_size

    @property
    def positions(self) -> int:
        """P: rows that an example has at this layer's output, before pools; 1 if fully connected."""
        return 1 if self.window is None else self.window.positions

    @property
    def signal_values(self) -> int:
        """Of one example, both signals' values: of h and of delta."""
        places = 1 if self.window is None else self.window.side**2
        return places * self.nodes_in + self.positions * self.nodes_out

    @property
    def multiplications(self) -> int:
        """Of one example's forward pass."""
        n_out, n_in = self.weight_shape
        return self.positions * n_out * n_in

    def patches(self, h: Tensor) -> Tensor:
        """What meets the weights, [E, B * P, I], of the layer's inputs; fully connected: the inputs themselves."""
        return h if self.window is None else self.window.patches(h)

    def maps(self, patches: Tensor) -> Tensor:
        """The adjoint of `patches`."""
        return patches if self.window is None else self.window.maps(patches)

    def signal(self, rows: Tensor, n_examples: int) -> Tensor:
        """Rows as update rules see them: [E, S, nodes], of a convolution [E, S, P, nodes]."""
        return rows if self.window is None else rows.reshape(rows.shape[0], n_examples, -1, rows.shape[2])

    def rows(self, signal: Tensor) -> Tensor:
        """The inverse of `signal`."""
        return signal if self.window is None else signal.flatten(1, 2)


@dataclass(frozen=True)
class Convolutions:
    """How the hidden layers of a learner are convolutions of square images [image_size, image_size, in_channels].

    max_pool: the largest of each 2 x 2 square follows each layer. end: what the last layer's maps become for the
    fully connected layer to the classes, each channel's mean over positions, or all of their values.
    """

    image_size: int
    in_channels: int = 1
    kernel: int = 3
    stride: int = 2
    padding: Padding = "same"
    max_pool: bool = False
    end: Literal["mean", "flatten"] = "mean"

    @property
    def n_features(self) -> int:
        """D: values of an image."""
        return self.image_size**2 * self.in_channels


def fully_connected(sizes: Sequence[int]) -> list[LayerShape]:
    """The layers between D, hidden widths and N."""
    return [LayerShape(n_in, n_out) for n_in, n_out in pairwise(sizes)]


def convolutional(of: Convolutions, channels: Sequence[int], n_way: int) -> list[LayerShape]:
    """Convolutions to each of `channels`, then a fully connected layer to N. Raises ValueError if nothing is left of
    the images.
    """
    if not channels:
        raise ValueError("no layer is a convolution; name channels, or leave convolutions out")
    side, n_in, layers = of.image_size, of.in_channels, []
    for number, n_out in enumerate(channels, start=1):
        window = Window(side, n_in, of.kernel, of.stride, of.padding)
        pools: list[Pool] = [MaxPool(window.side_out)] if of.max_pool else []
        left = window.side_out // 2 if of.max_pool else window.side_out
        if left < 1:
            raise ValueError(f"of {of.image_size} x {of.image_size} px nothing is left after layer {number}")
        if number == len(channels):
            pools.append(MeanPool(left**2) if of.end == "mean" else Flatten(left**2))
        layers.append(LayerShape(n_in, n_out, window, tuple(pools)))
        side, n_in = left, n_out
    return [*layers, LayerShape(n_in if of.end == "mean" else side**2 * n_in, n_way)]
