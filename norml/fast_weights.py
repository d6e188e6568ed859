"""Weights of an adapted layer: the initial weights minus a sum of outer products of update signals, in several forms.

    W_t = W_0 - eta * sum_u sum_s delta_hat_u[s] h_hat_u[s]^T        b_t = b_0 - eta * sum_u sum_s delta_hat_u[s]

(paper eqs 9-10 with Algorithm 1's sign, summed over steps u < t). `Materialised` computes W_t [E, O, I]. `Factored`
keeps the signals and never computes W_t: h W_t^T = h W_0^T - eta * sum_u (h h_hat_u^T) delta_hat_u, where h W_0^T is
one product for all episodes. `FactoredInput` is the factored form of a layer whose input is the same in every step; it
updates that input's pre-activations. These forms compute the same numbers; `cheaper_form` chooses between them.
`Rated` is the materialised form with a rate for every weight, which multiplies the sum of products; factors cannot
express that. `Decayed` is the materialised form in which each step has a rate and decays W_t first.

Every operation has its adjoint next to it: from the derivative of the query loss by the result (`*_bar`) it computes
those by the operands. Call adjoints in the reverse order of the operations. They add up the derivatives by W_0 and b_0.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from norml.layers import LayerShape

Form = Literal["materialised", "factored"]
InputSource = Literal["support", "query", "other"]  # origin of the inputs; "query": the queries known at the start
Product = Tensor | None  # value of an operation that its adjoint needs


class LayerWeights(ABC):
    """A layer's weights W_t of E episodes over the inner steps t = 0..T of one adaptation."""

    def __init__(self, weight: Tensor, bias: Tensor, eta: float, *, reversible: bool) -> None:
        """Start with W_0 = `weight` [O, I] and b_0 = `bias` [O]. reversible: keep every W_t for the adjoints."""
        self.weight, self.bias, self.eta, self.reversible = weight, bias, eta, reversible
        self._biases: list[Tensor] = [bias]  # b_t, [E, 1, O] after a step

    @abstractmethod
    def linear(self, t: int, h: Tensor, source: InputSource) -> tuple[Tensor, Product]:
        """Pre-activations a = W_t h + b_t (eq. 1): [E, B, I] -> [E, B, O]. source: origin of the inputs h."""

    @abstractmethod
    def pull_back(self, t: int, delta: Tensor) -> tuple[Tensor, Product]:
        """W_t^T delta, the linear part of eq. 4: [E, B, O] -> [E, B, I]."""

    @abstractmethod
    def step(self, delta_hat: Tensor, h_hat: Tensor, *, h_is_scaled: bool) -> None:
        """Take an inner step with signals [E, S, O] and [E, S, I]. h_is_scaled: h_hat is not the layer's input."""

    def begin_reverse(self) -> None:
        """Set all sums of the adjoints to zero."""
        self._weight_bar = torch.zeros_like(self.weight)
        self._bias_bar: Tensor | None = None  # [E, 1, O]

    @abstractmethod
    def linear_adjoint(
        self, t: int, h: Tensor, source: InputSource, product: Product, a_bar: Tensor, *, to_input: bool
    ) -> Tensor | None:
        """h_bar [E, B, I] from a_bar [E, B, O]; None unless `to_input`."""

    @abstractmethod
    def pull_back_adjoint(self, t: int, delta: Tensor, product: Product, below_bar: Tensor) -> Tensor:
        """delta_bar [E, B, O] from below_bar [E, B, I]."""

    @abstractmethod
    def step_adjoint(self, t: int, delta_hat: Tensor, h_hat: Tensor) -> tuple[Tensor, Tensor | None]:
        """delta_hat_bar [E, S, O] and h_hat_bar [E, S, I] of step t; None if h_hat is the constant input."""

    def initial_gradients(self) -> tuple[Tensor, Tensor]:
        """Derivatives by W_0 [O, I] and b_0 [O], after all adjoints."""
        return self._weight_bar, self._bias_sum().sum(dim=(0, 1))

    def _step_bias(self, delta_hat: Tensor) -> None:
        self._biases.append(self._biases[-1] - self.eta * delta_hat.sum(dim=1, keepdim=True))

    def _add_to_bias(self, a_bar: Tensor) -> None:
        total = a_bar.sum(dim=1, keepdim=True)
        self._bias_bar = total if self._bias_bar is None else self._bias_bar.add_(total)

    def _add_to_weight(self, a_bar: Tensor, h: Tensor) -> None:
        self._weight_bar.addmm_(a_bar.flatten(0, 1).T, h.flatten(0, 1))

    def _bias_sum(self) -> Tensor:
        if self._bias_bar is None:
            raise RuntimeError("no adjoint has been called")
        return self._bias_bar


