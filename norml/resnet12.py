"""ResNet-12, the usual backbone for mini-ImageNet: four residual blocks of three 3x3 convolutions each.

Two designs have this name. Tian et al. (2020, RFS; WangYueFt/rfs models/resnet.py, BasicBlock), after Lee et al. (2019,
MetaOptNet), normalise the skip, activate after the sum and drop squares of the late feature maps. Sun et al. (2019,
MTL; yaoyao-liu/meta-transfer-learning tensorflow/models/resnet12.py, pretrain_block_forward) activate after each of the
three convolutions, do not normalise the skip and do not activate the sum. `Blocks` has the differences.

Evaluation differs from MTL. There, batch norm always uses the current batch's statistics, so an image's features depend
on the other images. Here it uses the running statistics of training.

B images, F features (the last width). Images are [B, 3, height, width]; channels-last memory is kept.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

N_BLOCKS = 4
LEAK = 0.1  # slope below zero, in both repositories
DROP_BLOCK_FROM = 2  # the blocks from this index on drop squares (WangYueFt/rfs models/resnet.py, ResNet)


class PartOfBatch(NamedTuple):
    """A device's part of a batch that several devices share: images from `start` on; the whole batch has `size`.

    Dropout is drawn for the whole batch, so that it is the same for any number of devices.
    """

    start: int
    size: int


@dataclass(frozen=True)
class Blocks:
    """Differences between the two designs.

    convolution_biases: whether the 3x3 convolutions have biases. batch_norm_scale: whether batch norm learns a scale in
    addition to a shift. activate_after_sum: activate the sum of both branches instead of the third convolution.
    drop_rate: dropout rate after each block. drop_block_size: side in pixels of the squares that blocks 3 and 4 drop;
    None drops single values in every block.
    """

    convolution_biases: bool
    batch_norm_scale: bool
    batch_norm_epsilon: float
    skip_batch_norm: bool
    activate_after_sum: bool
    drop_rate: float
    drop_block_size: int | None


class ResNet12(nn.Module):
    """Images [B, 3, height, width] -> features [B, F], the last block's maps averaged over positions."""

    def __init__(
        self,
        widths: Sequence[int],
        blocks: Blocks,
        *,
        initial_weights: Literal["he", "xavier"],
        generator: torch.Generator | None = None,
    ) -> None:
        """widths: channels of the four blocks. initial_weights: 'he', normal by fan-out (RFS); 'xavier', uniform (MTL).

        Raises ValueError if there are not four widths.
        """
        super().__init__()
        if len(widths) != N_BLOCKS:
            raise ValueError(f"a ResNet-12 has {N_BLOCKS} blocks, got {len(widths)} widths")
        self.n_features = widths[-1]
        self.blocks = nn.ModuleList(
            ResidualBlock(
                n_in, n_out, blocks, drop_block_size=blocks.drop_block_size if index >= DROP_BLOCK_FROM else None
            )
            for index, (n_in, n_out) in enumerate(zip([3, *widths], widths, strict=False))
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _initialise(module, initial_weights, generator)
            elif isinstance(module, nn.BatchNorm2d) and not blocks.batch_norm_scale:
                module.weight.requires_grad_(False)

    def forward(
        self,
        x: Tensor,
        *,
        generator: torch.Generator | None = None,
        drop_strength: float = 1.0,
        part: PartOfBatch | None = None,
    ) -> Tensor:
        """[B, 3, height, width] -> [B, F].

        generator: for dropout in training mode; None: torch's default. drop_strength: factor in 0..1 on the rate of
        dropped squares. part: None for the whole batch.
        Raises ValueError if the image is too small for the squares.
        """
        part = part or PartOfBatch(0, len(x))
        for block in self.blocks:
            x = block(x, generator, drop_strength, part)
        return x.mean(
            dim=(2, 3), dtype=torch.promote_types(x.dtype, torch.float32)
        )  # a bfloat16 mean would keep only 3 digits


class ResidualBlock(nn.Module):
    """Three 3x3 convolutions with a 1x1 convolution as skip; halves the image's side."""

    def __init__(self, n_in: int, n_out: int, blocks: Blocks, *, drop_block_size: int | None) -> None:
        super().__init__()
        self._activate_after_sum, self._drop_rate = blocks.activate_after_sum, blocks.drop_rate
        self._drop_block_size = drop_block_size
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels, n_out, 3, padding=1, bias=blocks.convolution_biases)
            for channels in (n_in, n_out, n_out)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(n_out, eps=blocks.batch_norm_epsilon) for _ in range(3))
        self.skip = nn.Conv2d(n_in, n_out, 1, bias=False)
        norm = nn.BatchNorm2d(n_out, eps=blocks.batch_norm_epsilon) if blocks.skip_batch_norm else nn.Identity()
        self.skip_norm = norm

    def forward(self, x: Tensor, generator: torch.Generator | None, drop_strength: float, part: PartOfBatch) -> Tensor:
        """[B, n_in, height, width] -> [B, n_out, height // 2, width // 2]."""
        skip = self.skip_norm(self.skip(x))
        last = len(self.convolutions) - 1
        for index, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            x = norm(convolution(x))
            if index < last or not self._activate_after_sum:
                x = functional.leaky_relu(x, LEAK)
        x = x + skip
        if self._activate_after_sum:
            x = functional.leaky_relu(x, LEAK)
        x = functional.max_pool2d(x, 2)
        if not self.training or self._drop_rate == 0:
            return x
        if self._drop_block_size is None:
            return drop_values(x, self._drop_rate, generator, part)
        return drop_squares(x, self._drop_rate * drop_strength, self._drop_block_size, generator, part)


