"""MAML++'s multi-step loss (Antoniou, Edwards & Storkey 2019, sec. 4): the queries are asked for after every step."""

import torch
from torch import Tensor

from norml.arguments import check_range
from norml.episodes import EpisodeBatch
from norml.learner import cross_entropy
from norml.meta_training import MetaTrained
from norml.objectives import untaken

LEAST_SHARE = 0.03  # of an early step's weight 1 / T: few_shot_learning_system.py of the authors


@torch.no_grad()
def multi_step_gradient(
    meta_learner: MetaTrained, batch: EpisodeBatch, inner_steps: int, *, step_weights: Tensor
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """As `meta_gradient`, of the query losses after every inner step, added up by `step_weights` [T].

    The accuracy is that after the last one. Raises TypeError for what takes no inner steps.
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
    """The weights of the query losses after each of T inner steps in outer step `step`, from 0.

    All are 1 / T at first; those of the earlier steps fall evenly, to LEAST_SHARE of that, and the last one takes up
    what they lose. From outer step `until` on it is alone: None.
    """
    if step >= until:
        return None
    early = max(1 - step / until, LEAST_SHARE) / inner_steps
    return [early] * (inner_steps - 1) + [1 - early * (inner_steps - 1)]
