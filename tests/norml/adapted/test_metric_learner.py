"""Prototypical and Matching Networks, against the slow reference, and where they must be something else."""

import math

import pytest
import torch
from torch.nn import functional

from norml.adapted.metric_learner import MetricLearner, SupportComparison
from norml.episodes import EpisodeBatch
from norml.frozen_classifiers import NearestCentroid
from norml.layers import Convolutions
from norml.learner import Learner
from norml.meta_training import meta_gradient, outer_step
from tests.helpers.reference import Images, Settings, compared_logits, example_losses

RULES = [
    {"compared_with": compared_with, "similarity": similarity}
    for compared_with in ("class-means", "examples")
    for similarity in ("euclidean", "cosine")
]
POOLED = {"image_size": 4, "in_channels": 2, "kernel": 2, "stride": 1, "max_pool": True, "end": "flatten"}
BODIES = {
    "no hidden layer": ((5,), None),
    "fully connected": ((5, 4, 4), None),
    "strided": ((16, 2, 3), {"image_size": 4}),
    "pooled": ((32, 2, 3), POOLED),
}


def made(rule, body="fully connected", *, query_statistics="query", batch_norm_scale=True):
    sizes, images = BODIES[body]
    generator = torch.Generator().manual_seed(1)
    learner = Learner(
        sizes[0],
        sizes[1:],
        0,
        batch_norm_scale=batch_norm_scale,
        initial_weight_std=0.5,
        convolutions=None if images is None else Convolutions(**images),
        generator=generator,
    )
    model = MetricLearner(learner, SupportComparison(**rule), n_way=3, query_statistics=query_statistics).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model


@pytest.mark.parametrize("query_statistics", ["query", "support"])
@pytest.mark.parametrize("body", ["fully connected", "strided", "pooled"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: "-".join(rule.values()))
def test_loss_and_meta_gradient_are_the_references(rule, body, query_statistics, make_episodes):
    sizes, images = BODIES[body]
    batch = make_episodes(n_episodes=2, n_features=sizes[0])
    model = made(rule, body, query_statistics=query_statistics)
    p = dict(model.named_parameters())
    settings = Settings(
        inner_lr=0.0,
        inner_steps=0,
        query_statistics=query_statistics,
        images=None if images is None else Images(**images),
    )
    expected_loss = torch.stack(
        [example_losses(compared_logits(p, settings, rule, batch, e), batch.query_y[e]).mean() for e in range(2)]
    ).mean()
    expected = torch.autograd.grad(expected_loss, list(p.values()), allow_unused=True, materialize_grads=True)
    loss, _, found = meta_gradient(model, batch, 0)
    torch.testing.assert_close(loss, expected_loss.detach(), rtol=1e-12, atol=0)
    largest = max(reference.abs().max() for reference in expected if reference.numel())
    for name, reference in zip(p, expected, strict=True):
        error = (found[name] - reference).abs().sum()
        assert error <= 1e-10 * max(reference.abs().sum(), 1e-3 * largest), name


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: "-".join(rule.values()))
def test_autograd_through_the_query_logits_finds_the_same(rule, make_episodes):
    model, batch = made(rule), make_episodes()
    loss = functional.cross_entropy(model(batch, 0).flatten(0, 1), batch.query_y.flatten())
    loss.backward()
    expected = meta_gradient(model, batch, 0)
    torch.testing.assert_close(loss.detach(), expected[0], rtol=1e-13, atol=0)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[2][name], rtol=1e-12, atol=1e-15, msg=name)


@pytest.mark.parametrize("similarity", ["euclidean", "cosine"])
def test_a_body_without_layers_is_the_nearest_centroid(similarity, make_episodes):
    batch = make_episodes()
    model = made({"compared_with": "class-means", "similarity": similarity}, "no hidden layer")
    assert torch.equal(model(batch, 0), NearestCentroid(similarity)(batch))


@pytest.mark.parametrize("similarity", ["euclidean", "cosine"])
def test_with_one_example_a_class_both_networks_are_one(similarity, make_episodes):
    """Snell et al. 2017, sec. 2.5: a class's mean is its example, and softmax over examples is softmax over classes."""
    batch = make_episodes(k_shot=1)
    means, examples = (
        made({"compared_with": compared_with, "similarity": similarity})(batch, 0).softmax(-1)
        for compared_with in ("class-means", "examples")
    )
    torch.testing.assert_close(means, examples, rtol=1e-12, atol=1e-14)


def test_logits_by_hand():
    """Support 0 and 2 of class 0, 4 of class 1; query 1. Distances to the means 1 and 4: 0 and 9, but for |q|^2.

    Attention: exp(-1), exp(-1) and exp(-9) over their sum.
    """
    x = torch.tensor([[[0.0], [2.0], [4.0], [1.0]]]).double()
    batch = EpisodeBatch.joined(x[:, :3], torch.tensor([[0, 0, 1]]), x[:, 3:], torch.tensor([[0]]))
    learner = Learner(1, [], 0).double()
    means, examples = (
        MetricLearner(learner, SupportComparison(c, "euclidean"), n_way=2) for c in ("class-means", "examples")
    )
    torch.testing.assert_close(means(batch, 0) - 1, torch.tensor([[[0.0, -9.0]]]).double())
    total = 2 * math.exp(-1) + math.exp(-9)
    expected = [math.log(2 * math.exp(-1) / total), math.log(math.exp(-9) / total)]
    torch.testing.assert_close(examples(batch, 0), torch.tensor([[expected]]).double())


@pytest.mark.parametrize("rule", [RULES[0], RULES[3]], ids=["prototypical", "matching"])
def test_both_train(rule, make_episodes):
    model, batch = made(rule, batch_norm_scale=False), make_episodes(n_episodes=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=True)
    losses = [outer_step(model, optimizer, batch, inner_steps=0)[0].item() for _ in range(60)]
    assert losses[-1] < 0.9 * losses[0]  # cosines lie in -1..1, so that no attention is ever sharp


def test_queries_can_come_later_and_in_other_numbers(make_episodes):
    batch, model = make_episodes(), made(RULES[0], query_statistics="support")
    compared = model.adapt(batch.support_x, batch.support_y, 0)
    whole = compared.logits(batch.query_x)
    torch.testing.assert_close(whole, model(batch, 0).detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(compared.logits(batch.query_x[:, :1]), whole[:, :1], rtol=1e-12, atol=1e-14)
    with pytest.raises(ValueError, match=r"^no queries are known; give query_x$"):
        compared.logits()


def test_what_does_not_go_is_told(make_episodes):
    with pytest.raises(ValueError, match=r"n_way = 0, not 3: a body alone$"):
        MetricLearner(Learner(5, [4], 3), SupportComparison("examples", "cosine"), n_way=3)
    model, batch = made(RULES[0]), make_episodes()
    compared, logits = model.adapt_and_query(batch, 0, reversible=True)
    compared.reverse(torch.ones_like(logits))
    with pytest.raises(RuntimeError, match=r"^a comparison can be gone back through once"):
        compared.reverse(torch.ones_like(logits))


def test_nothing_of_the_comparison_is_learned():
    assert made(RULES[0]).parameter_counts() == {"learner": 5 * 4 + 4 + 4 * 4 + 4, "meta_learner": 0}
