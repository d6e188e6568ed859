"""Similarities of features, for frozen classifiers and metric learners."""

from typing import Literal

from torch import Tensor
from torch.nn import functional

Similarity = Literal["euclidean", "cosine"]


def class_means(support: Tensor, members: Tensor) -> Tensor:
    """The mean [E, N, F] of each class's examples [E, S, F]; members [E, S, N] is 1 for an example's class."""
    return (members / members.sum(dim=1, keepdim=True)).mT @ support


def similarities(queries: Tensor, others: Tensor, similarity: Similarity) -> Tensor:
    """Similarities [E, M, B] of [E, M, F] and [E, B, F]; 'euclidean' omits |q|^2, which is the same for all others."""
    if similarity == "cosine":
        return functional.normalize(queries, dim=-1) @ functional.normalize(others, dim=-1).mT
    return 2 * queries @ others.mT - others.square().sum(dim=-1).unsqueeze(1)
