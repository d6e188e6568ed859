"""An adapted layer: the initial weights minus a sum of outer products of update signals, held in one of two forms.

    W_t = W_0 - eta * sum_u sum_s delta_hat_u[s] h_hat_u[s]^T        b_t = b_0 - eta * sum_u sum_s delta_hat_u[s]

(paper eqs 9-10 with Algorithm 1's sign, summed over steps u < t). `Materialised` adds each product into [E, O, I]
weights. `Factored` keeps the signals and never forms W_t: h W_t^T = h W_0^T - eta * sum_u (h h_hat_u^T) delta_hat_u,
where h W_0^T is one product shared by all episodes. Both compute the same numbers; `cheaper_form` chooses by counting.
"""

from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

Form = Literal["materialised", "factored"]


class LayerWeights(Protocol):
    """One layer's weights, one set an episode."""

    def linear(self, h: Tensor) -> Tensor:
        """Pre-activations a = W_t h + b_t (eq. 1): [E, B, I] -> [E, B, O]."""
        ...

    def pull_back(self, delta: Tensor) -> Tensor:
        """W_t^T delta, the linear part of eq. 4: [E, B, O] -> [E, B, I]."""
        ...

    def stepped(self, delta_hat: Tensor, h_hat: Tensor, eta: float) -> "LayerWeights":
        """The weights after one more inner step with signals [E, S, O] and [E, S, I]."""
        ...


@dataclass(frozen=True)
class Materialised(LayerWeights):
    """Weights [E, O, I] and biases [E, 1, O]; [O, I] and [O] before the first step, shared by all episodes."""

    weight: Tensor
    bias: Tensor

    @override
    def linear(self, h: Tensor) -> Tensor:
        if self.weight.dim() == 2:  # noqa: PLR2004 - not yet adapted: one product for all episodes
            return functional.linear(h, self.weight, self.bias)
        return torch.baddbmm(self.bias, h, self.weight.mT)

    @override
    def pull_back(self, delta: Tensor) -> Tensor:
        return delta @ self.weight

    @override
    def stepped(self, delta_hat: Tensor, h_hat: Tensor, eta: float) -> "Materialised":
        weight = self.weight.expand(delta_hat.shape[0], -1, -1)
        return Materialised(
            torch.baddbmm(weight, delta_hat.mT, h_hat, alpha=-eta),
            self.bias - eta * delta_hat.sum(dim=1, keepdim=True),
        )


@dataclass(frozen=True)
class Factored(LayerWeights):
    """Initial weights [O, I], biases ([O], or [E, 1, O] after a step) and the steps (eta * delta_hat, h_hat) so far.

    `shared_products` remembers h W_0^T of the last h: the first layer sees the same support set in every step.
    """

    weight: Tensor
    bias: Tensor
    steps: tuple[tuple[Tensor, Tensor], ...] = ()
    shared_products: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @override
    def linear(self, h: Tensor) -> Tensor:
        a = self._shared_product(h) + self.bias
        for scaled_delta, h_hat in self.steps:
            a = torch.baddbmm(a, h @ h_hat.mT, scaled_delta, alpha=-1)
        return a

    def _shared_product(self, h: Tensor) -> Tensor:
        if not self.shared_products or self.shared_products[0][0] is not h:
            self.shared_products[:] = [(h, functional.linear(h, self.weight))]
        return self.shared_products[0][1]

    @override
    def pull_back(self, delta: Tensor) -> Tensor:
        below = delta @ self.weight
        for scaled_delta, h_hat in self.steps:
            below = torch.baddbmm(below, delta @ scaled_delta.mT, h_hat, alpha=-1)
        return below

    @override
    def stepped(self, delta_hat: Tensor, h_hat: Tensor, eta: float) -> "Factored":
        scaled = eta * delta_hat
        bias = self.bias - scaled.sum(dim=1, keepdim=True)
        if self.steps and self.steps[-1][1] is h_hat:
            # The first layer's unscaled input is the same in every step, so its products merge into one.
            merged = (self.steps[-1][0] + scaled, h_hat)
            return replace(self, bias=bias, steps=(*self.steps[:-1], merged))
        return replace(self, bias=bias, steps=(*self.steps, (scaled, h_hat)))


def cheaper_form(
    *, n_support: int, n_query: int, inner_steps: int, n_in: int, n_out: int, is_first: bool, scales_inputs: bool
) -> Form:
    """The form with fewer multiplications for one episode's inner loop and query pass.

    `is_first`: nothing is pulled back through the first layer. `scales_inputs`: h_hat changes from step to step even
    where h does not (NORML), so the first layer's products do not merge.
    A multiplication of an episode's own weights is counted twice: those weights are read and written once a step,
    while the factored form's operands stay in cache (chosen, not fitted: on two cores the forms it picks for the
    784-256-128-64-64-20 learner beat all-materialised ones at 1 and at 5 shots).
    """
    passes = 1 if is_first else 2  # forward, and pulling delta back
    merged = is_first and not scales_inputs
    weights = n_in * n_out
    materialised = 2 * inner_steps * n_support * weights * (passes + 1) + 2 * n_query * weights
    steps_met = inner_steps if merged else inner_steps * (inner_steps - 1) // 2
    steps_met_by_query = min(1, inner_steps) if merged else inner_steps
    shared = inner_steps * passes * n_support * weights + n_query * weights
    pair = n_in + n_out
    factored = shared + steps_met * passes * n_support**2 * pair + steps_met_by_query * n_query * n_support * pair
    return "factored" if factored < materialised else "materialised"
