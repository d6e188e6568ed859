"""Reptile (Nichol, Achiam & Schulman 2018): the initial weights follow where inner steps lead."""

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
    """The way that inner steps go, theta_0 - theta_T, divided by eta: the sum of their gradients, a mean over episodes.

    An episode's queries are training data like its support set. The steps see all of it in turn, as many examples at a
    time as the support set has, of each class alike (one by one: passes over all of it). Batch norm's shift and scale,
    which inner steps leave alone, get the sum of their gradients, too. Loss and accuracy are those of what the last
    step sees, before it. Raises TypeError for what takes no inner steps, ValueError for no steps and for a rule with
    learned parameters, which it cannot train.
    """
    if any(True for _ in meta_learner.rule.parameters()):
        raise ValueError("Reptile moves initial weights alone; take an update rule without learned parameters")
    if not inner_steps:
        raise ValueError("Reptile learns from inner steps; take at least 1")
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
    """A step's direction, a mean over episodes, by the names of the learner's parameters."""
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
