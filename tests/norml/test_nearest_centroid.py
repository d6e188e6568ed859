"""Nearest centroids against a loop over queries, and on features that leave no doubt."""

import torch

from norml.episodes import EpisodeIndices, sample_indices
from norml.nearest_centroid import correct_counts


def drawn(seed: int, n_episodes: int = 7) -> EpisodeIndices:
    return sample_indices(
        n_classes=6,
        n_examples=9,
        n_way=4,
        examples_per_class=5,
        turned=False,
        n_episodes=n_episodes,
        generator=torch.Generator().manual_seed(seed),
    )


def reference(features: torch.Tensor, episodes: EpisodeIndices, k_shot: int) -> list[int]:
    counts = []
    for classes, examples in zip(episodes.classes, episodes.examples, strict=True):
        unit = [[features[c, e] / features[c, e].norm() for e in row] for c, row in zip(classes, examples, strict=True)]
        centroids = [torch.stack(row[:k_shot]).mean(dim=0) for row in unit]
        counts.append(0)
        for label, row in enumerate(unit):
            for query in row[k_shot:]:
                distances = [float((query - centroid).norm()) for centroid in centroids]
                counts[-1] += distances.index(min(distances)) == label
    return counts


def test_counts_are_those_of_a_loop_over_queries(generator):
    features = torch.randn(6, 9, 3, generator=generator, dtype=torch.float64)
    features += 0.7 * torch.randn(6, 1, 3, generator=generator, dtype=torch.float64)
    episodes = drawn(1)
    for k_shot in (1, 3):
        expected = reference(features, episodes, k_shot)
        assert 0 < sum(expected) < 7 * 4 * (5 - k_shot)
        for at_once in (1, 3, 100):
            assert correct_counts(features, episodes, k_shot=k_shot, episodes_at_once=at_once).tolist() == expected


def test_length_does_not_matter_and_clear_classes_are_found():
    directions = torch.eye(6)[:, None].expand(6, 9, 6)
    lengths = torch.linspace(0.1, 10, 54).view(6, 9, 1)
    assert correct_counts(directions * lengths, drawn(2), k_shot=2).tolist() == [4 * 3] * 7
