"""Inspect a meta-learner while it adapts: gates, effective learning rates, accuracy after each step, and accuracy when
parts of the learner are frozen. Nothing here changes the meta-learner; all numbers come from the inner loop itself.

Effective learning rate: a rule's step may differ from the gradient step in size and direction. For a neuron's incoming
weights w (one row of a layer) with gradient g and step s = w_t - w_{t+1}, the effective rate is the part of the step
along the gradient, <s, g> / <g, g>. For gradient descent it is always eta. The cosine of s and g of a whole layer shows
how far the rule turns the step; it is 1 if the rule only changes the step's size.
"""

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from norml.adaptation import Adaptation
from norml.episodes import EpisodeBatch
from norml.fast_weights import Materialised
from norml.layers import LayerShape
from norml.learner import cross_entropy
from norml.meta_training import MetaLearner
from norml.update_rules import Carried, Gated, Pace, UpdateRule
from norml.update_rules.wrapped import Frozen, Wrapped, frozen_layers

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class LayerStep(NamedTuple):
    """One layer in one inner step of E episodes.

    delta_gate [E, S, O], h_gate [E, S, I]: gates of neurons or channels; None for a rule without gates. along [E, O]:
    <s, g> of each neuron's incoming weights. gradient [E, O]: <g, g> of the same. step [E]: <s, s> of the whole layer.
    """

    delta_gate: Tensor | None
    h_gate: Tensor | None
    along: Tensor
    gradient: Tensor
    step: Tensor


