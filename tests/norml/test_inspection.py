"""Watching a rule: exact where the answer is known, and nothing is changed by looking."""

import math

import pytest
import torch

from norml.inspection import (
    QUANTILES,
    freezings,
    frozen,
    gate_summary,
    logits_of_each_step,
    meta_gradient_norms,
    watch,
)
from norml.layers import Convolutions
from tests.helpers import reference

RULES = [
    "maml-constant-lr",
    "maml-layerwise-lr",
    "maml-per-step-lr",
    "meta-sgd",
    "meta-curvature",
    "static-gates",
    "norml",
    "norml-batch-shared",
    "norml-flattened",
]


def test_an_untrained_norml_has_every_gate_at_one_and_the_inner_rate(make_meta_learner, make_episodes):
    found = watch(make_meta_learner("norml", perturbed=False), [make_episodes()], 3)
    assert [(s.step, s.layer) for s in found] == [(t, layer) for t in range(3) for layer in range(3)]
    for summary in found:
        for gate in (summary.delta_gate, summary.h_gate):
            assert gate.quantiles == (1.0,) * len(QUANTILES)
            assert (gate.mean, gate.std, gate.loss_correlation) == (1.0, 0.0, None)
            assert {gate.when_right, gate.when_wrong} <= {1.0, None}
        there = summary.neuron_rates.isfinite()
        torch.testing.assert_close(summary.neuron_rates[there], torch.full((int(there.sum()),), 0.4).double())
        assert math.isclose(summary.rate, 0.4, rel_tol=1e-12)
        assert math.isclose(summary.cosine, 1, rel_tol=1e-12)


def test_learned_rates_are_found_layer_by_layer(make_meta_learner, make_episodes):
    meta_learner, alphas = make_meta_learner("maml-layerwise-lr"), (0.5, 1.0, 3.0)
    meta_learner.rule.log_alpha.data.copy_(torch.tensor(alphas, dtype=torch.float64).log())
    for summary in watch(meta_learner, [make_episodes(), make_episodes(seed=1)], 2):
        assert math.isclose(summary.rate, 0.4 * alphas[summary.layer], rel_tol=1e-12)
        assert math.isclose(summary.cosine, 1, rel_tol=1e-12)
        assert summary.delta_gate is summary.h_gate is None


def test_a_rate_of_one_neuron_is_found_as_its_own(make_meta_learner, make_episodes):
    meta_learner = make_meta_learner("meta-sgd", perturbed=False)
    meta_learner.rule.weight_rates[2].data[1] = 2.5
    of_head = next(s for s in watch(meta_learner, [make_episodes()], 1) if s.layer == 2)
    torch.testing.assert_close(of_head.neuron_rates, torch.tensor([0.4, 1.0, 0.4]).double())
    assert 0.5 < of_head.cosine < 1


