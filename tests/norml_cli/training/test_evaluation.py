"""What an evaluation leaves for intervals over new classes."""

import numpy as np
import torch

from norml.episodes import EpisodeIndices
from norml_cli.results.records import OfClass
from norml_cli.training.evaluation import FixedEpisodes


def test_each_class_has_the_episodes_that_hold_it_and_all_their_correct_answers():
    classes = torch.tensor([[0, 2], [2, 3], [0, 3]])
    indices = EpisodeIndices(classes, torch.zeros(3, 2, 2, dtype=torch.int64), torch.zeros_like(classes))
    episodes = FixedEpisodes(None, indices, "hash", ["ant", "bee", "cat", "dog"])
    assert episodes.by_class(np.array([5, 3, 1])) == {
        "ant": OfClass(episodes=2, correct=6),
        "cat": OfClass(episodes=2, correct=8),
        "dog": OfClass(episodes=2, correct=4),
    }  # no bee: it is in none