class Classifier(nn.Module):
    """A backbone with a linear layer to the classes, for pretraining."""

    def __init__(self, backbone: ResNet12, n_classes: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.n_features, n_classes)
        bound = 1 / math.sqrt(backbone.n_features)  # as torch initialises, but with our generator
        nn.init.uniform_(self.head.weight, -bound, bound, generator)
        nn.init.zeros_(self.head.bias)

    def forward(
        self,
        x: Tensor,
        *,
        generator: torch.Generator | None = None,
        drop_strength: float = 1.0,
        part: PartOfBatch | None = None,
    ) -> Tensor:
        """[B, 3, height, width] -> class scores [B, C]; arguments as `ResNet12.forward`."""
        logits: Tensor = self.head(self.backbone(x, generator=generator, drop_strength=drop_strength, part=part))
        return logits


def parameter_count(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def drop_values(x: Tensor, rate: float, generator: torch.Generator | None, part: PartOfBatch | None = None) -> Tensor:
    """Dropout (Srivastava et al. 2014): set values of `x` to 0 with probability `rate`, divide others by 1 - rate."""
    start, n_images = part or PartOfBatch(0, len(x))
    kept = torch.rand(n_images, *x.shape[1:], generator=generator, device=x.device) >= rate
    return x * kept[start : start + len(x)].to(x.dtype) / (1 - rate)


def drop_squares(
    x: Tensor, rate: float, size: int, generator: torch.Generator | None, part: PartOfBatch | None = None
) -> Tensor:
    """DropBlock (Ghiasi et al. 2018): zero squares of side `size` in each map of `x` [B, C, height, width].

    Squares start at random places where they fit, with a probability that would drop the share `rate` of the values if
    squares did not overlap. Other values are scaled so that maps of ones keep their sum over the batch, as in RFS.
    Raises ValueError if no square fits.
    """
    height, width = x.shape[2:]
    if size > min(height, width):
        raise ValueError(f"squares of {size} pixels do not fit a map of {height} x {width}; lower drop_block_size")
    places = (height - size + 1) * (width - size + 1)
    probability = rate / size**2 * height * width / places
    start, n_images = part or PartOfBatch(0, len(x))
    squares = (n_images, x.shape[1], height - size + 1, width - size + 1)
    drawn = torch.rand(squares, generator=generator, device=x.device)
    begun = functional.pad((drawn < probability).to(x.dtype), [size - 1] * 4)
    kept = 1 - functional.max_pool2d(begun, size, stride=1)  # [B, C, height, width], of the whole batch
    scale = (kept.numel() / kept.sum(dtype=torch.float32).clamp(min=1)).to(x.dtype)
    return x * kept[start : start + len(x)] * scale


def _initialise(convolution: nn.Conv2d, kind: Literal["he", "xavier"], generator: torch.Generator | None) -> None:
    if convolution.weight.is_meta:
        return  # no values to draw, and torch's normal distribution takes seconds on the meta device
    if kind == "he":
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu", generator=generator)
    else:
        nn.init.xavier_uniform_(convolution.weight, generator=generator)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
