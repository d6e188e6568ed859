"""Classifiers on frozen features without an outer loop: they are fitted to each support set directly.

They show how good the features are by themselves. A meta-learned rule on the same features must beat them. N classes,
K examples of each in a support set of S = N * K, E episodes, D features.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from norml.adapted.similarities import Similarity, class_means, similarities
from norml.episodes import EpisodeBatch

NEWTON_STEPS = 100  # chosen: about 10 are enough for C = 1
SMALL_STEP = 1e-9  # chosen: float64 steps below this change no float32 logit


class FrozenClassifier(nn.Module, ABC):
    """Computes query logits from a support set, without any meta-trained parameters."""

    @abstractmethod
    def forward(self, batch: EpisodeBatch, inner_steps: int = 0) -> Tensor:
        """Query logits [E, M, N]. inner_steps: unused; other models take inner steps."""

    def parameter_counts(self) -> dict[str, int]:
        """As `MetaTrained.parameter_counts`: there are no parameters."""
        return {"learner": 0, "meta_learner": 0}


class NearestCentroid(FrozenClassifier):
    """Chooses the class whose mean support example is nearest.

    'euclidean': negative squared distance to the mean (Snell et al. 2017 without training; Wang et al. 2019).
    'cosine': cosine similarity with the mean (the Classifier-Baseline of Chen et al. 2021).
    """

    def __init__(self, similarity: Similarity) -> None:
        super().__init__()
        self.similarity = similarity

    def forward(self, batch: EpisodeBatch, inner_steps: int = 0) -> Tensor:  # noqa: ARG002 - unused
        """Similarities [E, M, N] of queries and centroids."""
        members = functional.one_hot(batch.support_y).to(batch.x.dtype)
        return similarities(batch.query_x, class_means(batch.support_x, members), self.similarity)


class LogisticRegression(FrozenClassifier):
    """Multinomial logistic regression with an L2 penalty on weights but not biases, solved to convergence.

    Minimises sum_s cross-entropy_s + |W|^2 / (2 C), as Tian et al. 2020 do with scikit-learn and C = 1. W is a sum of
    support examples, so Newton's method solves the problem in their span, with S instead of D numbers per class.
    """

    def __init__(self, inverse_penalty: float) -> None:
        """inverse_penalty: C."""
        super().__init__()
        self.inverse_penalty = inverse_penalty

    def forward(self, batch: EpisodeBatch, inner_steps: int = 0) -> Tensor:  # noqa: ARG002 - unused
        """Query logits [E, M, N] in the batch's dtype, solved in float64. Raises ArithmeticError if that fails."""
        support, queries = batch.support_x.double(), batch.query_x.double()
        basis, coordinates = _span(support)
        labels = functional.one_hot(batch.support_y).double()
        coefficients = self._solved(_with_one(coordinates), labels)  # [E, S + 1, N]
        return (_with_one(queries @ basis.mT) @ coefficients).to(batch.x.dtype)

    def _solved(self, x: Tensor, labels: Tensor) -> Tensor:
        """Coefficients [E, F, N] for inputs x [E, S, F], the last of which is 1, and labels [E, S, N]."""
        n_episodes, _, n_inputs = x.shape
        n_way = labels.shape[2]
        penalty = x.new_full((n_inputs, 1), 1 / self.inverse_penalty)
        penalty[-1] = 0
        # Adding one number to all biases changes nothing, so the Hessian is singular in that direction; add curvature.
        common_bias = x.new_zeros(n_inputs, n_way, n_inputs, n_way)
        common_bias[-1, :, -1, :] = 1
        coefficients: Tensor = x.new_zeros(n_episodes, n_inputs, n_way)
        for _ in range(NEWTON_STEPS):
            p = functional.softmax(x @ coefficients, dim=-1)
            gradient = x.mT @ (p - labels) + penalty * coefficients
            curvature = torch.diag_embed(p) - p[..., :, None] * p[..., None, :]  # [E, S, N, N]
            hessian = torch.einsum("esf,esg,esnm->efngm", x, x, curvature) + common_bias
            size = n_inputs * n_way
            hessian = hessian.reshape(n_episodes, size, size)
            hessian += torch.diag(penalty.expand(-1, n_way).reshape(-1))
            step: Tensor = torch.linalg.solve(hessian, gradient.reshape(n_episodes, size, 1)).view_as(coefficients)
            decrement = (gradient * step).sum(dim=(1, 2), keepdim=True).clamp(min=0).sqrt()
            coefficients = coefficients - step / (
                1 + decrement
            )  # damped: a full step can overshoot far from the solution
            if step.abs().max() <= SMALL_STEP:
                return coefficients
        raise ArithmeticError(f"logistic regression: no solution within {NEWTON_STEPS} steps; use a smaller C")


def _span(support: Tensor) -> tuple[Tensor, Tensor]:
    """An orthonormal basis [E, R, D] of the support examples' span, R = min(S, D), and their coordinates [E, S, R]."""
    basis, triangle = torch.linalg.qr(support.mT)
    return basis.mT, triangle.mT


def _with_one(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)
