"""An adapted layer: the initial weights minus a sum of outer products of update signals, held in one of three forms.

    W_t = W_0 - eta * sum_u sum_s delta_hat_u[s] h_hat_u[s]^T        b_t = b_0 - eta * sum_u sum_s delta_hat_u[s]

(paper eqs 9-10 with Algorithm 1's sign, summed over steps u < t). `Materialised` adds each product into [E, O, I]
weights. `Factored` keeps the signals and never forms W_t: h W_t^T = h W_0^T - eta * sum_u (h h_hat_u^T) delta_hat_u,
where h W_0^T is one product shared by all episodes. `FactoredInput` is the factored form of a layer whose input is the
same in every step: it carries that input's pre-activations. All compute the same numbers; `cheaper_form` chooses.

Every operation has its adjoint beside it: from the derivative of the query loss by its result (`*_bar`) to that by its
operands. Adjoints are called in the reverse order of the operations and add up what W_0 and b_0 get.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

Form = Literal["materialised", "factored"]
Products = list[Tensor]  # what an operation leaves for its adjoint


class LayerWeights(ABC):
    """One layer's weights W_t, one set an episode, over the inner steps t = 0..T of one adaptation."""

    def __init__(self, weight: Tensor, bias: Tensor, eta: float, *, keep: bool) -> None:
        """`weight` [O, I], `bias` [O]: W_0 and b_0. `keep`: every W_t stays at hand, for the adjoints."""
        self.weight, self.bias, self.eta, self.keep = weight, bias, eta, keep
        self._biases: list[Tensor] = [bias]  # b_t, [E, 1, O] after a step

    @abstractmethod
    def linear(self, t: int, h: Tensor) -> tuple[Tensor, Products]:
        """Pre-activations a = W_t h + b_t (eq. 1): [E, B, I] -> [E, B, O]."""

    @abstractmethod
    def pull_back(self, t: int, delta: Tensor) -> tuple[Tensor, Products]:
        """W_t^T delta, the linear part of eq. 4: [E, B, O] -> [E, B, I]."""

    @abstractmethod
    def step(self, delta_hat: Tensor, h_hat: Tensor) -> None:
        """One more inner step with signals [E, S, O] and [E, S, I]."""

    def begin_reverse(self) -> None:
        """Set all that the adjoints add up to zero."""
        self._weight_bar = torch.zeros_like(self.weight)
        self._bias_bar: Tensor | None = None  # [E, 1, O]

    @abstractmethod
    def linear_adjoint(self, t: int, h: Tensor, products: Products, a_bar: Tensor, *, to_input: bool) -> Tensor | None:
        """h_bar [E, B, I] from a_bar [E, B, O]; None unless `to_input`."""

    @abstractmethod
    def pull_back_adjoint(self, t: int, delta: Tensor, products: Products, below_bar: Tensor) -> Tensor:
        """delta_bar [E, B, O] from below_bar [E, B, I]."""

    @abstractmethod
    def step_adjoint(self, t: int, delta_hat: Tensor, h_hat: Tensor) -> tuple[Tensor, Tensor | None]:
        """delta_hat_bar [E, S, O] and h_hat_bar [E, S, I] of step t; None where h_hat is the constant input."""

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

    def __init__(self, weight: Tensor, bias: Tensor, eta: float, *, keep: bool) -> None:
        super().__init__(weight, bias, eta, keep=keep)
        self._weights: list[Tensor] = [weight]  # W_t, or the newest alone unless kept

    @override
    def linear(self, t: int, h: Tensor) -> tuple[Tensor, Products]:
        if t == 0:
            return functional.linear(h, self.weight, self.bias), []
        return torch.baddbmm(self._biases[t], h, self._at(t).mT), []

    @override
    def pull_back(self, t: int, delta: Tensor) -> tuple[Tensor, Products]:
        return delta @ self._at(t), []

    @override
    def step(self, delta_hat: Tensor, h_hat: Tensor) -> None:
        self._step_bias(delta_hat)
        newest = self._weights[-1].expand(delta_hat.shape[0], -1, -1)
        stepped = torch.baddbmm(newest, delta_hat.mT, h_hat, alpha=-self.eta)
        self._weights = [*self._weights, stepped] if self.keep else [stepped]

    @override
    def begin_reverse(self) -> None:
        super().begin_reverse()
        self._weights_bar: Tensor | None = None  # [E, O, I], by W_t of all steps passed

    @override
    def linear_adjoint(self, t: int, h: Tensor, products: Products, a_bar: Tensor, *, to_input: bool) -> Tensor | None:
        self._add_to_bias(a_bar)
        self._add_at(t, a_bar, h)
        return a_bar @ self._at(t) if to_input else None

    @override
    def pull_back_adjoint(self, t: int, delta: Tensor, products: Products, below_bar: Tensor) -> Tensor:
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

    def _at(self, t: int) -> Tensor:
        return self._weights[t] if self.keep else self._weights[-1]

    def _add_at(self, t: int, out: Tensor, into: Tensor) -> None:
        """Add sum_s out[s] into[s]^T to what W_t gets."""
        if t == 0:  # shared by all episodes: one product
            self._add_to_weight(out, into)
        elif self._weights_bar is None:
            self._weights_bar = out.mT @ into
        else:
            self._weights_bar.baddbmm_(out.mT, into)


