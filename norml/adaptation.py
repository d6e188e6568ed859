"""The inner loop, the only one: for training and evaluation, for every update rule; and its reverse.

Going through it backwards is written by hand: the learner's passes and the weights have their adjoints beside them, so
that second order takes a few passes over memory instead of a tape of thousands of small operations. Update rules alone
are left to autograd (`update_rules.recorded`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, Self

import torch
from torch import Tensor

from norml.fast_weights import Form, Inputs, LayerWeights, Rated, layer_forms, made_weights
from norml.hidden_layer import Gradients
from norml.learner import BackwardTrace, ForwardTrace, Learner, cross_entropy, cross_entropy_adjoint
from norml.update_rules import Rates, State, UpdateRule
from norml.update_rules.recorded import Named, Recorded, record


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
    calls: list[Recorded]  # of the rule, one a layer


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
        self._signals: list[list[tuple[Tensor, Tensor]]] = []  # delta_hat and h_hat, by step and layer
        self._states: list[list[State]] = []  # before each step, by layer
        self._initial: list[Recorded] = []  # the rule's first states, by layer
        self._rates = [self._rates_of(layer) for layer in range(learner.n_layers)]
        n_query = x.shape[1] - n_support
        # Whose rows a query pass takes: the support set's too, where they make batch norm's statistics.
        self._query_rows = None if not n_query else x[:, n_support:] if self._rows_of_statistics() is None else x
        forms = layer_forms(
            learner.sizes,
            n_support=n_support,
            n_query=n_query,
            inner_steps=inner_steps,
            scales_inputs=rule.scales_inputs,
            device=x.device,
            form=loop.weight_form,
        )
        self.weights: list[LayerWeights] = made_weights(
            forms,
            list(zip(learner.weights, learner.biases, strict=True)),
            eta=loop.inner_lr,
            inputs=Inputs(x, self.support_x, self._query_rows),
            keep=reversible,
            rates=[None if call is None else _rates(call.outputs) for call in self._rates],
        )

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
        own = self._rows_of_statistics()
        rows = self._query_rows
        if query_x is not None:
            rows = query_x if own is None else torch.cat([self.support_x, query_x], dim=1)
        if rows is None:
            raise ValueError("no queries are known; give query_x")
        steps = self.inner_steps if after is None else after
        with torch.no_grad():
            logits, self._query_trace = self.learner(self.weights, steps, rows, own=own)
        found: Tensor = logits if own is None else logits[:, own:]
        return found

    def _take(self, t: int) -> None:
        """Inner step t, after those before it."""
        step = self._step(t, recorded=self._reversible and not self.loop.recompute)
        signals = [(call.outputs["delta_hat"], call.outputs["h_hat"]) for call in step.calls]
        for layer_weights, (delta_hat, h_hat) in zip(self.weights, signals, strict=True):
            layer_weights.step(delta_hat, h_hat)
        states = [_state(call.outputs) for call in step.calls]
        if not self._reversible:
            self._states = [states]
            return
        self._signals.append(signals)
        self._states.append(states)
        if not self.loop.recompute:
            self._steps.append(step)

    def _rows_of_statistics(self) -> int | None:
        return self.support_x.shape[1] if self.loop.query_statistics == "support" else None

    def _step(self, t: int, *, recorded: bool) -> _Step:
        """The signals of step t, from the weights and the states before it; `recorded`: so that it can be reversed."""
        logits, forward = self.learner(self.weights, t, self.support_x)
        losses, delta_out = cross_entropy(logits, self.support_y)
        backward = self.learner.backward(self.weights, t, forward, delta_out)
        signals = list(zip(backward.deltas, forward.inputs, strict=True))
        if t == 0 and not self._initial:
            self._initial = [self._first_state(layer, delta, h) for layer, (delta, h) in enumerate(signals)]
            self._states.append([_state(call.outputs) for call in self._initial])
        states = self._states[t if self._reversible else -1]
        calls = [
            self._call(layer, delta, h, losses, state, recorded=recorded)
            for layer, ((delta, h), state) in enumerate(zip(signals, states, strict=True))
        ]
        return _Step(logits, delta_out, forward, backward, calls)

    def _first_state(self, layer: int, delta: Tensor, h: Tensor) -> Recorded:
        return record(
            self.rule,
            partial(_initial_state, self.rule, layer),
            {"delta": delta, "h": h},
            self.rule.parameters_of(layer) if self._reversible else None,
            constants=self._constants(layer),
        )

    def _rates_of(self, layer: int) -> Recorded | None:
        """The rule's rates of a layer; they depend on its parameters alone."""
        with torch.no_grad():
            if self.rule.rates(layer) is None:
                return None
            parameters = self.rule.parameters_of(layer) if self._reversible else None
            return record(self.rule, partial(_named_rates, self.rule, layer), {}, parameters, constants=frozenset())

    def _call(self, layer: int, delta: Tensor, h: Tensor, losses: Tensor, state: State, *, recorded: bool) -> Recorded:
        return record(
            self.rule,
            partial(_scaled, self.rule, layer),
            {"delta": delta, "h": h, "losses": losses, **_prefixed(state)},
            self.rule.parameters_of(layer) if recorded else None,
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
        state_bars: list[State] = [{} for _ in self.weights]
        for t in reversed(range(self.inner_steps)):
            step = self._step(t, recorded=True) if self.loop.recompute else self._steps.pop()
            state_bars = self._step_reverse(t, step, state_bars)
        for call, layer_weights in zip(self._rates, self.weights, strict=True):
            if call is not None and isinstance(layer_weights, Rated) and self.inner_steps:
                weight_bar, bias_bar = layer_weights.rate_gradients()
                self._pulled_back(call, {"weight": weight_bar, "bias": bias_bar})
        return self._learner_gradients(), self._rule_bars

    def _query_reverse(self, logits_bar: Tensor) -> None:
        own = self._rows_of_statistics()
        if own is not None:
            unused = logits_bar.new_zeros(logits_bar.shape[0], own, logits_bar.shape[2])
            logits_bar = torch.cat([unused, logits_bar], dim=1)
        self.learner.forward_adjoint(
            self.weights, self.inner_steps, self._query_trace, logits_bar, self._gradients, own=own
        )

    def _step_reverse(self, t: int, step: _Step, state_bars: list[State]) -> list[State]:
        """From the derivatives by the states after step t to those by the states before it."""
        input_bars = []
        for call, layer_weights, signals, bars in zip(
            step.calls, self.weights, self._signals[t], state_bars, strict=True
        ):
            delta_hat_bar, h_hat_bar = layer_weights.step_adjoint(t, *signals)
            output_bars = {"delta_hat": delta_hat_bar, **_prefixed(bars)}
            if h_hat_bar is not None:
                output_bars["h_hat"] = h_hat_bar
            input_bars.append(self._pulled_back(call, output_bars))
        if t == 0:  # whose signals the first states are made of, too
            for call, bars in zip(self._initial, input_bars, strict=True):
                _add(bars, self._pulled_back(call, _prefixed(_state(bars))))
        if not self.loop.first_order:
            self._signals_reverse(t, step, input_bars)
        return [_state(bars) for bars in input_bars]

    def _signals_reverse(self, t: int, step: _Step, bars: list[dict[str, Tensor]]) -> None:
        """What the signals of step t, by way of the learner's two passes, give to the weights W_t."""
        delta_bars = [
            given["delta"] if "delta" in given else torch.zeros_like(delta)
            for given, delta in zip(bars, step.backward.deltas, strict=True)
        ]
        losses_bars = [given["losses"] for given in bars if "losses" in given]
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
            input_bars=[given.get("h") for given in bars],
            of_backward=(step.backward, backward_bars),
        )

    def _pulled_back(self, call: Recorded, output_bars: State) -> dict[str, Tensor]:
        bars, parameter_bars = call.pull_back(output_bars)
        _add(self._rule_bars, parameter_bars)
        return bars

    def _learner_gradients(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for layer, layer_weights in enumerate(self.weights):
            found[f"weights.{layer}"], found[f"biases.{layer}"] = layer_weights.initial_gradients()
        for layer, gradients in enumerate(self._gradients):
            if gradients.shift is not None:
                found[f"shifts.{layer}"] = gradients.shift.sum(dim=(0, 1))
            if gradients.scale is not None and self.learner.scales is not None:
                found[f"scales.{layer}"] = gradients.scale.sum(dim=(0, 1))
        return found


def _initial_state(rule: UpdateRule, layer: int, given: Named) -> Named:
    return _prefixed(rule.initial_state(layer, given["delta"], given["h"]))


def _named_rates(rule: UpdateRule, layer: int, _given: Named) -> Named:
    rates = rule.rates(layer)
    return {} if rates is None else rates._asdict()


def _rates(named: Named) -> Rates:
    return Rates(named["weight"], named["bias"])


def _scaled(rule: UpdateRule, layer: int, given: Named) -> Named:
    delta_hat, h_hat, after = rule.scaled(layer, given["delta"], given["h"], given["losses"], _state(given))
    return {"delta_hat": delta_hat, "h_hat": h_hat, **_prefixed(after)}


def _add(bars: Named, more: Named) -> None:
    for name, bar in more.items():
        bars[name] = bars[name] + bar if name in bars else bar


_STATE = "state "


def _prefixed(state: State) -> State:
    """A rule's state among the named inputs or outputs of its call."""
    return {_STATE + name: tensor for name, tensor in state.items()}


def _state(named: State) -> State:
    return {name.removeprefix(_STATE): tensor for name, tensor in named.items() if name.startswith(_STATE)}