class Materialised(LayerWeights):
    """W_t itself, [E, O, I]; before the first step [O, I], shared by all episodes."""

    def __init__(self, weight: Tensor, bias: Tensor, eta: float, *, reversible: bool) -> None:
        super().__init__(weight, bias, eta, reversible=reversible)
        self._weights: list[Tensor] = [weight]  # all W_t if reversible, otherwise the newest

    @override
    def linear(self, t: int, h: Tensor, source: InputSource) -> tuple[Tensor, Product]:
        if t == 0:
            return functional.linear(h, self.weight, self.bias), None
        return torch.baddbmm(self._biases[t], h, self._at(t).mT), None

    @override
    def pull_back(self, t: int, delta: Tensor) -> tuple[Tensor, Product]:
        return delta @ self._at(t), None

    @override
    def step(self, delta_hat: Tensor, h_hat: Tensor, *, h_is_scaled: bool) -> None:
        self._step_bias(delta_hat)
        newest = self._weights[-1].expand(delta_hat.shape[0], -1, -1)
        stepped = torch.baddbmm(newest, delta_hat.mT, h_hat, alpha=-self.eta)
        self._weights = [*self._weights, stepped] if self.reversible else [stepped]

    @override
    def begin_reverse(self) -> None:
        super().begin_reverse()
        self._weights_bar: Tensor | None = None  # [E, O, I], summed over the W_t of all steps reversed so far

    @override
    def linear_adjoint(
        self, t: int, h: Tensor, source: InputSource, product: Product, a_bar: Tensor, *, to_input: bool
    ) -> Tensor | None:
        self._add_to_bias(a_bar)
        self._add_at(t, a_bar, h)
        return a_bar @ self._at(t) if to_input else None

    @override
    def pull_back_adjoint(self, t: int, delta: Tensor, product: Product, below_bar: Tensor) -> Tensor:
        self._add_at(t, delta, below_bar)
        return below_bar @ self._at(t).mT

    @override
    def step_adjoint(self, t: int, delta_hat: Tensor, h_hat: Tensor) -> tuple[Tensor, Tensor | None]:
        if self._weights_bar is None:
            raise RuntimeError("no adjoint has been called")
        delta_hat_bar = torch.baddbmm(self._bias_sum(), h_hat, self._weights_bar.mT, beta=-self.eta, alpha=-self.eta)
        return delta_hat_bar, (delta_hat @ self._weights_bar).mul_(-self.eta)

    @override
    def initial_gradients(self) -> tuple[Tensor, Tensor]:
        weight_bar, bias_bar = super().initial_gradients()
        return weight_bar if self._weights_bar is None else weight_bar + self._weights_bar.sum(dim=0), bias_bar

    def gradients(self) -> tuple[Tensor, Tensor]:
        """Derivatives by W_t [E, O, I] and b_t [E, 1, O], where t > 0 is the step that the reverse has reached."""
        if self._weights_bar is None:
            raise RuntimeError("no adjoint has been called")
        return self._weights_bar, self._bias_sum()

    def _at(self, t: int) -> Tensor:
        return self._weights[t] if self.reversible else self._weights[-1]

    def _add_at(self, t: int, out: Tensor, into: Tensor) -> None:
        """Add sum_s out[s] into[s]^T to the derivative by W_t."""
        if t == 0:  # shared by all episodes: one product
            self._add_to_weight(out, into)
        elif self._weights_bar is None:
            self._weights_bar = out.mT @ into
        else:
            self._weights_bar.baddbmm_(out.mT, into)


