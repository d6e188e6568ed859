"""What a meta-learner does while it adapts: its gates, its effective learning rates, its accuracy step by step and with
parts of it held still. Nothing here changes the meta-learner; every figure comes from the engine itself, watched.

Effective rate: a rule's step may differ from the gradient step in size and direction. Of a neuron's incoming weights w
(one row of a layer), with gradient g and step s = w_t - w_{t+1}, the effective learning rate is the share of the step
along the gradient, <s, g> / <g, g>: eta for gradient descent, whatever the episode. The cosine of s and g of a whole
layer tells how far the rule turns the step: 1 where it only changes its size.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from norml.adaptation import Adaptation
from norml.episodes import EpisodeBatch
from norml.meta_training import MetaLearner
from norml.update_rules import Rates, State, UpdateRule
from norml.update_rules.nodal_lstm import NodalLstm

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Wrapped(UpdateRule):
    """A rule inside another that looks at it or changes what it gives."""

    def __init__(self, rule: UpdateRule) -> None:
        super().__init__()
        self.rule = rule
        self.scales_inputs = rule.scales_inputs

    @override
    def initial_state(self, layer: int, delta: Tensor, h: Tensor) -> State:
        return self.rule.initial_state(layer, delta, h)

    @override
    def rates(self, layer: int) -> Rates | None:
        return self.rule.rates(layer)

    @override
    def scaled(
        self, layer: int, delta: Tensor, h: Tensor, losses: Tensor, state: State
    ) -> tuple[Tensor, Tensor, State]:
        return self.rule.scaled(layer, delta, h, losses, state)


class Frozen(Wrapped):
    """A rule that leaves some layers at their initial weights and adapts the others as before (Raghu et al. 2020)."""

    def __init__(self, rule: UpdateRule, layers: Collection[int]) -> None:
        super().__init__(rule)
        self.layers = frozenset(layers)

    @override
    def scaled(
        self, layer: int, delta: Tensor, h: Tensor, losses: Tensor, state: State
    ) -> tuple[Tensor, Tensor, State]:
        delta_hat, h_hat, after = super().scaled(layer, delta, h, losses, state)
        return (torch.zeros_like(delta_hat) if layer in self.layers else delta_hat), h_hat, after


class LayerStep(NamedTuple):
    """One layer in one inner step of E episodes.

    delta_gate [E, S, O] and h_gate [E, S, I]: NORML's, else None. along [E, O]: <s, g> of each neuron's incoming
    weights. gradient [E, O]: <g, g>. step [E]: <s, s> of the whole layer.
    """

    delta_gate: Tensor | None
    h_gate: Tensor | None
    along: Tensor
    gradient: Tensor
    step: Tensor


class Watched(Wrapped):
    """A rule whose every call is written down, in `steps[t][layer]`; `losses[t]` [E, S] are the examples' losses."""

    def __init__(self, rule: UpdateRule, eta: float) -> None:
        super().__init__(rule)
        self.eta = eta
        self.steps: list[list[LayerStep]] = []
        self.losses: list[Tensor] = []
        self.deltas_out: list[Tensor] = []  # of the last layer, [E, S, N]

    @override
    def scaled(
        self, layer: int, delta: Tensor, h: Tensor, losses: Tensor, state: State
    ) -> tuple[Tensor, Tensor, State]:
        delta_hat, h_hat, after = super().scaled(layer, delta, h, losses, state)
        if layer == 0:
            self.steps.append([])
            self.losses.append(losses)
            self.deltas_out.append(delta)
        self.deltas_out[-1] = delta  # the last layer's stays
        gradient, step = delta.mT @ h, self.eta * (delta_hat.mT @ h_hat)
        rates = self.rule.rates(layer)
        step = step if rates is None else step * rates.weight
        gates: tuple[Tensor | None, Tensor | None] = (None, None)
        if isinstance(self.rule, NodalLstm):
            found = self.rule.gates_of(layer, delta, h, losses, state)
            gates = (found[0].expand_as(delta), found[1].expand_as(h))
        sums = ((step * gradient).sum(-1), gradient.square().sum(-1), step.square().sum((-2, -1)))
        self.steps[-1].append(LayerStep(*gates, *sums))
        return delta_hat, h_hat, after


