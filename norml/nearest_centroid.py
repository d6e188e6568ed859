"""Nearest-centroid classification of features: what frozen features are worth without any adaptation."""

import torch
from torch import Tensor
from torch.nn import functional

from norml.episodes import EpisodeIndices


def correct_counts(features: Tensor, episodes: EpisodeIndices, *, k_shot: int, episodes_at_once: int = 100) -> Tensor:
    """How many of an episode's M queries lie nearest to the mean of their own class's support: [E] int64.

    features: [C, P, F], float, of C classes with P examples each. They are scaled to length one first (Tian et al.
    2020, WangYueFt/rfs eval/meta_eval.py), so that distances compare directions. `episodes_at_once` changes memory and
    speed only.
    """
    directions = functional.normalize(features, dim=-1)
    parts = range(0, len(episodes), episodes_at_once)
    return torch.cat([_counts(directions, episodes[start : start + episodes_at_once], k_shot) for start in parts])


def _counts(directions: Tensor, episodes: EpisodeIndices, k_shot: int) -> Tensor:
    examples = directions[episodes.classes[:, :, None], episodes.examples]  # [E, N, K + Q, F]
    centroids = examples[:, :, :k_shot].mean(dim=2)  # [E, N, F]
    queries = examples[:, :, k_shot:]  # [E, N, Q, F]
    # |q - c|^2 without |q|^2, which is the same for every centroid c
    distances = centroids.square().sum(-1)[:, None, None] - 2 * torch.einsum("enqf,emf->enqm", queries, centroids)
    own = torch.arange(centroids.shape[1], device=directions.device)[:, None]
    return (distances.argmin(dim=-1) == own).sum(dim=(1, 2))
