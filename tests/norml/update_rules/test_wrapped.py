"""Layers that stay still: ANIL and BOIL in training, the freeze test of an inspection."""

import pytest
import torch

from norml.inspection import frozen
from norml.learner import Learner
from norml.meta_training import InnerLoop, MetaLearner, meta_gradient
from norml.update_rules.gradient_descent import GradientDescent
from norml.update_rules.wrapped import Frozen, frozen_layers
from tests.helpers.reference import RULES, Settings, loss_and_meta_gradient

ADAPTED = ["maml-constant-lr", "maml-layerwise-lr", "maml-per-step-lr", "meta-sgd", "meta-curvature", "norml"]


def test_which_layers_stay_still():
    assert [frozen_layers(adapted, 3) for adapted in ("all", "head", "body")] == [frozenset(), {0, 1}, {2}]
    assert [frozen_layers(adapted, 1) for adapted in ("all", "head", "body")] == [frozenset(), frozenset(), {0}]


@pytest.mark.parametrize("form", ["materialised", "factored", "auto"])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("adapted", ["head", "body"])
@pytest.mark.parametrize("rule", ADAPTED)
def test_meta_gradients_are_the_references(rule, adapted, first_order, form, make_meta_learner, make_episodes):
    batch, still = make_episodes(n_episodes=2), frozen_layers(adapted, 3)
    whole = make_meta_learner(rule, first_order=first_order, weight_form=form)
    settings = Settings(inner_lr=0.4, inner_steps=3, rule=RULES[rule], first_order=first_order, still=still)
    expected_loss, expected = loss_and_meta_gradient(dict(whole.named_parameters()), settings, batch)
    loss, _, found = meta_gradient(frozen(whole, still), batch, 3)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-12, atol=0)
    for name, reference in expected.items():
        of_rule = name.replace("rule.", "rule.rule.", 1)
        torch.testing.assert_close(
            found.get(of_rule, torch.zeros_like(reference)), reference, rtol=1e-10, atol=1e-13, msg=name
        )


@pytest.mark.parametrize("adapted", ["head", "body"])
@pytest.mark.parametrize("rule", ADAPTED)
def test_layers_that_stay_still_keep_every_bit(rule, adapted, make_meta_learner, make_episodes):
    still = frozen_layers(adapted, 3)
    meta_learner = frozen(make_meta_learner(rule, weight_form="materialised"), still)
    adaptation, _ = meta_learner.adapt_and_query(make_episodes(), 4, reversible=False)
    for layer, weights in enumerate(adaptation.weights):
        weight, bias = weights._weights[-1], weights._biases[-1]
        assert torch.equal(weight, weights.weight.expand_as(weight)) == (layer in still)
        assert torch.equal(bias, weights.bias.expand_as(bias)) or layer not in still


@pytest.mark.parametrize("rule", ["maml-constant-lr", "norml"])
@pytest.mark.parametrize("first_order", [False, True])
def test_the_compiled_meta_gradient_is_the_same(rule, first_order, make_meta_learner, make_episodes):
    torch._dynamo.reset()
    batch = make_episodes(n_episodes=2)
    meta_learner = frozen(make_meta_learner(rule, sizes=(5, 4, 3), first_order=first_order), {0})
    traced = torch.compile(meta_gradient, fullgraph=True, dynamic=False, backend="aot_eager")
    loss, _, found = traced(meta_learner, batch, 2)
    expected_loss, _, expected = meta_gradient(meta_learner, batch, 2)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-12, atol=0)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-13, msg=name)
    torch._dynamo.reset()


def test_for_one_layer_the_head_alone_is_maml_and_the_body_alone_changes_nothing(make_episodes):
    learner = Learner(5, [], 3, initial_weight_std=0.5, generator=torch.Generator().manual_seed(0)).double()
    rule, loop, batch = GradientDescent(1), InnerLoop(inner_lr=0.4), make_episodes()
    maml, head, body = (
        MetaLearner(learner, Frozen(rule, frozen_layers(adapted, 1)), loop) for adapted in ("all", "head", "body")
    )
    assert torch.equal(head(batch, 2), maml(batch, 2))
    torch.testing.assert_close(body(batch, 2), maml(batch, 0), rtol=1e-12, atol=1e-12)
