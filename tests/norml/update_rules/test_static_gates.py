"""Static gates. Their meta-gradients are held against the slow reference, in `numerics/test_reference.py`."""

import math

import pytest
import torch

from norml.layers import fully_connected
from norml.update_rules.static_gates import StaticGates
from tests.helpers.reference import RULES


def test_there_are_two_gates_a_neuron():
    rule = StaticGates(fully_connected((5, 4, 3)))
    assert sum(p.numel() for p in rule.parameters()) == (5 + 4) + (4 + 3)
    assert set(rule.parameters_of(1)) == {"delta_biases.1", "h_biases.1"}


@pytest.mark.parametrize(("gate_scale", "start"), [(1.0, 0.5), (2.0, 1.0), (8.0, 1.0)])
def test_an_untrained_gate_is_one_where_its_scale_allows(gate_scale, start):
    rule = StaticGates(fully_connected((5, 4)), gate_scale=gate_scale).double()
    delta_gate, h_gate, _ = rule.gates_of(0, *[torch.empty(0)] * 3, {})
    torch.testing.assert_close(delta_gate, torch.full((4,), start).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(h_gate, torch.full((5,), start).double(), rtol=1e-6, atol=0)


def test_signals_by_hand():
    """Gates 2 sigma(ln 3) = 3/2, 2 sigma(-ln 3) = 1/2 and 2 sigma(ln 7) = 7/4."""
    rule = StaticGates(fully_connected((1, 2))).double()
    rule.delta_biases[0].data.copy_(torch.tensor([math.log(3), -math.log(3)]))
    rule.h_biases[0].data.fill_(math.log(7))
    delta, h = torch.tensor([[[1.0, 2.0], [-4.0, 8.0]]]).double(), torch.tensor([[[4.0], [-2.0]]]).double()
    delta_hat, h_hat, carried = rule.scaled(0, delta, h, torch.zeros(1, 2), {})
    torch.testing.assert_close(delta_hat, torch.tensor([[[1.5, 1.0], [-6.0, 4.0]]]).double())
    torch.testing.assert_close(h_hat, torch.tensor([[[7.0], [-3.5]]]).double())
    assert carried == {}


@pytest.mark.parametrize("inner_steps", [1, 4])
def test_a_norml_whose_cells_say_nothing_has_static_gates(inner_steps, make_meta_learner, make_episodes):
    """NORML's gate layers with zero weights: what is left is their biases, of delta and then of h."""
    norml, static = make_meta_learner("norml"), make_meta_learner("static-gates")
    static.learner.load_state_dict(norml.learner.state_dict())
    with torch.no_grad():
        for layer, cell in enumerate(norml.rule.cells):
            cell.gate_weight.zero_()
            of_layer = (static.rule.delta_biases[layer], static.rule.h_biases[layer])
            cell.gate_bias.copy_(torch.cat(of_layer))
    batch = make_episodes()
    torch.testing.assert_close(static(batch, inner_steps), norml(batch, inner_steps), rtol=1e-12, atol=1e-12)


def test_the_settings_that_the_references_know_are_the_rules():
    assert StaticGates(fully_connected((2, 2)), **RULES["static-gates"]).gate_scale == 2
