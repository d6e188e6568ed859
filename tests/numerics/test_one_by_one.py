"""Algorithm 1 as printed: one support example an inner step, NORML's cell carried from example to example."""

import pytest
import torch

from norml.adaptation import Adaptation
from norml.episodes import EpisodeBatch
from norml.inspection import logits_of_each_step, watch
from norml.meta_training import meta_gradient
from tests.helpers.reference import METHODS, RULES, Settings, in_rounds, loss_and_meta_gradient
from tests.numerics.test_reference import FORMS, assert_same, assert_same_to_the_bit

SIZES = (5, 3)  # no hidden layer
ONE = {"sizes": SIZES, "n_support": 1, "support_order": "one-by-one"}


def shuffled(batch, seed=0):
    """The same episodes with their support examples in another order, each episode's own."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(batch.support_y.shape, generator=generator).argsort(dim=1)
    x = batch.support_x.gather(1, order.unsqueeze(-1).expand_as(batch.support_x))
    return EpisodeBatch.joined(x, batch.support_y.gather(1, order), batch.query_x, batch.query_y)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("passes", [0, 1, 3])
@pytest.mark.parametrize("rule", RULES)
def test_loss_and_meta_gradient_of_every_rule_are_the_references(
    rule, passes, *, first_order, make_meta_learner, make_episodes
):
    batch = shuffled(make_episodes(seed=passes, n_episodes=2))
    settings = Settings(
        inner_lr=0.4, inner_steps=passes, rule=RULES[rule], first_order=first_order, support_order="one-by-one"
    )
    options = ONE | {"first_order": first_order}
    parameters = dict(make_meta_learner(rule, **options).named_parameters())
    expected = loss_and_meta_gradient(parameters, settings, batch)
    for form in FORMS:
        kept = assert_same(make_meta_learner(rule, weight_form=form, **options), settings, batch, expected)
        again = meta_gradient(make_meta_learner(rule, weight_form=form, recompute=True, **options), batch, passes)
        assert_same_to_the_bit(again, kept)


def test_one_by_one_examples_take_turns_over_the_classes(make_meta_learner, make_episodes):
    batch = shuffled(make_episodes(n_episodes=4), seed=3)
    meta_learner = make_meta_learner("maml-constant-lr", **ONE)
    adaptation = meta_learner.adapt(batch.support_x, batch.support_y, 2)
    assert adaptation.n_steps == 12
    for t in range(12):
        x, y = adaptation.examples_of(t)
        for episode in range(4):
            row = in_rounds(batch.support_y[episode])[t % 6]
            assert torch.equal(x[episode, 0], batch.support_x[episode, row])
            assert y[episode, 0] == batch.support_y[episode, row] == t % 3


@pytest.mark.parametrize("rule", METHODS)
def test_of_a_single_support_example_both_orders_are_the_same(rule, make_meta_learner, make_episodes):
    whole = make_episodes()
    batch = EpisodeBatch.joined(whole.support_x[:, :1], whole.support_y[:, :1], whole.query_x, whole.query_y)
    full, one = (
        meta_gradient(
            make_meta_learner(rule, **ONE | {"support_order": order, "weight_form": "materialised"}), batch, 3
        )
        for order in ("full", "one-by-one")
    )
    torch.testing.assert_close(one[0], full[0], rtol=1e-14, atol=0)
    for name, gradient in full[2].items():
        # NORML's gates meet the constant input in a product of its own with `full`, so the last bits may differ.
        exact = rule in ("maml-constant-lr", "maml-global-lr", "maml-layerwise-lr", "meta-sgd")
        torch.testing.assert_close(one[2][name], gradient, rtol=0 if exact else 1e-11, atol=0 if exact else 1e-14)


def last_gates(meta_learner, support_x, support_y):
    """NORML's gates of delta in the last step [E, S, O]."""
    seen = []
    rule, gates_of = meta_learner.rule, meta_learner.rule.gates_of

    def watched(*arguments):
        found = gates_of(*arguments)
        seen.append(found[0])
        return found

    rule.gates_of = watched
    Adaptation(meta_learner.learner, rule, meta_learner.inner_loop, support_x, support_y, inner_steps=1).run()
    del rule.gates_of
    return seen