class Factored(LayerWeights):
    """The signals of every step; W_t is never formed."""

    def __init__(self, weight: Tensor, bias: Tensor, eta: float, *, keep: bool) -> None:
        super().__init__(weight, bias, eta, keep=keep)
        self._delta_hats: list[Tensor] = []
        self._h_hats: list[Tensor] = []

    @override
    def linear(self, t: int, h: Tensor) -> tuple[Tensor, Products]:
        base = functional.linear(h, self.weight).add_(self._biases[t])
        return self._minus_steps(base, h, self._h_hats[:t], self._delta_hats[:t])

    @override
    def pull_back(self, t: int, delta: Tensor) -> tuple[Tensor, Products]:
        return self._minus_steps(delta @ self.weight, delta, self._delta_hats[:t], self._h_hats[:t])

    @override
    def step(self, delta_hat: Tensor, h_hat: Tensor) -> None:
        self._step_bias(delta_hat)
        self._delta_hats.append(delta_hat)
        self._h_hats.append(h_hat)

    @override
    def begin_reverse(self) -> None:
        super().begin_reverse()
        self._delta_hat_bars = [torch.zeros_like(delta_hat) for delta_hat in self._delta_hats]
        self._h_hat_bars = [torch.zeros_like(h_hat) for h_hat in self._h_hats]

    @override
    def linear_adjoint(self, t: int, h: Tensor, products: Products, a_bar: Tensor, *, to_input: bool) -> Tensor | None:
        self._add_to_bias(a_bar)
        self._add_to_weight(a_bar, h)
        h_bar = a_bar @ self.weight if to_input else None
        for u, product in enumerate(products):
            self._minus_step_adjoint(h_bar, h, product, a_bar, self._of_linear(u))
        return h_bar

    @override
    def pull_back_adjoint(self, t: int, delta: Tensor, products: Products, below_bar: Tensor) -> Tensor:
        self._add_to_weight(delta, below_bar)
        delta_bar = below_bar @ self.weight.T
        for u, product in enumerate(products):
            h_hat, delta_hat, h_hat_bar, delta_hat_bar = self._of_linear(u)
            swapped = delta_hat, h_hat, delta_hat_bar, h_hat_bar
            self._minus_step_adjoint(delta_bar, delta, product, below_bar, swapped)
        return delta_bar

    @override
    def step_adjoint(self, t: int, delta_hat: Tensor, h_hat: Tensor) -> tuple[Tensor, Tensor | None]:
        return self._delta_hat_bars[t].sub_(self._bias_sum(), alpha=self.eta), self._h_hat_bars[t]

    def _minus_steps(
        self, base: Tensor, x: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor]
    ) -> tuple[Tensor, Products]:
        """The sum base - eta * sum_u (x key_u^T) value_u, and the products x key_u^T [E, B, S]."""
        products = [x @ key.mT for key in keys]
        for product, value in zip(products, values, strict=True):
            base.baddbmm_(product, value, alpha=-self.eta)
        return base, products

    def _minus_step_adjoint(
        self,
        x_bar: Tensor | None,
        x: Tensor,
        product: Tensor,
        result_bar: Tensor,
        step: tuple[Tensor, Tensor, Tensor, Tensor],
    ) -> None:
        """The adjoint of one term of `_minus_steps`; step: key, value and where their derivatives add up."""
        key, value, key_bar, value_bar = step
        product_bar = result_bar @ value.mT
        if x_bar is not None:
            x_bar.baddbmm_(product_bar, key, alpha=-self.eta)
        key_bar.baddbmm_(product_bar.mT, x, alpha=-self.eta)
        value_bar.baddbmm_(product.mT, result_bar, alpha=-self.eta)

    def _of_linear(self, u: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self._h_hats[u], self._delta_hats[u], self._h_hat_bars[u], self._delta_hat_bars[u]


class FactoredInput(LayerWeights):
    """The factored form of the first layer: its support set is the same in every step, its queries are known.

    With K_u = x h_hat_u^T, the support set's pre-activations follow
    a_{u+1} = a_u - eta * (K_u delta_hat_u + sum_s delta_hat_u[s]): each step costs the same, however many came before.
    Where h_hat_u = x (a rule that scales no inputs), K is one product for all steps, and the queries meet the sum of
    all delta_hat_u at once. Inputs are told apart by identity.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor, eta: float, *, keep: bool, support: Tensor, query: Tensor | None
    ) -> None:
        """`support` [E, S, D] and, where they are known already, `query` [E, M, D]: both meet W_0 in one product."""
        super().__init__(weight, bias, eta, keep=keep)
        self._support, self._query = support, query
        self._inputs = support if query is None else torch.cat([support, query], dim=1)
        base = functional.linear(self._inputs, weight)
        self._query_base = base[:, support.shape[1] :]
        self._a: list[Tensor] = [base[:, : support.shape[1]] + bias]  # a_t, or the newest alone unless kept
        self._gram: Tensor | None = None  # x x^T
        self._k: list[Tensor] = []  # K_u of every step, if kept
        self._delta_hats: list[Tensor] = []
        self._h_hats: list[Tensor] = []

    @override
    def linear(self, t: int, h: Tensor) -> tuple[Tensor, Products]:
        if h is self._support:
            return self._a[t if self.keep else -1], []
        base = self._query_base if h is self._query else functional.linear(h, self.weight)
        a = base + self._biases[t]
        products = []
        for h_hat, delta_hat in self._query_terms():
            products.append(h @ h_hat.mT)
            a.baddbmm_(products[-1], delta_hat, alpha=-self.eta)
        return a, products

    @override
    def pull_back(self, t: int, delta: Tensor) -> tuple[Tensor, Products]:
        raise NotImplementedError("nothing lies below the first layer")

    @override
    def step(self, delta_hat: Tensor, h_hat: Tensor) -> None:
        k = self._product(h_hat)
        newest = torch.baddbmm(self._a[-1], k, delta_hat, alpha=-self.eta)
        self._step_bias(delta_hat)
        newest += self._biases[-1] - self._biases[-2]
        self._a = [*self._a, newest] if self.keep else [newest]
        if self.keep:
            self._k.append(k)
        self._delta_hats.append(delta_hat)
        self._h_hats.append(h_hat)

    @override
    def begin_reverse(self) -> None:
        super().begin_reverse()
        self._support_bar = torch.zeros_like(self._a[0])  # by a_t, summed over the steps passed
        self._query_bar: Tensor | None = None
        self._merged_bar: Tensor | None = None  # what the queries give to every delta_hat_u alike

    @override
    def linear_adjoint(self, t: int, h: Tensor, products: Products, a_bar: Tensor, *, to_input: bool) -> Tensor | None:
        self._add_to_bias(a_bar)
        if h is self._support:
            self._support_bar += a_bar
            return None
        if h is not self._query:
            raise ValueError("of a factored first layer, only the queries it was made with can be gone back through")
        self._query_bar, self._query_products = a_bar, products
        if self._merges():
            self._merged_bar = products[0].mT @ a_bar
        return None

    @override
    def pull_back_adjoint(self, t: int, delta: Tensor, products: Products, below_bar: Tensor) -> Tensor:
        raise NotImplementedError("nothing lies below the first layer")

    @override
    def step_adjoint(self, t: int, delta_hat: Tensor, h_hat: Tensor) -> tuple[Tensor, Tensor | None]:
        delta_hat_bar = torch.baddbmm(self._bias_sum(), self._k[t].mT, self._support_bar)
        if self._merged_bar is not None:
            return delta_hat_bar.add_(self._merged_bar).mul_(-self.eta), None
        h_hat_bar = (delta_hat @ self._support_bar.mT) @ self._support
        if self._query_bar is not None and self._query is not None:
            delta_hat_bar.baddbmm_(self._query_products[t].mT, self._query_bar)
            h_hat_bar.baddbmm_(delta_hat @ self._query_bar.mT, self._query)
        return delta_hat_bar.mul_(-self.eta), h_hat_bar.mul_(-self.eta)

    @override
    def initial_gradients(self) -> tuple[Tensor, Tensor]:
        bars = self._support_bar if self._query_bar is None else torch.cat([self._support_bar, self._query_bar], dim=1)
        self._add_to_weight(bars, self._inputs)
        return super().initial_gradients()

    def _merges(self) -> bool:
        return bool(self._h_hats) and all(h_hat is self._support for h_hat in self._h_hats)

    def _query_terms(self) -> list[tuple[Tensor, Tensor]]:
        if self._merges():
            return [(self._support, torch.stack(self._delta_hats).sum(dim=0))]
        return list(zip(self._h_hats, self._delta_hats, strict=True))

    def _product(self, h_hat: Tensor) -> Tensor:
        """K = x h_hat^T [E, S, S]; of h_hat = x the same one for all steps."""
        if h_hat is not self._support:
            return self._support @ h_hat.mT
        if self._gram is None:
            self._gram = self._support @ self._support.mT
        return self._gram


def layer_forms(
    sizes: Sequence[int],
    *,
    n_support: int,
    n_query: int,
    inner_steps: int,
    scales_inputs: bool,
    device: torch.device,
    form: Form | Literal["auto"] = "auto",
) -> list[Form]:
    """The form of every layer of a network of `sizes` D, hidden widths, N; 'auto' takes the cheaper one of each."""
    if form != "auto":
        return [form] * (len(sizes) - 1)
    return [
        cheaper_form(
            n_support=n_support,
            n_query=n_query,
            inner_steps=inner_steps,
            n_in=n_in,
            n_out=n_out,
            is_first=layer == 0,
            scales_inputs=scales_inputs,
            device=device,
        )
        for layer, (n_in, n_out) in enumerate(itertools.pairwise(sizes))
    ]


def made_weights(
    forms: Sequence[Form],
    parameters: Sequence[tuple[Tensor, Tensor]],
    *,
    eta: float,
    support: Tensor,
    query: Tensor | None,
    keep: bool,
) -> list[LayerWeights]:
    """The weights of every layer before the first step, from W_0 and b_0 of each."""
    made: list[LayerWeights] = []
    for layer, (form, (weight, bias)) in enumerate(zip(forms, parameters, strict=True)):
        if form == "materialised":
            made.append(Materialised(weight, bias, eta, keep=keep))
        elif layer == 0:
            made.append(FactoredInput(weight, bias, eta, keep=keep, support=support, query=query))
        else:
            made.append(Factored(weight, bias, eta, keep=keep))
    return made


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
    """The form that takes less time for one episode's inner loop and query pass, by counted multiplications.

    `is_first`: nothing is pulled back through the first layer, and its input stays the same. `scales_inputs`: h_hat
    changes from step to step even where h does not (NORML).
    Products with W_0, one for all episodes, count once. An episode's own small products count `_own_cost` times: on a
    CPU they reach about half of the speed at 20 rows, and nearly all of it at 100. The reverse does the same products
    twice more in either form, so it changes nothing here.
    """
    support, query, weights, pair = n_support, n_query, n_in * n_out, n_in + n_out
    own = _own_cost(n_support, device)
    later = max(inner_steps - 1, 0)
    passes = 1 if is_first else 2  # forward, and pulling delta back
    materialised = passes * support * weights * (min(inner_steps, 1) + later * own)
    materialised += inner_steps * support * weights + query * weights * own
    if not is_first:
        shared = (passes * inner_steps * support + query) * weights
        pairs = passes * inner_steps * later // 2 * support**2 + inner_steps * query * support
        factored = shared + pairs * pair * own
    else:
        terms = inner_steps if scales_inputs else min(inner_steps, 1)
        shared = (support + query) * weights
        grams = terms * (support**2 * n_in + query * support * pair)
        factored = shared + (grams + inner_steps * support**2 * n_out) * own
    return "factored" if factored < materialised else "materialised"


def _own_cost(rows: int, device: torch.device) -> float:
    """What a multiplication of an episode's own product costs, in those of one shared product."""
    return 1 + 20 / rows if device.type == "cpu" else 1.0  # on CPUs fitted to two cores; on others not measured
