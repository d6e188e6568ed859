"""Weights on fixed episodes: what a run does to validate and test, and what tests stored weights does again."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from norml.episodes import EpisodeIndices, ExamplePool
from norml.evaluation import correct_counts
from norml.matrix_products import multiplying
from norml_cli.data.examples import Examples, episode_indices
from norml_cli.data.fixed_episodes import episode_requests
from norml_cli.data.splits import OnProgress, SplitName
from norml_cli.registry.specs import RunSpec
from norml_cli.results.records import OfClass
from norml_cli.training.ranks.sharing import Ranks

EPISODES_BETWEEN_LOOKS = 320  # evaluated before the display is told and a stop request obeyed
EPISODES_AT_ONCE = {"cpu": 32, "cuda": 320}  # of an evaluation; chosen: a GPU waits for launches, a CPU for its caches


@dataclass(frozen=True)
class FixedEpisodes:
    """The examples of a split on a device, and which of them make each episode."""

    pool: ExamplePool
    indices: EpisodeIndices
    hash: str
    class_names: list[str]

    @classmethod
    def of(cls, spec: RunSpec, examples: Examples, split: SplitName, device: torch.device) -> "FixedEpisodes":
        """The episodes of `split` that `spec` asks for; the cache holds them. Raises UserError if they are damaged."""
        request = next(request for request in episode_requests(spec) if request.split == split)
        arrays = examples.cache.episodes(request)
        indices = episode_indices(arrays.classes, arrays.examples, arrays.turns).to(device)
        return cls(
            examples.pool(split, rotations=request.rotations, device=device),
            indices,
            arrays.hash(),
            examples.cache.class_names(split),
        )

    def by_class(self, correct: NDArray[np.int64]) -> dict[str, OfClass]:
        """Of each class, the episodes that hold it, and their sum of `correct` [E]; classes in none are left out."""
        classes = self.indices.classes.cpu().numpy()
        n_classes = len(self.class_names)
        episodes = np.bincount(classes.ravel(), minlength=n_classes)
        sums = np.zeros(n_classes, np.int64)
        np.add.at(sums, classes, correct[:, None])
        found = zip(self.class_names, episodes.tolist(), sums.tolist(), strict=True)
        return {name: OfClass(episodes=n, correct=value) for name, n, value in found if n}


def count_correct(
    model: nn.Module,
    spec: RunSpec,
    episodes: FixedEpisodes,
    on_progress: OnProgress,
    ranks: Ranks | None = None,
) -> NDArray[np.int64]:
    """Correct answers of each episode: [E].

    ranks: take turns at the groups of episodes that are evaluated at once. The groups are always the same, so the same
    weights give the same counts on any number of ranks. Each rank calls `on_progress` as often as the others.
    """
    ranks, device = ranks or Ranks(), episodes.indices.classes.device
    query_logits = partial(model, inner_steps=spec.protocol.inner_steps_test)
    total, at_once = len(episodes.indices), EPISODES_AT_ONCE[device.type]
    counts = torch.zeros(total, dtype=torch.int64, device=device)
    between_looks = EPISODES_BETWEEN_LOOKS * ranks.size
    for look in range(0, total, between_looks):
        on_progress(look, total)
        for start in range(look, min(look + between_looks, total), at_once)[ranks.rank :: ranks.size]:
            group = slice(start, min(start + at_once, total))
            counts[group] = correct_counts(
                query_logits, episodes.pool, episodes.indices[group], k_shot=spec.shots, episodes_at_once=at_once
            )
    correct: NDArray[np.int64] = ranks.sum(counts).cpu().numpy()
    return correct


def multiplying_as_declared(spec: RunSpec, device: torch.device) -> AbstractContextManager[None]:
    """Within it, matrices are multiplied as `spec` says, and as fast as in its outer steps."""
    return multiplying(spec.protocol.matmul_precision, device, examples=spec.examples_of_an_outer_step)
