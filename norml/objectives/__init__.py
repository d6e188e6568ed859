"""Objectives of the outer loop other than the query loss after the last inner step, one file per meta-gradient."""

from torch import Tensor

from norml.adaptation import Adaptation
from norml.meta_training import MetaLearner, MetaTrained


def untaken(
    meta_learner: MetaTrained,
    x: Tensor,
    support_y: Tensor,
    inner_steps: int,
    *,
    queried_each_step: bool = False,
    part: int | None = None,
) -> Adaptation:
    """An adaptation before its first step; reversible if queried after each step.

    Raises TypeError for a model without inner steps.
    """
    if not isinstance(meta_learner, MetaLearner):
        raise TypeError(f"{type(meta_learner).__name__} takes no inner steps")
    loop = meta_learner.inner_loop
    return Adaptation(
        meta_learner.learner,
        meta_learner.rule,
        loop,
        x,
        support_y,
        inner_steps=inner_steps,
        reversible=queried_each_step,
        queried_each_step=queried_each_step,
        part=part if loop.support_order == "full" else None,
    )
