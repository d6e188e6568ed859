"""Reptile (Nichol, Achiam & Schulman 2018): the initial weights move in the direction of the inner steps."""

import torch
from torch import Tensor

from norml.adaptation import Step
from norml.episodes import EpisodeBatch
from norml.learner import cross_entropy
from norml.meta_training import MetaTrained
from norml.objectives import untaken


@torch.no_grad()
def reptile_gradient(
    meta_learner: MetaTrained, batch: EpisodeBatch, inner_steps: int
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The direction of the inner steps, (theta_0 - theta_T) / eta: the sum of their gradients, averaged over episodes.

    Queries are training data like the support set. Inner steps take all of these examples in turn, as many at a time as
    the support set has, equally many of each class (one by one: passes over all of them). Batch norm's shift and scale,
    which inner steps do not change, get the sum of their gradients too. Loss and accuracy are those of the last step's
    examples before that step. Raises TypeError for a model without inner steps, ValueError for zero steps and for a
    rule with parameters, which Reptile cannot train.
    """
    if any(True for _ in meta_learner.rule.parameters()):
        raise ValueError("Reptile trains only initial weights; use an update rule without parameters")
    if not inner_steps:
        raise ValueError("Reptile learns from inner steps; use at least 1")
    adaptation = untaken(meta_learner, batch.x, batch.y, inner_steps, part=batch.n_support)
    total: dict[str, Tensor] = {}
    for t in range(adaptation.n_steps):
        step = adaptation.take(t)
        for name, gradient in _of_step(step, has_scales=meta_learner.learner.scales is not None).items():
            total[name] = total[name] + gradient if name in total else gradient
    y = adaptation.examples_of(adaptation.n_steps - 1)[1]
    loss, accuracy = cross_entropy(step.logits, y)[0].mean(), (step.logits.argmax(-1) == y).to(batch.x.dtype).mean()
    return loss, accuracy, meta_learner.named(total, {})


def _of_step(step: Step, *, has_scales: bool) -> dict[str, Tensor]:
    """A step's direction, averaged over episodes, by the learner's parameter names."""
    n_episodes, gradients = len(step.logits), {}
    for layer, (delta_hat, patches) in enumerate(step.products):
        gradients[f"weights.{layer}"] = delta_hat.flatten(0, 1).mT @ patches.flatten(0, 1) / n_episodes
        gradients[f"biases.{layer}"] = delta_hat.sum(dim=(0, 1)) / n_episodes
    for layer, hidden in enumerate(step.backward.hidden):
        n_rows = hidden.masked.shape[1]
        gradients[f"shifts.{layer}"] = hidden.masked_mean.sum(dim=(0, 1)) * n_rows / n_episodes
        if has_scales:
            gradients[f"scales.{layer}"] = hidden.masked_along.sum(dim=(0, 1)) * n_rows / n_episodes
    return gradients
