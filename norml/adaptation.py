"""The inner loop, the only one: for training and evaluation, for every update rule; and its reverse.

Going through it backwards is written by hand: the learner's passes and the weights have their adjoints beside them, so
that second order takes a few passes over memory instead of a tape of thousands of small operations. Update rules alone
are left to autograd (`update_rules.calls`).
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, Self, get_args

import torch
from torch import Tensor
from torch.nn import functional

from norml.arguments import check_count, check_device, check_examples, check_labels, check_range, check_tensor
from norml.fast_weights import Form, Inputs, InputSource, LayerWeights, Rated, initial_layers, layer_forms
from norml.hidden_layer import Gradients
from norml.layers import LayerShape
from norml.learner import BackwardTrace, ForwardTrace, Learner, cross_entropy, cross_entropy_adjoint
from norml.update_rules import Carried, Rates, UpdateRule
from norml.update_rules.calls import Call, Named, Values, call_rule

Statistics = Literal["query", "support"]
SupportOrder = Literal["full", "one-by-one"]


@dataclass(frozen=True)
class InnerLoop:
    """How the learner is adapted and queried.

    inner_lr: eta, on the mean over the support set. first_order: the meta-gradient treats delta and h as constants.
    query_statistics: whose statistics batch norm uses for queries. weight_form: 'auto' lets each layer take the cheaper
    form; a layer with a rate for every weight is materialised always. recompute: going backwards, each step's
    intermediate values are computed again instead of kept, which makes memory grow with the signals and weights of a
    step alone; the gradients are the same. support_order: 'full', an inner step sees the whole support set;
    'one-by-one', it sees one example, as in the paper's Algorithm 1, and `inner_steps` counts passes over the support
    set: of each class the first example, then of each the second, and so on. It needs a learner without hidden layers.
    """

    inner_lr: float
    first_order: bool = False
    query_statistics: Statistics = "query"
    weight_form: Form | Literal["auto"] = "auto"
    recompute: bool = False
    support_order: SupportOrder = "full"


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

    The support loss is a mean over S and a sum over E, so no episode sees another. One by one (paper Algorithm 1), the
    loss of a step is that of its example alone. With batch norm that has no meaning: one example is its own mean.

    n_steps: T, inner steps that change the weights: `inner_steps` of them, or `inner_steps` * S one by one.
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

        `inner_steps`: inner steps, or one by one, passes over the support set.
        `reversible`: it can be gone back through, which needs the queries. Raises TypeError or ValueError for what does
        not go with the learner; labels are looked at on the CPU only.
        """
        check_examples("x", x, "[E, S + M, D]", learner.sizes[0], learner.weights[0])
        check_tensor("support_y", support_y, "[E, S]")
        n_support = support_y.shape[1]
        if not 0 < n_support <= x.shape[1]:
            raise ValueError(f"support_y must be [E, S] with S in 1..{x.shape[1]}, got {list(support_y.shape)}")
        check_labels("support_y", support_y, "[E, S]", (x.shape[0], n_support))
        check_device("support_y", support_y, x.device, "x")
        check_range("support_y", support_y, learner.sizes[-1], "the learner's N classes")
        check_count("inner_steps", inner_steps)
        _check_order(loop, learner)
        self.learner, self.rule, self.loop = learner, rule, loop
        self.support_x, self.support_y, self.inner_steps = x[:, :n_support], support_y, inner_steps
        self._pass = self._examples_of_a_pass()
        self.n_steps = inner_steps * len(self._pass)
        self._reversible, self._reversed = reversible, False
        self._steps: list[_Step] = []
        self._carried: list[list[Carried]] = []  # into each step, by layer
        self._initial_calls: list[Call] = []  # for what is carried into the first step, by layer
        self._input_call: Call | None = None  # for what the first layer's constant inputs give to the rule
        self._of_inputs: list[Carried] = []  # that, by the place in a pass of those who see them
        # Once: a rule's answer goes through its modules, which would take as long as a small step's arithmetic.
        self._parameters = [rule.parameters_of(layer) if reversible else None for layer in range(learner.n_layers)]
        self._rates = [self._rates_of(layer) for layer in range(learner.n_layers)]
        n_query = x.shape[1] - n_support
        # With support statistics, a query pass needs the support rows, too.
        self._query_from = 0 if loop.query_statistics == "support" else n_support
        self._x, self._query_x = x, x[:, n_support:] if n_query else None
        forms = layer_forms(
            learner.layers,
            n_support=n_support,
            n_query=n_query,
            inner_steps=inner_steps,
            scales_inputs=rule.scales_inputs,
            device=x.device,
            form=loop.weight_form,
            one_by_one=self._one_by_one,
        )
        self.weights: list[LayerWeights] = initial_layers(
            forms,
            learner.initial_weights(),
            eta=loop.inner_lr,
            inputs=None if self._one_by_one else self._inputs,
            reversible=reversible,
            rates=[None if call is None else _rates(call.outputs.signals) for call in self._rates],
        )

    def _inputs(self) -> Inputs:
        """What meets the first layer's weights."""
        first = self.learner.layers[0]
        patches = first.patches(self.learner.rows(self._x))
        return Inputs(patches, self.support_y.shape[1] * first.positions, self._query_from * first.positions)

    # ------------------------------------------------------------------------------------------------------ forwards
    # torch 2.11 does not compile methods that `no_grad` decorates, so it is entered inside them.

    def run(self) -> Self:
        """Take all inner steps (paper Algorithm 1, lines 7-13; eqs 8-10)."""
        with torch.no_grad():
            for t in range(self.n_steps):
                self._take(t)
        return self

    @torch.no_grad()
    def logits_of_each_step(self) -> Iterator[Tensor]:
        """In place of `run`: logits [E, M, N] of the known queries before the first inner step and after each.

        One by one: before the first pass over the support set and after each.
        """
        each = len(self._pass)
        for taken in range(self.inner_steps + 1):
            yield self.logits(after=taken)
            if taken < self.inner_steps:
                for t in range(taken * each, (taken + 1) * each):
                    self._take(t)

    def logits(
        self,
        query_x: Tensor | None = None,
        *,
        after: int | None = None,
        query_statistics: Statistics | None = None,
    ) -> Tensor:
        """Logits [E, M, N] of the adapted learners for query_x [E, M, D]; default: the queries that were known.

        `after`: so many inner steps (one by one: passes), those taken so far; default: all. `query_statistics`: whose
        statistics batch norm uses; default: the inner loop's. By the queries' own, all M of them decide together, and
        fewer than N of them are classified hardly better than by chance: then it warns. Raises TypeError or ValueError
        for queries that do not go with the learner, and if there are none.
        """
        queries = self._query_x if query_x is None else self._checked(query_x)
        if queries is None:
            raise ValueError("no queries are known; give query_x")
        statistics = self.loop.query_statistics if query_statistics is None else query_statistics
        if statistics not in get_args(Statistics):
            raise ValueError(f"query_statistics must be 'query' or 'support', got {statistics!r}")
        source: InputSource = "query"
        if query_x is None and statistics == self.loop.query_statistics:
            x = self._x[:, self._query_from :]
        else:
            source = "other"
            x = queries if statistics == "query" else torch.cat([self.support_x, queries], dim=1)
        if statistics == "query":
            self._warn_of_few(queries.shape[1])
        n_reference = self.support_x.shape[1] if statistics == "support" else None
        steps = self.n_steps if after is None else after * len(self._pass)
        with torch.no_grad():
            logits, self._query_trace = self.learner(self.weights, steps, x, source=source, n_reference=n_reference)
        self._n_reference = n_reference
        of_queries: Tensor = logits if n_reference is None else logits[:, n_reference:]
        return of_queries

    def _checked(self, query_x: Tensor) -> Tensor:
        check_examples("query_x", query_x, "[E, M, D]", self.learner.sizes[0], self.learner.weights[0])
        if query_x.shape[0] != self.support_x.shape[0]:
            expected = f"E = {self.support_x.shape[0]}, as the support sets have"
            raise ValueError(f"query_x must be [E, M, D] with {expected}, got {list(query_x.shape)}")
        return query_x

    def _warn_of_few(self, n_query: int) -> None:
        n_way = self.learner.sizes[-1]
        if torch.compiler.is_compiling() or n_query >= n_way or self.learner.n_layers == 1:
            return
        warnings.warn(
            f"batch norm takes its statistics from {n_query} queries for N = {n_way} classes, too few to tell them "
            "apart; ask for more queries at once, or take query_statistics='support'",
            stacklevel=3,
        )

    def _take(self, t: int) -> None:
        """Inner step t, after those before it."""
        step = self._step(t, reversible=self._reversible and not self.loop.recompute)
        for layer_weights, call, (delta_hat, patches_hat) in zip(self.weights, step.calls, step.products, strict=True):
            layer_weights.step(delta_hat, patches_hat, h_is_scaled=not call.hands_through("h_hat", "h"))
        carried = [call.outputs.carried for call in step.calls]
        carried[0] = {name: tensor for name, tensor in carried[0].items() if name not in self._of_inputs[0]}
        if not self._reversible:
            self._carried = [carried]
            return
        self._carried.append(carried)
        if not self.loop.recompute:
            self._steps.append(step)

    def _step(self, t: int, *, reversible: bool) -> _Step:
        """The signals of step t, from the weights before it and what is carried into it."""
        x, y = self.examples_of(t)
        logits, forward = self.learner(self.weights, t, x, source="support")
        losses, delta_out = cross_entropy(logits, y)
        backward = self.learner.backward(self.weights, t, forward, delta_out)
        layers, n_seen = self.learner.layers, y.shape[1]
        signals = [
            (layer.signal(delta, n_seen), layer.signal(h, n_seen))
            for layer, delta, h in zip(layers, backward.deltas, forward.inputs, strict=True)
        ]
        if t == 0 and not self._initial_calls:
            self._initial_calls = [self._initial_call(layer, delta, h) for layer, (delta, h) in enumerate(signals)]
            self._carried.append([call.outputs.carried for call in self._initial_calls])
            self._look_at_inputs()
        carried = [*self._carried[t if self._reversible else -1]]
        carried[0] = carried[0] | self._of_inputs[t % len(self._pass)]
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
            self._parameters[layer],
            constants=self._constants(layer),
        )

    def _look_at_inputs(self) -> None:
        """What the rule makes of the first layer's inputs, each a set that a step sees: once, as they never change."""
        first = self.learner.layers[0]
        inputs = [first.signal(self.learner.rows(x), x.shape[1]) for x, _ in self._pass]
        sets = inputs[0] if len(inputs) == 1 else torch.cat(inputs)  # of no two does a rule mix the examples
        function = partial(_of_constant_input, self.rule)
        self._input_call = call_rule(
            self.rule, function, Values({"h": sets}, {}), self._parameters[0], constants=frozenset({"h"})
        )
        carried = self._input_call.outputs.carried
        parts = {name: tensor.chunk(len(inputs)) for name, tensor in carried.items()}
        self._of_inputs = [{name: of[place] for name, of in parts.items()} for place in range(len(inputs))]

    def _rates_of(self, layer: int) -> Call | None:
        """The rule's rates of a layer; they depend on its parameters alone."""
        with torch.no_grad():
            if self.rule.rates(layer) is None:
                return None
            function = partial(_named_rates, self.rule, layer)
            return call_rule(self.rule, function, Values({}, {}), self._parameters[layer], constants=frozenset())

    def _call(
        self, layer: int, delta: Tensor, h: Tensor, losses: Tensor, carried: Carried, *, reversible: bool
    ) -> Call:
        return call_rule(
            self.rule,
            partial(_scaled, self.rule, layer),
            Values({"delta": delta, "h": h, "losses": losses}, carried),
            self._parameters[layer] if reversible else None,
            constants=self._constants(layer),
        )

    def _constants(self, layer: int) -> frozenset[str]:
        """Which of a layer's signals do not depend on what is learned, or are taken not to."""
        if self.loop.first_order:
            return frozenset({"delta", "h", "losses"})
        return frozenset({"h"}) if layer == 0 else frozenset()

    # ------------------------------------------------------------------------------------------- which examples when

    def examples_of(self, t: int) -> tuple[Tensor, Tensor]:
        """What inner step t sees: inputs [E, S, D] and labels [E, S], of the support set or, with S = 1, of one."""
        return self._pass[t % len(self._pass)]

    @property
    def _one_by_one(self) -> bool:
        return self.loop.support_order == "one-by-one"

    def _examples_of_a_pass(self) -> list[tuple[Tensor, Tensor]]:
        """What the inner steps of one pass over the support set see, in order."""
        x, y = self.support_x, self.support_y
        if not self._one_by_one:
            return [(x, y)]
        one_hot = functional.one_hot(y, self.learner.sizes[-1])
        rounds = (one_hot.cumsum(dim=1) * one_hot).sum(dim=-1)  # 1 for the first of its class
        order = (rounds * one_hot.shape[-1] + y).argsort(dim=1)
        y = y.gather(1, order)
        x = x.gather(1, order.unsqueeze(-1).expand_as(x)).transpose(0, 1).contiguous()  # each example side by side
        return list(zip(x.unsqueeze(2).unbind(), y.unsqueeze(2).unbind(1), strict=True))

    # ----------------------------------------------------------------------------------------------------- backwards

    def reverse(
        self, logits_bar: Tensor, *, before_step: Callable[[], None] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Derivatives by the parameters of learner and rule, by name, from those by the query logits [E, M, N]; once.

        Parameters without influence are left out. `before_step` is called for each t = T..1, when `weights` hold the
        derivatives by W_t and b_t. Raises RuntimeError if called again: what it needs is used up.
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
        self._input_bars: list[Carried] = [{} for _ in self._pass]  # by what the constant inputs gave, as `_of_inputs`
        for t in reversed(range(self.n_steps)):
            if before_step is not None:
                before_step()
            step = self._step(t, reversible=True) if self.loop.recompute else self._steps.pop()
            carried_bars = self._step_reverse(t, step, carried_bars)
        if self._input_call is not None:
            names = self._input_bars[0]
            bars = {name: torch.cat([of_place[name] for of_place in self._input_bars]) for name in names}
            self._pulled_back(self._input_call, Values({}, bars))
        for call, layer_weights in zip(self._rates, self.weights, strict=True):
            if call is not None and isinstance(layer_weights, Rated) and self.inner_steps:
                weight_bar, bias_bar = layer_weights.rate_gradients()
                self._pulled_back(call, Values({"weight": weight_bar, "bias": bias_bar}, {}))
        return self._learner_gradients(), self._rule_bars

    def _query_reverse(self, logits_bar: Tensor) -> None:
        n_reference = self._n_reference
        if n_reference is not None:
            unused = logits_bar.new_zeros(logits_bar.shape[0], n_reference, logits_bar.shape[2])
            logits_bar = torch.cat([unused, logits_bar], dim=1)
        self.learner.forward_adjoint(
            self.weights, self.n_steps, self._query_trace, logits_bar, self._gradients, n_reference=n_reference
        )

    def _step_reverse(self, t: int, step: _Step, carried_bars: list[Carried]) -> list[Carried]:
        """From the derivatives by what is carried out of step t to those by what is carried into it."""
        input_bars, n_seen = [], step.logits.shape[1]
        for number, (call, products, bars) in enumerate(zip(step.calls, step.products, carried_bars, strict=True)):
            layer = self.learner.layers[number]
            delta_hat_bar, patches_bar = self.weights[number].step_adjoint(t, *products)
            signal_bars = {"delta_hat": layer.signal(delta_hat_bar, n_seen)}
            to_a_constant = "h" in self._constants(number) and call.hands_through("h_hat", "h")
            if patches_bar is not None and not to_a_constant:
                signal_bars["h_hat"] = layer.signal(layer.maps(patches_bar), n_seen)
            input_bars.append(self._pulled_back(call, Values(signal_bars, bars)))
        of_inputs = self._input_bars[t % len(self._pass)]
        for name in self._of_inputs[0]:
            if name in input_bars[0].carried:
                _add(of_inputs, {name: input_bars[0].carried.pop(name)})
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
        losses_bar = torch.stack(losses_bars).sum(dim=0) if len(losses_bars) > 1 else next(iter(losses_bars), None)
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
            by_name |= self.learner.learned_gradients(layer, *layer_weights.initial_gradients())
        for layer, gradients in enumerate(self._gradients):
            if gradients.shift is not None:
                by_name[f"shifts.{layer}"] = gradients.shift.sum(dim=(0, 1))
            if gradients.scale is not None and self.learner.scales is not None:
                by_name[f"scales.{layer}"] = gradients.scale.sum(dim=(0, 1))
        return by_name


def _check_order(loop: InnerLoop, learner: Learner) -> None:
    if loop.support_order not in get_args(SupportOrder):
        raise ValueError(f"support_order must be 'full' or 'one-by-one', got {loop.support_order!r}")
    if loop.support_order == "one-by-one" and learner.n_layers > 1:
        raise ValueError(
            "support_order 'one-by-one' needs a learner without hidden layers: their batch norm cannot take its "
            "statistics from one example; take 'full'"
        )


def _products(layer: LayerShape, call: Call, patches: Tensor) -> tuple[Tensor, Tensor]:
    """delta_hat [E, S * P, O] and the patches of h_hat [E, S * P, I]; `patches`: those of h."""
    signals = call.outputs.signals
    if not call.hands_through("h_hat", "h"):
        patches = layer.patches(layer.rows(signals["h_hat"]))
    return layer.rows(signals["delta_hat"]), patches


def _initially_carried(rule: UpdateRule, layer: int, inputs: Values) -> Values:
    return Values({}, rule.initially_carried(layer, inputs.signals["delta"], inputs.signals["h"]))


def _of_constant_input(rule: UpdateRule, inputs: Values) -> Values:
    return Values({}, rule.of_constant_input(inputs.signals["h"]))


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
