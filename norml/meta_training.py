"""The meta-learner (initial weights and update rule together) and its outer step."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from norml.adaptation import Adaptation, InnerLoop
from norml.episodes import EpisodeBatch
from norml.learner import Learner, cross_entropy
from norml.update_rules import UpdateRule


class MetaLearner(nn.Module):
    """What the outer loop learns: the learner's initial weights theta_0 and the rule's parameters Phi."""

    def __init__(self, learner: Learner, rule: UpdateRule, inner_loop: InnerLoop) -> None:
        super().__init__()
        self.learner = learner
        self.rule = rule
        self.inner_loop = inner_loop

    def forward(self, batch: EpisodeBatch, inner_steps: int) -> Tensor:
        """Query logits [E, M, N] after `inner_steps` inner steps on the support sets.

        They can be differentiated once by this module's parameters, not by the episodes.
        """
        if not torch.is_grad_enabled():
            return self._adapted(batch, inner_steps, reversible=False)[1]
        parameters = list(self.parameters())
        logits: Tensor = _QueryLogits.apply(self, batch, inner_steps, *parameters)  # type: ignore[no-untyped-call]
        return logits

    def parameter_counts(self) -> dict[str, int]:
        """Numbers of learned values: of the learner (batch norm left out, as the paper counts), and of the rule."""
        linear = [*self.learner.weights, *self.learner.biases]
        return {
            "learner": sum(p.numel() for p in linear),
            "meta_learner": sum(p.numel() for p in self.rule.parameters()),
        }

    def _adapted(self, batch: EpisodeBatch, inner_steps: int, *, reversible: bool) -> tuple[Adaptation, Tensor]:
        adaptation = Adaptation(
            self.learner,
            self.rule,
            self.inner_loop,
            batch.support_x,
            batch.support_y,
            inner_steps=inner_steps,
            query_x=batch.query_x,
            reversible=reversible,
        )
        adaptation.run()
        return adaptation, adaptation.logits(batch.query_x)


class _QueryLogits(torch.autograd.Function):
    """The adaptation and its query pass as one operation, whose backward is the adaptation's own reverse."""

    @staticmethod
    def forward(
        ctx: Any, meta_learner: MetaLearner, batch: EpisodeBatch, inner_steps: int, *parameters: nn.Parameter
    ) -> Tensor:
        ctx.adaptation, logits = meta_learner._adapted(batch, inner_steps, reversible=True)  # noqa: SLF001 - its own
        ctx.parameters = parameters
        return logits

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, logits_bar: Tensor) -> tuple[Tensor | None, ...]:
        found = ctx.adaptation.reverse(logits_bar)
        return None, None, None, *(found.get(parameter) for parameter in ctx.parameters)


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
