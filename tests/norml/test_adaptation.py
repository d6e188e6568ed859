"""The inner loop: what it returns, what it leaves alone, and who sees whom."""

import dataclasses
import itertools

import pytest
import torch

from norml.adaptation import Adaptation
from norml.meta_training import meta_gradient
from tests.helpers.reference import RULES, Settings, adapted, loss_and_meta_gradient

FORMS = ["materialised", "factored"]


def adapted_weights(meta_learner, batch, *, form="materialised", inner_steps=3, queries_known=False, **settings):
    return Adaptation(
        meta_learner.learner,
        meta_learner.rule,
        dataclasses.replace(meta_learner.inner_loop, weight_form=form),
        batch.x if queries_known else batch.support_x,
        batch.support_y,
        inner_steps=inner_steps,
        **settings,
    ).run()


def as_matrices(meta_learner, adaptation, n_episodes, t=None):
    """Any form's (W_t [E, O, I], b_t [E, O]) of every layer: W columns and b from what `linear` does to unit vectors.

    t: of the adapted weights unless given.
    """
    t = adaptation.inner_steps if t is None else t
    matrices = []
    for layer, n_in in enumerate(meta_learner.learner.sizes[:-1]):
        probes = torch.cat([torch.zeros(1, n_in), torch.eye(n_in)]).double().expand(n_episodes, -1, -1)
        a = adaptation.weights[layer].linear(t, probes, "other")[0].detach()
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
    adaptation = adapted_weights(meta_learner, batch, form=form, inner_steps=0)
    parameters = zip(meta_learner.learner.weights, meta_learner.learner.biases, strict=True)
    for layer_weights, (w, b) in zip(adaptation.weights, parameters, strict=True):
        assert layer_weights.weight is w
        assert layer_weights.bias is b
    for (w, b), initial_w, initial_b in zip(
        as_matrices(meta_learner, adaptation, 3), meta_learner.learner.weights, meta_learner.learner.biases, strict=True
    ):
        torch.testing.assert_close(w, initial_w.detach().expand_as(w), rtol=0, atol=1e-15)
        assert torch.equal(b, initial_b.detach().expand_as(b))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rule", ["maml-layerwise-lr", "norml"])
def test_only_a_reversible_adaptation_keeps_the_weights_of_every_step(rule, form, make_meta_learner, make_episodes):
    meta_learner, batch = make_meta_learner(rule), make_episodes()
    kept = adapted_weights(meta_learner, batch, form=form, reversible=True, queries_known=True)
    for t in range(4):
        newest = adapted_weights(meta_learner, batch, form=form, inner_steps=t)
        expected = as_matrices(meta_learner, newest, 3)
        for layer, ((w, b), (expected_w, expected_b)) in enumerate(
            zip(as_matrices(meta_learner, kept, 3, t), expected, strict=True)
        ):
            if form == "factored" and layer == 0 and t < 3:
                continue  # of a factored first layer, an earlier step answers for the support set alone: see below
            torch.testing.assert_close(w, expected_w, rtol=1e-12, atol=1e-13)
            torch.testing.assert_close(b, expected_b, rtol=1e-12, atol=1e-13)
        with torch.no_grad():
            found = kept.weights[0].linear(t, kept.support_x, "support")[0]
            torch.testing.assert_close(
                found, newest.weights[0].linear(t, newest.support_x, "support")[0], rtol=1e-12, atol=1e-13
            )


def held_numbers(adaptation):
    """How many numbers the adaptation holds apart from its inputs and parameters."""
    given = {id(adaptation.support_x), id(adaptation.support_y), id(adaptation._query_x), id(adaptation._x)}
    given |= {id(part) for layer in adaptation.weights for part in getattr(layer, "_inputs", [])}
    given |= {id(parameter) for part in (adaptation.learner, adaptation.rule) for parameter in part.parameters()}
    seen, count = set(given), 0
    todo = [vars(adaptation)[name] for name in vars(adaptation) if name not in {"learner", "rule", "loop"}]
    while todo:
        held = todo.pop()
        if id(held) in seen:
            continue
        seen.add(id(held))
        if isinstance(held, torch.Tensor):
            count += held.numel()
        elif isinstance(held, dict):
            todo += held.values()
        elif isinstance(held, (list, tuple)):
            todo += held
        elif hasattr(held, "__dict__"):
            todo += vars(held).values()
    return count


