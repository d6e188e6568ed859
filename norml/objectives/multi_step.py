"""MAML++'s multi-step loss (Antoniou, Edwards & Storkey 2019, sec. 4): query losses after every inner step."""

import torch
from torch import Tensor

from norml.arguments import check_range
from norml.episodes import EpisodeBatch
from norml.learner import cross_entropy
from norml.meta_training import MetaTrained
from norml.objectives import untaken

LEAST_SHARE = 0.03  # smallest share of an early step's weight 1 / T: the authors' few_shot_learning_system.py


@torch.no_grad()
def multi_step_gradient(
    meta_learner: MetaTrained, batch: EpisodeBatch, inner_steps: int, *, step_weights: Tensor
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """As `meta_gradient`, for the sum of the query losses after each inner step, weighted by `step_weights` [T].

    The accuracy is that after the last step. Raises TypeError for a model without inner steps.
    """
    check_range("query_y", batch.query_y, meta_learner.n_way, "the learner's N classes")
    adaptation = untaken(meta_learner, batch.x, batch.support_y, inner_steps, queried_each_step=True)
    every = adaptation.logits_after_each_step()
    losses, bars = zip(*(cross_entropy(logits, batch.query_y) for logits in every), strict=True)
    weighted = [weight * bar / len(batch.x) for weight, bar in zip(step_weights, bars, strict=True)]
    earlier = dict(enumerate(weighted[:-1], start=1))
    gradients = meta_learner.named(*adaptation.reverse(weighted[-1], earlier))
    loss = torch.stack([weight * of_step.mean() for weight, of_step in zip(step_weights, losses, strict=True)]).sum()
    return loss, (every[-1].argmax(-1) == batch.query_y).to(loss.dtype).mean(), gradients


def step_weights_at(step: int, *, until: float, inner_steps: int) -> list[float] | None:
    """Weights of the query losses after each of T inner steps, in outer step `step`, counted from 0.

    All are 1 / T at first. Those of the earlier steps fall linearly to LEAST_SHARE of that, and the last gets the rest.
    None from outer step `until` on, when only the last step counts.
    """
    if step >= until:
        return None
    early = max(1 - step / until, LEAST_SHARE) / inner_steps
    return [early] * (inner_steps - 1) + [1 - early * (inner_steps - 1)]