def frozen_learner(make_meta_learner, rule, **options):
    """A meta-learner whose steps change next to nothing: what a gate learns of another example, it has from memory."""
    return make_meta_learner(rule, **{"sizes": SIZES, "inner_lr": 1e-30} | options)


@pytest.mark.parametrize("rule", ["norml", "norml-zero-hidden", "norml-zero-cell", "norml-zero-hidden-zero-cell"])
def test_a_cell_remembers_other_examples_one_by_one_but_not_with_full_support_steps(
    rule, make_meta_learner, make_episodes
):
    """The change of a gate by another example's input, as the weights stand still: by central difference."""
    batch = make_episodes(n_episodes=1, k_shot=1)

    def moved(order, step, row, by):
        x = batch.support_x.clone()
        x[0, row, 0] += by
        meta_learner = frozen_learner(make_meta_learner, rule, support_order=order, n_support=1)
        return last_gates(meta_learner, x, batch.support_y)[step]

    def derivative(order, step, row):
        return ((moved(order, step, row, 1e-5) - moved(order, step, row, -1e-5)) / 2e-5).abs()

    remembers = rule in ("norml", "norml-zero-hidden", "norml-zero-cell")
    assert (derivative("one-by-one", 1, 0).max() > 1e-4) == remembers
    assert (derivative("one-by-one", 2, 0).max() > 1e-5) == remembers
    assert derivative("one-by-one", 1, 2).max() == 0  # not of what is to come
    of_full = derivative("full", 0, 0)
    assert of_full[0, 0].max() > 1e-4
    assert of_full[0, 1:].max() == 0


@pytest.mark.parametrize("rule", ["maml-constant-lr", "norml"])
def test_order_matters(rule, make_meta_learner, make_episodes):
    batch = make_episodes()
    other = EpisodeBatch.joined(
        batch.support_x[:, [1, 0, 3, 2, 5, 4]], batch.support_y, batch.query_x, batch.query_y
    )  # of every class the second example first
    one, full = make_meta_learner(rule, **ONE), make_meta_learner(rule, sizes=SIZES)
    assert (one(batch, 1) - one(other, 1)).abs().max() > 1e-3
    torch.testing.assert_close(full(batch, 1), full(other, 1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", METHODS)
def test_an_episode_does_not_see_its_neighbours(rule, make_meta_learner, make_episodes):
    batch = make_episodes(n_episodes=4)
    meta_learner = make_meta_learner(rule, **ONE)
    together = meta_learner(batch, 2)
    for episode in range(4):
        part = slice(episode, episode + 1)
        alone = meta_learner(EpisodeBatch(batch.x[part], batch.y[part], batch.n_support), 2)
        torch.testing.assert_close(alone, together[part], rtol=1e-12, atol=1e-12)


def test_logits_after_each_pass_and_what_a_watched_rule_does_in_each_step(make_meta_learner, make_episodes):
    batch = make_episodes()
    meta_learner = make_meta_learner("norml", **ONE)
    with torch.no_grad():
        by_pass = list(logits_of_each_step(meta_learner, batch, 2))
        for passes, logits in enumerate(by_pass):
            torch.testing.assert_close(logits, meta_learner(batch, passes), rtol=1e-13, atol=0)
    assert len(by_pass) == 3
    assert [(each.step, each.layer) for each in watch(meta_learner, [batch, batch], 2)] == [(t, 0) for t in range(12)]


def test_what_has_no_meaning_is_refused_in_a_line(make_meta_learner, make_episodes):
    batch = make_episodes()
    with pytest.raises(ValueError, match=r"one-by-one.* without hidden layers"):
        make_meta_learner("norml", support_order="one-by-one")(batch, 1)
    with pytest.raises(ValueError, match="support_order must be 'full' or 'one-by-one', got 'one_by_one'"):
        make_meta_learner("norml", sizes=SIZES, support_order="one_by_one")(batch, 1)
