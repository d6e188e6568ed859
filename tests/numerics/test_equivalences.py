"""Limit cases in which two methods, or two ways to run one, must be the same."""

import math

import pytest
import torch

from norml.adaptation import Adaptation
from norml.episodes import EpisodeBatch
from tests.helpers.reference import MEMORYLESS_RULES, METHODS, NORML_RULES, RULES, forward, initial_weights

STEPS = (1, 2, 5)
FORMS = ["materialised", "factored", "auto"]
OPEN_AT_START = [rule for rule in NORML_RULES if NORML_RULES[rule].get("gate_scale", 2.0) == 2]


def logits_and_learner_gradient(meta_learner, batch, inner_steps):
    logits = meta_learner(batch, inner_steps)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.query_y.flatten())
    return logits.detach(), torch.autograd.grad(loss, list(meta_learner.learner.parameters()))


def with_the_learner_of(meta_learner, other):
    """`meta_learner` with the initial weights of `other`."""
    meta_learner.learner.load_state_dict(other.learner.state_dict())
    return meta_learner


def assert_same(one, other, batch, *, exactly=False):
    for inner_steps in STEPS:
        (logits, gradient), (expected, expected_gradient) = (
            logits_and_learner_gradient(meta_learner, batch, inner_steps) for meta_learner in (one, other)
        )
        if exactly:
            assert torch.equal(logits, expected)
        torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-12)


def open_gates(meta_learner, alphas=None):
    """Gate layers that ignore the cell: h gates 1, layer l's delta gates alphas[l] in 0..2 (default 1); no rates."""
    with torch.no_grad():
        if meta_learner.rule.log_alpha is not None:
            meta_learner.rule.log_alpha.zero_()
        for layer, cell in enumerate(meta_learner.rule.cells):
            alpha = 1.0 if alphas is None else alphas[layer]
            cell.gate_weight.zero_()
            cell.gate_bias.zero_()
            n_out = len(meta_learner.learner.biases[layer])
            cell.gate_bias[:n_out] = math.log(alpha / (2 - alpha))  # 2 sigma(ln(a / (2 - a))) = a
    return meta_learner


@pytest.mark.parametrize("rule", OPEN_AT_START)
def test_norml_with_gates_fixed_open_is_maml_to_the_bit(rule, make_meta_learner, make_episodes):
    """Every other meta-parameter is moved: open gates alone make NORML MAML."""
    maml = make_meta_learner("maml-constant-lr", weight_form="materialised")
    norml = open_gates(with_the_learner_of(make_meta_learner(rule, weight_form="materialised"), maml))
    assert_same(norml, maml, make_episodes(), exactly=True)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rule", OPEN_AT_START)
def test_untrained_norml_is_maml_in_every_form(rule, form, make_meta_learner, make_episodes):
    maml = make_meta_learner("maml-constant-lr", weight_form=form)
    norml = make_meta_learner(rule, weight_form=form, perturbed=False)
    assert_same(with_the_learner_of(norml, maml), maml, make_episodes())


@pytest.mark.parametrize("rule", OPEN_AT_START)
def test_norml_with_a_constant_gate_in_each_layer_is_maml_with_layer_wise_rates(rule, make_meta_learner, make_episodes):
    alphas = (0.5, 1.25, 1.75)
    maml = make_meta_learner("maml-layerwise-lr")
    maml.rule.log_alpha.data.copy_(torch.tensor(alphas, dtype=torch.float64).log())
    norml = open_gates(with_the_learner_of(make_meta_learner(rule), maml), alphas)
    assert_same(norml, maml, make_episodes())


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.0])
def test_equal_layer_wise_rates_are_a_global_rate_are_a_constant_one(alpha, make_meta_learner, make_episodes):
    constant = make_meta_learner("maml-constant-lr", inner_lr=0.4 * alpha)
    for rule in ("maml-global-lr", "maml-layerwise-lr"):
        learned = with_the_learner_of(make_meta_learner(rule, inner_lr=0.4), constant)
        learned.rule.log_alpha.data.fill_(math.log(alpha))
        assert_same(learned, constant, make_episodes(), exactly=alpha == 1.0)


@pytest.mark.parametrize("query_statistics", ["query", "support"])
@pytest.mark.parametrize("rule", RULES)
def test_without_inner_steps_every_method_is_its_initial_weights(
    rule, query_statistics, make_meta_learner, make_episodes
):
    batch = make_episodes()
    for form in FORMS:
        meta_learner = make_meta_learner(rule, weight_form=form, query_statistics=query_statistics)
        p = dict(meta_learner.named_parameters())
        weights = initial_weights(p)
        logits = meta_learner(batch, 0)
        for episode in range(len(batch.query_x)):
            statistics = None
            if query_statistics == "support":
                statistics = forward(p, weights, batch.support_x[episode])[2]
            expected = forward(p, weights, batch.query_x[episode], statistics)[0][-1]
            torch.testing.assert_close(logits[episode], expected, rtol=1e-12, atol=1e-12)


def restarted(meta_learner, batch, inner_steps):
    """Logits of one episode when the state is forgotten after every step: each starts from the adapted weights."""
    state = {name: p.clone() for name, p in meta_learner.learner.state_dict().items()}
    learner = meta_learner.learner
    for _ in range(inner_steps):
        episodes = (batch.support_x, batch.support_y)
        loop = meta_learner.inner_loop
        adaptation = Adaptation(learner, meta_learner.rule, loop, *episodes, inner_steps=1).run()
        with torch.no_grad():
            for layer, adapted in enumerate(adaptation.weights):
                n_in = learner.sizes[layer]
                a, _ = adapted.linear(
                    1, torch.cat([torch.zeros(1, n_in), torch.eye(n_in)]).double().unsqueeze(0), "other"
                )
                learner.weights[layer].copy_((a[0, 1:] - a[0, 0]).T)
                learner.biases[layer].copy_(a[0, 0])
    logits = meta_learner(batch, 0).detach()
    learner.load_state_dict(state)
    return logits


