"""The inner loop: what it returns, what it leaves alone, and who sees whom."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from reference import RULES, Settings, adapted, loss_and_meta_gradient

from norml.adaptation import adapt

FORMS = ["materialised", "factored"]


def adapted_weights(meta_learner, batch, *, form="materialised", inner_steps=3, **settings):
    forms = [form] * meta_learner.learner.n_layers
    inner_lr = meta_learner.inner_loop.inner_lr
    return adapt(
        meta_learner.learner,
        meta_learner.rule,
        batch.support_x,
        batch.support_y,
        inner_lr=inner_lr,
        inner_steps=inner_steps,
        forms=forms,
        **settings,
    )


def as_matrices(meta_learner, weights: Sequence, n_episodes):
    """Any form's (W [E, O, I], b [E, O]) of every layer: W columns and b from what `linear` does to unit vectors."""
    matrices = []
    for layer, n_in in enumerate(meta_learner.learner.sizes[:-1]):
        probes = torch.cat([torch.zeros(1, n_in), torch.eye(n_in)]).double().expand(n_episodes, -1, -1)
        a = weights[layer].linear(probes)
        matrices.append(((a[:, 1:] - a[:, :1]).mT, a[:, 0]))
    return matrices


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rule", RULES)
def test_adapted_weights_are_the_references(rule, form, make_meta_learner, make_episodes):
    meta_learner, batch = make_meta_learner(rule), make_episodes()
    settings = Settings(inner_lr=0.4, inner_steps=3, rule=RULES[rule])
    found = as_matrices(meta_learner, adapted_weights(meta_learner, batch, form=form), 3)
    for episode in range(3):
        expected = adapted(
            dict(meta_learner.named_parameters()), settings, batch.support_x[episode], batch.support_y[episode]
        )
        for (w, b), (expected_w, expected_b) in zip(found, expected, strict=True):
            torch.testing.assert_close(w[episode], expected_w, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(b[episode], expected_b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rule", RULES)
def test_no_inner_step_leaves_the_initial_weights(rule, form, make_meta_learner, make_episodes):
    meta_learner, batch = make_meta_learner(rule), make_episodes()
    for weights, w, b in zip(
        adapted_weights(meta_learner, batch, form=form, inner_steps=0),
        meta_learner.learner.weights,
        meta_learner.learner.biases,
        strict=True,
    ):
        assert weights.weight is w
        assert weights.bias is b


@pytest.mark.parametrize("form", FORMS)
def test_closed_gates_leave_the_weights(form, make_meta_learner, make_episodes):
    meta_learner, batch = make_meta_learner("norml"), make_episodes()
    for cell in meta_learner.rule.cells:
        cell.delta_gate_bias.data.fill_(-float("inf"))
    found = as_matrices(meta_learner, adapted_weights(meta_learner, batch, form=form), 3)
    for (w, b), initial_w, initial_b in zip(
        found, meta_learner.learner.weights, meta_learner.learner.biases, strict=True
    ):
        torch.testing.assert_close(w, initial_w.expand_as(w), rtol=0, atol=1e-15)
        torch.testing.assert_close(b, initial_b.expand_as(b), rtol=0, atol=0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rule", RULES)
def test_an_episodes_weights_do_not_depend_on_its_neighbours_nor_on_how_many_there_are(
    rule, form, make_meta_learner, make_episodes
):
    meta_learner = make_meta_learner(rule)
    few, many = make_episodes(n_episodes=1, seed=1), make_episodes(n_episodes=5, seed=2)
    for place in (0, 2, 4):
        many.support_x[place] = few.support_x[0]
        alone = as_matrices(meta_learner, adapted_weights(meta_learner, few, form=form), 1)
        among = as_matrices(meta_learner, adapted_weights(meta_learner, many, form=form), 5)
        for (w, b), (expected_w, expected_b) in zip(among, alone, strict=True):
            torch.testing.assert_close(w[place], expected_w[0], rtol=0, atol=1e-12)
            torch.testing.assert_close(b[place], expected_b[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", ["maml-constant-lr", "norml", "norml-batch-shared"])
def test_a_support_set_given_twice_adapts_as_once_because_its_loss_is_a_mean(rule, make_meta_learner, make_episodes):
    meta_learner, batch = make_meta_learner(rule), make_episodes()
    once = as_matrices(meta_learner, adapted_weights(meta_learner, batch), 3)
    twice = type(batch)(batch.support_x.repeat(1, 2, 1), batch.support_y.repeat(1, 2), batch.query_x, batch.query_y)
    for (w, b), (expected_w, expected_b) in zip(
        as_matrices(meta_learner, adapted_weights(meta_learner, twice), 3), once, strict=True
    ):
        torch.testing.assert_close(w, expected_w, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(b, expected_b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("rule", [rule for rule in RULES if "flattened" not in rule])
def test_the_order_of_the_support_set_does_not_matter(rule, make_meta_learner, make_episodes):
    meta_learner, batch = make_meta_learner(rule), make_episodes()
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    turned = type(batch)(batch.support_x[:, order], batch.support_y[:, order], batch.query_x, batch.query_y)
    for pair, expected in zip(
        as_matrices(meta_learner, adapted_weights(meta_learner, turned), 3),
        as_matrices(meta_learner, adapted_weights(meta_learner, batch), 3),
        strict=True,
    ):
        torch.testing.assert_close(pair, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("rule", ["maml-constant-lr", "norml"])
def test_small_steps_lower_the_support_loss_of_every_episode(rule, make_meta_learner, make_episodes):
    meta_learner, batch = make_meta_learner(rule, perturbed=False, inner_lr=0.05), make_episodes()
    losses = []
    for inner_steps in range(6):
        weights = adapted_weights(meta_learner, batch, inner_steps=inner_steps)
        logits = meta_learner.learner(weights, batch.support_x)[0]
        losses.append(
            torch.stack([torch.nn.functional.cross_entropy(*e) for e in zip(logits, batch.support_y, strict=True)])
        )
    for before, after in itertools.pairwise(losses):
        assert (after < before).all()


@pytest.mark.parametrize("rule", RULES)
def test_first_order_changes_the_meta_gradient_and_not_the_weights(rule, make_meta_learner, make_episodes):
    batch = make_episodes()
    exact, first_order = make_meta_learner(rule), make_meta_learner(rule, first_order=True)
    logits, cheaper = exact(batch, 2), first_order(batch, 2)
    assert torch.equal(logits, cheaper) or torch.allclose(logits, cheaper, rtol=1e-12, atol=1e-12)
    gradients = [
        torch.autograd.grad(out.square().sum(), meta_learner.learner.weights[0])[0]
        for meta_learner, out in ((exact, logits), (first_order, cheaper))
    ]
    assert not torch.allclose(*gradients, rtol=1e-3)


def test_first_order_is_the_reference_without_a_graph_of_its_gradients(make_meta_learner, make_episodes):
    """For MAML the reference's autograd.grad(create_graph=False) is the definition of first order."""
    batch = make_episodes()
    meta_learner = make_meta_learner("maml-layerwise-lr", first_order=True)
    parameters = dict(meta_learner.named_parameters())
    settings = Settings(inner_lr=0.4, inner_steps=2, rule=RULES["maml-layerwise-lr"], first_order=True)
    loss = torch.nn.functional.cross_entropy(meta_learner(batch, 2).flatten(0, 1), batch.query_y.flatten())
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    expected = loss_and_meta_gradient(parameters, settings, batch)[1]
    for found, (name, reference) in zip(gradients, expected.items(), strict=True):
        torch.testing.assert_close(found, reference, rtol=1e-10, atol=1e-13, msg=name)


@pytest.mark.parametrize("form", FORMS)
def test_adapting_changes_no_parameter(form, make_meta_learner, make_episodes):
    meta_learner = make_meta_learner("norml")
    before = [p.detach().clone() for p in meta_learner.parameters()]
    adapted_weights(meta_learner, make_episodes(), form=form)
    assert all(torch.equal(a, b) for a, b in zip(before, meta_learner.parameters(), strict=True))


def test_labels_that_do_not_go_with_the_inputs_are_refused_with_both_shapes(make_meta_learner, make_episodes):
    meta_learner, batch = make_meta_learner("norml"), make_episodes()
    for labels in (batch.support_y[:2], batch.support_y[:, :4], batch.support_y[0]):
        wrong = type(batch)(batch.support_x, labels, batch.query_x, batch.query_y)
        with pytest.raises(
            ValueError, match=r"support_x \(3, 6, 5\) and support_y .* expected \[E, S, D\] and \[E, S\]"
        ):
            adapted_weights(meta_learner, wrong)
