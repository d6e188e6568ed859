"""Classifiers of frozen features against loops over queries, scipy's minimiser, and features that leave no doubt."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from norml.episodes import EpisodeBatch, EpisodeIndices, ExamplePool, sample_indices
from norml.evaluation import correct_counts
from norml.frozen_classifiers import LogisticRegression, NearestCentroid

N_WAY = 4


def drawn(seed: int, n_episodes: int = 7) -> EpisodeIndices:
    return sample_indices(
        n_classes=6,
        n_examples=9,
        n_way=N_WAY,
        examples_per_class=5,
        rotations=False,
        n_episodes=n_episodes,
        generator=torch.Generator().manual_seed(seed),
    )


def made_features(generator: torch.Generator, size: int = 3) -> torch.Tensor:
    features = torch.randn(6, 9, size, generator=generator, dtype=torch.float64)
    return features + 0.7 * torch.randn(6, 1, size, generator=generator, dtype=torch.float64)


def reference(features: torch.Tensor, episodes: EpisodeIndices, k_shot: int, similarity: str) -> list[int]:
    counts = []
    for classes, examples in zip(episodes.classes, episodes.examples, strict=True):
        rows = [[features[c, e] for e in row] for c, row in zip(classes, examples, strict=True)]
        centroids = [torch.stack(row[:k_shot]).mean(dim=0) for row in rows]
        counts.append(0)
        for label, row in enumerate(rows):
            for query in row[k_shot:]:
                if similarity == "euclidean":
                    scores = [-float((query - centroid).norm()) for centroid in centroids]
                else:
                    scores = [float(query @ c / (query.norm() * c.norm())) for c in centroids]
                counts[-1] += scores.index(max(scores)) == label
    return counts


@pytest.mark.parametrize("similarity", ["euclidean", "cosine"])
def test_nearest_centroids_are_those_of_a_loop_over_queries(generator, similarity):
    features, episodes = made_features(generator), drawn(1)
    pool, nearest = ExamplePool.of_features(features, unit_length=False), NearestCentroid(similarity)
    for k_shot in (1, 3):
        expected = reference(features, episodes, k_shot, similarity)
        assert 0 < sum(expected) < 7 * N_WAY * (5 - k_shot)
        for at_once in (1, 3, 100):
            counts = correct_counts(
                nearest, pool, episodes, k_shot=k_shot, dtype=torch.float64, episodes_at_once=at_once
            )
            assert counts.tolist() == expected


def test_at_unit_length_distance_is_a_matter_of_direction(generator):
    features, episodes = made_features(generator), drawn(2)
    unit = features / features.norm(dim=-1, keepdim=True)
    pool = ExamplePool.of_features(features, unit_length=True)
    counts = correct_counts(NearestCentroid("euclidean"), pool, episodes, k_shot=2, dtype=torch.float64)
    assert counts.tolist() == reference(unit, episodes, 2, "euclidean")
    assert counts.tolist() != reference(features, episodes, 2, "euclidean")


@pytest.mark.parametrize(
    "classifier", [NearestCentroid("euclidean"), NearestCentroid("cosine"), LogisticRegression(1.0)]
)
def test_clear_classes_are_found_and_nothing_is_learned(classifier):
    directions = torch.eye(6)[:, None].expand(6, 9, 6)
    lengths = torch.linspace(0.1, 10, 54).view(6, 9, 1)
    pool = ExamplePool.of_features(directions * lengths, unit_length=True)
    assert correct_counts(classifier, pool, drawn(2), k_shot=2).tolist() == [N_WAY * 3] * 7
    assert list(classifier.parameters()) == []
    assert classifier.parameter_counts() == {"learner": 0, "meta_learner": 0}


def minimised(support: np.ndarray, labels: np.ndarray, queries: np.ndarray, inverse_penalty: float) -> np.ndarray:
    """Query logits of one episode, by scipy's general minimiser over all weights and biases."""
    n_inputs = support.shape[1]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights, biases = flat[:-N_WAY].reshape(N_WAY, n_inputs), flat[-N_WAY:]
        logits = support @ weights.T + biases
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        value = -log_p[np.arange(len(labels)), labels].sum() + (weights**2).sum() / (2 * inverse_penalty)
        error = np.exp(log_p)
        error[np.arange(len(labels)), labels] -= 1
        gradient = np.concatenate([(error.T @ support + weights / inverse_penalty).ravel(), error.sum(axis=0)])
        return value, gradient

    found = minimize(
        loss, np.zeros(N_WAY * (n_inputs + 1)), jac=True, method="L-BFGS-B", options={"ftol": 0, "gtol": 1e-9}
    ).x
    return queries @ found[:-N_WAY].reshape(N_WAY, n_inputs).T + found[-N_WAY:]


@pytest.mark.parametrize("inverse_penalty", [0.01, 1.0, 300.0])
@pytest.mark.parametrize(("size", "k_shot"), [(3, 3), (40, 1), (40, 3)])  # fewer and more features than examples
def test_logistic_regression_is_the_minimum(generator, inverse_penalty, size, k_shot):
    pool = ExamplePool.of_features(made_features(generator, size), unit_length=True)
    batch = pool.gather(drawn(3), k_shot=k_shot, dtype=torch.float64)
    logits = LogisticRegression(inverse_penalty)(batch)
    for episode in range(7):
        parts = (batch.support_x, batch.support_y, batch.query_x)
        expected = minimised(*(part[episode].numpy() for part in parts), inverse_penalty)
        np.testing.assert_allclose(logits[episode].numpy(), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_logistic_regression_of_equal_examples_knows_nothing():
    """Every class the same example: all logits are equal, and nothing is singular."""
    x, y = torch.ones(2, 8, 5), torch.arange(4).repeat(2, 2)
    logits = LogisticRegression(1.0)(EpisodeBatch(x, y, n_support=4))
    torch.testing.assert_close(logits, torch.zeros(2, 4, 4), rtol=0, atol=1e-6)


def test_features_of_another_form_are_refused():
    with pytest.raises(TypeError, match="features must be float"):
        ExamplePool.of_features(torch.zeros(2, 3, 4, dtype=torch.uint8), unit_length=True)
    with pytest.raises(ValueError, match=r"features must be \[C, P, D\]"):
        ExamplePool.of_features(torch.zeros(2, 3), unit_length=False)
