"""Update rules: how a layer's update signals become the signals of a step. One file a rule."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from torch import Tensor, nn
from typing_extensions import override

Result = TypeVar("Result")
Carried = dict[str, Tensor]  # what a rule carries from one inner step to the next, for one layer


class Rates(NamedTuple):
    """One rate a weight, [O, I], and one a bias, [O]; or [1, I] and [1], the same for each output of a tied layer."""

    weight: Tensor
    bias: Tensor


class Pace(NamedTuple):
    """Of a step, in each layer: what it is multiplied by besides eta, and the weights before it; each [E, L]."""

    rate: Tensor
    decay: Tensor


class UpdateRule(nn.Module, ABC):
    """How a step's signals are made (paper eq. 8). The outer loop learns its parameters.

    A rule is written forwards, in differentiable operations; the engine goes back through it by autograd. Signals are
    not its own: it must not change them in place. What it hands through unchanged it should return as the same object,
    which the engine recognises and saves work on.
    """

    scales_inputs: bool
    """Whether h_hat differs from h, so that it changes from step to step even at the first layer."""

    sets_pace: bool = False
    """Whether `pace` gives one. The weights of all layers are materialised for it."""

    def initially_carried(self, layer: int, delta: Tensor, h: Tensor) -> Carried:  # noqa: ARG002 - for rules that need them
        """What is carried into the first inner step, whose signals are delta and h, as in `scaled`.

        Default: nothing.
        """
        return {}

    def of_constant_input(self, h: Tensor) -> Carried:  # noqa: ARG002 - for rules that use it
        """What the first layer's input h [E, S, I] gives, each tensor [E, ...]; made once, it saves work in each step.

        The first layer's inputs never change. Each step that sees h finds this in `carried` beside what was carried,
        and need not hand it on. Default: nothing.
        """
        return {}

    @abstractmethod
    def scaled(
        self, layer: int, delta: Tensor, h: Tensor, losses: Tensor, carried: Carried
    ) -> tuple[Tensor, Tensor, Carried]:
        """The step's delta_hat and h_hat, of the shapes of delta and h, and what is carried into the next one.

        delta [E, S, O] and h [E, S, I] are the layer's gradients and inputs, losses [E, S] each example's loss; S = 1
        if a step sees one example. Of a convolution, delta [E, S, P, O] and h [E, S, P, I] have P positions, as many as
        their maps, and O and I are channels. Episodes and examples may not be mixed across E.
        """

    def rates(self, layer: int) -> Rates | None:  # noqa: ARG002 - for rules that give them
        """What a step of each weight and bias is multiplied by, besides eta; None: by nothing (default).

        Signals scale a weight's row and column; only rates reach each weight alone. They are the same in every step and
        episode, and the layer's weights are materialised for them.
        """
        return None

    def pace(self, step: int, weight_means: Tensor, gradient_means: Tensor) -> Pace:
        """Rate and decay of inner step `step`, from 0: W_{t+1} = decay * W_t - eta * rate * sum_s delta_hat h_hat^T.

        Biases alike. `weight_means` and `gradient_means` [E, L] are over the entries of each layer's weights and of
        their gradient, sum_s delta h^T. Asked only of rules that set the pace; those may give no `rates`.
        """
        raise NotImplementedError

    def parameters_of(self, layer: int) -> Mapping[str, nn.Parameter]:  # noqa: ARG002 - for parameters of a layer
        """Those parameters, by their names here, that the calls for `layer` use; `pace` may use any. Default: all."""
        return dict(self.named_parameters())

    def forward(self, call: Callable[[], Result]) -> Result:
        """Make a call that uses this rule: where other parameters can be put in its place from outside."""
        return call()


class Gated(UpdateRule):
    """A rule that multiplies both signals node by node (eqs 18-19); it says by what.

    A convolution's node is a channel, with one gate for all its positions.
    """

    scales_inputs = True

    @abstractmethod
    def gates_of(
        self, layer: int, delta: Tensor, h: Tensor, losses: Tensor, carried: Carried
    ) -> tuple[Tensor, Tensor, Carried]:
        """Gates of delta's nodes [E, S, O] and h's [E, S, I], or what broadcasts to these, and what is carried on."""

    @override
    def scaled(
        self, layer: int, delta: Tensor, h: Tensor, losses: Tensor, carried: Carried
    ) -> tuple[Tensor, Tensor, Carried]:
        delta_gate, h_gate, after = self.gates_of(layer, delta, h, losses, carried)
        return delta * _over_positions(delta_gate, delta), h * _over_positions(h_gate, h), after


def _over_positions(gate: Tensor, signal: Tensor) -> Tensor:
    """A gate [E, S, nodes] or [nodes] as it multiplies a signal, at each of its positions alike."""
    return gate.unsqueeze(-2) if 1 < gate.dim() < signal.dim() else gate


def initial_gate_bias(gate_scale: float) -> float:
    """The b of gate_scale * sigmoid(b) = 1, or of half of gate_scale where that is less: then b = 0."""
    return -math.log(max(gate_scale, 2) - 1)


__all__ = ["Carried", "Gated", "Pace", "Rates", "UpdateRule", "initial_gate_bias"]
