"""Sizes of a convolution's maps. Torch-free, so that declarations can be checked before a run."""

from typing import Literal

Padding = Literal["same", "none"]


def windows_in_a_row(side: int, *, kernel: int, stride: int, padding: Padding) -> int:
    """Number of windows in a row of `side` values: ceil(side / stride) with 'same' padding; 0 if none fits."""
    reach = side if padding == "same" else max(0, side - kernel + 1)
    return -(-reach // stride)


def map_sides(
    image_size: int, n_layers: int, *, kernel: int, stride: int, padding: Padding, max_pool: bool
) -> list[int]:
    """Sides of the maps after each of `n_layers` convolutions; 0 once nothing is left."""
    sides, side = [], image_size
    for _ in range(n_layers):
        side = windows_in_a_row(side, kernel=kernel, stride=stride, padding=padding) // (2 if max_pool else 1)
        sides.append(side)
    return sides