@pytest.mark.parametrize("inner_steps", [2, 5])
@pytest.mark.parametrize("rule", METHODS)
def test_rules_without_memory_ignore_history_and_the_others_do_not(rule, inner_steps, make_meta_learner, make_episodes):
    """T steps in a row against T times one step: equal exactly if nothing but the weights passes between steps."""
    meta_learner, batch = make_meta_learner(rule, weight_form="materialised"), make_episodes(n_episodes=1)
    in_a_row = meta_learner(batch, inner_steps).detach()
    one_by_one = restarted(meta_learner, batch, inner_steps)
    if rule == "norml-zero-hidden-zero-cell" or rule in MEMORYLESS_RULES:
        torch.testing.assert_close(in_a_row, one_by_one, rtol=1e-12, atol=1e-12)
    else:
        assert not torch.allclose(in_a_row, one_by_one, rtol=1e-4)


@pytest.mark.parametrize("rule", METHODS)
def test_one_step_has_no_history_to_tell_the_ablations_apart(rule, make_meta_learner, make_episodes):
    """The parameters of previous states have no gradient after one step, and non-zero ones after two."""
    batch = make_episodes()
    for inner_steps in (1, 2):
        meta_learner = make_meta_learner(rule)
        meta_learner(batch, inner_steps).square().sum().backward()
        for name, parameter in meta_learner.named_parameters():
            if name.endswith("hidden_weight"):
                moves = parameter.grad is not None and bool(parameter.grad.any())
                assert moves == (inner_steps > 1), name


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rule", RULES)
def test_an_episodes_result_does_not_depend_on_other_episodes(rule, form, make_meta_learner, make_episodes):
    meta_learner, batch = make_meta_learner(rule, weight_form=form), make_episodes(n_episodes=4)
    expected = meta_learner(batch, 3)
    parts = (batch.support_x, batch.support_y, batch.query_x, batch.query_y)
    for chosen in ([0], [3, 1], [2, 2, 0], [3, 2, 1, 0, 1]):
        logits = meta_learner(EpisodeBatch.joined(*(part[chosen] for part in parts)), 3)
        torch.testing.assert_close(logits, expected[chosen], rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_a_batchs_meta_gradient_is_the_mean_of_its_episodes(rule, make_meta_learner, make_episodes):
    meta_learner, batch = make_meta_learner(rule), make_episodes(n_episodes=4)
    whole = logits_and_learner_gradient(meta_learner, batch, 2)[1]
    parts = (batch.support_x, batch.support_y, batch.query_x, batch.query_y)
    single = [
        logits_and_learner_gradient(meta_learner, EpisodeBatch.joined(*(part[e : e + 1] for part in parts)), 2)[1]
        for e in range(4)
    ]
    for found, expected in zip(whole, zip(*single, strict=True), strict=True):
        torch.testing.assert_close(found, torch.stack(expected).mean(dim=0), rtol=1e-10, atol=1e-13)


def test_flattened_gates_of_one_example_are_its_own_gates(make_meta_learner, make_episodes):
    """With S = 1 the flattened support set is the example. (Batch norm needs more: the learner has no hidden layer.)"""
    batch = make_episodes(n_way=3, k_shot=1)
    one = EpisodeBatch.joined(batch.support_x[:, :1], batch.support_y[:, :1], batch.query_x, batch.query_y)
    settings = {"sizes": (5, 3), "n_support": 1}
    flattened = make_meta_learner("norml-flattened", **settings)
    per_example = make_meta_learner("norml", **settings)
    per_example.load_state_dict(flattened.state_dict())
    assert_same(flattened, per_example, one)


def test_zero_hidden_is_the_rule_of_eqs_14_to_19(make_meta_learner, make_episodes):
    zero_hidden, printed = make_meta_learner("norml-zero-hidden"), make_meta_learner("norml-no-hidden-state")
    printed.load_state_dict(zero_hidden.state_dict())
    assert_same(zero_hidden, printed, make_episodes(), exactly=True)


@pytest.mark.parametrize("previous", ["previous_cell", "previous_hidden"])
def test_a_full_rule_that_forgets_is_the_rule_with_that_state_zeroed(previous, make_meta_learner, make_episodes):
    """Forget gates shut (bias -inf) make the full rule 'zero cell'; hidden weights zero make it 'zero hidden'."""
    full = make_meta_learner("norml")
    zeroed = make_meta_learner("norml-zero-cell" if previous == "previous_cell" else "norml-zero-hidden")
    state = full.state_dict()
    for layer, cell in enumerate(full.rule.cells):
        size, prefix = cell.cell_size, f"rule.cells.{layer}."
        forget, output = slice(size, 2 * size), slice(2 * size, 3 * size)
        dropped = forget if previous == "previous_cell" else output
        kept = torch.tensor([i for i in range(4 * size) if not dropped.start <= i < dropped.stop])
        with torch.no_grad():
            if previous == "previous_cell":
                cell.bias[forget] = -math.inf
            else:
                cell.hidden_weight.zero_()
        for name in ("loss_weight", "delta_weight", "h_weight", "bias", "hidden_weight"):
            state[prefix + name] = state[prefix + name][kept]
        if previous == "previous_hidden":
            del state[prefix + "hidden_weight"]
    zeroed.load_state_dict(state)
    batch = make_episodes()
    for inner_steps in STEPS:
        torch.testing.assert_close(full(batch, inner_steps), zeroed(batch, inner_steps), rtol=1e-12, atol=1e-12)
