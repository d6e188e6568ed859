"""The meta-learner and its outer step."""

import pytest
import torch

from norml.episodes import EpisodeBatch
from norml.meta_training import outer_lr_at, outer_step
from tests.helpers.reference import METHODS, NORML_RULES, RULES, Settings, query_logits


@pytest.mark.parametrize("query_statistics", ["query", "support"])
@pytest.mark.parametrize("rule", RULES)
def test_query_logits_are_the_references(rule, query_statistics, make_meta_learner, make_episodes):
    batch = make_episodes()
    meta_learner = make_meta_learner(rule, query_statistics=query_statistics)
    settings = Settings(inner_lr=0.4, inner_steps=2, rule=RULES[rule], query_statistics=query_statistics)
    logits = meta_learner(batch, 2)
    for episode in range(3):
        expected = query_logits(
            dict(meta_learner.named_parameters()),
            settings,
            batch.support_x[episode],
            batch.support_y[episode],
            batch.query_x[episode],
        )
        torch.testing.assert_close(logits[episode], expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("rule", ["maml-layerwise-lr", "norml"])
def test_queries_depend_on_each_other_only_through_their_own_statistics(rule, make_meta_learner, make_episodes):
    batch = make_episodes()
    others = batch.query_x.clone()
    others[:, 1:] *= -2
    changed = EpisodeBatch.joined(batch.support_x, batch.support_y, others, batch.query_y)
    alone = EpisodeBatch.joined(batch.support_x, batch.support_y, batch.query_x[:, :1], batch.query_y[:, :1])
    inductive = make_meta_learner(rule, query_statistics="support")
    first = inductive(batch, 2)[:, 0]
    for other in (changed, alone):
        torch.testing.assert_close(inductive(other, 2)[:, 0], first, rtol=1e-12, atol=1e-12)
    transductive = make_meta_learner(rule, query_statistics="query")
    assert not torch.allclose(transductive(changed, 2)[:, 0], transductive(batch, 2)[:, 0], rtol=1e-2)


@pytest.mark.parametrize("rule", METHODS)
def test_an_episodes_logits_do_not_depend_on_its_neighbours(rule, make_meta_learner, make_episodes):
    meta_learner, batch = make_meta_learner(rule), make_episodes(n_episodes=4)
    together = meta_learner(batch, 2)
    for e in range(4):
        part = EpisodeBatch.joined(
            *(t[e : e + 1] for t in (batch.support_x, batch.support_y, batch.query_x, batch.query_y))
        )
        torch.testing.assert_close(meta_learner(part, 2)[0], together[e], rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_every_meta_parameter_receives_a_gradient(rule, make_meta_learner, make_episodes):
    """Except a hidden layer's bias and its rate: batch norm subtracts it again, so these are zero but for rounding."""
    meta_learner = make_meta_learner(rule)
    meta_learner(make_episodes(), 3).square().sum().backward()
    last = f".{meta_learner.learner.n_layers - 1}"
    for name, parameter in meta_learner.named_parameters():
        size = parameter.grad.abs().max()
        if name.startswith(("learner.biases.", "rule.bias_rates.")) and not name.endswith(last):
            assert size < 1e-10, name
        else:
            assert size > 1e-5, name


@pytest.mark.parametrize("rule", NORML_RULES)
def test_an_untrained_rule_starts_to_learn_at_its_gates(rule, make_meta_learner, make_episodes):
    """Zero gate layers pass nothing back to the cell: the first outer step moves gates and rates, the next cells."""
    meta_learner = make_meta_learner(rule, perturbed=False)
    meta_learner(make_episodes(), 3).square().sum().backward()
    for name, parameter in meta_learner.rule.named_parameters():
        assert bool(parameter.grad.any()) == ("gate" in name or name == "log_alpha"), name


def test_parameters_are_counted_apart_and_batch_norm_is_left_out(make_meta_learner):
    counts = make_meta_learner("maml-layerwise-lr").parameter_counts()
    assert counts == {"learner": 5 * 4 + 4 + 4 * 4 + 4 + 4 * 3 + 3, "meta_learner": 3}


@pytest.mark.parametrize("rule", ["maml-global-lr", "norml"])
def test_an_outer_step_is_the_optimisers_step_on_the_mean_query_loss(rule, make_meta_learner, make_episodes):
    batch = make_episodes()
    stepped, expected = make_meta_learner(rule), make_meta_learner(rule)
    loss, accuracy = outer_step(stepped, torch.optim.SGD(stepped.parameters(), lr=0.1), batch, inner_steps=2)
    logits = expected(batch, 2).flatten(0, 1)
    expected_loss = torch.nn.functional.cross_entropy(logits, batch.query_y.flatten())
    gradients = torch.autograd.grad(expected_loss, list(expected.parameters()))
    for after, before, gradient in zip(stepped.parameters(), expected.parameters(), gradients, strict=True):
        torch.testing.assert_close(after, before - 0.1 * gradient, rtol=1e-12, atol=1e-14)
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-12)
    assert accuracy.item() == pytest.approx((logits.argmax(-1) == batch.query_y.flatten()).double().mean().item())
    assert not loss.requires_grad


def test_gradients_of_the_step_before_are_forgotten(make_meta_learner, make_episodes):
    meta_learner, batch = make_meta_learner("norml"), make_episodes()
    optimizer = torch.optim.SGD(meta_learner.parameters(), lr=0.0)
    found = []
    for inner_steps in (1, 2, 1, 1):
        outer_step(meta_learner, optimizer, batch, inner_steps=inner_steps)
        found.append({name: None if p.grad is None else p.grad.clone() for name, p in meta_learner.named_parameters()})
    once, more, *again = found
    without = {name for name, gradient in once.items() if gradient is None}
    assert without == {f"rule.cells.{layer}.hidden_weight" for layer in range(3)}  # one step has no state before it
    assert all(gradient is not None for gradient in more.values())
    for gradients in again:
        for name, gradient in gradients.items():
            assert gradient is None if name in without else torch.equal(gradient, once[name]), name


def test_a_gradient_clip_bounds_every_entry_and_leaves_smaller_ones(make_meta_learner, make_episodes):
    batch, clip = make_episodes(), 1e-2
    free, clipped = make_meta_learner("norml"), make_meta_learner("norml")
    for meta_learner, bound in ((free, None), (clipped, clip)):
        optimizer = torch.optim.SGD(meta_learner.parameters(), lr=0.0)
        outer_step(meta_learner, optimizer, batch, inner_steps=2, gradient_clip=bound)
    n_clipped = 0
    for one, other in zip(free.parameters(), clipped.parameters(), strict=True):
        assert torch.equal(other.grad, one.grad.clamp(-clip, clip))
        n_clipped += int((one.grad.abs() > clip).sum())
    assert n_clipped > 0


def test_a_gradient_norm_limit_shortens_only_longer_meta_gradients(make_meta_learner, make_episodes):
    batch = make_episodes()

    def meta_gradient_under(limit: float | None) -> torch.Tensor:
        meta_learner = make_meta_learner("norml")
        optimizer = torch.optim.SGD(meta_learner.parameters(), lr=0.0)
        outer_step(meta_learner, optimizer, batch, inner_steps=2, gradient_norm_limit=limit)
        return torch.cat([parameter.grad.flatten() for parameter in meta_learner.parameters()])

    free = meta_gradient_under(None)
    length = float(free.norm())
    in_torch = 0.25 * length / (length + 1e-6)  # what torch multiplies by
    torch.testing.assert_close(meta_gradient_under(0.25 * length), in_torch * free)
    assert torch.equal(meta_gradient_under(4 * length), free)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("rule", METHODS)
def test_outer_steps_lower_the_loss_of_a_fixed_batch(rule, first_order, make_meta_learner, make_episodes):
    batch = make_episodes(n_episodes=4)
    meta_learner = make_meta_learner(rule, perturbed=False, first_order=first_order)
    optimizer = torch.optim.Adam(meta_learner.parameters(), lr=0.01)
    losses = [outer_step(meta_learner, optimizer, batch, inner_steps=2)[0].item() for _ in range(40)]
    assert losses[-1] < 0.7 * losses[0]


def test_training_draws_nothing_from_the_global_generator(make_meta_learner, make_episodes):
    before = torch.get_rng_state()
    meta_learner = make_meta_learner("norml")
    outer_step(meta_learner, torch.optim.Adam(meta_learner.parameters()), make_episodes(), inner_steps=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_same_seed_trains_to_the_same_bits(make_meta_learner, make_episodes):
    ends = []
    for _ in range(2):
        meta_learner = make_meta_learner("norml")
        optimizer = torch.optim.Adam(meta_learner.parameters())
        for seed in range(3):
            outer_step(meta_learner, optimizer, make_episodes(seed=seed), inner_steps=2)
        ends.append(list(meta_learner.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_cosine_learning_rates_at_exact_points():
    """1/2 (1 + cos(pi t / T)) is 1, 3/4, 1/2, 1/4, 0 at t / T = 0, 1/3, 1/2, 2/3, 1."""
    for step, part in ((0, 1.0), (200, 0.75), (300, 0.5), (400, 0.25), (600, 0.0)):
        found = outer_lr_at(step, outer_lr=0.008, outer_steps=600, schedule="cosine")
        assert found == pytest.approx(0.008 * part, rel=1e-12, abs=1e-18)
    rates = [outer_lr_at(step, outer_lr=0.008, outer_steps=600, schedule="cosine") for step in range(600)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 0


def test_a_constant_learning_rate_is_constant():
    assert {outer_lr_at(s, outer_lr=0.003, outer_steps=10, schedule="constant") for s in range(10)} == {0.003}


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_weights_that_are_tested_untrained_have_an_outer_rate_too(schedule):
    assert outer_lr_at(0, outer_lr=0.003, outer_steps=0, schedule=schedule) == 0.003