class Watched(Wrapped):
    """A rule that records its calls in `steps[t][layer]` and the examples' losses in `losses[t]` [E, S].

    For a rule that sets the pace, effective rates include the rate but not the decay, which follows no gradient.
    """

    def __init__(self, rule: UpdateRule, eta: float, layers: Sequence[LayerShape]) -> None:
        super().__init__(rule)
        self.eta, self.layers = eta, layers
        self.steps: list[list[LayerStep]] = []
        self.losses: list[Tensor] = []
        self.deltas_out: list[Tensor] = []  # delta of the last layer in each step, [E, S, N]
        self._rate: Tensor | None = None  # rates of the current step, [E, L]

    @override
    def pace(self, step: int, weight_means: Tensor, gradient_means: Tensor) -> Pace:
        pace = super().pace(step, weight_means, gradient_means)
        self._rate = pace.rate
        return pace

    @override
    def scaled(
        self, layer: int, delta: Tensor, h: Tensor, losses: Tensor, carried: Carried
    ) -> tuple[Tensor, Tensor, Carried]:
        delta_hat, h_hat, after = super().scaled(layer, delta, h, losses, carried)
        if layer == 0:
            self.steps.append([])
            self.losses.append(losses)
            self.deltas_out.append(delta)
        self.deltas_out[-1] = delta  # the last layer comes last and stays
        gates: tuple[Tensor | None, Tensor | None] = (None, None)
        if isinstance(self.rule, Gated):
            delta_gate, h_gate, _ = self.rule.gates_of(layer, delta, h, losses, carried)
            gates = (delta_gate.expand(*delta.shape[:2], -1), h_gate.expand(*h.shape[:2], -1))
        rate = 1.0 if self._rate is None else self._rate[:, layer].reshape(-1, *[1] * (delta.dim() - 1))
        sums = self._sums(layer, (delta, h), (rate * delta_hat, h_hat))
        self.steps[-1].append(LayerStep(*gates, *sums))
        return delta_hat, h_hat, after

    def _sums(
        self, layer: int, gradient: tuple[Tensor, Tensor], step: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """<s, g> and <g, g> of each neuron's incoming weights [E, O], and <s, s> of the layer [E], from signals."""
        rates, is_convolution = self.rule.rates(layer), self.layers[layer].window is not None
        if rates is None and not is_convolution:
            squares = self.eta**2 * _products(step, step)
            return self.eta * _products(step, gradient), _products(gradient, gradient), squares.sum(-1)
        rate = self.eta if rates is None else self.eta * rates.weight
        g, s = self._summed(layer, *gradient), rate * self._summed(layer, *step)
        return (s * g).sum(-1), g.square().sum(-1), s.square().sum((-2, -1))

    def _summed(self, layer: int, delta: Tensor, h: Tensor) -> Tensor:
        """The sum of outer products [E, O, I]; for a convolution it is smaller than products between all positions."""
        shape = self.layers[layer]
        return shape.rows(delta).mT @ shape.patches(shape.rows(h))


def _products(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> Tensor:
    """Inner products [E, O] of the rows of two sums of outer products, by [E, S, S] without forming the sums."""
    (delta, h), (other_delta, other_h) = one, other
    return (delta * ((h @ other_h.mT) @ other_delta)).sum(dim=1)


@dataclass(frozen=True)
class GateSummary:
    """Gates of one signal in one layer and inner step, over examples and neurons of all episodes.

    quantiles: at QUANTILES. loss_correlation: Pearson correlation of an example's mean gate with its loss; None if one
    of them is constant. when_right, when_wrong: mean gate of support examples that the learner classifies correctly or
    wrongly before the step; None if there are none.
    """

    quantiles: tuple[float, ...]
    mean: float
    std: float
    loss_correlation: float | None
    when_right: float | None
    when_wrong: float | None


@dataclass(frozen=True)
class LayerSummary:
    """One layer in one inner step.

    neuron_rates [O]: effective learning rate of each neuron's incoming weights over all episodes; NaN if no gradient
    reached it. rate, cosine: of the whole layer, mean over episodes.
    """

    layer: int
    step: int
    delta_gate: GateSummary | None
    h_gate: GateSummary | None
    neuron_rates: Tensor
    rate: float
    cosine: float


@torch.no_grad()
def watch(meta_learner: MetaLearner, batches: Iterable[EpisodeBatch], inner_steps: int) -> list[LayerSummary]:
    """Summaries of the rule's steps on the support sets of `batches`, by step and layer.

    inner_steps: steps, or passes over the support set if a step sees one example.
    """
    learner, device = meta_learner.learner, meta_learner.learner.weights[0].device
    totals: dict[tuple[int, int], _Total] = {}
    for batch in batches:
        loop = meta_learner.inner_loop
        rule = Watched(meta_learner.rule, loop.inner_lr, learner.layers)
        adaptation = Adaptation(learner, rule, loop, batch.support_x, batch.support_y, inner_steps=inner_steps).run()
        for step, layer in itertools.product(range(adaptation.n_steps), range(learner.n_layers)):
            right = _right(rule.deltas_out[step], adaptation.examples_of(step)[1])
            total = totals.setdefault((step, layer), _Total.empty(learner.sizes[layer + 1], device))
            total.add(rule.steps[step][layer], rule.losses[step], right)
    return [total.summary(layer, step) for (step, layer), total in totals.items()]


def logits_of_each_step(meta_learner: MetaLearner, batch: EpisodeBatch, inner_steps: int) -> Iterator[Tensor]:
    """Query logits [E, M, N] before the first inner step and after each; one by one, after each pass."""
    parts = (meta_learner.learner, meta_learner.rule, meta_learner.inner_loop, batch.x, batch.support_y)
    yield from Adaptation(*parts, inner_steps=inner_steps).logits_of_each_step()


def frozen(meta_learner: MetaLearner, layers: Collection[int]) -> MetaLearner:
    """The same meta-learner without adaptation of `layers`."""
    return MetaLearner(meta_learner.learner, Frozen(meta_learner.rule, layers), meta_learner.inner_loop)


@torch.no_grad()
def meta_gradient_norms(meta_learner: MetaLearner, batch: EpisodeBatch, inner_steps: int) -> Tensor:
    """Norms [E, T + 1, L] of the derivative of the query loss by W_t and b_t, for t = 0..T.

    The loss is each episode's mean over its queries; a norm covers a layer's weights and biases. As in the
    meta-gradient, the derivative goes through all later steps and through the tensors that the rule carries between
    them (first order: only through the weights).
    """
    episodes = [
        EpisodeBatch(batch.x[e : e + 1], batch.y[e : e + 1], batch.n_support) for e in range(len(batch.x))
    ]  # one at a time, because episodes share W_0 and would get the sum of derivatives
    return torch.stack([_norms_of_one(meta_learner, each, inner_steps) for each in episodes])


def _norms_of_one(meta_learner: MetaLearner, episode: EpisodeBatch, inner_steps: int) -> Tensor:
    loop = replace(meta_learner.inner_loop, weight_form="materialised")
    parts = (meta_learner.learner, meta_learner.rule, loop, episode.x, episode.support_y)
    adaptation = Adaptation(*parts, inner_steps=inner_steps, reversible=True).run()
    by_step: list[Tensor] = []  # for W_T, .., W_1

    def before_step() -> None:
        materialised = [weights for weights in adaptation.weights if isinstance(weights, Materialised)]  # all are
        by_step.append(_norms(weights.gradients() for weights in materialised))

    logits_bar = cross_entropy(adaptation.logits(), episode.query_y)[1]
    adaptation.reverse(logits_bar, before_step=before_step)
    start = _norms(weights.initial_gradients() for weights in adaptation.weights)
    return torch.stack([start, *reversed(by_step)])


def _norms(by_layer: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.stack([(weight.square().sum() + bias.square().sum()).sqrt() for weight, bias in by_layer])


def freezings(n_layers: int) -> dict[str, frozenset[int]]:
    """Layers that keep their initial weights, by the name of the case."""
    cases = {"all layers adapted": frozen_layers("all", n_layers), "nothing adapted": frozenset(range(n_layers))}
    if n_layers > 1:
        cases |= {f"{part} alone adapted": frozen_layers(part, n_layers) for part in ("head", "body")}
        cases |= {f"layer {layer + 1} not adapted": frozenset({layer}) for layer in range(n_layers - 1)}
    return cases


@dataclass(frozen=True)
class _Total:
    """One layer in one inner step, over all batches so far.

    along, gradient [O]: sums over episodes. rates, cosines: of each episode. gates: of delta and of h, with losses and
    correctness, by batch. Nothing else of a batch is kept, because small tensors between large ones fragment memory,
    which would grow with every batch.
    """

    along: Tensor
    gradient: Tensor
    rates: list[float]
    cosines: list[float]
    gates: list[tuple[Tensor, Tensor, Tensor, Tensor]]

    @classmethod
    def empty(cls, n_out: int, device: torch.device) -> "_Total":
        zeros = torch.zeros(2, n_out, dtype=torch.float64, device=device)
        return cls(zeros[0], zeros[1], [], [], [])

    def add(self, seen: LayerStep, losses: Tensor, right: Tensor) -> None:
        self.along.add_(seen.along.sum(dim=0))
        self.gradient.add_(seen.gradient.sum(dim=0))
        along, gradient = seen.along.sum(dim=1), seen.gradient.sum(dim=1)
        self.rates.extend((along / gradient).tolist())
        self.cosines.extend((along / (seen.step * gradient).sqrt()).tolist())
        if seen.delta_gate is not None and seen.h_gate is not None:
            self.gates.append((seen.delta_gate, seen.h_gate, losses, right))

    def summary(self, layer: int, step: int) -> LayerSummary:
        delta_gate = h_gate = None
        if self.gates:
            deltas, hs, losses, right = (torch.cat(parts) for parts in zip(*self.gates, strict=True))
            delta_gate, h_gate = gate_summary(deltas, losses, right), gate_summary(hs, losses, right)
        mean_rate, mean_cosine = (sum(values) / len(values) for values in (self.rates, self.cosines))
        return LayerSummary(layer, step, delta_gate, h_gate, self.along / self.gradient, mean_rate, mean_cosine)


def _right(delta_out: Tensor, labels: Tensor) -> Tensor:
    """Whether the most probable class is the label, from delta_out = (p - one-hot) / S."""
    p = delta_out * delta_out.shape[1]
    p = p.scatter_add(-1, labels.unsqueeze(-1), torch.ones_like(p[..., :1]))
    return p.argmax(-1) == labels


def gate_summary(gates: Tensor, losses: Tensor, right: Tensor) -> GateSummary:
    """Summarise gates [E, S, neurons], given the examples' losses [E, S] and whether they are classified correctly."""
    ordered = gates.flatten().sort().values
    by_example = gates.mean(dim=-1)
    return GateSummary(
        quantiles=tuple(ordered[quantile_places(len(ordered))].tolist()),
        mean=gates.mean().item(),
        std=gates.std(correction=0).item(),
        loss_correlation=_correlation(by_example.flatten(), losses.flatten()),
        when_right=_mean_of(by_example[right]),
        when_wrong=_mean_of(by_example[~right]),
    )


def quantile_places(n: int) -> list[int]:
    """Indices of QUANTILES among `n` sorted values."""
    return [round(q * (n - 1)) for q in QUANTILES]


def _correlation(x: Tensor, y: Tensor) -> float | None:
    if _is_constant(x) or _is_constant(y):
        return None
    return torch.corrcoef(torch.stack([x, y]).double())[0, 1].item()


def _is_constant(x: Tensor) -> bool:
    """Whether all entries are equal up to the rounding of a mean."""
    return bool(((x - x[0]).abs() <= 10 * torch.finfo(x.dtype).eps * x[0].abs()).all())


def _mean_of(x: Tensor) -> float | None:
    return x.mean().item() if x.numel() else None
