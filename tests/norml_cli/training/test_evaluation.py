"""What an evaluation leaves for intervals over new classes."""

import numpy as np
import torch

from norml.episodes import EpisodeIndices, ExamplePool, sample_indices
from norml.frozen_classifiers import NearestCentroid
from norml_cli.registry.reading import load_registry
from norml_cli.results.records import OfClass
from norml_cli.training.evaluation import FixedEpisodes, count_correct
from norml_cli.training.ranks.sharing import Ranks


def test_each_class_counts_its_episodes_and_all_their_correct_answers():
    classes = torch.tensor([[0, 2], [2, 3], [0, 3]])
    indices = EpisodeIndices(classes, torch.zeros(3, 2, 2, dtype=torch.int64), torch.zeros_like(classes))
    episodes = FixedEpisodes(None, indices, "hash", ["ant", "bee", "cat", "dog"])
    assert episodes.by_class(np.array([5, 3, 1])) == {
        "ant": OfClass(episodes=2, correct=6),
        "cat": OfClass(episodes=2, correct=8),
        "dog": OfClass(episodes=2, correct=4),
    }  # no bee: it is in none


class OneOfThree(Ranks):
    """A rank whose sum over ranks is its own part."""

    size = 3

    def __init__(self, rank: int) -> None:
        self.rank = rank


def test_ranks_count_every_episode_once_and_tell_as_often_as_each_other():
    spec = load_registry().resolve("nearest-centroid", "glyphs-5way", 1).spec
    draw = {"n_classes": 8, "n_examples": 6, "n_way": 5, "examples_per_class": 2, "rotations": False}
    images = torch.randint(0, 256, (8, 6, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pool = ExamplePool.of_images(images, rotations=False)
    indices = sample_indices(**draw, n_episodes=1000, generator=torch.Generator().manual_seed(1))
    episodes, calls = FixedEpisodes(pool, indices, "hash", []), []

    def counted(ranks: Ranks) -> np.ndarray:
        calls.append([])
        return count_correct(NearestCentroid("euclidean"), spec, episodes, lambda *at: calls[-1].append(at), ranks)

    whole = counted(Ranks())
    parts = [counted(OneOfThree(rank)) for rank in range(3)]
    assert (np.sum(parts, axis=0) == whole).all()
    assert sum((part > 0) for part in parts).max() == 1  # each episode by one rank
    assert [len(each) for each in calls] == [4, 2, 2, 2]
