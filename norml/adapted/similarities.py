"""How similar features are: what frozen classifiers and learners that compare go by."""

from typing import Literal

from torch import Tensor
from torch.nn import functional

Similarity = Literal["euclidean", "cosine"]


def class_means(support: Tensor, members: Tensor) -> Tensor:
    """The mean [E, N, F] of each class's examples [E, S, F]."""
    return (members / members.sum(dim=1, keepdim=True)).mT @ support


def similarities(queries: Tensor, others: Tensor, similarity: Similarity) -> Tensor:
    """[E, M, B] between [E, M, F] and [E, B, F]; a Euclidean one but for |q|^2, which is the same for all others."""
    if similarity == "cosine":
        return functional.normalize(queries, dim=-1) @ functional.normalize(others, dim=-1).mT
    return 2 * queries @ others.mT - others.square().sum(dim=-1).unsqueeze(1)
