"""Image bytes on a device, and their way into a network: augmentation and normalisation.

n images, B in a batch, s = the recipe's input size. The bytes are [n, s, s, 3]: permuted to [B, 3, s, s], they are
channels-last memory without a copy.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms import v2

from norml_cli.registry.protocol import Recipe

EVALUATED_TOGETHER = 256  # images in an evaluation batch; changes memory and speed only
AVERAGED_TOGETHER = 1024  # images resized at once, as floats; changes memory only
ROOM = 4  # chosen: images stay on the GPU if 4 times their size is free; the network needs the rest


def resident(images: NDArray[np.uint8], size_px: int, device: torch.device) -> Tensor:
    """Images [..., height, width, 3] -> uint8 [n, s, s, 3], on `device` if they fit, else in main memory."""
    stored = torch.from_numpy(images).flatten(0, -4)
    if stored.shape[1:3] != (size_px, size_px):
        stored = torch.cat([_averaged(part, size_px) for part in torch.split(stored, AVERAGED_TOGETHER)])
    fits = device.type != "cuda" or torch.cuda.mem_get_info(device)[0] >= ROOM * stored.nbytes
    return stored.to(device if fits else "cpu")


def _averaged(images: Tensor, size_px: int) -> Tensor:
    """Resize by averaging areas: uint8 [P, height, width, 3] -> [P, s, s, 3]."""
    pixels = functional.interpolate(images.permute(0, 3, 1, 2).float(), size=(size_px, size_px), mode="area")
    return pixels.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _by_one_draw(augment: nn.Module, images: Tensor, first: int) -> Tensor:
    """The images from `first` on, augmented with one random draw. It draws even if there are none."""
    wanted = images[max(0, first) :]
    augmented: Tensor = augment(wanted if len(wanted) else images[:1])
    return augmented[: len(wanted)]


class ImageBatches:
    """Turns resident images into network inputs, with or without augmentation."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self._device, self._together = device, recipe.images_per_draw
        self._mean, self._std = (
            torch.tensor(values, device=device)[:, None, None] for values in (recipe.pixel_mean, recipe.pixel_std)
        )
        jitter = recipe.colour_jitter
        steps: list[nn.Module] = []
        if recipe.crop_padding_px:
            steps.append(v2.RandomCrop(recipe.input_size_px, padding=recipe.crop_padding_px))
        if jitter:
            steps.append(v2.ColorJitter(brightness=jitter, contrast=jitter, saturation=jitter))
        if recipe.flip:
            steps.append(v2.RandomHorizontalFlip())
        self._augment = v2.Compose(steps) if steps else None

    def plain(self, images: Tensor, rows: Tensor) -> Tensor:
        """The images at `rows` [B] as float32 [B, 3, s, s]."""
        return self._normalised(self._bytes(images, rows))

    def augmented(self, images: Tensor, rows: Tensor, seed: int, share: slice | None = None) -> Tensor:
        """Like `plain`, with augmentation. Equal seeds give equal draws.

        share: return only these rows (None: all), augmented as if all rows were returned.
        torchvision draws from torch's global CPU generator, so the generator's state is restored afterwards.
        """
        start, stop, _ = (share or slice(None)).indices(len(rows))
        augment = self._augment
        if augment is None:
            return self._normalised(self._bytes(images, rows[start:stop]))
        draws = torch.split(self._bytes(images, rows[:stop]), self._together)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            parts = [_by_one_draw(augment, part, start - at * self._together) for at, part in enumerate(draws)]
        return self._normalised(torch.cat(parts))

    @torch.no_grad()
    def outputs(self, model: nn.Module, images: Tensor, rows: Tensor) -> Tensor:
        """Outputs of `model`, in evaluation mode, for the images at `rows` [n]: float32 [n, ...] on the device."""
        batches = torch.split(rows, EVALUATED_TOGETHER)
        return torch.cat([model(self.plain(images, batch)).float() for batch in batches])

    def _bytes(self, images: Tensor, rows: Tensor) -> Tensor:
        return images[rows.to(images.device)].to(self._device, non_blocking=True).permute(0, 3, 1, 2)

    def _normalised(self, batch: Tensor) -> Tensor:
        pixels = batch.to(torch.float32, memory_format=torch.channels_last).div_(255)
        return pixels.sub_(self._mean).div_(self._std)
