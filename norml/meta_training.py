"""The meta-learner (initial weights and update rule together) and its outer step."""

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from norml.adaptation import adapt
from norml.episodes import EpisodeBatch
from norml.fast_weights import Form, cheaper_form
from norml.learner import Learner, cross_entropy
from norml.update_rules import UpdateRule


@dataclass(frozen=True)
class InnerLoop:
    """How the learner is adapted and queried. `weight_form`: 'auto' lets each layer take the cheaper form."""

    inner_lr: float
    first_order: bool = False
    query_statistics: Literal["query", "support"] = "query"
    weight_form: Form | Literal["auto"] = "auto"


class MetaLearner(nn.Module):
    """What the outer loop learns: the learner's initial weights theta_0 and the rule's parameters Phi."""

    def __init__(self, learner: Learner, rule: UpdateRule, inner_loop: InnerLoop) -> None:
        super().__init__()
        self.learner = learner
        self.rule = rule
        self.inner_loop = inner_loop

    def forward(self, batch: EpisodeBatch, inner_steps: int) -> Tensor:
        """Query logits [E, M, N] after `inner_steps` inner steps on the support sets."""
        loop = self.inner_loop
        weights = adapt(
            self.learner,
            self.rule,
            batch.support_x,
            batch.support_y,
            inner_lr=loop.inner_lr,
            inner_steps=inner_steps,
            first_order=loop.first_order,
            forms=self._forms(batch, inner_steps),
        )
        statistics = None
        if loop.query_statistics == "support":
            statistics = self.learner(weights, batch.support_x)[1].statistics
        logits: Tensor = self.learner(weights, batch.query_x, statistics)[0]
        return logits

    def parameter_counts(self) -> dict[str, int]:
        """Numbers of learned values: of the learner (batch norm left out, as the paper counts), and of the rule."""
        linear = [*self.learner.weights, *self.learner.biases]
        return {
            "learner": sum(p.numel() for p in linear),
            "meta_learner": sum(p.numel() for p in self.rule.parameters()),
        }

    def _forms(self, batch: EpisodeBatch, inner_steps: int) -> list[Form]:
        form = self.inner_loop.weight_form
        sizes = self.learner.sizes
        if form != "auto":
            return [form] * self.learner.n_layers
        return [
            cheaper_form(
                n_support=batch.support_x.shape[1],
                n_query=batch.query_x.shape[1],
                inner_steps=inner_steps,
                n_in=n_in,
                n_out=n_out,
                is_first=layer == 0,
                scales_inputs=self.rule.scales_inputs,
            )
            for layer, (n_in, n_out) in enumerate(itertools.pairwise(sizes))
        ]


def outer_step(
    meta_learner: MetaLearner,
    optimizer: torch.optim.Optimizer,
    batch: EpisodeBatch,
    *,
    inner_steps: int,
    gradient_clip: float | None = None,
) -> tuple[Tensor, Tensor]:
    """One step on theta_0 and Phi (paper eqs 12-13); returns the query loss and accuracy, both scalars.

    The loss is the mean over episodes and queries: the paper's sum divided by a constant, which Adam does not see.
    """
    logits = meta_learner(batch, inner_steps)
    losses, _ = cross_entropy(logits, batch.query_y)
    loss = losses.mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if gradient_clip is not None:
        nn.utils.clip_grad_value_(meta_learner.parameters(), gradient_clip)
    optimizer.step()
    accuracy = (logits.detach().argmax(-1) == batch.query_y).float().mean()
    return loss.detach(), accuracy


def outer_lr_at(step: int, *, outer_lr: float, outer_steps: int, schedule: Literal["constant", "cosine"]) -> float:
    """The outer learning rate of step `step` in 0..outer_steps - 1; cosine falls from outer_lr towards 0."""
    if schedule == "constant":
        return outer_lr
    return outer_lr * 0.5 * (1 + math.cos(math.pi * step / outer_steps))
