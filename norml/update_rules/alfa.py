"""ALFA's update rule (Baik et al. 2020): a small network sets each layer's rate and weight decay in each inner step.

W_{t+1} = decay * W_t - eta * rate * gradient, layer by layer. The network sees the mean weights and gradients of all
layers (sec. 3.2 and 3.3). A learned factor for each layer and step multiplies each of its outputs, as in the authors'
code. Evaluation with more steps than training uses the last step's factors for the later steps.

Three points differ from the authors' code, all chosen. A layer's bias shares the numbers of its weights; there, it has
its own. The network first outputs 1 for any input, so that an untrained step is a gradient step with decay. And the
mean gradients are differentiated like everything else; first order omits them.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from norml.update_rules import Carried, Pace, UpdateRule


class Alfa(UpdateRule):
    """Gradient descent with rates and decays from a network of two linear layers of width 2 L."""

    scales_inputs = False
    sets_pace = True

    def __init__(
        self, n_layers: int, *, inner_steps: int, initial_decay: float = 0.0, generator: torch.Generator | None = None
    ) -> None:
        """inner_steps: T of training. initial_decay: weight decay of an untrained step, as a share of the weights."""
        super().__init__()
        width, steps = 2 * n_layers, max(inner_steps, 1)
        bound = 1 / math.sqrt(width)
        self.in_weight = nn.Parameter(torch.empty(width, width).uniform_(-bound, bound, generator=generator))
        self.in_bias = nn.Parameter(torch.empty(width).uniform_(-bound, bound, generator=generator))
        self.out_weight = nn.Parameter(torch.zeros(width, width))
        self.out_bias = nn.Parameter(torch.ones(width))
        self.rate_factors = nn.Parameter(torch.ones(steps, n_layers))
        self.decay_factors = nn.Parameter(torch.full((steps, n_layers), initial_decay))

    @override
    def parameters_of(self, layer: int) -> Mapping[str, nn.Parameter]:
        return {}

    @override
    def pace(self, step: int, weight_means: Tensor, gradient_means: Tensor) -> Pace:
        seen = torch.cat([weight_means, gradient_means], dim=1)
        hidden = functional.linear(seen, self.in_weight, self.in_bias).relu()
        rate, decay = functional.linear(hidden, self.out_weight, self.out_bias).chunk(2, dim=1)
        step = min(step, len(self.rate_factors) - 1)
        return Pace(self.rate_factors[step] * rate, 1 - self.decay_factors[step] * decay)

    @override
    def scaled(
        self, layer: int, delta: Tensor, h: Tensor, losses: Tensor, carried: Carried
    ) -> tuple[Tensor, Tensor, Carried]:
        return delta, h, carried
