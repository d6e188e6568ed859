"""Meta-SGD's update rule (Li et al. 2017, eq. 1): theta - alpha * grad, element by element, with a learned alpha.

alpha has an entry for every weight and bias. Two signals cannot express that, so the rule returns rates, which multiply
each layer's gradient. They are not stored as logarithms: as in the paper, an entry may become negative, and its step
then goes against the gradient.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from norml.arguments import check_layers
from norml.layers import LayerShape
from norml.update_rules import Carried, Rates, UpdateRule


class MetaSgd(UpdateRule):
    """Gradient descent with a learned rate for every weight and bias; alpha = eta * rate."""

    scales_inputs = False

    def __init__(self, layers: Sequence[LayerShape], *, initial_rate: float = 1.0) -> None:
        """layers: the learner's `layers`."""
        check_layers(layers)
        super().__init__()
        shapes = [(layer.learned_out, layer.weight_shape[1]) for layer in layers]
        self.weight_rates = nn.ParameterList(torch.full(shape, initial_rate) for shape in shapes)
        self.bias_rates = nn.ParameterList(torch.full(shape[:1], initial_rate) for shape in shapes)

    @override
    def rates(self, layer: int) -> Rates:
        return Rates(self.weight_rates[layer], self.bias_rates[layer])

    @override
    def parameters_of(self, layer: int) -> dict[str, nn.Parameter]:
        names = (f"weight_rates.{layer}", f"bias_rates.{layer}")
        return {name: self.get_parameter(name) for name in names}

    @override
    def scaled(
        self, layer: int, delta: Tensor, h: Tensor, losses: Tensor, carried: Carried
    ) -> tuple[Tensor, Tensor, Carried]:
        return delta, h, carried
