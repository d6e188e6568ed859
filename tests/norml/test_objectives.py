"""What the outer loop follows: MAML++'s losses of every step, and Reptile's way, against slow references."""

from functools import partial

import pytest
import torch
from torch.nn import functional

from norml.adapted.metric_learner import MetricLearner, SupportComparison
from norml.episodes import EpisodeBatch
from norml.layers import Convolutions
from norml.meta_training import meta_gradient, outer_step
from norml.objectives.multi_step import LEAST_SHARE, multi_step_gradient, step_weights_at
from norml.objectives.reptile import reptile_gradient
from tests.helpers.reference import RULES, Images, Settings, multi_step_loss, reptile_way

FORMS = ["materialised", "factored", "auto"]
STEP_WEIGHTS = [0.2, 0.3, 0.5]
IMAGES = {"image_size": 4}
CONVOLUTIONAL = {"sizes": (16, 2, 3, 3), "convolutions": Convolutions(**IMAGES)}


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def assert_same(found, expected, meta_learner):
    largest = max(reference.abs().max() for reference in expected.values())
    for name, p in meta_learner.named_parameters():
        error = (found.get(name, torch.zeros_like(p)) - expected[name]).abs().max()
        assert error <= 1e-10 * max(expected[name].abs().max(), 1e-3 * largest), name


def of_reference(meta_learner, settings, batch):
    p = dict(meta_learner.named_parameters())
    loss = multi_step_loss(p, settings, batch, STEP_WEIGHTS)
    gradients = torch.autograd.grad(loss, list(p.values()), allow_unused=True, materialize_grads=True)
    return loss.detach(), dict(zip(p, gradients, strict=True))


@pytest.mark.parametrize("options", [{}, {"query_statistics": "support"}, {"first_order": True}], ids=str)
@pytest.mark.parametrize(
    "rule", ["maml-constant-lr", "maml-per-step-lr", "meta-sgd", "meta-curvature", "alfa", "norml", "norml-flattened"]
)
def test_the_losses_of_every_step_are_the_references(rule, options, make_meta_learner, make_episodes):
    batch = make_episodes(n_episodes=2)
    settings = Settings(inner_lr=0.4, inner_steps=3, rule=RULES[rule], **options)
    expected_loss, expected = of_reference(make_meta_learner(rule), settings, batch)
    for form in FORMS:
        kept, again = (
            make_meta_learner(rule, weight_form=form, recompute=recompute, **options) for recompute in (False, True)
        )
        loss, _, found = multi_step_gradient(kept, batch, 3, step_weights=double(STEP_WEIGHTS))
        torch.testing.assert_close(loss, expected_loss, rtol=1e-12, atol=0)
        assert_same(found, expected, kept)
        recomputed = multi_step_gradient(again, batch, 3, step_weights=double(STEP_WEIGHTS))[2]
        assert all(torch.equal(recomputed[name], gradient) for name, gradient in found.items())


@pytest.mark.parametrize("rule", ["maml-layerwise-lr", "norml"])
def test_the_losses_of_every_step_of_convolutions_are_the_references(rule, make_meta_learner, make_episodes):
    batch, meta_learner = make_episodes(n_episodes=2, n_features=16), make_meta_learner(rule, **CONVOLUTIONAL)
    settings = Settings(inner_lr=0.4, inner_steps=3, rule=RULES[rule], images=Images(**IMAGES))
    expected_loss, expected = of_reference(meta_learner, settings, batch)
    loss, _, found = multi_step_gradient(meta_learner, batch, 3, step_weights=double(STEP_WEIGHTS))
    torch.testing.assert_close(loss, expected_loss, rtol=1e-12, atol=0)
    assert_same(found, expected, meta_learner)


@pytest.mark.parametrize("query_statistics", ["query", "support"])
@pytest.mark.parametrize("rule", RULES)
def test_with_all_the_weight_on_the_last_step_it_is_the_meta_gradient(
    rule, query_statistics, make_meta_learner, make_episodes
):
    batch, meta_learner = make_episodes(), make_meta_learner(rule, query_statistics=query_statistics)
    loss, accuracy, found = multi_step_gradient(meta_learner, batch, 3, step_weights=double([0, 0, 1]))
    expected_loss, expected_accuracy, expected = meta_gradient(meta_learner, batch, 3)
    assert (loss, accuracy) == (expected_loss, expected_accuracy)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-12, atol=1e-15, msg=name)