class Rated(Materialised):
    """Materialised, with rates: W_{t+1} = W_t - eta * rate * sum_s delta_hat[s] h_hat[s]^T, element by element."""

    def __init__(
        self, weight: Tensor, bias: Tensor, eta: float, *, reversible: bool, rates: tuple[Tensor, Tensor]
    ) -> None:
        """rates: [O, I] of weights and [O] of biases; or [1, I] and [1], the same for all outputs."""
        super().__init__(weight, bias, eta, reversible=reversible)
        self._weight_rate, self._bias_rate = rates

    @override
    def step(self, delta_hat: Tensor, h_hat: Tensor, *, h_is_scaled: bool) -> None:
        self._biases.append(self._biases[-1] - self.eta * self._bias_rate * delta_hat.sum(dim=1, keepdim=True))
        stepped = torch.addcmul(self._weights[-1], self._weight_rate, delta_hat.mT @ h_hat, value=-self.eta)
        self._weights = [*self._weights, stepped] if self.reversible else [stepped]

    @override
    def begin_reverse(self) -> None:
        super().begin_reverse()
        self._weight_rate_bar = torch.zeros_like(self._weight_rate)
        self._bias_rate_bar = torch.zeros_like(self._bias_rate)

    @override
    def step_adjoint(self, t: int, delta_hat: Tensor, h_hat: Tensor) -> tuple[Tensor, Tensor | None]:
        if self._weights_bar is None:
            raise RuntimeError("no adjoint has been called")
        bias_bar, gradient = (
            self._bias_sum(),
            delta_hat.mT @ h_hat,
        )  # recomputed; keeping it would take as much memory as W_t
        weight_rate_bar = (gradient * self._weights_bar).sum_to_size(self._weight_rate.shape)
        self._weight_rate_bar.sub_(weight_rate_bar, alpha=self.eta)
        bias_rate_bar = (delta_hat.sum(dim=1, keepdim=True) * bias_bar).sum_to_size(self._bias_rate.shape)
        self._bias_rate_bar.sub_(bias_rate_bar, alpha=self.eta)
        gradient_bar = self._weight_rate * self._weights_bar
        delta_hat_bar = torch.baddbmm(
            self._bias_rate * bias_bar, h_hat, gradient_bar.mT, beta=-self.eta, alpha=-self.eta
        )
        return delta_hat_bar, (delta_hat @ gradient_bar).mul_(-self.eta)

    def rate_gradients(self) -> tuple[Tensor, Tensor]:
        """Derivatives by the rates of weights and biases, after all adjoints."""
        return self._weight_rate_bar, self._bias_rate_bar


class Decayed(Materialised):
    """Materialised, with a pace: W_{t+1} = decay * W_t - eta * rate * sum_s delta_hat[s] h_hat[s]^T; b_t likewise."""

    def __init__(self, weight: Tensor, bias: Tensor, eta: float, *, reversible: bool) -> None:
        super().__init__(weight, bias, eta, reversible=reversible)
        self._paces: list[tuple[Tensor, Tensor]] = []  # rate and decay of each step, [E, 1, 1]

    def set_pace(self, rate: Tensor, decay: Tensor) -> None:
        """Set rate [E] and decay [E] of the next step."""
        self._paces.append((rate[:, None, None], decay[:, None, None]))

    def mean(self, t: int) -> Tensor:
        """The mean over W_t: [E], or [] before the first step."""
        return self._at(t).mean(dim=(-2, -1))

    @override
    def step(self, delta_hat: Tensor, h_hat: Tensor, *, h_is_scaled: bool) -> None:
        rate, decay = self._paces[-1]
        change = rate * delta_hat
        self._biases.append(decay * self._biases[-1] - self.eta * change.sum(dim=1, keepdim=True))
        stepped = torch.baddbmm(decay * self._weights[-1], change.mT, h_hat, alpha=-self.eta)
        self._weights = [*self._weights, stepped] if self.reversible else [stepped]

    @override
    def step_adjoint(self, t: int, delta_hat: Tensor, h_hat: Tensor) -> tuple[Tensor, Tensor | None]:
        """As `LayerWeights.step_adjoint`; call `pace_adjoint` after it."""
        rate = self._paces[t][0]
        change_bar, h_hat_bar = super().step_adjoint(t, rate * delta_hat, h_hat)
        self._rate_bar = (change_bar * delta_hat).sum(dim=(1, 2))
        return rate * change_bar, h_hat_bar

    def pace_adjoint(self, t: int) -> tuple[Tensor, Tensor]:
        """Derivatives [E] by rate and decay of step t; afterwards the sums are derivatives by W_t and b_t."""
        weights_bar, bias_bar = self.gradients()
        decay_bar = (weights_bar * self._at(t)).sum(dim=(1, 2)) + (bias_bar * self._biases[t]).sum(dim=(1, 2))
        decay = self._paces[t][1]
        weights_bar.mul_(decay)
        bias_bar.mul_(decay)
        return self._rate_bar, decay_bar

    def mean_adjoint(self, mean_bar: Tensor) -> None:
        """Add the derivative [E] by the mean of W_t, after `pace_adjoint` of step t."""
        self.gradients()[0].add_(mean_bar[:, None, None] / self.weight.numel())


