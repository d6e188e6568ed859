"""From a resolved spec to a meta-learner: which rule, with which layers still."""

import pytest
import torch

from norml.update_rules.gradient_descent import GradientDescent
from norml.update_rules.wrapped import Frozen
from norml_cli.registry.reading import load_registry
from norml_cli.training.build import build_meta_learner


def built(method, **overrides):
    spec = load_registry().resolve(method, "glyphs-5way", 1, overrides).spec
    return build_meta_learner(spec, 64, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("method", "still"), [("anil", {0, 1}), ("boil", {2})])
def test_anil_and_boil_are_maml_with_layers_that_stay_still(method, still):
    rule = built(method).rule
    assert isinstance(rule, Frozen)
    assert isinstance(rule.rule, GradientDescent)
    assert (rule.layers, rule.rule.learned_rates) == (still, "none")


def test_every_rule_can_leave_layers_still_and_does_not_unasked():
    assert isinstance(built("norml", adapted_layers="head").rule, Frozen)
    for method in ("maml-constant-lr", "norml", "meta-curvature"):
        assert not isinstance(built(method).rule, Frozen)


def test_first_order_maml_is_maml_with_that_switch():
    first, second = built("maml-first-order"), built("maml-constant-lr")
    assert (first.inner_loop.first_order, second.inner_loop.first_order) == (True, False)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_there_is_a_rate_for_each_layer_and_step_of_training():
    assert built("maml-per-step-lr", inner_steps=4, inner_steps_test=9).rule.log_alpha.shape == (3, 4)


@pytest.mark.parametrize("zeroed", ["", "-zero-hidden-zero-cell"])
@pytest.mark.parametrize(("kind", "rows"), [("batch-shared", 1), ("flattened", 5)])
def test_one_cell_for_the_support_set_with_and_without_memory(kind, rows, zeroed):
    rule = built(f"norml-{kind}{zeroed}").rule
    assert (rule.gates, rule.previous_cell) == (kind, not zeroed)
    assert rule.cells[0].loss_weight.shape[1] == rows
    assert (rule.cells[0].hidden_weight is None) == bool(zeroed)


def test_layer_rates_are_norml_with_as_many_values_more():
    rates, norml = built("norml-layerwise-lr"), built("norml")
    assert rates.parameter_counts()["meta_learner"] == norml.parameter_counts()["meta_learner"] + 3
    assert torch.equal(rates.rule.log_alpha, torch.zeros(3))
