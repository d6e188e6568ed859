"""MAML's rule: what the three set-ups of learned rates do to the signals."""

import math

import pytest
import torch

from norml.meta_training import meta_gradient
from norml.update_rules.gradient_descent import GradientDescent


@pytest.fixture
def signals(generator):
    options = {"generator": generator, "dtype": torch.float64}
    return torch.randn(2, 6, 3, **options), torch.randn(2, 6, 4, **options), torch.rand(2, 6, **options)


def test_numbers_of_learned_rates():
    counts = {
        rates: sum(p.numel() for p in GradientDescent(5, learned_rates=rates).parameters())
        for rates in ("none", "global", "layer-wise")
    }
    assert counts == {"none": 0, "global": 1, "layer-wise": 5}


@pytest.mark.parametrize("rates", ["none", "global", "layer-wise"])
def test_an_untrained_step_is_the_gradient_step_exactly(rates, signals):
    rule = GradientDescent(3, learned_rates=rates).double()
    for layer in range(3):
        delta_hat, h_hat, state = rule.scaled(layer, *signals, rule.initially_carried(layer, *signals[:2]))
        assert torch.equal(delta_hat, signals[0])
        assert h_hat is signals[1]
        assert state == {}


def test_a_global_rate_scales_every_layer_alike(signals):
    rule = GradientDescent(3, learned_rates="global").double()
    rule.log_alpha.data.fill_(math.log(3))
    for layer in range(3):
        torch.testing.assert_close(rule.scaled(layer, *signals, {})[0], 3 * signals[0], rtol=1e-15, atol=0)


def test_layer_wise_rates_scale_each_layer_by_its_own(signals):
    rule = GradientDescent(3, learned_rates="layer-wise").double()
    rule.log_alpha.data.copy_(torch.tensor([2.0, 3.0, 0.5], dtype=torch.float64).log())
    for layer, alpha in enumerate((2.0, 3.0, 0.5)):
        torch.testing.assert_close(rule.scaled(layer, *signals, {})[0], alpha * signals[0], rtol=1e-15, atol=0)


def test_inputs_are_said_to_be_unscaled():
    assert not GradientDescent(2).scales_inputs


def test_a_rule_returns_what_it_does_not_change_as_the_same_object(signals):
    """The engine recognises it, and saves the product with the first layer's inputs for every step."""
    constant = GradientDescent(3).double()
    delta_hat, h_hat, _ = constant.scaled(1, *signals, {})
    assert delta_hat is signals[0]
    assert h_hat is signals[1]


def test_each_call_uses_all_learned_rates():
    assert set(GradientDescent(3, learned_rates="layer-wise").parameters_of(1)) == {"log_alpha"}
    assert GradientDescent(3).parameters_of(1) == {}


def per_step(*alphas):
    """One layer, whose rate is alphas[t] in step t."""
    rule = GradientDescent(1, learned_rates="layer-and-step-wise", inner_steps=len(alphas)).double()
    rule.log_alpha.data.copy_(torch.tensor([alphas]).log())
    return rule


def test_each_step_takes_its_own_rate_and_the_last_one_stays():
    rule, delta, h = per_step(0.5, 2.0, 3.0), torch.ones(1, 2, 4).double(), torch.ones(1, 2, 5).double()
    carried, found = rule.initially_carried(0, delta, h), []
    for _ in range(5):
        delta_hat, h_hat, carried = rule.scaled(0, delta, h, torch.ones(1, 2), carried)
        found.append(delta_hat[0, 0, 0].item())
        assert h_hat is h
    assert found == pytest.approx([0.5, 2, 3, 3, 3], rel=1e-6)


def test_a_rate_for_each_step_needs_one_even_where_training_takes_none():
    assert GradientDescent(2, learned_rates="layer-and-step-wise", inner_steps=0).log_alpha.shape == (2, 1)


@pytest.mark.parametrize("inner_steps", [1, 2, 5])
def test_equal_rates_in_all_steps_are_layer_wise_rates_and_their_gradients_add_up(
    inner_steps, make_meta_learner, make_episodes
):
    """With more steps than rates, too: the last one's gradient is that of all steps that it serves."""
    layer_wise, by_step, batch = (
        make_meta_learner("maml-layerwise-lr"),
        make_meta_learner("maml-per-step-lr"),
        make_episodes(),
    )
    by_step.learner.load_state_dict(layer_wise.learner.state_dict())
    by_step.rule.log_alpha.data.copy_(layer_wise.rule.log_alpha.unsqueeze(1).expand(-1, 2))
    loss, _, found = meta_gradient(by_step, batch, inner_steps)
    expected_loss, _, expected = meta_gradient(layer_wise, batch, inner_steps)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-13, atol=0)
    assert (found["rule.log_alpha"][:, 1] != 0).all() == (inner_steps > 1)
    found["rule.log_alpha"] = found["rule.log_alpha"].sum(1)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-13, msg=name)
