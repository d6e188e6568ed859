"""Update rules: how a layer's update signals become the signals of a step. One file a rule."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

State = tuple[Tensor, ...]  # what a rule carries from one inner step to the next, for one layer


class UpdateRule(nn.Module, ABC):
    """Signals and state in, signals and state out (paper eq. 8). Its parameters are the outer loop's to learn."""

    scales_inputs: bool
    """Whether h_hat differs from h, so that it changes from step to step even at the first layer."""

    @abstractmethod
    def initial_state(self, layer: int, delta: Tensor) -> State:
        """The state before the first inner step, for signals shaped like delta [E, S, O]."""

    @abstractmethod
    def scaled(
        self, layer: int, delta: Tensor, h: Tensor, losses: Tensor, state: State
    ) -> tuple[Tensor, Tensor, State]:
        """The step's delta_hat [E, S, O] and h_hat [E, S, I], and the state after it.

        delta [E, S, O] and h [E, S, I] are the layer's gradients and inputs, losses [E, S] each example's loss.
        Episodes and examples may not be mixed across E.
        """


__all__ = ["State", "UpdateRule"]
