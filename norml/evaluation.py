"""Correct answers on a fixed set of episodes."""

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
    """The number of correctly classified queries, of M, in each episode: [E] int64.

    query_logits: returns logits [E, M, N] of a batch's queries. episodes_at_once: changes only memory and speed,
    because episodes are independent. Raises ValueError if there are no episodes.
    """
    if not len(episodes):
        raise ValueError("no episodes to evaluate; expected at least one")
    counts = []
    for start in range(0, len(episodes), episodes_at_once):
        batch = pool.gather(episodes[start : start + episodes_at_once], k_shot=k_shot, dtype=dtype)
        counts.append((query_logits(batch).argmax(-1) == batch.query_y).sum(dim=1))
    return torch.cat(counts)
