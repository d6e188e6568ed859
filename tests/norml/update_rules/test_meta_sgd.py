"""Meta-SGD's rule: a rate for every weight and bias. Its meta-gradients are held against the slow reference, in
`numerics/test_reference.py`, as every rule's are.
"""

import pytest
import torch

from norml.fast_weights import Rated
from norml.layers import fully_connected
from norml.learner import Learner
from norml.meta_training import InnerLoop, MetaLearner, meta_gradient
from norml.update_rules.meta_sgd import MetaSgd

SIZES = (5, 4, 3)


def test_there_is_a_rate_for_every_weight_and_bias():
    learner, rule = Learner(5, [4], 3), MetaSgd(fully_connected(SIZES), initial_rate=0.5)
    of_learner = [p.shape for p in (*learner.weights, *learner.biases)]
    assert [p.shape for p in (*rule.weight_rates, *rule.bias_rates)] == of_learner
    assert all((p == 0.5).all() for p in rule.parameters())


def test_signals_are_handed_through():
    rule = MetaSgd(fully_connected(SIZES))
    delta, h, losses = torch.randn(2, 6, 4), torch.randn(2, 6, 5), torch.rand(2, 6)
    delta_hat, h_hat, state = rule.scaled(0, delta, h, losses, {})
    assert (delta_hat is delta, h_hat is h, state) == (True, True, {})


def test_one_step_by_hand():
    """One weight, one bias: w1 = w0 - eta * r * sum_s delta_s h_s, b1 = b0 - eta * q * sum_s delta_s."""
    weight, bias = torch.tensor([[2.0]]), torch.tensor([1.0])
    rated = Rated(weight, bias, 0.1, reversible=False, rates=(torch.tensor([[3.0]]), torch.tensor([-5.0])))
    rated.step(torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[4.0], [0.5]]]), h_is_scaled=False)
    # w1 = 2 - 0.1 * 3 * (1 * 4 + 2 * 0.5) = 0.5; b1 = 1 + 0.1 * 5 * (1 + 2) = 2.5
    found = rated.linear(1, torch.tensor([[[0.0], [1.0]]]), "other")[0]
    torch.testing.assert_close(found, torch.tensor([[[2.5], [3.0]]]))


def with_constant_rates(meta_learner, rates):
    """Every rate of layer l becomes rates[l]."""
    with torch.no_grad():
        for layer, rate in enumerate(rates):
            meta_learner.rule.weight_rates[layer].fill_(rate)
            meta_learner.rule.bias_rates[layer].fill_(rate)
    return meta_learner


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("inner_steps", [1, 2, 5])
def test_equal_rates_are_maml_and_their_gradients_add_up_to_that_of_its_rate(
    inner_steps, first_order, make_meta_learner, make_episodes
):
    batch, rates = make_episodes(), (0.5, 1.25, 1.75)
    maml = make_meta_learner("maml-layerwise-lr", first_order=first_order)
    maml.rule.log_alpha.data.copy_(torch.tensor(rates, dtype=torch.float64).log())
    meta_sgd = with_constant_rates(make_meta_learner("meta-sgd", first_order=first_order), rates)
    meta_sgd.learner.load_state_dict(maml.learner.state_dict())
    loss, _, found = meta_gradient(meta_sgd, batch, inner_steps)
    expected_loss, _, expected = meta_gradient(maml, batch, inner_steps)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-13, atol=0)
    for name, gradient in expected.items():
        if name.startswith("learner."):
            torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-13, msg=name)
    for layer, rate in enumerate(rates):  # d/d(log alpha) = alpha * the sum over what alpha multiplies
        total = found[f"rule.weight_rates.{layer}"].sum() + found[f"rule.bias_rates.{layer}"].sum()
        torch.testing.assert_close(rate * total, expected["rule.log_alpha"][layer], rtol=1e-10, atol=1e-13)


def test_equal_rates_are_maml_with_the_inner_rate_multiplied(make_meta_learner, make_episodes):
    maml = make_meta_learner("maml-constant-lr", inner_lr=0.4 * 1.5)
    meta_sgd = with_constant_rates(make_meta_learner("meta-sgd", inner_lr=0.4), (1.5, 1.5, 1.5))
    meta_sgd.learner.load_state_dict(maml.learner.state_dict())
    batch = make_episodes()
    torch.testing.assert_close(meta_sgd(batch, 3), maml(batch, 3), rtol=1e-12, atol=1e-12)


def test_a_weight_without_rate_stays_and_one_below_zero_climbs(make_episodes):
    """A single layer: where the rate is zero nothing moves; with the sign turned the step turns."""
    batch, moved = make_episodes(n_episodes=1), {}
    for rate in (1.0, 0.0, -1.0):
        learner = Learner(5, [], 3, initial_weight_std=0.5, generator=torch.Generator().manual_seed(1))
        meta_learner = MetaLearner(learner, MetaSgd(learner.layers), InnerLoop(inner_lr=0.4)).double()
        meta_learner.rule.weight_rates[0].data[1, 2] = rate
        adaptation, _ = meta_learner.adapt_and_query(batch, 1, reversible=False)
        moved[rate] = (adaptation.weights[0]._weights[-1] - learner.weights[0])[0].detach()
    assert moved[0.0][1, 2] == 0
    assert moved[1.0][1, 2] != 0
    torch.testing.assert_close(moved[-1.0][1, 2], -moved[1.0][1, 2], rtol=1e-12, atol=0)
    others = torch.ones(3, 5, dtype=torch.bool)
    others[1, 2] = False
    assert torch.equal(moved[0.0][others], moved[1.0][others])


def test_no_inner_step_gives_the_rates_no_gradient(make_meta_learner, make_episodes):
    found = meta_gradient(make_meta_learner("meta-sgd"), make_episodes(), 0)[2]
    assert not [name for name in found if name.startswith("rule.")]


@pytest.mark.parametrize("weight_form", ["auto", "factored"])
def test_layers_with_rates_are_materialised_whatever_is_asked(weight_form, make_meta_learner, make_episodes):
    adaptation, _ = make_meta_learner("meta-sgd", weight_form=weight_form).adapt_and_query(
        make_episodes(), 1, reversible=False
    )
    assert [type(layer) for layer in adaptation.weights] == [Rated, Rated, Rated]
