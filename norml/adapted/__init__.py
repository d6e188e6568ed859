"""Base class of models that have seen their support sets and answer queries: adapted learners and metric learners."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from norml.arguments import check_device, check_examples, check_labels, check_range, check_tensor
from norml.learner import Learner

Statistics = Literal["query", "support"]


class Adapted(ABC):
    """E episodes with their support sets, and the queries if they are known."""

    def __init__(
        self, learner: Learner, x: Tensor, support_y: Tensor, *, n_way: int, query_statistics: Statistics
    ) -> None:
        """Data: x [E, S + M, D], the support sets, then the queries if known; support_y [E, S] int64 in 0..N-1.

        Raises TypeError or ValueError for data that do not fit the learner; labels are checked on the CPU only.
        """
        check_examples("x", x, "[E, S + M, D]", learner.sizes[0], learner.weights[0])
        check_tensor("support_y", support_y, "[E, S]")
        n_support = support_y.shape[1]
        if not 0 < n_support <= x.shape[1]:
            raise ValueError(f"support_y must be [E, S] with S in 1..{x.shape[1]}, got {list(support_y.shape)}")
        check_labels("support_y", support_y, "[E, S]", (x.shape[0], n_support))
        check_device("support_y", support_y, x.device, "x")
        check_range("support_y", support_y, n_way, "the learner's N classes")
        self.learner, self.n_way = learner, n_way
        self.support_x, self.support_y = x[:, :n_support], support_y
        self._x, self._query_x = x, x[:, n_support:] if n_support < x.shape[1] else None
        self._query_statistics = query_statistics

    @abstractmethod
    def logits(
        self,
        query_x: Tensor | None = None,
        *,
        after: int | None = None,
        query_statistics: Statistics | None = None,
    ) -> Tensor:
        """Logits [E, M, N] for query_x [E, M, D]; default: the known queries.

        after: number of inner steps (one by one: passes) taken so far; default: all. query_statistics: the set whose
        statistics batch norm uses; default: the inner loop's setting. With 'query', all M queries affect each other's
        logits; fewer than N queries are classified hardly better than by chance, so this warns. Raises TypeError or
        ValueError for queries that do not fit the learner, and without queries.
        """

    @abstractmethod
    def reverse(
        self, logits_bar: Tensor, earlier: Mapping[int, Tensor] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Derivatives by the parameters of learner and rule, by name, from those by the query logits [E, M, N].

        earlier: derivatives by logits requested before the last inner step, by the number of steps (one by one: passes)
        before them. Parameters without influence are left out. Raises RuntimeError in a second call, because the first
        uses up the stored values.
        """

    def _asked(self, query_x: Tensor | None, query_statistics: Statistics | None) -> tuple[Tensor, Statistics]:
        """The queries of a call of `logits`, and the set for batch norm's statistics."""
        queries = self._query_x if query_x is None else self._checked(query_x)
        if queries is None:
            raise ValueError("no queries are known; give query_x")
        statistics = self._query_statistics if query_statistics is None else query_statistics
        if statistics not in get_args(Statistics):
            raise ValueError(f"query_statistics must be 'query' or 'support', got {statistics!r}")
        if statistics == "query":
            self._warn_of_few(queries.shape[1])
        return queries, statistics

    def _checked(self, query_x: Tensor) -> Tensor:
        check_examples("query_x", query_x, "[E, M, D]", self.learner.sizes[0], self.learner.weights[0])
        if query_x.shape[0] != self.support_x.shape[0]:
            expected = f"E = {self.support_x.shape[0]}, as the support sets have"
            raise ValueError(f"query_x must be [E, M, D] with {expected}, got {list(query_x.shape)}")
        return query_x

    def _warn_of_few(self, n_query: int) -> None:
        if torch.compiler.is_compiling() or n_query >= self.n_way or self.learner.n_layers == 1:
            return
        warnings.warn(
            f"batch norm takes its statistics from {n_query} queries for N = {self.n_way} classes, too few to tell "
            "them apart; ask for more queries at once, or take query_statistics='support'",
            stacklevel=4,
        )
