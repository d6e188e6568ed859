"""Batch norm and ReLU of a hidden layer: forward pass, explicit backward pass, and the adjoints of both.

    n = (a - mean a) / sqrt(var a + epsilon)        h = relu(scale * n + shift)

Batch norm normalises each neuron over the examples of one episode's set. Only the outer loop learns scale and shift
(cbfinn/maml does the same with a shift).

Second-order gradients need the adjoint of the backward pass. Written by hand it takes a few passes over [E, B, O],
because its projection is its own transpose and both adjoints need the same sums over examples.
`*_bar` is the derivative of the query loss by `*`. Means are over the examples of an episode: [E, 1, O].
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Forward:
    """h, n and active (1 if the ReLU is active), each [E, B, O], and inverse_std [E, 1, O]."""

    h: Tensor
    normalised: Tensor
    active: Tensor
    inverse_std: Tensor


@dataclass(frozen=True)
class Backward:
    """delta = scale * unscaled; masked: gradient below the ReLU [E, B, O]; means of masked and masked * n [E, 1, O]."""

    delta: Tensor
    unscaled: Tensor
    masked: Tensor
    masked_mean: Tensor
    masked_along: Tensor


@dataclass(frozen=True)
class BackwardBar:
    """Values that `backward_adjoint` passes to `forward_adjoint`, because the backward pass uses n and inverse_std."""

    centred: Tensor
    mean: Tensor
    along: Tensor
    std_along: Tensor


class Gradients:
    """Sums of the derivatives by scale and shift, [E, 1, O], over all uses."""

    def __init__(self) -> None:
        self.scale: Tensor | None = None
        self.shift: Tensor | None = None

    def add_to_scale(self, mean: Tensor, n_examples: int) -> None:
        """Add a mean over `n_examples` to the sum."""
        self.scale = mean * n_examples if self.scale is None else self.scale.add_(mean, alpha=n_examples)

    def add_to_shift(self, mean: Tensor, n_examples: int) -> None:
        """Add a mean over `n_examples` to the sum."""
        self.shift = mean * n_examples if self.shift is None else self.shift.add_(mean, alpha=n_examples)


def forward(a: Tensor, scale: Tensor, shift: Tensor, *, epsilon: float, n_reference: int | None = None) -> Forward:
    """Pre-activations [E, B, O] -> activations. n_reference: first examples for the statistics; default all."""
    # Two means, because torch.var_mean takes tens of times as long as a mean on the CPU.
    centred = a - _mean(a[:, :n_reference])
    variance = _mean(centred[:, :n_reference].square())
    inverse_std = torch.rsqrt(variance + epsilon)
    normalised = centred.mul_(inverse_std)
    h = torch.addcmul(shift, normalised, scale).relu_()
    return Forward(h, normalised, h.sign(), inverse_std)


def backward(above: Tensor, forward_pass: Forward, scale: Tensor) -> Backward:
    """dL/dh [E, B, O] -> delta = dL/da (eq. 4 with batch norm), for statistics over all examples."""
    masked = above * forward_pass.active
    mean, along = _mean(masked), _mean(masked * forward_pass.normalised)
    unscaled = (masked - mean).addcmul_(forward_pass.normalised, along, value=-1).mul_(forward_pass.inverse_std)
    return Backward(unscaled * scale, unscaled, masked, mean, along)


def backward_adjoint(
    delta_bar: Tensor, forward_pass: Forward, backward_pass: Backward, scale: Tensor, gradients: Gradients
) -> tuple[Tensor, BackwardBar]:
    """delta_bar -> above_bar [E, B, O]; adds to `gradients`."""
    unscaled_bar = _mean(backward_pass.unscaled * delta_bar)
    gradients.add_to_scale(unscaled_bar, delta_bar.shape[1])
    inner_bar = delta_bar * (forward_pass.inverse_std * scale)
    mean, along = _mean(inner_bar), _mean(inner_bar * forward_pass.normalised)
    above_bar = (inner_bar - mean).addcmul_(forward_pass.normalised, along, value=-1).mul_(forward_pass.active)
    return above_bar, BackwardBar(inner_bar, mean, along, unscaled_bar * scale)


def forward_adjoint(
    h_bar: Tensor,
    forward_pass: Forward,
    scale: Tensor,
    gradients: Gradients,
    *,
    of_backward: tuple[Backward, BackwardBar] | None = None,
    n_reference: int | None = None,
) -> Tensor:
    """h_bar -> a_bar [E, B, O]; adds to `gradients`.

    of_backward: the backward pass of this layer with the result of its adjoint.
    """
    n_examples = h_bar.shape[1]
    z_bar = h_bar * forward_pass.active
    mean, along = _mean(z_bar), _mean(z_bar * forward_pass.normalised)
    gradients.add_to_shift(mean, n_examples)
    gradients.add_to_scale(along, n_examples)
    gain, mean, along = forward_pass.inverse_std * scale, mean * scale, along * scale
    a_bar = z_bar.mul_(gain)
    if of_backward is not None:
        backward_pass, bar = of_backward
        a_bar.addcmul_(bar.centred, forward_pass.inverse_std * backward_pass.masked_along, value=-1)
        a_bar.addcmul_(backward_pass.masked, forward_pass.inverse_std * bar.along, value=-1)
        mean = mean - backward_pass.masked_along * bar.mean - backward_pass.masked_mean * bar.along
        along = along - 2 * backward_pass.masked_along * bar.along + bar.std_along
    if n_reference is not None:
        mean, along = mean * (n_examples / n_reference), along * (n_examples / n_reference)
    reference_bar, normalised = a_bar[:, :n_reference], forward_pass.normalised[:, :n_reference]
    reference_bar.addcmul_(normalised, forward_pass.inverse_std * along, value=-1)
    reference_bar.sub_(forward_pass.inverse_std * mean)
    return a_bar


def _mean(x: Tensor) -> Tensor:
    return x.mean(dim=1, keepdim=True)
