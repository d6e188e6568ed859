"""Evaluate weights on fixed episodes, for meta-validation, meta-test and stored weights."""

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

EPISODES_BETWEEN_UPDATES = 320  # episodes between updates of the display and checks for a stop request
EPISODES_AT_ONCE = {"cpu": 32, "cuda": 320}  # chosen: large batches suit a GPU's launches, small ones a CPU's caches


@dataclass(frozen=True)
class FixedEpisodes:
    """The examples of a split on a device, and the indices of each episode's examples."""

    pool: ExamplePool
    indices: EpisodeIndices
    hash: str
    class_names: list[str]

    @classmethod
    def of(cls, spec: RunSpec, examples: Examples, split: SplitName, device: torch.device) -> "FixedEpisodes":
        """The episodes of `spec` in `split`, read from the cache. Raises UserError if they are damaged."""
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
        """For each class, the number of its episodes and their sum of `correct` [E]; unused classes are left out."""
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
    """Correct answers in each episode: [E].

    ranks: they take turns at groups of episodes. The groups do not depend on the number of ranks, so neither do the
    counts. All ranks call `on_progress` equally often.
    """
    ranks, device = ranks or Ranks(), episodes.indices.classes.device
    query_logits = partial(model, inner_steps=spec.protocol.inner_steps_test)
    total, at_once = len(episodes.indices), EPISODES_AT_ONCE[device.type]
    counts = torch.zeros(total, dtype=torch.int64, device=device)
    between_updates = EPISODES_BETWEEN_UPDATES * ranks.size
    for done in range(0, total, between_updates):
        on_progress(done, total)
        for start in range(done, min(done + between_updates, total), at_once)[ranks.rank :: ranks.size]:
            group = slice(start, min(start + at_once, total))
            counts[group] = correct_counts(
                query_logits, episodes.pool, episodes.indices[group], k_shot=spec.shots, episodes_at_once=at_once
            )
    correct: NDArray[np.int64] = ranks.sum(counts).cpu().numpy()
    return correct


def multiplying_as_declared(spec: RunSpec, device: torch.device) -> AbstractContextManager[None]:
    """A context in which matrix products have the precision and the backend of the outer steps of `spec`."""
    return multiplying(spec.protocol.matmul_precision, device, examples=spec.examples_of_an_outer_step)