@dataclass(frozen=True)
class GateSummary:
    """The gates of one signal of one layer in one inner step, over examples and neurons of all episodes.

    quantiles: at QUANTILES. loss_correlation: Pearson's, between an example's mean gate and its loss (None: one of them
    does not vary). when_right, when_wrong: mean gate of support examples that the learner classifies rightly or wrongly
    before the step (None: there are none).
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

    neuron_rates [O]: the effective learning rate of each neuron's incoming weights over all episodes; not a number
    where no gradient reached it. rate, cosine: of the layer as a whole, means over episodes.
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
    """What the rule does in each of `inner_steps` steps on the support sets of `batches`, by step and layer."""
    seen = [_watched(meta_learner, batch, inner_steps) for batch in batches]
    found = []
    for t in range(inner_steps):
        losses, right = (torch.cat([getattr(part, name)[t] for part in seen]) for name in ("losses", "right"))
        layers = range(meta_learner.learner.n_layers)
        found += [_summary([part.steps[t][n] for part in seen], losses, right, layer=n, step=t) for n in layers]
    return found


def logits_of_each_step(meta_learner: MetaLearner, batch: EpisodeBatch, inner_steps: int) -> Iterator[Tensor]:
    """Query logits [E, M, N] before the first inner step and after each."""
    parts = (meta_learner.learner, meta_learner.rule, meta_learner.inner_loop, batch.x, batch.support_y)
    yield from Adaptation(*parts, inner_steps=inner_steps).logits_of_each_step()


def frozen(meta_learner: MetaLearner, layers: Collection[int]) -> MetaLearner:
    """The same meta-learner with the adaptation of `layers` switched off."""
    return MetaLearner(meta_learner.learner, Frozen(meta_learner.rule, layers), meta_learner.inner_loop)


def freezings(n_layers: int) -> dict[str, frozenset[int]]:
    """Which layers stay at their initial weights, by a name for each case."""
    every, head = frozenset(range(n_layers)), n_layers - 1
    cases = {"all layers adapted": frozenset[int](), "nothing adapted": every}
    if n_layers > 1:
        cases |= {"head alone adapted": every - {head}, "body alone adapted": frozenset({head})}
        cases |= {f"layer {layer + 1} not adapted": frozenset({layer}) for layer in range(head)}
    return cases


class _Seen(NamedTuple):
    """Of one batch, by step: every layer; the examples' losses [E, S]; and whether they are right before it [E, S]."""

    steps: list[list[LayerStep]]
    losses: list[Tensor]
    right: list[Tensor]


def _watched(meta_learner: MetaLearner, batch: EpisodeBatch, inner_steps: int) -> _Seen:
    loop = meta_learner.inner_loop
    rule = Watched(meta_learner.rule, loop.inner_lr)
    Adaptation(meta_learner.learner, rule, loop, batch.support_x, batch.support_y, inner_steps=inner_steps).run()
    return _Seen(rule.steps, rule.losses, [_right(delta, batch.support_y) for delta in rule.deltas_out])


def _right(delta_out: Tensor, labels: Tensor) -> Tensor:
    """Whether the most probable class is the label, from delta_out = (p - one-hot) / S."""
    p = delta_out * delta_out.shape[1]
    p = p.scatter_add(-1, labels.unsqueeze(-1), torch.ones_like(p[..., :1]))
    return p.argmax(-1) == labels


def _summary(seen: Sequence[LayerStep], losses: Tensor, right: Tensor, *, layer: int, step: int) -> LayerSummary:
    along, gradient, squared = (torch.cat([getattr(s, name) for s in seen]) for name in ("along", "gradient", "step"))
    by_episode, of_gradient = along.sum(dim=1), gradient.sum(dim=1)
    return LayerSummary(
        layer=layer,
        step=step,
        delta_gate=_gates([s.delta_gate for s in seen], losses, right),
        h_gate=_gates([s.h_gate for s in seen], losses, right),
        neuron_rates=along.sum(dim=0) / gradient.sum(dim=0),
        rate=(by_episode / of_gradient).mean().item(),
        cosine=(by_episode / (squared * of_gradient).sqrt()).mean().item(),
    )


def _gates(parts: Sequence[Tensor | None], losses: Tensor, right: Tensor) -> GateSummary | None:
    there = [part for part in parts if part is not None]
    return gate_summary(torch.cat(there), losses, right) if there else None


def gate_summary(gates: Tensor, losses: Tensor, right: Tensor) -> GateSummary:
    """Of gates [E, S, neurons], with the examples' losses [E, S] and whether they are classified rightly [E, S]."""
    ordered = gates.flatten().sort().values
    places = [round(q * (len(ordered) - 1)) for q in QUANTILES]
    by_example = gates.mean(dim=-1)
    return GateSummary(
        quantiles=tuple(ordered[places].tolist()),
        mean=gates.mean().item(),
        std=gates.std(correction=0).item(),
        loss_correlation=_correlation(by_example.flatten(), losses.flatten()),
        when_right=_mean_of(by_example[right]),
        when_wrong=_mean_of(by_example[~right]),
    )


def _correlation(x: Tensor, y: Tensor) -> float | None:
    x, y = x.double(), y.double()
    if bool((x == x[0]).all()) or bool((y == y[0]).all()):
        return None
    return torch.corrcoef(torch.stack([x, y]))[0, 1].item()


def _mean_of(x: Tensor) -> float | None:
    return x.mean().item() if x.numel() else None