def test_step_weights_go_from_alike_to_the_last_one_alone():
    assert step_weights_at(0, until=100, inner_steps=4) == [0.25] * 4
    assert step_weights_at(50, until=100, inner_steps=4) == pytest.approx([0.125, 0.125, 0.125, 0.625])
    early = LEAST_SHARE / 4
    assert step_weights_at(99, until=100, inner_steps=4) == pytest.approx([early, early, early, 1 - 3 * early])
    assert step_weights_at(100, until=100, inner_steps=4) is None
    assert step_weights_at(0, until=100, inner_steps=1) == [1.0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("inner_steps", [1, 2, 5])
@pytest.mark.parametrize(("k_shot", "n_query"), [(2, 2), (1, 3), (2, 5), (2, 1)])
def test_the_way_of_reptile_is_the_references(k_shot, n_query, inner_steps, form, make_meta_learner, make_episodes):
    batch = make_episodes(n_episodes=2, k_shot=k_shot, n_query=n_query)
    meta_learner = make_meta_learner("maml-constant-lr", weight_form=form)
    settings = Settings(inner_lr=0.4, inner_steps=inner_steps, rule=RULES["maml-constant-lr"])
    expected = reptile_way(dict(meta_learner.named_parameters()), settings, batch)
    assert_same(reptile_gradient(meta_learner, batch, inner_steps)[2], expected, meta_learner)


def test_the_way_of_reptile_through_convolutions_is_the_references(make_meta_learner, make_episodes):
    batch = make_episodes(n_episodes=2, n_features=16)
    meta_learner = make_meta_learner("maml-constant-lr", **CONVOLUTIONAL)
    settings = Settings(inner_lr=0.4, inner_steps=3, rule=RULES["maml-constant-lr"], images=Images(**IMAGES))
    expected = reptile_way(dict(meta_learner.named_parameters()), settings, batch)
    assert_same(reptile_gradient(meta_learner, batch, 3)[2], expected, meta_learner)


@pytest.mark.parametrize("batch_norm_scale", [False, True])
def test_reptile_with_one_inner_step_is_joint_training(batch_norm_scale, make_meta_learner, make_episodes):
    """The gradient of the support sets' loss, by all that the learner learns, without any inner step."""
    meta_learner = make_meta_learner("maml-constant-lr", batch_norm_scale=batch_norm_scale)
    batch = make_episodes()
    jointly = EpisodeBatch.joined(batch.support_x, batch.support_y, batch.support_x, batch.support_y)
    loss, accuracy, found = reptile_gradient(meta_learner, batch, 1)
    expected_loss, expected_accuracy, expected = meta_gradient(meta_learner, jointly, 0)
    assert set(found) == set(expected)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-13, atol=0)
    torch.testing.assert_close(accuracy, expected_accuracy)
    assert_same(found, expected, meta_learner)


def test_reptile_one_by_one_passes_over_all_examples(make_meta_learner, make_episodes):
    meta_learner = make_meta_learner("maml-constant-lr", sizes=(5, 3), support_order="one-by-one")
    batch = make_episodes(n_way=3, k_shot=1, n_query=1)
    whole = meta_learner.adapt(batch.x, batch.y, 2).weights[0]
    change = (whole.weight - whole._weights[-1].mean(dim=0)) / 0.4
    torch.testing.assert_close(reptile_gradient(meta_learner, batch, 2)[2]["learner.weights.0"], change)


def test_both_train(make_meta_learner, make_episodes):
    batch, every = make_episodes(n_episodes=4), partial(multi_step_gradient, step_weights=double([0.5, 0.5]))
    for gradient in (every, reptile_gradient):
        meta_learner = make_meta_learner("maml-constant-lr")
        optimizer = torch.optim.Adam(meta_learner.parameters(), lr=0.01)

        def query_loss(meta_learner=meta_learner):
            return functional.cross_entropy(meta_learner(batch, 2).flatten(0, 1), batch.query_y.flatten()).item()

        before = query_loss()
        for _ in range(100):
            outer_step(meta_learner, optimizer, batch, inner_steps=2, gradient=gradient)
        assert query_loss() < 0.7 * before


def test_what_they_cannot_follow_is_refused(make_meta_learner, make_episodes):
    batch = make_episodes()
    with pytest.raises(ValueError, match=r"^Reptile trains only initial weights"):
        reptile_gradient(make_meta_learner("maml-layerwise-lr"), batch, 1)
    with pytest.raises(ValueError, match=r"^Reptile learns from inner steps; use at least 1$"):
        reptile_gradient(make_meta_learner("maml-constant-lr"), batch, 0)
    body = make_meta_learner("maml-constant-lr", sizes=(5, 4, 0)).learner
    metric = MetricLearner(body, SupportComparison("class-means", "euclidean"), n_way=3)
    with pytest.raises(TypeError, match=r"^MetricLearner takes no inner steps$"):
        multi_step_gradient(metric, batch, 1, step_weights=double([1]))
