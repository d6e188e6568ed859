"""The inner loop, the only one: for training and evaluation, for every update rule; and its reverse.

Going through it backwards is written by hand: the learner's passes and the weights have their adjoints beside them, so
that second order takes a few passes over memory instead of a tape of thousands of small operations. Update rules alone
are left to autograd (`update_rules.calls`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, Self

import torch
from torch import Tensor

from norml.fast_weights import Form, Inputs, InputSource, LayerWeights, Rated, initial_layers, layer_forms
from norml.hidden_layer import Gradients
from norml.layers import LayerShape
from norml.learner import BackwardTrace, ForwardTrace, Learner, cross_entropy, cross_entropy_adjoint
from norml.update_rules import Carried, Rates, UpdateRule
from norml.update_rules.calls import Call, Named, Values, call_rule


@dataclass(frozen=True)
class InnerLoop:
    """How the learner is adapted and queried.

    inner_lr: eta, on the mean over the support set. first_order: the meta-gradient treats delta and h as constants.
    query_statistics: whose statistics batch norm uses for queries. weight_form: 'auto' lets each layer take the cheaper
    form; a layer with a rate for every weight is materialised always. recompute: going backwards, each step's
    intermediate values are computed again instead of kept, which makes memory grow with the signals and weights of a
    step alone; the gradients are the same.
    """

    inner_lr: float
    first_order: bool = False
    query_statistics: Literal["query", "support"] = "query"
    weight_form: Form | Literal["auto"] = "auto"
    recompute: bool = False


@dataclass(frozen=True)
class _Step:
    """What one inner step leaves for its reverse."""

    logits: Tensor
    delta_out: Tensor
    forward: ForwardTrace
    backward: BackwardTrace
    calls: list[Call]  # of the rule, one a layer
    products: list[tuple[Tensor, Tensor]]  # delta_hat, and the patches of h_hat: whose outer products are the step


class Adaptation:
    """E episodes whose learners are adapted to their support sets, step by step; then queried; then gone back through.

    The support loss is a mean over S and a sum over E, so no episode sees another. Every step uses the whole support
    set (paper Algorithm 1's loop over single examples contradicts batch norm and the text's "10 epochs").
    """

    def __init__(
        self,
        learner: Learner,
        rule: UpdateRule,
        loop: InnerLoop,
        x: Tensor,
        support_y: Tensor,
        *,
        inner_steps: int,
        reversible: bool = False,
    ) -> None:
        """Of x [E, S + M, D] the support sets come first, then the queries, if known; support_y [E, S] int64 in 0..N-1.

        `reversible`: it can be gone back through, which needs the queries. Raises ValueError for shapes that disagree.
        """
        n_support = support_y.shape[-1]
        if x.shape[:1] != support_y.shape[:-1] or x.shape[1] < n_support:
            shapes = f"x {tuple(x.shape)} and support_y {tuple(support_y.shape)}"
            raise ValueError(f"{shapes} do not go together; expected [E, S + M, D] and [E, S]")
        self.learner, self.rule, self.loop = learner, rule, loop
        self.support_x, self.support_y, self.inner_steps = x[:, :n_support], support_y, inner_steps
        self._reversible, self._reversed = reversible, False
        self._steps: list[_Step] = []
        self._carried: list[list[Carried]] = []  # into each step, by layer
        self._initial_calls: list[Call] = []  # for what is carried into the first step, by layer
        self._rates = [self._rates_of(layer) for layer in range(learner.n_layers)]
        n_query = x.shape[1] - n_support
        # With support statistics, a query pass needs the support rows, too.
        query_from = n_support if self._n_reference() is None else 0
        self._query_rows = x[:, query_from:] if n_query else None
        forms = layer_forms(
            learner.layers,
            n_support=n_support,
            n_query=n_query,
            inner_steps=inner_steps,
            scales_inputs=rule.scales_inputs,
            device=x.device,
            form=loop.weight_form,
        )
        self.weights: list[LayerWeights] = initial_layers(
            forms,
            list(zip(learner.weights, learner.biases, strict=True)),
            eta=loop.inner_lr,
            inputs=partial(self._inputs, x, query_from),
            reversible=reversible,
            rates=[None if call is None else _rates(call.outputs.signals) for call in self._rates],
        )

    def _inputs(self, x: Tensor, query_from: int) -> Inputs:
        """What meets the first layer's weights."""
        first = self.learner.layers[0]
        patches = first.patches(self.learner.rows(x))
        return Inputs(patches, self.support_y.shape[1] * first.positions, query_from * first.positions)

    # ------------------------------------------------------------------------------------------------------ forwards
    # torch 2.11 does not compile methods that `no_grad` decorates, so it is entered inside them.

    def run(self) -> Self:
        """Take all inner steps (paper Algorithm 1, lines 7-13; eqs 8-10)."""
        with torch.no_grad():
            for t in range(self.inner_steps):
                self._take(t)
        return self

    @torch.no_grad()
    def logits_of_each_step(self) -> Iterator[Tensor]:
        """In place of `run`: logits [E, M, N] of the known queries before the first inner step and after each."""
        for t in range(self.inner_steps + 1):
            yield self.logits(after=t)
            if t < self.inner_steps:
                self._take(t)

    def logits(self, query_x: Tensor | None = None, *, after: int | None = None) -> Tensor:
        """Logits [E, M, N] of the adapted learners for query_x [E, M, D]; default: the queries that were known.

        `after`: so many inner steps, those taken so far; default: all. Raises ValueError if there are no queries.
        """
        n_reference = self._n_reference()
        x = self._query_rows
        if query_x is not None:
            x = query_x if n_reference is None else torch.cat([self.support_x, query_x], dim=1)
        if x is None:
            raise ValueError("no queries are known; give query_x")
        steps = self.inner_steps if after is None else after
        source: InputSource = "query" if query_x is None else "other"
        with torch.no_grad():
            logits, self._query_trace = self.learner(self.weights, steps, x, source=source, n_reference=n_reference)
        of_queries: Tensor = logits if n_reference is None else logits[:, n_reference:]
        return of_queries

    def _take(self, t: int) -> None:
        """Inner step t, after those before it."""
        step = self._step(t, reversible=self._reversible and not self.loop.recompute)
        for layer_weights, call, (delta_hat, patches_hat) in zip(self.weights, step.calls, step.products, strict=True):
            layer_weights.step(delta_hat, patches_hat, h_is_scaled=not call.hands_through("h_hat", "h"))
        carried = [call.outputs.carried for call in step.calls]
        if not self._reversible:
            self._carried = [carried]
            return
        self._carried.append(carried)
        if not self.loop.recompute:
            self._steps.append(step)

    def _n_reference(self) -> int | None:
        """How many rows of a query pass make batch norm's statistics; None: all."""
        return self.support_x.shape[1] if self.loop.query_statistics == "support" else None

    def _step(self, t: int, *, reversible: bool) -> _Step:
        """The signals of step t, from the weights before it and what is carried into it."""
        logits, forward = self.learner(self.weights, t, self.support_x, source="support")
        losses, delta_out = cross_entropy(logits, self.support_y)
        backward = self.learner.backward(self.weights, t, forward, delta_out)
        layers, n_support = self.learner.layers, self.support_y.shape[1]
        signals = [
            (layer.signal(delta, n_support), layer.signal(h, n_support))
            for layer, delta, h in zip(layers, backward.deltas, forward.inputs, strict=True)
        ]
        if t == 0 and not self._initial_calls:
            self._initial_calls = [self._initial_call(layer, delta, h) for layer, (delta, h) in enumerate(signals)]
            self._carried.append([call.outputs.carried for call in self._initial_calls])
        carried = self._carried[t if self._reversible else -1]
        calls = [
            self._call(layer, delta, h, losses, of_layer, reversible=reversible)
            for layer, ((delta, h), of_layer) in enumerate(zip(signals, carried, strict=True))
        ]
        products = [
            _products(layer, call, patches) for layer, call, patches in zip(layers, calls, forward.patches, strict=True)
        ]
        return _Step(logits, delta_out, forward, backward, calls, products)

    def _initial_call(self, layer: int, delta: Tensor, h: Tensor) -> Call:
        return call_rule(
            self.rule,
            partial(_initially_carried, self.rule, layer),
            Values({"delta": delta, "h": h}, {}),
            self.rule.parameters_of(layer) if self._reversible else None,
            constants=self._constants(layer),
        )

    def _rates_of(self, layer: int) -> Call | None:
        """The rule's rates of a layer; they depend on its parameters alone."""
        with torch.no_grad():
            if self.rule.rates(layer) is None:
                return None
            parameters = self.rule.parameters_of(layer) if self._reversible else None
            function = partial(_named_rates, self.rule, layer)
            return call_rule(self.rule, function, Values({}, {}), parameters, constants=frozenset())

    def _call(
        self, layer: int, delta: Tensor, h: Tensor, losses: Tensor, carried: Carried, *, reversible: bool
    ) -> Call:
        return call_rule(
            self.rule,
            partial(_scaled, self.rule, layer),
            Values({"delta": delta, "h": h, "losses": losses}, carried),
            self.rule.parameters_of(layer) if reversible else None,
            constants=self._constants(layer),
        )

    def _constants(self, layer: int) -> frozenset[str]:
        """Which of a layer's signals do not depend on what is learned, or are taken not to."""
        if self.loop.first_order:
            return frozenset({"delta", "h", "losses"})
        return frozenset({"h"}) if layer == 0 else frozenset()

    # ----------------------------------------------------------------------------------------------------- backwards

    def reverse(self, logits_bar: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Derivatives by the parameters of learner and rule, by name, from those by the query logits [E, M, N]; once.

        Parameters without influence are left out. Raises RuntimeError if called again: what it needs is used up.
        """
        if self._reversed:
            raise RuntimeError("an adaptation can be gone back through once; adapt again for another derivative")
        self._reversed = True
        for layer_weights in self.weights:
            layer_weights.begin_reverse()
        self._gradients = [Gradients() for _ in self.learner.shifts]
        self._rule_bars: dict[str, Tensor] = {}
        self._query_reverse(logits_bar)
        carried_bars: list[Carried] = [{} for _ in self.weights]
        for t in reversed(range(self.inner_steps)):
            step = self._step(t, reversible=True) if self.loop.recompute else self._steps.pop()
            carried_bars = self._step_reverse(t, step, carried_bars)
        for call, layer_weights in zip(self._rates, self.weights, strict=True):
            if call is not None and isinstance(layer_weights, Rated) and self.inner_steps:
                weight_bar, bias_bar = layer_weights.rate_gradients()
                self._pulled_back(call, Values({"weight": weight_bar, "bias": bias_bar}, {}))
        return self._learner_gradients(), self._rule_bars

    def _query_reverse(self, logits_bar: Tensor) -> None:
        n_reference = self._n_reference()
        if n_reference is not None:
            unused = logits_bar.new_zeros(logits_bar.shape[0], n_reference, logits_bar.shape[2])
            logits_bar = torch.cat([unused, logits_bar], dim=1)
        self.learner.forward_adjoint(
            self.weights, self.inner_steps, self._query_trace, logits_bar, self._gradients, n_reference=n_reference
        )

    def _step_reverse(self, t: int, step: _Step, carried_bars: list[Carried]) -> list[Carried]:
        """From the derivatives by what is carried out of step t to those by what is carried into it."""
        input_bars = []
        for number, (call, products, bars) in enumerate(zip(step.calls, step.products, carried_bars, strict=True)):
            layer = self.learner.layers[number]
            delta_hat_bar, patches_bar = self.weights[number].step_adjoint(t, *products)
            signal_bars = {"delta_hat": layer.signal(delta_hat_bar, self.support_y.shape[1])}
            to_a_constant = "h" in self._constants(number) and call.hands_through("h_hat", "h")
            if patches_bar is not None and not to_a_constant:
                signal_bars["h_hat"] = layer.signal(layer.maps(patches_bar), self.support_y.shape[1])
            input_bars.append(self._pulled_back(call, Values(signal_bars, bars)))
        if t == 0:  # whose signals make what is carried into it, too
            for call, bars_in in zip(self._initial_calls, input_bars, strict=True):
                _add(bars_in.signals, self._pulled_back(call, Values({}, bars_in.carried)).signals)
        if not self.loop.first_order:
            self._signals_reverse(t, step, [bars.signals for bars in input_bars])
        return [bars.carried for bars in input_bars]

    def _signals_reverse(self, t: int, step: _Step, signal_bars: list[Named]) -> None:
        """What the signals of step t, by way of the learner's two passes, give to the weights W_t."""
        layers = self.learner.layers
        delta_bars = [
            layer.rows(bars["delta"]) if "delta" in bars else torch.zeros_like(delta)
            for layer, bars, delta in zip(layers, signal_bars, step.backward.deltas, strict=True)
        ]
        input_bars = [
            layer.rows(bars["h"]) if "h" in bars else None for layer, bars in zip(layers, signal_bars, strict=True)
        ]
        losses_bars = [bars["losses"] for bars in signal_bars if "losses" in bars]
        delta_out_bar, backward_bars = self.learner.backward_adjoint(
            self.weights, t, step.forward, step.backward, delta_bars=delta_bars, gradients=self._gradients
        )
        losses_bar = torch.stack(losses_bars).sum(dim=0) if losses_bars else None
        self.learner.forward_adjoint(
            self.weights,
            t,
            step.forward,
            cross_entropy_adjoint(step.logits, step.delta_out, delta_out_bar, losses_bar),
            self._gradients,
            input_bars=input_bars,
            of_backward=(step.backward, backward_bars),
        )

    def _pulled_back(self, call: Call, output_bars: Values) -> Values:
        bars, parameter_bars = call.pull_back(output_bars)
        _add(self._rule_bars, parameter_bars)
        return bars

    def _learner_gradients(self) -> Named:
        by_name: Named = {}
        for layer, layer_weights in enumerate(self.weights):
            by_name[f"weights.{layer}"], by_name[f"biases.{layer}"] = layer_weights.initial_gradients()
        for layer, gradients in enumerate(self._gradients):
            if gradients.shift is not None:
                by_name[f"shifts.{layer}"] = gradients.shift.sum(dim=(0, 1))
            if gradients.scale is not None and self.learner.scales is not None:
                by_name[f"scales.{layer}"] = gradients.scale.sum(dim=(0, 1))
        return by_name


def _products(layer: LayerShape, call: Call, patches: Tensor) -> tuple[Tensor, Tensor]:
    """delta_hat [E, S * P, O] and the patches of h_hat [E, S * P, I]; `patches`: those of h."""
    signals = call.outputs.signals
    if not call.hands_through("h_hat", "h"):
        patches = layer.patches(layer.rows(signals["h_hat"]))
    return layer.rows(signals["delta_hat"]), patches


def _initially_carried(rule: UpdateRule, layer: int, inputs: Values) -> Values:
    return Values({}, rule.initially_carried(layer, inputs.signals["delta"], inputs.signals["h"]))


def _named_rates(rule: UpdateRule, layer: int, _inputs: Values) -> Values:
    rates = rule.rates(layer)
    return Values({} if rates is None else rates._asdict(), {})


def _rates(named: Named) -> Rates:
    return Rates(named["weight"], named["bias"])


def _scaled(rule: UpdateRule, layer: int, inputs: Values) -> Values:
    delta, h, losses = (inputs.signals[name] for name in ("delta", "h", "losses"))
    delta_hat, h_hat, carried = rule.scaled(layer, delta, h, losses, inputs.carried)
    return Values({"delta_hat": delta_hat, "h_hat": h_hat}, carried)


def _add(bars: Named, more: Named) -> None:
    for name, bar in more.items():
        bars[name] = bars[name] + bar if name in bars else bar
