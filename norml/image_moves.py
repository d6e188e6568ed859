"""Random small shifts and rotations of images, for training. Pure torch; all draws use a given generator."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from norml.arguments import check_tensor


def moved_at_random(
    x: Tensor, *, in_colour: bool, max_shift_px: float, max_tilt_degrees: float, generator: torch.Generator
) -> Tensor:
    """Shift and rotate every image of x [..., D] by its own random amounts, uniform up to the given limits.

    The draws happen on the generator's device. Raises ValueError as `moved`.
    """
    images = x.flatten(0, -2)
    draws = torch.rand(len(images), 3, generator=generator, device=generator.device).to(x) * 2 - 1
    shifts, tilts = draws[:, :2] * max_shift_px, draws[:, 2] * math.radians(max_tilt_degrees)
    return moved(images, shifts, tilts, in_colour=in_colour).view(x.shape)


def moved(images: Tensor, shifts_px: Tensor, tilts: Tensor, *, in_colour: bool) -> Tensor:
    """Rotate square images [n, D] about their centres, then shift them, with linear interpolation and zeros outside.

    D: pixels row by row, with three values each in colour. shifts_px [n, 2]: right and down, in pixels. tilts [n]:
    counter-clockwise, in radians.
    Raises TypeError or ValueError if `images` is not a tensor of square images.
    """
    check_tensor("images", images, "[n, D]")
    colours = 3 if in_colour else 1
    side = math.isqrt(images.shape[1] // colours)
    if colours * side**2 != images.shape[1]:
        raise ValueError(f"images must be square [n, D], {colours} values a pixel, got D = {images.shape[1]}")
    maps = images.view(-1, side, side, colours).movedim(-1, 1)  # [n, colours, side, side]
    grid = functional.affine_grid(_sources(shifts_px * (2 / side), tilts), list(maps.shape), align_corners=False)
    found = functional.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return found.movedim(1, -1).reshape(images.shape)


def _sources(shifts: Tensor, tilts: Tensor) -> Tensor:
    """Affine maps [n, 2, 3] from each output position (right, down) in -1..1 to its source position."""
    cos, sin = tilts.cos(), tilts.sin()
    turn = torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2)  # inverse: clockwise, with down as the second axis
    return torch.cat([turn, -(turn @ shifts.unsqueeze(-1))], dim=2)
