"""How large the maps of convolutions are. Without torch, so that declarations can be checked before anything runs."""

from typing import Literal

Padding = Literal["same", "none"]


def windows_in_a_row(side: int, *, kernel: int, stride: int, padding: Padding) -> int:
    """Positions of a window in a row of `side` values; with 'same' padding ceil(side / stride). 0: it does not fit."""
    reach = side if padding == "same" else max(0, side - kernel + 1)
    return -(-reach // stride)


def map_sides(
    image_size: int, n_layers: int, *, kernel: int, stride: int, padding: Padding, max_pool: bool
) -> list[int]:
    """The sides of the maps after each of `n_layers` convolutions; 0 from where nothing is left."""
    sides, side = [], image_size
    for _ in range(n_layers):
        side = windows_in_a_row(side, kernel=kernel, stride=stride, padding=padding) // (2 if max_pool else 1)
        sides.append(side)
    return sides
