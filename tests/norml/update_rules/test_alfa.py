"""ALFA. Its meta-gradients are held against the slow reference, in `numerics/test_reference.py`."""

import pytest
import torch

from norml.inspection import frozen
from norml.layers import fully_connected
from norml.learner import Learner
from norml.meta_training import InnerLoop, MetaLearner, meta_gradient
from norml.update_rules import Pace
from norml.update_rules.alfa import Alfa
from norml.update_rules.meta_sgd import MetaSgd
from tests.helpers.reference import RATES_FOR_STEPS


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def constant(rule, rate, decay):
    """The net says 1 whatever it sees; factors of each layer, alike in every step, are the pace."""
    with torch.no_grad():
        rule.out_weight.zero_()
        rule.out_bias.fill_(1)
        rule.rate_factors.copy_(double(rate).expand_as(rule.rate_factors))
        rule.decay_factors.copy_((1 - double(decay)).expand_as(rule.decay_factors))


def test_a_net_whose_answers_are_constant_is_maml_with_layer_wise_rates(make_meta_learner, make_episodes):
    alfa, maml, rates = make_meta_learner("alfa"), make_meta_learner("maml-layerwise-lr"), (0.5, 1.25, 3.0)
    constant(alfa.rule, rates, (1.0, 1.0, 1.0))
    alfa.learner.load_state_dict(maml.learner.state_dict())
    maml.rule.log_alpha.data.copy_(double(rates).log())
    batch = make_episodes()
    for inner_steps in (1, 2, 4):
        torch.testing.assert_close(alfa(batch, inner_steps), maml(batch, inner_steps), rtol=1e-12, atol=1e-12)
    found, expected = (meta_gradient(each, batch, 3)[2] for each in (alfa, maml))
    for name in (name for name in expected if name.startswith("learner.")):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-13)


def test_a_decay_shrinks_the_weights_before_the_step():
    """1 -> 2 without inputs that tell: W = 4, b = 2 and delta = 0 when p = 1/2 on both sides; each step halves both."""
    rule = Alfa(1, inner_steps=1).double()
    constant(rule, [1.0], [0.5])
    learner = Learner(1, [], 2).double()
    with torch.no_grad():
        learner.weights[0].fill_(4.0)
        learner.biases[0].fill_(2.0)
    x, y = double([[[1.0], [1.0]]]), torch.tensor([[0, 1]])
    adaptation = MetaLearner(learner, rule, InnerLoop(inner_lr=1.0)).adapt(x, y, 2)
    torch.testing.assert_close(adaptation.weights[0]._weights[-1], double([[[1.0], [1.0]]]))
    torch.testing.assert_close(adaptation.weights[0]._biases[-1], double([[[0.5, 0.5]]]))


def test_the_net_by_hand():
    """L = 1: means (3, 5) -> hidden relu(3 - 5, 3 + 5 + 1) = (0, 9) -> rate 2 + 9, decay number 1 + 0 * 9 - 2 * 0."""
    rule = Alfa(1, inner_steps=2).double()
    with torch.no_grad():
        rule.in_weight.copy_(double([[1, -1], [1, 1]]))
        rule.in_bias.copy_(double([0, 1]))
        rule.out_weight.copy_(double([[7, 1], [-2, 0]]))
        rule.out_bias.copy_(double([2, 1]))
        rule.rate_factors.copy_(double([[1], [3]]))
        rule.decay_factors.copy_(double([[0.25], [0.5]]))
    means = double([[3.0]]), double([[5.0]])
    for step, expected in ((0, (11, 0.75)), (1, (33, 0.5)), (5, (33, 0.5))):  # the last step's numbers serve later ones
        pace = rule.pace(step, *means)
        torch.testing.assert_close(pace, Pace(*(double([[value]]) for value in expected)))


def test_untrained_it_is_gradient_descent_but_for_the_declared_decay(make_episodes):
    learner = Learner(5, [4], 3, initial_weight_std=0.5, generator=torch.Generator().manual_seed(0)).double()
    pace = Alfa(2, inner_steps=3, initial_decay=0.25).double().pace(1, torch.randn(4, 2).double(), torch.zeros(4, 2))
    torch.testing.assert_close(pace, Pace(torch.ones(4, 2).double(), torch.full((4, 2), 0.75).double()))
    maml = MetaLearner(learner, MetaSgd(learner.layers).double(), InnerLoop(inner_lr=0.4))
    alfa = MetaLearner(learner, Alfa(2, inner_steps=3).double(), InnerLoop(inner_lr=0.4))
    batch = make_episodes()
    torch.testing.assert_close(alfa(batch, 3), maml(batch, 3), rtol=1e-12, atol=1e-12)


def test_it_learns_as_many_numbers_as_the_net_and_the_factors_have():
    rule = Alfa(3, inner_steps=5)
    assert sum(p.numel() for p in rule.parameters()) == 2 * (6 * 6 + 6) + 2 * 5 * 3
    assert rule.parameters_of(1) == {}


@pytest.mark.parametrize("form", ["materialised", "factored", "auto"])
def test_layers_that_stay_still_do_not_decay(form, make_meta_learner, make_episodes):
    meta_learner = make_meta_learner("alfa", weight_form=form)
    still = frozen(meta_learner, {0, 2}).adapt(make_episodes().support_x, make_episodes().support_y, 3)
    for layer, weights in enumerate(still.weights):
        moved = not torch.equal(weights._weights[-1], weights.weight.expand_as(weights._weights[-1]))
        assert moved == (layer == 1)


def test_rates_and_a_pace_are_refused_together(make_episodes):
    class Both(Alfa):
        def rates(self, layer):
            return MetaSgd(fully_connected((5, 3))).double().rates(layer)

    learner = Learner(5, [], 3).double()
    with pytest.raises(ValueError, match=r"^Both gives rates and a pace; an update rule gives one of them$"):
        MetaLearner(learner, Both(1, inner_steps=1).double(), InnerLoop(inner_lr=0.4))(make_episodes(), 1)


def test_the_reference_has_as_many_steps_of_its_own(make_meta_learner):
    assert make_meta_learner("alfa").rule.rate_factors.shape == (RATES_FOR_STEPS, 3)