def test_gates_with_a_known_bias_have_that_size(make_meta_learner, make_episodes):
    meta_learner = make_meta_learner("norml", perturbed=False)
    meta_learner.rule.cells[1].gate_bias.data[:4] = math.log(3)  # 2 sigma(ln 3) = 1.5
    found = [s for s in watch(meta_learner, [make_episodes()], 2) if s.layer == 1]
    for summary in found:
        assert summary.delta_gate.mean == pytest.approx(1.5, abs=1e-12)
        assert summary.h_gate.mean == 1.0
        assert summary.rate == pytest.approx(0.6, rel=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_watching_changes_nothing_and_batches_do_not_matter(rule, make_meta_learner, make_episodes):
    meta_learner, batch = make_meta_learner(rule), make_episodes(n_episodes=4)
    before = meta_learner(batch, 2).detach()
    whole = watch(meta_learner, [batch], 2)
    parts = [
        type(batch).joined(
            *(part[e : e + 2] for part in (batch.support_x, batch.support_y, batch.query_x, batch.query_y))
        )
        for e in (0, 2)
    ]
    for one, other in zip(whole, watch(meta_learner, parts, 2), strict=True):
        assert one.rate == pytest.approx(other.rate, rel=1e-10)
        torch.testing.assert_close(one.neuron_rates, other.neuron_rates, rtol=1e-10, atol=0, equal_nan=True)
        if one.delta_gate is not None:
            assert one.delta_gate.quantiles == pytest.approx(other.delta_gate.quantiles, rel=1e-10)
            found, expected = one.h_gate.loss_correlation, other.h_gate.loss_correlation
            assert found == expected or found == pytest.approx(expected, rel=1e-6)
    assert torch.equal(meta_learner(batch, 2).detach(), before)


def test_gate_summary_by_hand():
    gates = torch.tensor([[[0.0, 1.0], [1.0, 2.0]], [[2.0, 3.0], [3.0, 4.0]]])  # means 0.5, 1.5, 2.5, 3.5
    losses = torch.tensor([[1.0, 3.0], [5.0, 7.0]])
    right = torch.tensor([[True, True], [False, True]])
    found = gate_summary(gates, losses, right)
    assert found.quantiles == (0.0, 1.0, 2.0, 3.0, 4.0)
    assert (found.mean, found.when_wrong) == (2.0, 2.5)
    assert found.when_right == pytest.approx(5.5 / 3)
    assert found.loss_correlation == pytest.approx(1)
    assert gate_summary(gates, -losses, right).loss_correlation == pytest.approx(-1)
    assert gate_summary(gates, torch.ones(2, 2), right).loss_correlation is None
    assert gate_summary(gates, losses, torch.ones(2, 2, dtype=torch.bool)).when_wrong is None


def test_right_and_wrong_are_told_by_the_learner_before_the_step(make_meta_learner, make_episodes):
    """Against its logits on the support set, which the inspection never sees."""
    meta_learner, batch = make_meta_learner("norml"), make_episodes()
    support_as_queries = type(batch).joined(batch.support_x, batch.support_y, batch.support_x, batch.support_y)
    logits = list(logits_of_each_step(meta_learner, support_as_queries, 2))
    gates = []
    original = type(meta_learner.rule).gates_of

    def kept(rule, layer, *signals):
        found = original(rule, layer, *signals)
        if layer == 0:
            gates.append(found[0].mean(dim=-1))
        return found

    meta_learner.rule.gates_of = kept.__get__(meta_learner.rule)
    found = [s for s in watch(meta_learner, [batch], 2) if s.layer == 0]
    for t, summary in enumerate(found):
        right = logits[t].argmax(-1) == batch.support_y
        of_step = gates[2 * t]  # each step asks for them twice: the rule, and the inspection
        for side, value in ((right, summary.delta_gate.when_right), (~right, summary.delta_gate.when_wrong)):
            assert value == (pytest.approx(of_step[side].mean().item(), rel=1e-12) if side.any() else None)


@pytest.mark.parametrize("query_statistics", ["query", "support"])
@pytest.mark.parametrize("weight_form", ["materialised", "factored"])
@pytest.mark.parametrize("rule", RULES)
def test_logits_of_each_step_are_those_of_as_many_steps(
    rule, weight_form, query_statistics, make_meta_learner, make_episodes
):
    settings = {"weight_form": weight_form, "query_statistics": query_statistics}
    meta_learner, batch = make_meta_learner(rule, **settings), make_episodes()
    found = list(logits_of_each_step(meta_learner, batch, 4))
    for t, logits in enumerate(found):
        torch.testing.assert_close(logits, meta_learner(batch, t).detach(), rtol=1e-12, atol=1e-12)


def test_without_a_learning_rate_accuracy_is_the_same_after_every_step(make_meta_learner, make_episodes):
    meta_learner, batch = make_meta_learner("maml-constant-lr", inner_lr=0.0), make_episodes()
    first, *others = logits_of_each_step(meta_learner, batch, 4)
    for logits in others:
        torch.testing.assert_close(logits, first, rtol=1e-14, atol=1e-14)  # another order of sums, as weights are held
        assert torch.equal(logits.argmax(-1), first.argmax(-1))


@pytest.mark.parametrize("rule", RULES)
def test_all_layers_frozen_is_no_adaptation_and_none_frozen_changes_nothing(rule, make_meta_learner, make_episodes):
    meta_learner, batch = make_meta_learner(rule), make_episodes()
    cases = {name: frozen(meta_learner, layers)(batch, 3).detach() for name, layers in freezings(3).items()}
    assert torch.equal(cases["all layers adapted"], meta_learner(batch, 3).detach())
    torch.testing.assert_close(cases["nothing adapted"], meta_learner(batch, 0).detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("rule", ["maml-layerwise-lr", "meta-sgd", "norml"])
def test_a_frozen_layer_keeps_its_weights_and_the_others_move(rule, layer, make_meta_learner, make_episodes):
    still = frozen(make_meta_learner(rule, weight_form="materialised"), {layer})
    adaptation, _ = still.adapt_and_query(make_episodes(), 2, reversible=False)
    for number, weights in enumerate(adaptation.weights):
        moved = not torch.equal(weights._weights[-1], weights.weight.expand_as(weights._weights[-1]))
        assert moved == (number != layer)


def test_cases_of_the_freeze_test():
    assert freezings(1) == {"all layers adapted": frozenset(), "nothing adapted": {0}}
    three = freezings(3)
    assert three["head alone adapted"] == {0, 1}
    assert three["body alone adapted"] == {2}
    assert three["layer 2 not adapted"] == {1}
    assert len(three) == 6


def test_gates_that_differ_by_rounding_alone_have_no_correlation():
    gates = torch.ones(2, 2, 3)
    gates[0] = torch.nextafter(gates[0], torch.tensor(2.0))
    losses, right = torch.tensor([[1.0, 3.0], [5.0, 7.0]]), torch.ones(2, 2, dtype=torch.bool)
    assert gate_summary(gates, losses, right).loss_correlation is None


def norms_by_autograd(meta_learner, rule, batch, inner_steps):
    """From the slow reference, whose weights of each step autograd can ask for."""
    settings = reference.Settings(inner_lr=0.4, inner_steps=inner_steps, rule=reference.RULES[rule])
    p, norms = dict(meta_learner.named_parameters()), []
    for e in range(len(batch.x)):
        every = reference.weights_of_each_step(p, settings, batch.support_x[e], batch.support_y[e])
        logits = reference.forward(p, every[-1], batch.query_x[e])[0][-1]
        loss = reference.example_losses(logits, batch.query_y[e]).mean()
        flat = [tensor for weights in every for pair in weights for tensor in pair]
        squares = [gradient.square().sum() for gradient in torch.autograd.grad(loss, flat, retain_graph=True)]
        norms.append(torch.stack(squares).view(inner_steps + 1, -1, 2).sum(-1).sqrt())
    return torch.stack(norms)


@pytest.mark.parametrize("inner_steps", [0, 1, 4])
@pytest.mark.parametrize("rule", RULES)
def test_norms_of_the_meta_gradient_by_step_are_autograds(rule, inner_steps, make_meta_learner, make_episodes):
    batch, meta_learner = make_episodes(n_episodes=2), make_meta_learner(rule)
    found = meta_gradient_norms(meta_learner, batch, inner_steps)
    assert found.shape == (2, inner_steps + 1, 3)
    torch.testing.assert_close(found, norms_by_autograd(meta_learner, rule, batch, inner_steps), rtol=1e-10, atol=1e-14)


def test_with_rate_zero_the_meta_gradient_is_the_same_after_every_step(make_meta_learner, make_episodes):
    norms = meta_gradient_norms(make_meta_learner("maml-constant-lr", inner_lr=0.0), make_episodes(), 3)
    torch.testing.assert_close(norms, norms[:, :1].expand_as(norms), rtol=1e-13, atol=1e-15)


def test_to_first_order_without_memory_the_meta_gradient_passes_unchanged(make_meta_learner, make_episodes):
    norms = meta_gradient_norms(make_meta_learner("maml-constant-lr", first_order=True), make_episodes(), 3)
    torch.testing.assert_close(norms, norms[:, :1].expand_as(norms), rtol=1e-13, atol=1e-15)


def test_a_layer_that_stays_still_has_neither_rate_nor_cosine(make_meta_learner, make_episodes):
    found = watch(frozen(make_meta_learner("maml-constant-lr"), {0, 1}), [make_episodes()], 2)
    for summary in found:
        still = summary.layer < 2
        assert math.isclose(summary.rate, 0 if still else 0.4, rel_tol=1e-12)
        assert math.isnan(summary.cosine) == still


@pytest.mark.parametrize("rule", ["maml-layerwise-lr", "meta-sgd", "norml"])
def test_a_1x1_net_on_one_pixel_looks_like_the_fully_connected_one(rule, make_meta_learner, make_episodes):
    """Effective rates, cosines and gates, watched through windows."""
    batch, plain = make_episodes(), make_meta_learner(rule)
    settings = {"channel_summary": "mean"} if rule == "norml" else {}
    one_pixel = Convolutions(1, in_channels=5, kernel=1, stride=1)
    convolutional = make_meta_learner(rule, convolutions=one_pixel, **settings)
    convolutional.load_state_dict(plain.state_dict(), strict=False)  # but for n_features
    for found, expected in zip(watch(convolutional, [batch], 2), watch(plain, [batch], 2), strict=True):
        torch.testing.assert_close(found.neuron_rates, expected.neuron_rates, rtol=1e-9, atol=1e-12)
        assert (found.rate, found.cosine) == pytest.approx((expected.rate, expected.cosine), rel=1e-9)
        if expected.h_gate is not None:
            assert found.h_gate.quantiles == pytest.approx(expected.h_gate.quantiles, rel=1e-9)


def test_the_effective_rates_of_gradient_descent_on_maps_are_its_rates(make_meta_learner, make_episodes):
    meta_learner = make_meta_learner("maml-layerwise-lr", sizes=(16, 2, 3, 3), convolutions=Convolutions(4))
    with torch.no_grad():
        meta_learner.rule.log_alpha.copy_(torch.tensor([0.5, 1.0, 3.0]).log())
    for summary in watch(meta_learner, [make_episodes(n_features=16)], 2):
        assert summary.rate == pytest.approx(0.4 * (0.5, 1.0, 3.0)[summary.layer], rel=1e-6)
        assert summary.cosine == pytest.approx(1, rel=1e-9)
