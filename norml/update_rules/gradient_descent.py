"""MAML's update rule (Finn et al. 2017): delta_hat = alpha_l * delta, h_hat = h (paper sec. 5.2, three set-ups).

alpha multiplies the inner learning rate eta. It is 1 (constant), one learned number, or one learned number a layer.
Learned rates are kept as logarithms: they stay positive, and equal outer steps change them by equal factors (chosen;
the paper does not say).
"""

from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from norml.update_rules import Carried, UpdateRule

LearnedRates = Literal["none", "global", "layer-wise"]


class GradientDescent(UpdateRule):
    """Gradient descent with constant, global or layer-wise learned rates; all start at alpha = 1."""

    scales_inputs = False

    def __init__(self, n_layers: int, *, learned_rates: LearnedRates = "none") -> None:
        super().__init__()
        self.learned_rates = learned_rates
        n_rates = {"none": 0, "global": 1, "layer-wise": n_layers}[learned_rates]
        self.log_alpha = nn.Parameter(torch.zeros(n_rates)) if n_rates else None

    @override
    def scaled(
        self, layer: int, delta: Tensor, h: Tensor, losses: Tensor, carried: Carried
    ) -> tuple[Tensor, Tensor, Carried]:
        if self.log_alpha is None:
            return delta, h, carried
        alpha = self.log_alpha[layer if self.learned_rates == "layer-wise" else 0].exp()
        return alpha * delta, h, carried