class _Signals(NamedTuple):
    """The signals of t steps, concatenated: [E, t * S, O] and [E, t * S, I]."""

    delta_hats: Tensor
    h_hats: Tensor

    def rows(self, rows: slice) -> "_Signals":
        return _Signals(self.delta_hats[:, rows], self.h_hats[:, rows])


class Factored(LayerWeights):
    """Keeps the signals of every step and never computes W_t. An input needs one product with all signals."""

    def __init__(self, weight: Tensor, bias: Tensor, eta: float, *, reversible: bool) -> None:
        super().__init__(weight, bias, eta, reversible=reversible)
        self._signals: _Signals | None = None
        self._n_support = 0

    @override
    def linear(self, t: int, h: Tensor, source: InputSource) -> tuple[Tensor, Product]:
        base = functional.linear(h, self.weight).add_(self._biases[t])
        before = self._before(t)
        return (base, None) if before is None else self._minus_steps(base, h, before.h_hats, before.delta_hats)

    @override
    def pull_back(self, t: int, delta: Tensor) -> tuple[Tensor, Product]:
        base, before = delta @ self.weight, self._before(t)
        return (base, None) if before is None else self._minus_steps(base, delta, before.delta_hats, before.h_hats)

    @override
    def step(self, delta_hat: Tensor, h_hat: Tensor, *, h_is_scaled: bool) -> None:
        self._step_bias(delta_hat)
        self._n_support = delta_hat.shape[1]
        newest = _Signals(delta_hat, h_hat)
        if self._signals is not None:
            newest = _Signals(*(torch.cat(pair, dim=1) for pair in zip(self._signals, newest, strict=True)))
        self._signals = newest

    @override
    def begin_reverse(self) -> None:
        super().begin_reverse()
        self._bars: _Signals | None = None  # derivatives by the signals of the steps not reversed yet

    @override
    def linear_adjoint(
        self, t: int, h: Tensor, source: InputSource, product: Product, a_bar: Tensor, *, to_input: bool
    ) -> Tensor | None:
        self._add_to_bias(a_bar)
        self._add_to_weight(a_bar, h)
        h_bar = a_bar @ self.weight if to_input else None
        before = self._before(t)
        if before is None or product is None:
            return h_bar
        product_bar = a_bar @ before.delta_hats.mT
        self._add_to_signals(t, (product, a_bar), (product_bar, h))
        return None if h_bar is None else h_bar.baddbmm_(product_bar, before.h_hats, alpha=-self.eta)

    @override
    def pull_back_adjoint(self, t: int, delta: Tensor, product: Product, below_bar: Tensor) -> Tensor:
        self._add_to_weight(delta, below_bar)
        delta_bar, before = below_bar @ self.weight.T, self._before(t)
        if before is None or product is None:
            return delta_bar
        product_bar = below_bar @ before.h_hats.mT
        self._add_to_signals(t, (product_bar, delta), (product, below_bar))
        return delta_bar.baddbmm_(product_bar, before.delta_hats, alpha=-self.eta)

    @override
    def step_adjoint(self, t: int, delta_hat: Tensor, h_hat: Tensor) -> tuple[Tensor, Tensor | None]:
        if self._bars is None:
            raise RuntimeError("no adjoint has been called")
        bars = self._bars.rows(slice(t * self._n_support, (t + 1) * self._n_support))
        return bars.delta_hats - self.eta * self._bias_sum(), bars.h_hats

    def _before(self, t: int) -> _Signals | None:
        """The signals of the steps before t."""
        return None if t == 0 or self._signals is None else self._signals.rows(slice(t * self._n_support))

    def _minus_steps(self, base: Tensor, x: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Product]:
        """The sum base - eta * (x keys^T) values over the rows of all steps, and x keys^T [E, B, t * S]."""
        product = x @ keys.mT
        return base.baddbmm_(product, values, alpha=-self.eta), product

    def _add_to_signals(self, t: int, to_delta_hats: tuple[Tensor, Tensor], to_h_hats: tuple[Tensor, Tensor]) -> None:
        """Add -eta * left^T right of each pair to the derivatives by the signals before t; left [E, B, t * S]."""
        products = [(left.mT, right) for left, right in (to_delta_hats, to_h_hats)]
        if self._bars is None:
            self._bars = _Signals(*((left @ right).mul_(-self.eta) for left, right in products))
            return
        bars = self._bars.rows(slice(t * self._n_support))
        self._bars = _Signals(
            *(torch.baddbmm(bar, *pair, alpha=-self.eta) for bar, pair in zip(bars, products, strict=True))
        )


