"""Batch norm with the statistics of a batch that several ranks share, on any device.

torch's SyncBatchNorm does the same, but only on GPUs.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from typing_extensions import override


def take_statistics_of_all(model: nn.Module, batch_size: int) -> None:
    """Replace every batch norm of `model` by one with the statistics of the whole batch of `batch_size` images.

    Keeps parameters, buffers and their names.
    """
    for parent in list(model.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, SharedBatchNorm(norm, batch_size))


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch norm of this rank's part of a batch, [its images, C, height, width], by the whole batch's statistics."""

    def __init__(self, norm: nn.BatchNorm2d, batch_size: int) -> None:
        super().__init__(norm.num_features, eps=norm.eps, momentum=norm.momentum)
        self._batch_size = batch_size
        self.weight, self.bias = norm.weight, norm.bias  # the same, not copies
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self.train(norm.training)

    @override
    def forward(self, input: Tensor) -> Tensor:
        """Normalise `input`, keeping its shape and type; evaluation mode uses the running statistics."""
        if not self.training:
            return super().forward(input)
        x, count = input.float(), self._batch_size * input.shape[2] * input.shape[3]
        mean = _SumOverRanks.apply(x.sum((0, 2, 3)) / count)
        centred = x - mean[:, None, None]
        variance = _SumOverRanks.apply(centred.square().sum((0, 2, 3)) / count)
        self._remember(mean.detach(), variance.detach() * (count / (count - 1)))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        normalised: Tensor = centred * scale[:, None, None] + self.bias[:, None, None]
        return normalised.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        """Update the running statistics as torch's batch norm does."""
        for running, seen in ((self.running_mean, mean), (self.running_var, variance)):
            running.lerp_(seen, self.momentum)  # type: ignore[union-attr, arg-type]  # made by __init__
        self.num_batches_tracked.add_(1)  # type: ignore[union-attr]


class _SumOverRanks(torch.autograd.Function):
    """The sum over ranks. All ranks' losses depend on it, so its derivative is the sum of their derivatives."""

    @staticmethod
    def forward(_ctx: Any, value: Tensor) -> Tensor:
        total = value.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(_ctx: Any, total_bar: Tensor) -> Tensor:
        value_bar = total_bar.contiguous().clone()
        dist.all_reduce(value_bar)
        return value_bar
