"""What becomes of an image on its way into a network."""

import numpy as np
import pytest
import torch

from norml_cli.data.image_batches import ImageBatches, resident
from norml_cli.registry.entries import RecipeEntry
from norml_cli.registry.protocol import Recipe
from tests.helpers import photos

CPU = torch.device("cpu")


def recipe(**changes: object) -> Recipe:
    return RecipeEntry.model_validate(photos.recipe_values(**changes)).values


def images(size_px: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 3, size_px, size_px, 3), dtype=np.uint8)


def test_images_of_the_input_size_stay_the_bytes_they_are():
    stored = images()
    found = resident(stored, 16, CPU)
    assert (found.shape, found.dtype) == ((6, 16, 16, 3), torch.uint8)
    assert (found.numpy() == stored.reshape(6, 16, 16, 3)).all()
    assert np.shares_memory(found.numpy(), stored)


def test_larger_images_are_averaged_over_the_area_of_each_pixel():
    stored = images(32)
    expected = stored.reshape(6, 16, 2, 16, 2, 3).astype(np.float64).mean(axis=(2, 4))
    assert np.abs(resident(stored, 16, CPU).numpy() - expected).max() <= 0.5


def test_plain_inputs_are_normalised_by_colour_and_channels_last():
    values = recipe(pixel_mean=[0.5, 0.25, 0.0], pixel_std=[0.5, 0.25, 1.0])
    stored = resident(images(), 16, CPU)
    found = ImageBatches(values, CPU).plain(stored, torch.tensor([4, 1]))
    expected = (stored[[4, 1]].double() / 255 - torch.tensor([0.5, 0.25, 0.0])) / torch.tensor([0.5, 0.25, 1.0])
    torch.testing.assert_close(found.double(), expected.permute(0, 3, 1, 2), rtol=0, atol=1e-6)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_equal_seeds_augment_alike_and_leave_torchs_generator_alone():
    batches, stored, rows = ImageBatches(recipe(), CPU), resident(images(), 16, CPU), torch.arange(6)
    before = torch.get_rng_state()
    first, again, other = (batches.augmented(stored, rows, seed) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.is_contiguous(memory_format=torch.channels_last)


def test_images_of_one_draw_are_augmented_alike_and_others_not():
    stored = resident(np.repeat(images()[:, :1], 2, axis=1), 16, CPU)[[0, 0, 0, 0]]
    together = ImageBatches(recipe(images_per_draw=2), CPU).augmented(stored, torch.arange(4), 1)
    assert torch.equal(together[0], together[1])
    assert torch.equal(together[2], together[3])
    assert not torch.equal(together[0], together[2])


def test_a_recipe_without_augmentation_changes_nothing():
    values = recipe(crop_padding_px=0, colour_jitter=0.0, flip=False)
    batches, stored, rows = ImageBatches(values, CPU), resident(images(), 16, CPU), torch.arange(6)
    assert torch.equal(batches.augmented(stored, rows, 3), batches.plain(stored, rows))


def test_crops_shift_and_flips_mirror():
    stored = resident(images(), 16, CPU)
    flipped = ImageBatches(recipe(crop_padding_px=0, colour_jitter=0.0, images_per_draw=1), CPU)
    plain, seen = flipped.plain(stored, torch.tensor([0])), set()
    for seed in range(20):
        found = flipped.augmented(stored, torch.tensor([0]), seed)
        seen.add("same" if torch.equal(found, plain) else "mirrored" if torch.equal(found, plain.flip(3)) else "other")
    assert seen == {"same", "mirrored"}
    cropped = ImageBatches(recipe(crop_padding_px=2, colour_jitter=0.0, flip=False, images_per_draw=1), CPU)
    black = cropped.plain(torch.zeros(1, 16, 16, 3, dtype=torch.uint8), torch.tensor([0]))
    padded = black.repeat(1, 1, 2, 2)[:, :, :20, :20].clone()
    padded[:, :, 2:18, 2:18] = plain
    windows = [padded[:, :, top : top + 16, left : left + 16] for top in range(5) for left in range(5)]
    for seed in range(10):
        found = cropped.augmented(stored, torch.tensor([0]), seed)
        assert sum(torch.equal(found, window) for window in windows) == 1


def test_outputs_are_those_of_one_batch_in_order(monkeypatch):
    monkeypatch.setattr("norml_cli.data.image_batches.EVALUATED_TOGETHER", 4)
    batches, stored, rows = ImageBatches(recipe(), CPU), resident(images(), 16, CPU), torch.tensor([5, 0, 3, 3, 2])
    sizes = []

    def flattened(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return x.flatten(1)

    found = batches.outputs(flattened, stored, rows)
    assert torch.equal(found, batches.plain(stored, rows).flatten(1))
    assert sizes == [4, 1]


@pytest.mark.parametrize("together", [1, 2, 4])
@pytest.mark.parametrize("crop_padding_px", [0, 2])
def test_a_share_of_a_batch_is_drawn_as_within_the_whole(together: int, crop_padding_px: int):
    values = recipe(images_per_draw=together, crop_padding_px=crop_padding_px)
    batches, stored, rows = ImageBatches(values, CPU), resident(images(), 16, CPU), torch.tensor([3, 1, 4, 0, 5])
    whole = batches.augmented(stored, rows, 7)
    for share in (slice(0, 2), slice(2, 3), slice(3, 5)):
        assert torch.equal(batches.augmented(stored, rows, 7, share), whole[share])


def test_a_share_of_images_that_nothing_changes_is_that_of_the_whole():
    values = recipe(crop_padding_px=0, colour_jitter=0, flip=False)
    batches, stored, rows = ImageBatches(values, CPU), resident(images(), 16, CPU), torch.tensor([3, 1, 4])
    assert torch.equal(batches.augmented(stored, rows, 7, slice(1, 3)), batches.plain(stored, rows[1:]))