class Inputs(NamedTuple):
    """Inputs of the first layer: rows [E, S + M, D], of which the first `n_support` = S are the support set.

    query_from: first row of a query pass: S, or 0 if the support set gives batch norm's statistics and goes through
    with the queries. queried_once: queries come only after the last step.
    """

    rows: Tensor
    n_support: int
    query_from: int
    queried_once: bool = True

    @property
    def support(self) -> Tensor:
        """[E, S, D]."""
        return self.rows[:, : self.n_support]

    def of_support(self, per_row: Tensor) -> Tensor:
        """The support rows [E, S, ...] of a tensor with all rows."""
        return per_row[:, : self.n_support]

    def of_query(self, per_row: Tensor) -> Tensor:
        """The rows [E, B, ...] of a query pass, of a tensor with all rows."""
        return per_row[:, self.query_from :]


class FactoredInput(LayerWeights):
    """The factored form of the first layer, whose support set is the same in every step and whose queries are known.

    With K_u = x h_hat_u^T, the support set's pre-activations are
    a_{u+1} = a_u - eta * (K_u delta_hat_u + sum_s delta_hat_u[s]), so the cost of a step does not depend on its number.
    If h_hat_u = x, for a rule that does not scale inputs, K is the same for all steps. Queries that come only once then
    need a single product with the sum of all delta_hat_u.
    """

    def __init__(self, weight: Tensor, bias: Tensor, eta: float, *, reversible: bool, inputs: Inputs) -> None:
        """inputs: all of them are rows of each product."""
        super().__init__(weight, bias, eta, reversible=reversible)
        self._inputs = inputs
        base = functional.linear(inputs.rows, weight)
        self._query_base = inputs.of_query(base)
        self._a: list[Tensor] = [inputs.of_support(base) + bias]  # all a_t if reversible, otherwise the newest
        self._merges = inputs.queried_once  # false once a step has scaled its input
        self._gram: Tensor | None = None
        self._products: list[Tensor] = []  # products of all inputs with h_hat_u: [E, S + M, S]
        self._delta_hats: list[Tensor] = []
        self._h_hats: list[Tensor] = []

    @override
    def linear(self, t: int, h: Tensor, source: InputSource) -> tuple[Tensor, Product]:
        """As `LayerWeights.linear`; rows other than the support set's can only use the newest weights."""
        if source == "support":
            return self._a[t if self.reversible else -1], None
        base = self._query_base if source == "query" else functional.linear(h, self.weight)
        base = base + self._biases[t]
        if not self._h_hats:
            return base, None
        product = self._query_product() if source == "query" else torch.cat([h @ key.mT for key in self._keys()], dim=2)
        return base.baddbmm_(product, self._values(len(self._delta_hats)), alpha=-self.eta), product

    @override
    def pull_back(self, t: int, delta: Tensor) -> tuple[Tensor, Product]:
        raise NotImplementedError("there is no layer below the first")

    @override
    def step(self, delta_hat: Tensor, h_hat: Tensor, *, h_is_scaled: bool) -> None:
        self._merges = self._merges and not h_is_scaled
        product = self._inputs.rows @ h_hat.mT if h_is_scaled else self._gram_of_inputs()
        newest = torch.baddbmm(self._a[-1], self._inputs.of_support(product), delta_hat, alpha=-self.eta)
        self._step_bias(delta_hat)
        newest += self._biases[-1] - self._biases[-2]
        self._a = [*self._a, newest] if self.reversible else [newest]
        self._products.append(product)
        self._delta_hats.append(delta_hat)
        self._h_hats.append(h_hat)

    @override
    def begin_reverse(self) -> None:
        super().begin_reverse()
        self._support_bar = torch.zeros_like(self._a[0])  # derivatives by a_t, summed over the steps reversed so far
        self._query_bar: Tensor | None = None
        self._from_query: _Signals | None = None

    @override
    def linear_adjoint(
        self, t: int, h: Tensor, source: InputSource, product: Product, a_bar: Tensor, *, to_input: bool
    ) -> Tensor | None:
        if source == "other":
            raise ValueError("a factored first layer can only be reversed for the queries that it was made with")
        self._add_to_bias(a_bar)
        if source == "support":
            self._support_bar += a_bar
            return None
        self._query_bar = a_bar if self._query_bar is None else self._query_bar + a_bar
        if product is not None:
            h_hats_bar = a_bar[:0] if self._merges else (self._values(t) @ a_bar.mT) @ h
            self._add_from_query(_Signals(product.mT @ a_bar, h_hats_bar))
        return None

    @override
    def pull_back_adjoint(self, t: int, delta: Tensor, product: Product, below_bar: Tensor) -> Tensor:
        raise NotImplementedError("there is no layer below the first")

    @override
    def step_adjoint(self, t: int, delta_hat: Tensor, h_hat: Tensor) -> tuple[Tensor, Tensor | None]:
        support_product = self._inputs.of_support(self._products[t])
        delta_hat_bar = torch.baddbmm(self._bias_sum(), support_product.mT, self._support_bar)
        n_support = delta_hat.shape[1]
        signals = slice(None) if self._merges else slice(t * n_support, (t + 1) * n_support)
        if self._from_query is not None:
            delta_hat_bar += self._from_query.delta_hats[:, signals]
        if self._merges:
            return delta_hat_bar.mul_(-self.eta), None
        product_bar = delta_hat @ self._support_bar.mT
        if self._from_query is None:
            return delta_hat_bar.mul_(-self.eta), (product_bar @ self._inputs.support).mul_(-self.eta)
        h_hat_bar = torch.baddbmm(self._from_query.h_hats[:, signals], product_bar, self._inputs.support)
        return delta_hat_bar.mul_(-self.eta), h_hat_bar.mul_(-self.eta)

    @override
    def initial_gradients(self) -> tuple[Tensor, Tensor]:
        self._add_to_weight(self._rows_bar(), self._inputs.rows)
        return super().initial_gradients()

    def _add_from_query(self, bars: _Signals) -> None:
        """Add the derivatives of a query pass. The last of several comes first, so it has the most steps' signals."""
        if self._from_query is None:
            self._from_query = bars
            return
        for total, more in zip(self._from_query, bars, strict=True):
            total[:, : more.shape[1]] += more

    def _rows_bar(self) -> Tensor:
        if self._query_bar is None:
            return self._support_bar
        if self._inputs.query_from:
            return torch.cat([self._support_bar, self._query_bar], dim=1)
        bar = self._query_bar.clone()
        self._inputs.of_support(bar).add_(self._support_bar)
        return bar

    def _keys(self) -> list[Tensor]:
        """Factors of an input's products: h_hat of every step, or the support set once for all steps."""
        return [self._inputs.support] if self._merges else self._h_hats

    def _values(self, t: int) -> Tensor:
        """Factors of those products: delta_hat of every step before t, [E, t * S, O], or their sum [E, S, O]."""
        before = self._delta_hats[:t]
        return torch.stack(before).sum(dim=0) if self._merges else torch.cat(before, dim=1)

    def _query_product(self) -> Tensor:
        products = self._products[:1] if self._merges else self._products
        return torch.cat([self._inputs.of_query(product) for product in products], dim=2)

    def _gram_of_inputs(self) -> Tensor:
        """Products of all inputs with the support set [E, S + M, S], the same for all steps."""
        if self._gram is None:
            self._gram = self._inputs.rows @ self._inputs.support.mT
        return self._gram


