"""Metric learners: Prototypical Networks and Matching Networks, which have no inner loop.

They train the same body as all other methods, the hidden layers of a learner, and classify a query by the similarity
of its features to those of the support set. They have no layer to the classes, so the learner has N = 0.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from norml.adapted import Adapted, Statistics
from norml.adapted.similarities import Similarity, class_means, similarities
from norml.fast_weights import LayerWeights, initial_layers
from norml.hidden_layer import Gradients
from norml.learner import ForwardTrace, Learner
from norml.meta_training import MetaTrained

ComparedWith = Literal["class-means", "examples"]


class SupportComparison(nn.Module):
    """Computes logits from features, without parameters.

    compared_with: 'class-means' (Snell et al. 2017, eqs 1-2), similarity to each class's mean; 'examples' (Vinyals et
    al. 2016, eq. 1), the logarithm of a class's attention, a softmax over the similarities to all support examples.
    similarity: 'euclidean', negative squared distance, or 'cosine'.
    """

    def __init__(self, compared_with: ComparedWith, similarity: Similarity) -> None:
        super().__init__()
        self.compared_with, self.similarity = compared_with, similarity

    def forward(self, support: Tensor, members: Tensor, queries: Tensor) -> Tensor:
        """Logits [E, M, N] from features [E, S, F] and [E, M, F]; members [E, S, N] is 1 for an example's class."""
        if self.compared_with == "class-means":
            return similarities(queries, class_means(support, members), self.similarity)
        attention = functional.log_softmax(similarities(queries, support, self.similarity), dim=-1)
        of_class = attention.unsqueeze(-1).masked_fill(members.unsqueeze(1) == 0, -torch.inf)  # [E, M, S, N]
        return of_class.logsumexp(dim=2)


class MetricLearner(MetaTrained):
    """A body with a comparison of its features. `inner_steps` has no effect."""

    rule: SupportComparison

    def __init__(
        self, learner: Learner, comparison: SupportComparison, *, n_way: int, query_statistics: Statistics = "query"
    ) -> None:
        """Needs a learner with N = 0 classes. query_statistics: as in `InnerLoop`."""
        if learner.sizes[-1]:
            raise ValueError(f"the learner of a MetricLearner has n_way = 0, not {learner.sizes[-1]}: a body alone")
        super().__init__(learner, comparison, n_way=n_way)
        self.query_statistics = query_statistics

    @override
    def adapted(self, x: Tensor, support_y: Tensor, inner_steps: int, *, reversible: bool) -> "ComparedEpisodes":
        return ComparedEpisodes(
            self.learner,
            self.rule,
            x,
            support_y,
            n_way=self.n_way,
            query_statistics=self.query_statistics,
            reversible=reversible,
        )


class _Pass(NamedTuple):
    """A pass of examples through the body. n_reference: first examples for batch norm's statistics; None: all."""

    trace: ForwardTrace
    n_reference: int | None


class ComparedEpisodes(Adapted):
    """Compares the queries of E episodes with their support sets."""

    def __init__(
        self,
        learner: Learner,
        comparison: SupportComparison,
        x: Tensor,
        support_y: Tensor,
        *,
        n_way: int,
        query_statistics: Statistics,
        reversible: bool,
    ) -> None:
        super().__init__(learner, x, support_y, n_way=n_way, query_statistics=query_statistics)
        self._comparison, self._reversible = comparison, reversible
        self._passes: list[_Pass] = []
        self._members = functional.one_hot(support_y, n_way).to(x.dtype)
        self._weights: list[LayerWeights] = initial_layers(
            ["materialised"] * learner.n_layers,
            learner.initial_weights(),
            eta=0.0,
            inputs=None,
            reversible=True,
        )

    @override
    def logits(
        self,
        query_x: Tensor | None = None,
        *,
        after: int | None = None,
        query_statistics: Statistics | None = None,
    ) -> Tensor:
        queries, statistics = self._asked(query_x, query_statistics)
        n_support, self._passes = self.support_x.shape[1], []
        with torch.no_grad():
            if statistics == "support":
                together = self._features(torch.cat([self.support_x, queries], dim=1), n_reference=n_support)
                of_support, of_queries = together[:, :n_support], together[:, n_support:]
            else:
                of_support, of_queries = self._features(self.support_x), self._features(queries)
            result: Tensor
            if self._reversible:
                result, self._pull_back, *_ = torch.func.vjp(self._compare, of_support, of_queries)
            else:
                result = self._compare(of_support, of_queries)
        return result

    def _compare(self, of_support: Tensor, of_queries: Tensor) -> Tensor:
        logits: Tensor = self._comparison(of_support, self._members, of_queries)
        return logits

    def _features(self, x: Tensor, n_reference: int | None = None) -> Tensor:
        """Features [E, B, F] of examples [E, B, D]: the output of the last hidden layer."""
        trace = self.learner(self._weights, 0, x, n_reference=n_reference)[1]
        self._passes.append(_Pass(trace, n_reference))
        features: Tensor = trace.inputs[-1]
        return features

    @override
    def reverse(
        self, logits_bar: Tensor, earlier: Mapping[int, Tensor] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        if not self._passes:
            raise RuntimeError("a comparison can be gone back through once; compare again for another derivative")
        bars = self._pull_back(logits_bar)
        for layer_weights in self._weights:
            layer_weights.begin_reverse()
        gradients = [Gradients() for _ in self.learner.shifts]
        for (trace, n_reference), bar in zip(
            self._passes, [torch.cat(bars, dim=1)] if len(self._passes) == 1 else bars, strict=True
        ):
            self.learner.forward_adjoint(
                self._weights,
                0,
                trace,
                bar[..., :0],  # logits of N = 0 classes
                gradients,
                input_bars=[*[None] * (self.learner.n_layers - 1), bar],
                n_reference=n_reference,
            )
        self._passes = []
        return self.learner.named_gradients(self._weights, gradients), {}
