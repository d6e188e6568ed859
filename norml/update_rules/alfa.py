"""ALFA's update rule (Baik et al. 2020): a small net makes each layer's rate and weight decay in each inner step.

W_{t+1} = decay * W_t - eta * rate * gradient, layer by layer; the net sees the means of every layer's weights and
gradient (sec. 3.2 and 3.3). Each number that it gives is multiplied by a learned one of its layer and step, as in the
authors' code; those of the last step serve all steps after it, for evaluation with more steps than training had.

Departs from their code in three points, each chosen. A layer's bias goes with its weights, where they give it numbers
of its own. The net begins with the answer 1, whatever it sees, so that an untrained step is a gradient step but for
the decay. And the means of gradients are differentiated like everything else; first order leaves them out.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from norml.update_rules import Carried, Pace, UpdateRule


class Alfa(UpdateRule):
    """Gradient descent at the pace that a net of two linear layers sets, 2 L numbers wide."""

    scales_inputs = False
    sets_pace = True

    def __init__(
        self, n_layers: int, *, inner_steps: int, initial_decay: float = 0.0, generator: torch.Generator | None = None
    ) -> None:
        """`inner_steps`: T of training. `initial_decay`: share of the weights that an untrained step takes away."""
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