def layer_forms(
    layers: Sequence[LayerShape],
    *,
    n_support: int,
    n_query: int,
    inner_steps: int,
    scales_inputs: bool,
    device: torch.device,
    form: Form | Literal["auto"] = "auto",
    one_by_one: bool = False,
    same_inputs: bool = True,
) -> list[Form]:
    """The form of each of `layers`; 'auto' takes the cheaper one, counting each position of an example as a row.

    one_by_one: each step sees one example; many small steps are cheaper on materialised weights than on all signals.
    same_inputs: the first layer's input is the same in every step.
    """
    if form != "auto":
        return [form] * len(layers)
    if one_by_one:
        return ["materialised"] * len(layers)
    return [
        cheaper_form(
            n_support=n_support * layer.positions,
            n_query=n_query * layer.positions,
            inner_steps=inner_steps,
            n_in=layer.weight_shape[1],
            n_out=layer.weight_shape[0],
            is_first=number == 0 and same_inputs,
            scales_inputs=scales_inputs,
            device=device,
        )
        for number, layer in enumerate(layers)
    ]


def initial_layers(
    forms: Sequence[Form],
    parameters: Sequence[tuple[Tensor, Tensor]],
    *,
    eta: float,
    inputs: Callable[[], Inputs] | None,
    reversible: bool,
    rates: Sequence[tuple[Tensor, Tensor] | None] | None = None,
    decays: bool = False,
) -> list[LayerWeights]:
    """The weights of every layer before the first step, from each layer's W_0 and b_0.

    inputs: returns the first layer's inputs, called if its form needs them; None unless every step sees the whole
    support set. rates: of weights [O, I] and biases [O] of each layer; a layer with rates is always materialised.
    decays: steps have a pace; all layers are then materialised.
    """
    rates = [None] * len(forms) if rates is None else rates
    layers: list[LayerWeights] = []
    for layer, (form, (weight, bias), of_layer) in enumerate(zip(forms, parameters, rates, strict=True)):
        if of_layer is not None:
            layers.append(Rated(weight, bias, eta, reversible=reversible, rates=of_layer))
        elif decays:
            layers.append(Decayed(weight, bias, eta, reversible=reversible))
        elif form == "materialised":
            layers.append(Materialised(weight, bias, eta, reversible=reversible))
        elif layer == 0 and inputs is not None:
            layers.append(FactoredInput(weight, bias, eta, reversible=reversible, inputs=inputs()))
        else:
            layers.append(Factored(weight, bias, eta, reversible=reversible))
    return layers


