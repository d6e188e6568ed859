"""Static nodal gates: NORML's gates (eqs 18-19) as learned constants, without the LSTM.

A control for NORML: two numbers per node (a neuron, or a convolution's channel), the same in every episode, example and
inner step. The step is diag(g) G diag(f), so each weight's rate is a number of its row times one of its column (for a
convolution: of its channel).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from norml.arguments import check_layers
from norml.layers import LayerShape
from norml.update_rules import Carried, Gated, initial_gate_bias


class StaticGates(Gated):
    """A gate gate_scale * sigmoid(b) for every neuron's delta and h; b is learned and starts as in NORML."""

    def __init__(self, layers: Sequence[LayerShape], *, gate_scale: float = 2.0) -> None:
        """layers: the learner's `layers`."""
        check_layers(layers)
        super().__init__()
        self.gate_scale = gate_scale
        start = initial_gate_bias(gate_scale)
        self.delta_biases = nn.ParameterList(torch.full((layer.learned_out,), start) for layer in layers)
        self.h_biases = nn.ParameterList(torch.full((layer.nodes_in,), start) for layer in layers)

    @override
    def parameters_of(self, layer: int) -> dict[str, nn.Parameter]:
        names = (f"delta_biases.{layer}", f"h_biases.{layer}")
        return {name: self.get_parameter(name) for name in names}

    @override
    def gates_of(
        self, layer: int, delta: Tensor, h: Tensor, losses: Tensor, carried: Carried
    ) -> tuple[Tensor, Tensor, Carried]:
        delta_gate, h_gate = (
            self.gate_scale * biases[layer].sigmoid() for biases in (self.delta_biases, self.h_biases)
        )
        return delta_gate, h_gate, carried
