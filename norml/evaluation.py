"""Accuracy on a fixed set of episodes, one count an episode."""

import torch
from torch import Tensor

from norml.episodes import EpisodeIndices, ImagePool
from norml.meta_training import MetaLearner


@torch.no_grad()
def correct_counts(
    meta_learner: MetaLearner,
    pool: ImagePool,
    episodes: EpisodeIndices,
    *,
    k_shot: int,
    inner_steps: int,
    episodes_at_once: int = 32,
) -> Tensor:
    """How many of an episode's M queries are classified correctly after adaptation: [E] int64.

    Episodes are independent, so `episodes_at_once` changes memory and speed only.
    Raises ValueError if there are no episodes.
    """
    if not len(episodes):
        raise ValueError("no episodes to evaluate; expected at least one")
    dtype = next(meta_learner.parameters()).dtype
    counts = []
    for start in range(0, len(episodes), episodes_at_once):
        batch = pool.gather(episodes[start : start + episodes_at_once], k_shot=k_shot, dtype=dtype)
        logits = meta_learner(batch, inner_steps)
        counts.append((logits.argmax(-1) == batch.query_y).sum(dim=1))
    return torch.cat(counts)
