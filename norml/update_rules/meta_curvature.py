"""Meta-Curvature (Park & Oliva 2019): two learned matrices multiply a layer's gradient G, M_o G M_i.

G is a sum of outer products, so scaling both signals is exactly this: M_o G M_i = sum_s (M_o delta[s]) (M_i^T h[s])^T.
Both matrices start as the identity, so an untrained step is a gradient step. M_o also multiplies the bias's gradient
sum_s delta[s] (chosen: the same signals; learn2learn gives a bias its own rate).

T-net (Lee & Choi 2018) is the case M_o = T T^T, M_i = I. Its layers compute T (W x + b). Inner steps change W and b,
whose gradient is T^T G, so T W changes by T T^T G. Here the learner's initial weights are T W_0.

For a convolution, the matrices act on channels, equally at every position. Meta-Curvature's third matrix, for places in
a window, is left out, because signals are maps, not windows. For a layer with tied outputs, M_o is one number.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from norml.arguments import check_layers
from norml.layers import LayerShape
from norml.update_rules import Carried, UpdateRule

Curvature = Literal["two-matrices", "t-net"]


class MetaCurvature(UpdateRule):
    """Gradient descent along M_o G M_i, or along T T^T G."""

    def __init__(self, layers: Sequence[LayerShape], *, curvature: Curvature = "two-matrices") -> None:
        """layers: the learner's `layers`."""
        check_layers(layers)
        super().__init__()
        self.scales_inputs = curvature == "two-matrices"
        self.out_matrices = nn.ParameterList(torch.eye(layer.learned_out) for layer in layers)  # M_o, or T: [O, O]
        scaled = layers if self.scales_inputs else []
        self.in_matrices = nn.ParameterList(torch.eye(layer.nodes_in) for layer in scaled)  # M_i: [I, I]

    @override
    def parameters_of(self, layer: int) -> dict[str, nn.Parameter]:
        names = [f"out_matrices.{layer}", *[f"in_matrices.{layer}"] * self.scales_inputs]
        return {name: self.get_parameter(name) for name in names}

    @override
    def of_constant_input(self, h: Tensor) -> Carried:
        """The first layer's h_hat. It never changes, so this largest product is computed only once."""
        return {"h_hat": h @ self.in_matrices[0]} if self.scales_inputs else {}

    @override
    def scaled(
        self, layer: int, delta: Tensor, h: Tensor, losses: Tensor, carried: Carried
    ) -> tuple[Tensor, Tensor, Carried]:
        out = self.out_matrices[layer]
        if not self.scales_inputs:
            return _times(_times(delta, out), out.mT), h, carried
        return _times(delta, out.mT), carried["h_hat"] if carried else h @ self.in_matrices[layer], {}


def _times(delta: Tensor, matrix: Tensor) -> Tensor:
    """Signals [.., O] times a matrix [O, O]; for tied nodes the matrix is [1, 1], one number for all."""
    return delta * matrix if matrix.numel() == 1 else delta @ matrix
