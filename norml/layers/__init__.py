"""The layers of a learner: their shapes, windows and pools."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import Tensor

from norml.layers.convolution import Flatten, MaxPool, MeanPool, Pool, Window
from norml.map_sizes import Padding


@dataclass(frozen=True)
class LayerShape:
    """One linear layer. Its nodes are neurons or the channels of a convolution (the paper's "node").

    window: of a convolution; None if fully connected. pools: after a hidden layer's ReLU. tied: all output nodes start
    at zero and share the rule's parameters, so there may be any number of them.
    """

    nodes_in: int
    nodes_out: int
    window: Window | None = None
    pools: tuple[Pool, ...] = ()
    tied: bool = False

    @property
    def learned_out(self) -> int:
        """Number of output nodes with their own parameters: all, or 1 if tied."""
        return 1 if self.tied else self.nodes_out

    @property
    def weight_shape(self) -> tuple[int, int]:
        """[O, I]; for a convolution, I is the size of a patch."""
        return self.nodes_out, self.nodes_in if self.window is None else self.window.patch_size

    @property
    def positions(self) -> int:
        """P: rows per example at this layer's output, before pools; 1 if fully connected."""
        return 1 if self.window is None else self.window.positions

    @property
    def signal_values(self) -> int:
        """Number of values of both signals, h and delta, of one example."""
        places = 1 if self.window is None else self.window.side**2
        return places * self.nodes_in + self.positions * self.nodes_out

    @property
    def multiplications(self) -> int:
        """Number of multiplications of one example's forward pass."""
        n_out, n_in = self.weight_shape
        return self.positions * n_out * n_in

    def patches(self, h: Tensor) -> Tensor:
        """The rows [E, B * P, I] that the weights multiply: a convolution's patches, or the inputs themselves."""
        return h if self.window is None else self.window.patches(h)

    def maps(self, patches: Tensor) -> Tensor:
        """The adjoint of `patches`."""
        return patches if self.window is None else self.window.maps(patches)

    def signal(self, rows: Tensor, n_examples: int) -> Tensor:
        """Rows in the shape that update rules see: [E, S, nodes], or [E, S, P, nodes] for a convolution."""
        return rows if self.window is None else rows.reshape(rows.shape[0], n_examples, -1, rows.shape[2])

    def rows(self, signal: Tensor) -> Tensor:
        """The inverse of `signal`."""
        return signal if self.window is None else signal.flatten(1, 2)


@dataclass(frozen=True)
class Convolutions:
    """Convolutions as hidden layers of a learner, for square images [image_size, image_size, in_channels].

    max_pool: 2 x 2 max pooling after each layer. end: the input of the last, fully connected layer: 'mean', each
    channel's mean over positions, or 'flatten', all values.
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
    """Fully connected layers with these sizes: D, the hidden widths, N."""
    return [LayerShape(n_in, n_out) for n_in, n_out in pairwise(sizes)]


def convolutional(of: Convolutions, channels: Sequence[int], n_way: int) -> list[LayerShape]:
    """Convolutions to `channels`, then a fully connected layer to N. Raises ValueError if images are too small."""
    if not channels:
        raise ValueError("channels is empty; name the channels of each convolution, or leave convolutions out")
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
