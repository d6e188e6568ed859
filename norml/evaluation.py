"""Accuracy on a fixed set of episodes, one count an episode."""

from collections.abc import Callable

import torch
from torch import Tensor

from norml.episodes import EpisodeBatch, EpisodeIndices, ExamplePool


@torch.no_grad()
def correct_counts(
    query_logits: Callable[[EpisodeBatch], Tensor],
    pool: ExamplePool,
    episodes: EpisodeIndices,
    *,
    k_shot: int,
    dtype: torch.dtype = torch.float32,
    episodes_at_once: int = 32,
) -> Tensor:
    """How many of an episode's M queries are classified correctly: [E] int64.

    `query_logits`: logits [E, M, N] of a batch's queries, from its support sets. Episodes are independent, so
    `episodes_at_once` changes memory and speed only. Raises ValueError if there are no episodes.
    """
    if not len(episodes):
        raise ValueError("no episodes to evaluate; expected at least one")
    counts = []
    for start in range(0, len(episodes), episodes_at_once):
        batch = pool.gather(episodes[start : start + episodes_at_once], k_shot=k_shot, dtype=dtype)
        counts.append((query_logits(batch).argmax(-1) == batch.query_y).sum(dim=1))
    return torch.cat(counts)
