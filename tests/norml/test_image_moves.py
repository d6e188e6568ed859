"""Shifts and turns of images: exact cases, and what is drawn."""

import math

import pytest
import torch

from norml.image_moves import moved, moved_at_random

SIDE = 6


@pytest.fixture
def images():
    return torch.rand(3, SIDE * SIDE, generator=torch.Generator().manual_seed(0))


def still(n, *, shift=(0.0, 0.0), degrees=0.0):
    return torch.tensor([shift] * n), torch.full((n,), math.radians(degrees))


def test_no_move_leaves_images_as_they_are(images):
    assert torch.allclose(moved(images, *still(3), in_colour=False), images, atol=1e-6)


@pytest.mark.parametrize(("right", "down"), [(1, 0), (0, 2), (-2, 1), (SIDE, 0)])
def test_whole_pixels_move_right_and_down_and_nothing_comes_in(images, right, down):
    expected = torch.zeros(3, SIDE, SIDE)
    for y in range(SIDE):
        for x in range(SIDE):
            if 0 <= y - down < SIDE and 0 <= x - right < SIDE:
                expected[:, y, x] = images.view(3, SIDE, SIDE)[:, y - down, x - right]
    found = moved(images, *still(3, shift=(right, down)), in_colour=False)
    assert torch.allclose(found.view_as(expected), expected, atol=1e-5)


def test_quarter_turns_are_counter_clockwise_as_those_of_classes_are(images):
    found = moved(images, *still(3, degrees=90), in_colour=False)
    expected = torch.rot90(images.view(3, SIDE, SIDE), 1, dims=(1, 2))
    assert torch.allclose(found.view_as(expected), expected, atol=1e-5)


def test_a_turn_comes_before_the_shift():
    """A point right of the centre turns to above it, then goes right."""
    image = torch.zeros(1, 5, 5)
    image[0, 2, 3] = 1
    found = moved(image.view(1, 25), *still(1, shift=(1, 0), degrees=90), in_colour=False).view(5, 5)
    assert torch.allclose(found[1, 3], torch.tensor(1.0), atol=1e-5)
    assert found.sum().item() == pytest.approx(1, abs=1e-5)


def test_colours_move_together(images):
    in_colour = torch.stack([images, 2 * images, 3 * images], dim=-1).flatten(1)
    moves = still(3, shift=(1, -1), degrees=10)
    found = moved(in_colour, *moves, in_colour=True).view(3, -1, 3)
    alone = moved(images, *moves, in_colour=False)
    for colour in range(3):
        assert torch.allclose(found[..., colour], (colour + 1) * alone, atol=1e-5)


def test_every_image_has_its_own_move_within_the_bounds_from_the_generator_alone():
    """One bright pixel in the middle: its centre of mass tells the shift."""
    x = torch.zeros(40, 25, 21, 21)
    x[:, :, 10, 10] = 1
    torch.manual_seed(1)
    made = [
        moved_at_random(
            x.view(40, 25, -1),
            in_colour=False,
            max_shift_px=3,
            max_tilt_degrees=0,
            generator=torch.Generator().manual_seed(5),
        )
        for _ in range(2)
    ]
    assert torch.equal(*made)
    places = torch.arange(21.0) - 10
    right = (made[0].view(1000, 21, 21).sum(dim=1) * places).sum(dim=1)
    assert right.abs().max() <= 3 + 1e-4
    assert right.unique().numel() > 900
    assert right.mean().abs() < 0.2  # standard error: 3 / sqrt(3) / sqrt(1000) = 0.055
    assert right.std().item() == pytest.approx(3 / math.sqrt(3), abs=0.1)


def test_what_is_no_square_is_refused():
    with pytest.raises(ValueError, match="images must be square"):
        moved(torch.zeros(2, 12), *still(2), in_colour=False)