def cheaper_form(
    *,
    n_support: int,
    n_query: int,
    inner_steps: int,
    n_in: int,
    n_out: int,
    is_first: bool,
    scales_inputs: bool,
    device: torch.device,
) -> Form:
    """The faster form for one episode's inner loop and query pass, by counted multiplications.

    is_first: the first layer needs no pull-back, and its input stays the same. scales_inputs: h_hat changes from step
    to step even if h does not (NORML).
    Products with W_0 are shared by all episodes and count once. An episode's own small products count `_episode_cost`
    times; on a CPU they reach about half the speed with 20 rows and nearly full speed with 100. The reverse needs each
    product twice more in either form, so it does not affect the choice.
    """
    support, query, weights, pair = n_support, n_query, n_in * n_out, n_in + n_out
    episode_cost = _episode_cost(n_support, device)
    later = max(inner_steps - 1, 0)
    passes = 1 if is_first else 2  # forward and pull-back
    materialised = passes * support * weights * (min(inner_steps, 1) + later * episode_cost)
    materialised += inner_steps * support * weights + query * weights * episode_cost
    if not is_first:
        shared = (passes * inner_steps * support + query) * weights
        pairs = passes * inner_steps * later // 2 * support**2 + inner_steps * query * support
        factored = shared + pairs * pair * episode_cost
    else:
        terms = inner_steps if scales_inputs else min(inner_steps, 1)
        shared = (support + query) * weights
        grams = terms * (support**2 * n_in + query * support * pair)
        factored = shared + (grams + inner_steps * support**2 * n_out) * episode_cost
    return "factored" if factored < materialised else "materialised"


def _episode_cost(rows: int, device: torch.device) -> float:
    """Cost of a multiplication in an episode's own product, relative to one in a shared product."""
    return 1 + 20 / rows if device.type == "cpu" else 1.0  # fitted on two CPU cores; not measured on GPUs
