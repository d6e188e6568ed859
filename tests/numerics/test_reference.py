"""The batched engine computes what the slow reference computes: losses and meta-gradients of every method."""

import pytest
import torch
from torch.nn import functional

from norml.meta_training import meta_gradient
from tests.helpers.reference import METHODS, RULES, Settings, loss_and_meta_gradient

FORMS = ("materialised", "factored", "auto")


def through_autograd(meta_learner, batch, inner_steps):
    """Loss and gradients when autograd differentiates the query logits."""
    logits = meta_learner(batch, inner_steps)
    loss = functional.cross_entropy(logits.flatten(0, 1), batch.query_y.flatten())
    names, parameters = zip(*meta_learner.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return loss.detach(), dict(zip(names, gradients, strict=True))


def filled(meta_learner, found):
    """Loss and gradients of a `meta_gradient`; parameters that it leaves out have none, which is zero."""
    loss, _, gradients = found
    parameters = dict(meta_learner.named_parameters())
    assert set(gradients) <= set(parameters)
    return loss, {name: gradients.get(name, torch.zeros_like(p)) for name, p in parameters.items()}


def is_hidden_bias(name, meta_learner):
    """Batch norm takes a hidden layer's bias out again: its gradient, and its rate's, is zero but for rounding."""
    of_bias = name.startswith(("learner.biases.", "rule.bias_rates."))
    return of_bias and int(name.rpartition(".")[2]) < meta_learner.learner.n_layers - 1


def assert_same(meta_learner, settings, batch, expected):
    """The meta-gradient is the one expected; returns it."""
    expected_loss, expected_gradient = expected
    found = meta_gradient(meta_learner, batch, settings.inner_steps)
    loss, gradient = filled(meta_learner, found)
    assert abs(loss - expected_loss) <= 1e-12 * expected_loss
    largest = max(g.abs().max() for g in expected_gradient.values())
    for name, reference in expected_gradient.items():
        error = (gradient[name] - reference).abs().max()
        if is_hidden_bias(name, meta_learner):
            assert gradient[name].abs().max() <= 1e-13 * largest, name
        else:
            assert error <= 1e-10 * reference.abs().max(), name
    return found


def assert_same_to_the_bit(again, kept):
    assert torch.equal(again[0], kept[0])
    assert list(again[2]) == list(kept[2])
    for name, gradient in kept[2].items():
        assert torch.equal(again[2][name], gradient), name


@pytest.mark.parametrize(
    ("rule", "inner_steps"),
    [(rule, steps) for rule in RULES for steps in ((0, 1, 2, 5) if rule in METHODS else (1, 2))],
)
def test_loss_and_meta_gradient_of_every_rule_and_form_are_the_references(
    rule, inner_steps, make_meta_learner, make_episodes
):
    batch = make_episodes(seed=inner_steps, n_episodes=2)
    settings = Settings(inner_lr=0.4, inner_steps=inner_steps, rule=RULES[rule])
    parameters = dict(make_meta_learner(rule).named_parameters())
    expected = loss_and_meta_gradient(parameters, settings, batch)
    for form in FORMS:
        kept = assert_same(make_meta_learner(rule, weight_form=form), settings, batch, expected)
        again = meta_gradient(make_meta_learner(rule, weight_form=form, recompute=True), batch, inner_steps)
        assert_same_to_the_bit(again, kept)


@pytest.mark.parametrize(("first_order", "query_statistics"), [(True, "query"), (False, "support"), (True, "support")])
@pytest.mark.parametrize("rule", RULES)
def test_first_order_and_support_statistics_are_the_references(
    rule, first_order, query_statistics, make_meta_learner, make_episodes
):
    batch = make_episodes(seed=7, n_episodes=2)
    options = {"first_order": first_order, "query_statistics": query_statistics}
    settings = Settings(inner_lr=0.4, inner_steps=3, rule=RULES[rule], **options)
    expected = loss_and_meta_gradient(dict(make_meta_learner(rule).named_parameters()), settings, batch)
    for form in FORMS if rule in METHODS else ["auto"]:
        kept = assert_same(make_meta_learner(rule, weight_form=form, **options), settings, batch, expected)
        again = meta_gradient(make_meta_learner(rule, weight_form=form, recompute=True, **options), batch, 3)
        assert_same_to_the_bit(again, kept)


@pytest.mark.parametrize("sizes", [(5, 3), (5, 4, 3), (5, 6, 5, 4, 4, 3)])
@pytest.mark.parametrize("rule", ["maml-layerwise-lr", "norml"])
def test_learners_of_every_depth_without_a_learned_scale_are_the_references(
    rule, sizes, make_meta_learner, make_episodes
):
    batch = make_episodes(seed=11)
    settings = Settings(inner_lr=0.4, inner_steps=2, rule=RULES[rule])
    options = {"sizes": sizes, "batch_norm_scale": False}
    expected = loss_and_meta_gradient(dict(make_meta_learner(rule, **options).named_parameters()), settings, batch)
    for form in FORMS:
        kept = assert_same(make_meta_learner(rule, weight_form=form, **options), settings, batch, expected)
        again = meta_gradient(make_meta_learner(rule, weight_form=form, recompute=True, **options), batch, 2)
        assert_same_to_the_bit(again, kept)


@pytest.mark.parametrize("inner_steps", [0, 2])
@pytest.mark.parametrize("query_statistics", ["query", "support"])
@pytest.mark.parametrize("rule", METHODS)
def test_autograd_through_the_query_logits_finds_the_same_meta_gradient(
    rule, query_statistics, inner_steps, make_meta_learner, make_episodes
):
    batch = make_episodes()
    meta_learner = make_meta_learner(rule, query_statistics=query_statistics)
    loss, gradient = filled(meta_learner, meta_gradient(meta_learner, batch, inner_steps))
    expected_loss, expected = through_autograd(meta_learner, batch, inner_steps)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-13, atol=0)
    largest = max(g.abs().max() for g in expected.values())
    for name, reference in expected.items():
        size = largest if is_hidden_bias(name, meta_learner) else reference.abs().max()
        assert (gradient[name] - reference).abs().max() <= 1e-12 * size, name


def test_the_comparison_notices_a_wrong_rate_in_one_layer(make_meta_learner, make_episodes):
    batch = make_episodes()
    settings = Settings(inner_lr=0.4, inner_steps=2, rule=RULES["maml-layerwise-lr"])
    expected = loss_and_meta_gradient(dict(make_meta_learner("maml-layerwise-lr").named_parameters()), settings, batch)
    wrong = make_meta_learner("maml-layerwise-lr")
    with torch.no_grad():
        wrong.rule.log_alpha[1] += 1e-8
    with pytest.raises(AssertionError):
        assert_same(wrong, settings, batch, expected)
