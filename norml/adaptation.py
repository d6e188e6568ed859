"""The inner loop and its reverse. Training and evaluation of all update rules use this one loop.

The reverse is written by hand: each pass of the learner and each operation on weights has an adjoint next to it. So
second-order gradients take a few passes over memory instead of a tape of thousands of small operations. Only update
rules use autograd (`update_rules.calls`).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, Self, get_args

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from norml.adapted import Adapted, Statistics
from norml.arguments import check_count
from norml.fast_weights import Decayed, Form, Inputs, InputSource, LayerWeights, Rated, initial_layers, layer_forms
from norml.hidden_layer import Gradients
from norml.layers import LayerShape
from norml.layers.gradient_means import gradient_mean, gradient_mean_adjoint
from norml.learner import BackwardTrace, ForwardTrace, Learner, cross_entropy, cross_entropy_adjoint
from norml.update_rules import Carried, Pace, Rates, UpdateRule
from norml.update_rules.calls import Call, Named, Values, call_rule

SupportOrder = Literal["full", "one-by-one"]


@dataclass(frozen=True)
class InnerLoop:
    """Settings of the inner loop.

    inner_lr: eta, for the mean loss over the support set. first_order: the meta-gradient treats delta and h as
    constants. query_statistics: 'query' or 'support', the set whose statistics batch norm uses for queries.
    weight_form: 'auto' takes the cheaper form for each layer; a layer with a rate for every weight is always
    materialised. recompute: the reverse recomputes each step's intermediate values instead of keeping them; memory then
    grows only with the signals and weights of the steps, and the gradients are the same. support_order: 'full', each
    inner step sees the whole support set; 'one-by-one', each sees one example as in the paper's Algorithm 1: the first
    example of each class, then the second of each, and so on. `inner_steps` then counts passes over the support set.
    'one-by-one' needs a learner without hidden layers.
    """

    inner_lr: float
    first_order: bool = False
    query_statistics: Statistics = "query"
    weight_form: Form | Literal["auto"] = "auto"
    recompute: bool = False
    support_order: SupportOrder = "full"


@dataclass(frozen=True)
class Step:
    """Values of one inner step that its reverse needs. logits, delta_out: [E, S, N], of the pass before the step."""

    logits: Tensor
    delta_out: Tensor
    forward: ForwardTrace
    backward: BackwardTrace
    calls: list[Call]  # calls of the rule, one per layer
    products: list[tuple[Tensor, Tensor]]  # delta_hat and the patches of h_hat; their outer products are the step
    pace: Call | None  # the rule's call for all layers


class Adaptation(Adapted):
    """Adapts E learners to the support sets of E episodes step by step, answers queries, and computes the reverse.

    The support loss is a mean over S and a sum over E, so episodes do not affect each other. One by one (paper
    Algorithm 1), the loss of a step is that of its single example. Batch norm cannot work then, because one example is
    its own mean.

    n_steps: inner steps that change the weights: T = `inner_steps`, or T * S one by one.
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
        queried_each_step: bool = False,
        part: int | None = None,
    ) -> None:
        """Data: x [E, S + M, D], the support sets, then the queries if known; support_y [E, S] int64 in 0..N-1.

        inner_steps: inner steps, or passes over the support set one by one. reversible: keep what `reverse` needs;
        requires the queries. queried_each_step: the caller will ask for the known queries after each step. part: number
        of examples that an inner step sees, equally many of each class; steps take the parts in turn, and examples
        beyond the last whole part are not used. Raises TypeError or ValueError for data that do not fit the learner;
        labels are checked on the CPU only.
        """
        super().__init__(learner, x, support_y, n_way=learner.sizes[-1], query_statistics=loop.query_statistics)
        check_count("inner_steps", inner_steps)
        _check_order(loop, learner)
        self.rule, self.loop, self.inner_steps = rule, loop, inner_steps
        self._pass = self._examples_of_a_pass(part)
        self._steps_of_one = len(self._pass) if self._one_by_one else 1  # changes of the weights per `inner_steps`
        self.n_steps = inner_steps * self._steps_of_one
        self._reversible, self._reversed, self._queried_each_step = reversible, False, queried_each_step
        self._queries: dict[int, _QueryPass] = {}  # by the number of steps before it
        self._steps: list[Step] = []
        self._carried: list[list[Carried]] = []  # tensors carried into each step, by layer
        self._initial_calls: list[Call] = []  # calls that made the tensors carried into the first step, by layer
        self._input_call: Call | None = None  # the rule's call on the first layer's constant inputs
        self._of_inputs: list[Carried] = []  # its results, by place in a pass over the support set
        # Ask the rule once: listing its parameters takes as long as the arithmetic of a small step.
        self._parameters = [rule.parameters_of(layer) if reversible else None for layer in range(learner.n_layers)]
        self._rates = [self._rates_of(layer) for layer in range(learner.n_layers)]
        if rule.sets_pace and any(self._rates):
            raise ValueError(f"{type(rule).__name__} gives rates and a pace; an update rule gives one of them")
        same_inputs = not self._one_by_one and part is None
        n_support = support_y.shape[1]
        # With support statistics, a query pass needs the support rows, too.
        self._query_from = 0 if loop.query_statistics == "support" else n_support
        forms = layer_forms(
            learner.layers,
            n_support=self._pass[0][1].shape[1] if part is not None else n_support,
            n_query=x.shape[1] - n_support,
            inner_steps=inner_steps,
            scales_inputs=rule.scales_inputs,
            device=x.device,
            form=loop.weight_form,
            one_by_one=self._one_by_one,
            same_inputs=same_inputs,
        )
        self.weights: list[LayerWeights] = initial_layers(
            forms,
            learner.initial_weights(),
            eta=loop.inner_lr,
            inputs=self._inputs if same_inputs else None,
            reversible=reversible,
            rates=[None if call is None else _rates(call.outputs.signals) for call in self._rates],
            decays=rule.sets_pace,
        )

    def _inputs(self) -> Inputs:
        """The inputs of the first layer's weights."""
        first = self.learner.layers[0]
        return Inputs(
            first.patches(self.learner.rows(self._x)),
            n_support=self.support_y.shape[1] * first.positions,
            query_from=self._query_from * first.positions,
            queried_once=not self._queried_each_step,
        )

    # ------------------------------------------------------------------------------------------------------ forwards
    # torch 2.11 does not compile methods decorated with `no_grad`, so they enter it inside.

    def run(self) -> Self:
        """Take all inner steps (paper Algorithm 1, lines 7-13; eqs 8-10)."""
        for t in range(self.n_steps):
            self.take(t)
        return self

    def logits_of_each_step(self) -> Iterator[Tensor]:
        """Instead of `run`: logits [E, M, N] of the known queries before the first inner step and after each.

        One by one: before the first pass over the support set and after each pass.
        """
        yield self.logits(after=0)
        for taken in range(self.inner_steps):
            yield self._stepped_and_queried(taken)

    def logits_after_each_step(self) -> list[Tensor]:
        """Instead of `run`: logits [E, M, N] of the known queries after each inner step (one by one: each pass)."""
        return [self._stepped_and_queried(taken) for taken in range(self.inner_steps)]

    def _stepped_and_queried(self, taken: int) -> Tensor:
        for t in range(taken * self._steps_of_one, (taken + 1) * self._steps_of_one):
            self.take(t)
        return self.logits(after=taken + 1)

    @override
    def logits(
        self,
        query_x: Tensor | None = None,
        *,
        after: int | None = None,
        query_statistics: Statistics | None = None,
    ) -> Tensor:
        queries, statistics = self._asked(query_x, query_statistics)
        source: InputSource = "query"
        if query_x is None and statistics == self.loop.query_statistics:
            x = self._x[:, self._query_from :]
        else:
            source = "other"
            x = queries if statistics == "query" else torch.cat([self.support_x, queries], dim=1)
        n_reference = self.support_x.shape[1] if statistics == "support" else None
        steps = self.n_steps if after is None else after * self._steps_of_one
        with torch.no_grad():
            logits, trace = self.learner(self.weights, steps, x, source=source, n_reference=n_reference)
        if self._reversible:
            self._queries[steps] = _QueryPass(trace, n_reference)
        of_queries: Tensor = logits if n_reference is None else logits[:, n_reference:]
        return of_queries

    def take(self, t: int) -> Step:
        """Take inner step t, counted from 0, after all earlier steps; `run` takes all steps."""
        with torch.no_grad():
            return self._taken(t)

    def _taken(self, t: int) -> Step:
        step = self._step(t, reversible=self._reversible and not self.loop.recompute)
        if step.pace is not None:
            for layer, decayed in enumerate(self._decayed()):
                decayed.set_pace(*(per_layer[:, layer] for per_layer in _pace(step.pace.outputs.signals)))
        for layer_weights, call, (delta_hat, patches_hat) in zip(self.weights, step.calls, step.products, strict=True):
            layer_weights.step(delta_hat, patches_hat, h_is_scaled=not call.hands_through("h_hat", "h"))
        carried = [call.outputs.carried for call in step.calls]
        carried[0] = {name: tensor for name, tensor in carried[0].items() if name not in self._of_inputs[0]}
        if not self._reversible:
            self._carried = [carried]
            return step
        self._carried.append(carried)
        if not self.loop.recompute:
            self._steps.append(step)
        return step

    def _step(self, t: int, *, reversible: bool) -> Step:
        """The signals of step t, from the weights before it and the tensors carried into it."""
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
        pace = self._pace_of(t, forward, backward, reversible=reversible) if self.rule.sets_pace else None
        carried = [*self._carried[t if self._reversible else -1]]
        carried[0] = carried[0] | self._of_inputs[t % len(self._pass)]
        calls = [
            self._call(layer, delta, h, losses, of_layer, reversible=reversible)
            for layer, ((delta, h), of_layer) in enumerate(zip(signals, carried, strict=True))
        ]
        products = [
            _products(layer, call, patches) for layer, call, patches in zip(layers, calls, forward.patches, strict=True)
        ]
        return Step(logits, delta_out, forward, backward, calls, products, pace)

    def _pace_of(self, t: int, forward: ForwardTrace, backward: BackwardTrace, *, reversible: bool) -> Call:
        """The rule's rate and decay of each layer in step t, from the mean weights and gradients of all layers."""
        of_gradients = torch.stack(
            [gradient_mean(*signals) for signals in zip(backward.deltas, forward.patches, strict=True)], dim=1
        )
        of_weights = torch.stack([decayed.mean(t).expand(len(of_gradients)) for decayed in self._decayed()], dim=1)
        return call_rule(
            self.rule,
            partial(_paced, self.rule, t),
            Values({"weight_means": of_weights, "gradient_means": of_gradients}, {}),
            dict(self.rule.named_parameters()) if reversible else None,
            constants=frozenset({"gradient_means"}) if self.loop.first_order else frozenset(),
        )

    def _decayed(self) -> list[Decayed]:
        """The weights of every layer if the rule sets the pace, otherwise []."""
        return [weights for weights in self.weights if isinstance(weights, Decayed)]

    def _initial_call(self, layer: int, delta: Tensor, h: Tensor) -> Call:
        return call_rule(
            self.rule,
            partial(_initially_carried, self.rule, layer),
            Values({"delta": delta, "h": h}, {}),
            self._parameters[layer],
            constants=self._constants(layer),
        )

    def _look_at_inputs(self) -> None:
        """Call the rule once on the first layer's inputs of all steps of a pass, because they are constant."""
        first = self.learner.layers[0]
        inputs = [first.signal(self.learner.rows(x), x.shape[1]) for x, _ in self._pass]
        sets = inputs[0] if len(inputs) == 1 else torch.cat(inputs)  # a rule never mixes examples of two sets
        function = partial(_of_constant_input, self.rule)
        self._input_call = call_rule(
            self.rule, function, Values({"h": sets}, {}), self._parameters[0], constants=frozenset({"h"})
        )
        carried = self._input_call.outputs.carried
        parts = {name: tensor.chunk(len(inputs)) for name, tensor in carried.items()}
        self._of_inputs = [{name: of[place] for name, of in parts.items()} for place in range(len(inputs))]

    def _rates_of(self, layer: int) -> Call | None:
        """The call for the rule's rates of a layer, which depend only on its parameters; None without rates."""
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
        """Names of a layer's signals that get no derivatives: the constant input, or all signals in first order."""
        if self.loop.first_order:
            return frozenset({"delta", "h", "losses"})
        return frozenset({"h"}) if layer == 0 else frozenset()

    # ------------------------------------------------------------------------------------------- which examples when

    def examples_of(self, t: int) -> tuple[Tensor, Tensor]:
        """Examples of inner step t: inputs [E, S, D] and labels [E, S]; one by one, S = 1."""
        return self._pass[t % len(self._pass)]

    @property
    def _one_by_one(self) -> bool:
        return self.loop.support_order == "one-by-one"

    def _examples_of_a_pass(self, part: int | None) -> list[tuple[Tensor, Tensor]]:
        """The examples of each inner step in one pass over the support set, in order."""
        x, y = self.support_x, self.support_y
        if not self._one_by_one and part is None:
            return [(x, y)]
        one_hot = functional.one_hot(y, self.learner.sizes[-1])
        rounds = (one_hot.cumsum(dim=1) * one_hot).sum(dim=-1)  # 1 for the first example of its class
        order = (rounds * one_hot.shape[-1] + y).argsort(dim=1)
        y, x = y.gather(1, order), x.gather(1, order.unsqueeze(-1).expand_as(x))
        if part is not None:
            whole = y.shape[1] // part * part
            return list(zip(*(torch.split(of[:, :whole], part, dim=1) for of in (x, y)), strict=True))
        x = x.transpose(0, 1).contiguous()  # store all episodes' values of one step side by side
        return list(zip(x.unsqueeze(2).unbind(), y.unsqueeze(2).unbind(1), strict=True))

    # ----------------------------------------------------------------------------------------------------- backwards

    @override
    def reverse(
        self,
        logits_bar: Tensor,
        earlier: Mapping[int, Tensor] | None = None,
        *,
        before_step: Callable[[], None] | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """As `Adapted.reverse`.

        before_step: called for each t = T..1, when `weights` have the derivatives by W_t and b_t.
        """
        if self._reversed:
            raise RuntimeError("an adaptation can be reversed only once; adapt again for another derivative")
        self._reversed = True
        for layer_weights in self.weights:
            layer_weights.begin_reverse()
        self._gradients = [Gradients() for _ in self.learner.shifts]
        self._rule_bars: dict[str, Tensor] = {}
        logits_bars = {after * self._steps_of_one: bar for after, bar in (earlier or {}).items()}
        self._query_reverse(self.n_steps, logits_bar)
        carried_bars: list[Carried] = [{} for _ in self.weights]
        self._input_bars: list[Carried] = [{} for _ in self._pass]  # derivatives by `_of_inputs`
        for t in reversed(range(self.n_steps)):
            if before_step is not None:
                before_step()
            step = self._step(t, reversible=True) if self.loop.recompute else self._steps.pop()
            carried_bars = self._step_reverse(t, step, carried_bars)
            if t in logits_bars:
                self._query_reverse(t, logits_bars[t])
        if self._input_call is not None:
            names = self._input_bars[0]
            bars = {name: torch.cat([of_place[name] for of_place in self._input_bars]) for name in names}
            self._pulled_back(self._input_call, Values({}, bars))
        for call, layer_weights in zip(self._rates, self.weights, strict=True):
            if call is not None and isinstance(layer_weights, Rated) and self.inner_steps:
                weight_bar, bias_bar = layer_weights.rate_gradients()
                self._pulled_back(call, Values({"weight": weight_bar, "bias": bias_bar}, {}))
        return self.learner.named_gradients(self.weights, self._gradients), self._rule_bars

    def _query_reverse(self, t: int, logits_bar: Tensor) -> None:
        trace, n_reference = self._queries.pop(t)
        if n_reference is not None:
            unused = logits_bar.new_zeros(logits_bar.shape[0], n_reference, logits_bar.shape[2])
            logits_bar = torch.cat([unused, logits_bar], dim=1)
        self.learner.forward_adjoint(self.weights, t, trace, logits_bar, self._gradients, n_reference=n_reference)

    def _step_reverse(self, t: int, step: Step, carried_bars: list[Carried]) -> list[Carried]:
        """Derivatives by the tensors carried into step t, from those by the tensors carried out of it."""
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
        if t == 0:  # its signals also made the tensors carried into it
            for call, bars_in in zip(self._initial_calls, input_bars, strict=True):
                _add(bars_in.signals, self._pulled_back(call, Values({}, bars_in.carried)).signals)
        if step.pace is not None:
            self._pace_reverse(t, step, step.pace, [bars.signals for bars in input_bars])
        if not self.loop.first_order:
            self._signals_reverse(t, step, [bars.signals for bars in input_bars])
        return [bars.carried for bars in input_bars]

    def _pace_reverse(self, t: int, step: Step, call: Call, signal_bars: list[Named]) -> None:
        """Add the derivatives through the pace of step t to those by the weights W_t and by the signals."""
        rate_bars, decay_bars = zip(*(decayed.pace_adjoint(t) for decayed in self._decayed()), strict=True)
        pace_bars = {"rate": torch.stack(rate_bars, dim=1), "decay": torch.stack(decay_bars, dim=1)}
        mean_bars = self._pulled_back(call, Values(pace_bars, {})).signals
        for number, decayed in enumerate(self._decayed() if "weight_means" in mean_bars else []):
            decayed.mean_adjoint(mean_bars["weight_means"][:, number])
        for number, layer in enumerate(self.learner.layers if "gradient_means" in mean_bars else []):
            signals = step.backward.deltas[number], step.forward.patches[number]
            delta_bar, patches_bar = gradient_mean_adjoint(mean_bars["gradient_means"][:, number], *signals)
            n_seen = step.logits.shape[1]
            _add(signal_bars[number], {"delta": layer.signal(delta_bar, n_seen)})
            if "h" not in self._constants(number):
                _add(signal_bars[number], {"h": layer.signal(layer.maps(patches_bar), n_seen)})

    def _signals_reverse(self, t: int, step: Step, signal_bars: list[Named]) -> None:
        """Add the derivatives through the signals of step t, by the learner's two passes, to those by W_t."""
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


class _QueryPass(NamedTuple):
    """Values of a query pass that its reverse needs."""

    trace: ForwardTrace
    n_reference: int | None


def _check_order(loop: InnerLoop, learner: Learner) -> None:
    if loop.support_order not in get_args(SupportOrder):
        raise ValueError(f"support_order must be 'full' or 'one-by-one', got {loop.support_order!r}")
    if loop.support_order == "one-by-one" and learner.n_layers > 1:
        raise ValueError(
            "support_order 'one-by-one' needs a learner without hidden layers, because batch norm needs more than one "
            "example; use 'full'"
        )


def _products(layer: LayerShape, call: Call, patches: Tensor) -> tuple[Tensor, Tensor]:
    """delta_hat [E, S * P, O] and the patches of h_hat [E, S * P, I]. patches: the patches of h."""
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


def _paced(rule: UpdateRule, t: int, inputs: Values) -> Values:
    pace = rule.pace(t, inputs.signals["weight_means"], inputs.signals["gradient_means"])
    return Values(pace._asdict(), {})


def _pace(named: Named) -> Pace:
    return Pace(named["rate"], named["decay"])


def _scaled(rule: UpdateRule, layer: int, inputs: Values) -> Values:
    delta, h, losses = (inputs.signals[name] for name in ("delta", "h", "losses"))
    delta_hat, h_hat, carried = rule.scaled(layer, delta, h, losses, inputs.carried)
    return Values({"delta_hat": delta_hat, "h_hat": h_hat}, carried)


def _add(bars: Named, more: Named) -> None:
    for name, bar in more.items():
        bars[name] = bars[name] + bar if name in bars else bar
