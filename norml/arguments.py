"""Checks of arguments of public functions. Errors name the argument, the expected value and the given one.

Types, shapes and devices are always checked, which needs no data from the GPU and costs nothing in a compiled graph.
Values are checked only on the CPU and not while torch.compile traces, because reading them would make a GPU wait.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from norml.layers import LayerShape


def check_tensor(name: str, value: object, letters: str) -> None:
    """Check that `value` is a tensor with dimensions `letters`, such as '[E, S, D]'. Raises TypeError, ValueError."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor {letters}, got {type(value).__name__}")
    if value.dim() != letters.count(",") + 1:
        raise ValueError(f"{name} must be {letters}, got {list(value.shape)}")


def check_examples(name: str, x: Tensor, letters: str, n_features: int, weight: Tensor) -> None:
    """Check examples x [E, B, D] for a learner with D = `n_features` and `weight`. Raises TypeError, ValueError."""
    check_tensor(name, x, letters)
    if x.shape[2] != n_features:
        raise ValueError(f"{name} must be {letters} with D = {n_features}, the learner's, got {list(x.shape)}")
    if not x.shape[1]:
        raise ValueError(f"{name} must hold at least one example, got {letters} = {list(x.shape)}")
    if x.dtype != weight.dtype:
        raise TypeError(f"{name} must be {weight.dtype}, as the learner's weights are, got {x.dtype}")
    check_device(name, x, weight.device, "the learner")


def check_layers(layers: Sequence[LayerShape]) -> None:
    """Check that `layers` are LayerShapes, not numbers of neurons. Raises TypeError."""
    for layer in layers:
        if not isinstance(layer, LayerShape):
            what = "a learner's `layers`, or fully_connected(sizes)"
            raise TypeError(f"layers must be {what}, got a sequence of {type(layer).__name__}")


def check_labels(name: str, y: Tensor, letters: str, shape: tuple[int, int]) -> None:
    """Check that labels y are int64 with `shape`. Raises TypeError, ValueError."""
    check_tensor(name, y, letters)
    if tuple(y.shape) != shape:
        raise ValueError(f"{name} must be {letters} = {list(shape)}, got {list(y.shape)}")
    if y.dtype != torch.int64:
        raise TypeError(f"{name} must be torch.int64, got {y.dtype}")


def check_range(name: str, values: Tensor, end: int | Tensor, what: str) -> None:
    """Check on the CPU that integers are in 0..end - 1; a tensor `end` has a bound per value. Raises ValueError."""
    if values.device.type != "cpu" or torch.compiler.is_compiling() or not values.numel():
        return
    if isinstance(end, Tensor) and (values < end).all():
        end = int(end.max())  # now only a negative number can be wrong
    elif isinstance(end, Tensor):
        beyond = values >= end
        values, end = values[beyond], int(end.expand_as(values)[beyond].min())
    low, high = (bound.item() for bound in values.aminmax())
    if low < 0 or high >= end:
        raise ValueError(f"{name} must be in 0..{end - 1}, {what}, got {low}..{high}")


def check_device(name: str, value: Tensor, device: torch.device, owner: str) -> None:
    """Check that `value` is on `owner`'s device. Raises ValueError."""
    if value.device != device:
        raise ValueError(f"{name} must be on {device}, as {owner} is, got {value.device}")


def check_count(name: str, value: int) -> None:
    """Check for a whole number of at least 0. Raises ValueError."""
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} must be a whole number from 0 on, got {value}")
