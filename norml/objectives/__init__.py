"""What the outer loop may follow in place of the query loss after the last inner step. One file a meta-gradient."""

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
    """An adaptation that has taken no step yet; it can be gone back through where it is queried.

    Raises TypeError for what takes no inner steps.
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
