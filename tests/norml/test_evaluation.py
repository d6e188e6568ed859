"""Counts of correct queries: against a loop over episodes of the slow reference, in any portions."""

from functools import partial

import pytest
import torch

from norml.episodes import ExamplePool, sample_indices
from norml.evaluation import correct_counts
from tests.helpers.reference import METHODS, RULES, Settings, query_logits

N_EPISODES, N_WAY, K_SHOT, N_QUERY = 7, 3, 2, 3


@pytest.fixture(scope="module")
def pool():
    """Ten classes of noisy images, easy enough that some queries are right and some wrong."""
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.randint(256, (10, 1, 4, 4), generator=generator).float()
    noise = 90 * torch.randn(10, 6, 4, 4, generator=generator)
    return ExamplePool.of_images((prototypes + noise).clamp(0, 255).to(torch.uint8), rotations=True)


@pytest.fixture(scope="module")
def episodes():
    return sample_indices(
        n_classes=10,
        n_examples=6,
        n_way=N_WAY,
        examples_per_class=K_SHOT + N_QUERY,
        rotations=True,
        n_episodes=N_EPISODES,
        generator=torch.Generator().manual_seed(1),
    )


def made_learner(make_meta_learner, rule, **inner_loop):
    return make_meta_learner(rule, sizes=(16, 6, 5, 3), n_support=N_WAY * K_SHOT, **inner_loop).float()


@pytest.mark.parametrize("query_statistics", ["query", "support"])
@pytest.mark.parametrize("rule", METHODS)
def test_counts_are_those_of_a_hand_made_loop(rule, query_statistics, make_meta_learner, pool, episodes):
    meta_learner = made_learner(make_meta_learner, rule, query_statistics=query_statistics)
    counts = correct_counts(partial(meta_learner, inner_steps=2), pool, episodes, k_shot=K_SHOT)
    parameters = {name: p.detach().double().requires_grad_() for name, p in meta_learner.named_parameters()}
    settings = Settings(inner_lr=0.4, inner_steps=2, rule=RULES[rule], query_statistics=query_statistics)
    batch = pool.gather(episodes, k_shot=K_SHOT, dtype=torch.float64)
    expected = []
    for support_x, support_y, query_x, query_y in zip(
        batch.support_x, batch.support_y, batch.query_x, batch.query_y, strict=True
    ):
        logits = query_logits(parameters, settings, support_x, support_y, query_x)
        expected.append(sum(int(a.argmax()) == y for a, y in zip(logits, query_y.tolist(), strict=True)))
    assert counts.tolist() == expected
    assert counts.dtype == torch.int64
    assert 0 < sum(expected) < N_EPISODES * N_WAY * N_QUERY


@pytest.mark.parametrize("rule", METHODS)
def test_counts_do_not_depend_on_how_many_episodes_are_evaluated_at_once(rule, make_meta_learner, pool, episodes):
    meta_learner = made_learner(make_meta_learner, rule)
    whole = correct_counts(partial(meta_learner, inner_steps=2), pool, episodes, k_shot=K_SHOT)
    assert whole.shape == (N_EPISODES,)
    for at_once in (1, 2, 3, 7, 100):
        parts = correct_counts(
            partial(meta_learner, inner_steps=2), pool, episodes, k_shot=K_SHOT, episodes_at_once=at_once
        )
        assert torch.equal(parts, whole)


def test_a_part_of_the_episodes_has_the_counts_of_that_part(make_meta_learner, pool, episodes):
    meta_learner = made_learner(make_meta_learner, "norml")
    whole = correct_counts(partial(meta_learner, inner_steps=2), pool, episodes, k_shot=K_SHOT)
    part = correct_counts(partial(meta_learner, inner_steps=2), pool, episodes[2:5], k_shot=K_SHOT)
    assert torch.equal(part, whole[2:5])


def test_evaluating_changes_no_parameter_no_generator_and_keeps_no_graph(make_meta_learner, pool, episodes):
    meta_learner = made_learner(make_meta_learner, "norml")
    state = torch.get_rng_state()
    before = [p.detach().clone() for p in meta_learner.parameters()]
    counts = correct_counts(partial(meta_learner, inner_steps=2), pool, episodes, k_shot=K_SHOT)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before, meta_learner.parameters(), strict=True))
    assert all(p.grad is None for p in meta_learner.parameters())
    assert not counts.requires_grad
    assert torch.is_grad_enabled()


def test_equal_images_of_one_class_are_all_recognised_after_adaptation(make_meta_learner, episodes):
    """Without noise a class is one image: a query is its support example again, and some steps learn it."""
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(256, (10, 1, 4, 4), dtype=torch.uint8, generator=generator).expand(-1, 6, -1, -1)
    meta_learner = make_meta_learner("maml-constant-lr", sizes=(16, 6, 5, 3), perturbed=False, inner_lr=0.2).float()
    pool = ExamplePool.of_images(images.contiguous(), rotations=True)
    counts = correct_counts(partial(meta_learner, inner_steps=50), pool, episodes, k_shot=K_SHOT)
    assert counts.tolist() == [N_WAY * N_QUERY] * N_EPISODES
