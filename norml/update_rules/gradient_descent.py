"""MAML's update rule (Finn et al. 2017): delta_hat = alpha_l * delta, h_hat = h (paper sec. 5.2, three set-ups).

alpha multiplies the inner learning rate eta. It is 1 (constant), one learned number, one per layer, or one per layer
and inner step (LSLR: Antoniou, Edwards & Storkey 2019). For LSLR the rule carries a layer's rates of all steps, and
each step takes the first that is left. Evaluation with more steps than training repeats the last one (chosen: no source
has that case). Learned rates are stored as logarithms, so they stay positive, and equal outer steps change them by
equal factors (chosen; the paper does not say).
"""

from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from norml.update_rules import Carried, UpdateRule

LearnedRates = Literal["none", "global", "layer-wise", "layer-and-step-wise"]


class GradientDescent(UpdateRule):
    """Gradient descent with constant or learned rates, which start at alpha = 1."""

    scales_inputs = False

    def __init__(self, n_layers: int, *, learned_rates: LearnedRates = "none", inner_steps: int = 1) -> None:
        """inner_steps: T of training, needed only for 'layer-and-step-wise'."""
        super().__init__()
        self.learned_rates = learned_rates
        shapes = {"global": (1,), "layer-wise": (n_layers,), "layer-and-step-wise": (n_layers, max(inner_steps, 1))}
        shape = shapes.get(learned_rates)
        self.log_alpha = None if shape is None else nn.Parameter(torch.zeros(shape))

    @override
    def initially_carried(self, layer: int, delta: Tensor, h: Tensor) -> Carried:
        """The layer's rates of all steps, if each step has its own."""
        if self.log_alpha is None or self.learned_rates != "layer-and-step-wise":
            return {}
        return {"log_alphas": self.log_alpha[layer]}

    @override
    def scaled(
        self, layer: int, delta: Tensor, h: Tensor, losses: Tensor, carried: Carried
    ) -> tuple[Tensor, Tensor, Carried]:
        if self.log_alpha is None:
            return delta, h, carried
        if "log_alphas" in carried:
            log_alphas = carried["log_alphas"]
            after = {"log_alphas": log_alphas[1:] if len(log_alphas) > 1 else log_alphas}
            return log_alphas[0].exp() * delta, h, after
        alpha = self.log_alpha[layer if self.learned_rates == "layer-wise" else 0].exp()
        return alpha * delta, h, carried
