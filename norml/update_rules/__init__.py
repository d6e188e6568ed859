"""Update rules: they turn a layer's update signals into the signals of a step. One file per rule."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from torch import Tensor, nn
from typing_extensions import override

Result = TypeVar("Result")
Carried = dict[str, Tensor]  # a layer's tensors that a rule carries from one inner step to the next


class Rates(NamedTuple):
    """A rate for each weight [O, I] and each bias [O]; or [1, I] and [1], the same for all outputs of a tied layer."""

    weight: Tensor
    bias: Tensor


class Pace(NamedTuple):
    """For each layer, the factor of a step in addition to eta (rate) and the factor of the weights before it (decay).

    Both [E, L].
    """

    rate: Tensor
    decay: Tensor


class UpdateRule(nn.Module, ABC):
    """Computes a step's signals (paper eq. 8). The outer loop learns its parameters.

    Write a rule with differentiable operations; the engine differentiates it with autograd. A rule must not change
    signals in place. To pass a signal on unchanged, return the same object: the engine recognises it and saves work.
    """

    scales_inputs: bool
    """Whether h_hat differs from h; it then changes from step to step even in the first layer."""

    sets_pace: bool = False
    """Whether the rule implements `pace`. The weights of all layers are then materialised."""

    def initially_carried(self, layer: int, delta: Tensor, h: Tensor) -> Carried:  # noqa: ARG002 - for rules that need them
        """Tensors to carry into the first inner step, whose signals are delta and h, as in `scaled`. Default: none."""
        return {}

    def of_constant_input(self, h: Tensor) -> Carried:  # noqa: ARG002 - for rules that use it
        """Tensors [E, ...] computed once from the first layer's input h [E, S, I], to save work in each step.

        The first layer's inputs never change. Each step that sees h gets these tensors in `carried` and need not return
        them. Default: none.
        """
        return {}

    @abstractmethod
    def scaled(
        self, layer: int, delta: Tensor, h: Tensor, losses: Tensor, carried: Carried
    ) -> tuple[Tensor, Tensor, Carried]:
        """The step's delta_hat and h_hat, with the shapes of delta and h, and the tensors to carry into the next step.

        delta [E, S, O] and h [E, S, I] are the layer's gradients and inputs, losses [E, S] the examples' losses; S = 1
        if a step sees one example. For a convolution, delta [E, S, P, O] and h [E, S, P, I] have their maps' positions,
        and O and I are channels. A rule must not mix values of different episodes.
        """

    def rates(self, layer: int) -> Rates | None:  # noqa: ARG002 - for rules that give them
        """Factors of each weight's and bias's step in addition to eta; None (default): no factors.

        Signals can only scale a weight's row and column; rates can scale each weight by itself. They are the same in
        all steps and episodes. A layer with rates is materialised.
        """
        return None

    def pace(self, step: int, weight_means: Tensor, gradient_means: Tensor) -> Pace:
        """Rate and decay of inner step `step`, from 0: W_{t+1} = decay * W_t - eta * rate * sum_s delta_hat h_hat^T.

        The same for biases. weight_means, gradient_means [E, L]: means of each layer's weights and of their gradient
        sum_s delta h^T. Called only if `sets_pace`; such a rule must not have `rates`.
        """
        raise NotImplementedError

    def parameters_of(self, layer: int) -> Mapping[str, nn.Parameter]:  # noqa: ARG002 - for rules with parameters per layer
        """The parameters that calls for `layer` use, by name; `pace` may use any. Default: all."""
        return dict(self.named_parameters())

    def forward(self, call: Callable[[], Result]) -> Result:
        """Call `call()`; exists so that `functional_call` can swap this rule's parameters."""
        return call()


class Gated(UpdateRule):
    """A rule that multiplies both signals by gates, node by node (eqs 18-19).

    A convolution's node is a channel, with one gate for all its positions.
    """

    scales_inputs = True

    @abstractmethod
    def gates_of(
        self, layer: int, delta: Tensor, h: Tensor, losses: Tensor, carried: Carried
    ) -> tuple[Tensor, Tensor, Carried]:
        """Gates of delta [E, S, O] and h [E, S, I], or shapes that broadcast to these, and the tensors to carry on."""

    @override
    def scaled(
        self, layer: int, delta: Tensor, h: Tensor, losses: Tensor, carried: Carried
    ) -> tuple[Tensor, Tensor, Carried]:
        delta_gate, h_gate, after = self.gates_of(layer, delta, h, losses, carried)
        return delta * _over_positions(delta_gate, delta), h * _over_positions(h_gate, h), after


def _over_positions(gate: Tensor, signal: Tensor) -> Tensor:
    """A gate [E, S, nodes] or [nodes] in a shape that multiplies all positions of a signal."""
    return gate.unsqueeze(-2) if 1 < gate.dim() < signal.dim() else gate


def initial_gate_bias(gate_scale: float) -> float:
    """The b with gate_scale * sigmoid(b) = 1; for gate_scale below 2, b = 0, which gives half of gate_scale."""
    return -math.log(max(gate_scale, 2) - 1)


__all__ = ["Carried", "Gated", "Pace", "Rates", "UpdateRule", "initial_gate_bias"]