@pytest.mark.parametrize("rule", ["maml-layerwise-lr", "norml"])
def test_evaluation_holds_the_newest_weights_and_what_is_carried_alone(rule, make_meta_learner, make_episodes):
    """Of many steps it holds what it holds of one, but for the small biases; training holds more with each step."""
    meta_learner, batch = make_meta_learner(rule), make_episodes()

    def held(inner_steps, **settings):
        return held_numbers(adapted_weights(meta_learner, batch, inner_steps=inner_steps, **settings))

    biases = 3 * sum(meta_learner.learner.sizes[1:])
    assert held(9) - held(1) == 8 * biases
    assert held(9, reversible=True, queries_known=True) - held(1, reversible=True, queries_known=True) > 800
    adaptation = adapted_weights(meta_learner, batch, inner_steps=9)
    assert [len(layer._weights) for layer in adaptation.weights] == [1, 1, 1]
    assert len(adaptation._carried) == 1
    assert adaptation._steps == []
    factored = adapted_weights(meta_learner, batch, form="factored", inner_steps=9).weights[0]
    assert len(factored._a) == 1


@pytest.mark.parametrize("rule", ["maml-layerwise-lr", "norml"])
def test_recomputing_holds_less_than_keeping(rule, make_meta_learner, make_episodes):
    batch = make_episodes()
    kept, again = (
        held_numbers(
            adapted_weights(
                make_meta_learner(rule, recompute=recompute),
                batch,
                form="factored",
                inner_steps=9,
                reversible=True,
                queries_known=True,
            )
        )
        for recompute in (False, True)
    )
    assert again < 0.7 * kept


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("query_statistics", ["query", "support"])
@pytest.mark.parametrize("rule", ["maml-layerwise-lr", "norml"])
def test_queries_give_the_same_logits_known_beforehand_or_later(
    rule, query_statistics, form, make_meta_learner, make_episodes
):
    meta_learner, batch = make_meta_learner(rule, query_statistics=query_statistics), make_episodes()
    known = adapted_weights(meta_learner, batch, form=form, queries_known=True)
    later = adapted_weights(meta_learner, batch, form=form)
    expected = later.logits(batch.query_x)
    torch.testing.assert_close(known.logits(), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(known.logits(batch.query_x), expected, rtol=1e-12, atol=1e-12)
    assert not expected.requires_grad


def test_a_factored_first_layer_refuses_a_backward_pass_of_queries_it_did_not_know(make_meta_learner, make_episodes):
    meta_learner, batch = make_meta_learner("norml"), make_episodes()
    adaptation = adapted_weights(meta_learner, batch, form="factored", reversible=True, queries_known=True)
    logits = adaptation.logits(batch.query_x)
    with pytest.raises(ValueError, match="only be reversed for the queries"):
        adaptation.reverse(torch.ones_like(logits))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("rule", ["maml-constant-lr", "maml-layerwise-lr", "norml"])
def test_going_back_twice_is_refused_in_words(rule, recompute, make_meta_learner, make_episodes):
    meta_learner, batch = make_meta_learner(rule, recompute=recompute), make_episodes()
    loss = meta_learner(batch, 2).square().sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        loss.backward()


def test_the_meta_gradient_cannot_be_differentiated_again(make_meta_learner, make_episodes):
    meta_learner = make_meta_learner("maml-layerwise-lr")
    loss = meta_learner(make_episodes(), 2).square().sum()
    first = torch.autograd.grad(loss, meta_learner.rule.log_alpha, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rule", ["maml-constant-lr", "maml-layerwise-lr", "norml"])
def test_the_backward_pass_does_not_change_its_inputs(rule, form, make_meta_learner, make_episodes):
    meta_learner, batch = make_meta_learner(rule, weight_form=form), make_episodes()
    parts = (batch.support_x, batch.support_y, batch.query_x, batch.query_y, *meta_learner.parameters())
    before = [part.detach().clone() for part in parts]
    adaptation, logits = meta_learner.adapt_and_query(batch, 3, reversible=True)
    logits_before, logits_bar = logits.clone(), torch.ones_like(logits)
    adaptation.reverse(logits_bar)
    assert all(torch.equal(a, b) for a, b in zip(before, parts, strict=True))
    assert torch.equal(logits, logits_before)
    assert torch.equal(logits_bar, torch.ones_like(logits))
    assert all(p.grad is None for p in meta_learner.parameters())


@pytest.mark.parametrize("rule", RULES)
def test_going_back_needs_no_grad_mode_and_leaves_it_as_it_was(rule, make_meta_learner, make_episodes):
    batch = make_episodes()
    outside = meta_gradient(make_meta_learner(rule), batch, 2)[2]
    assert torch.is_grad_enabled()
    with torch.no_grad():
        inside = meta_gradient(make_meta_learner(rule), batch, 2)[2]
        assert not torch.is_grad_enabled()
    assert all(torch.equal(inside[name], outside[name]) for name in outside)
    assert not any(gradient.requires_grad for gradient in outside.values())


@pytest.mark.parametrize("form", FORMS)
def test_closed_gates_leave_the_weights(form, make_meta_learner, make_episodes):
    meta_learner, batch = make_meta_learner("norml"), make_episodes()
    for cell, bias in zip(meta_learner.rule.cells, meta_learner.learner.biases, strict=True):
        cell.gate_bias.data[: len(bias)] = -float("inf")  # the gates of delta
    found = as_matrices(meta_learner, adapted_weights(meta_learner, batch, form=form), 3)
    for (w, b), initial_w, initial_b in zip(
        found, meta_learner.learner.weights, meta_learner.learner.biases, strict=True
    ):
        torch.testing.assert_close(w, initial_w.expand_as(w), rtol=0, atol=1e-15)
        torch.testing.assert_close(b, initial_b.expand_as(b), rtol=0, atol=0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rule", RULES)
def test_an_episodes_weights_do_not_depend_on_other_episodes(rule, form, make_meta_learner, make_episodes):
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
    twice = type(batch).joined(
        batch.support_x.repeat(1, 2, 1), batch.support_y.repeat(1, 2), batch.query_x, batch.query_y
    )
    for (w, b), (expected_w, expected_b) in zip(
        as_matrices(meta_learner, adapted_weights(meta_learner, twice), 3), once, strict=True
    ):
        torch.testing.assert_close(w, expected_w, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(b, expected_b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("rule", [rule for rule in RULES if "flattened" not in rule])
def test_the_order_of_the_support_set_does_not_matter(rule, make_meta_learner, make_episodes):
    meta_learner, batch = make_meta_learner(rule), make_episodes()
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    turned = type(batch).joined(batch.support_x[:, order], batch.support_y[:, order], batch.query_x, batch.query_y)
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
        logits = adapted_weights(meta_learner, batch, inner_steps=inner_steps).logits(batch.support_x)
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


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("queries_known", [False, True])
def test_with_support_statistics_a_query_gets_the_same_class_alone_or_with_others(
    queries_known, form, make_meta_learner, make_episodes
):
    """Whatever statistics the inner loop takes: the logits of a learner whose loop takes the support set's."""
    batch = make_episodes()
    transductive, inductive = (
        adapted_weights(
            make_meta_learner("norml", query_statistics=statistics), batch, form=form, queries_known=queries_known
        )
        for statistics in ("query", "support")
    )
    expected = inductive.logits(batch.query_x)
    together = transductive.logits(batch.query_x, query_statistics="support")
    torch.testing.assert_close(together, expected, rtol=1e-12, atol=1e-12)
    for i in range(batch.query_x.shape[1]):
        one = transductive.logits(batch.query_x[:, i : i + 1], query_statistics="support")
        torch.testing.assert_close(one, expected[:, i : i + 1], rtol=1e-12, atol=1e-12)
    if queries_known:
        by_support = transductive.logits(query_statistics="support")
        torch.testing.assert_close(by_support, expected, rtol=1e-12, atol=1e-12)
    by_queries = inductive.logits(batch.query_x, query_statistics="query")
    torch.testing.assert_close(by_queries, transductive.logits(batch.query_x), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(by_queries, expected)


def test_fewer_queries_than_classes_by_their_own_statistics_are_warned_of(make_meta_learner, make_episodes):
    """Batch norm over one query makes every feature its shift: all queries get the same logits."""
    batch = make_episodes()
    adaptation = adapted_weights(make_meta_learner("norml"), batch)
    with pytest.warns(UserWarning, match=r"from 1 queries for N = 3 classes.*query_statistics='support'"):
        first = adaptation.logits(batch.query_x[:, :1])
    with pytest.warns(UserWarning, match="from 2 queries"):
        adaptation.logits(batch.query_x[:, :2])
    with pytest.warns(UserWarning, match="from 1 queries"):
        torch.testing.assert_close(adaptation.logits(batch.query_x[:, 1:2]), first, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("error")
def test_no_warning_with_enough_queries_support_statistics_or_no_hidden_layer(make_meta_learner, make_episodes):
    batch = make_episodes()
    adapted_weights(make_meta_learner("norml"), batch).logits(batch.query_x[:, :3])
    adapted_weights(make_meta_learner("norml"), batch).logits(batch.query_x[:, :1], query_statistics="support")
    by_support = make_meta_learner("norml", query_statistics="support")
    adapted_weights(by_support, batch).logits(batch.query_x[:, :1])
    adapted_weights(make_meta_learner("norml", sizes=(5, 3)), batch).logits(batch.query_x[:, :1])
