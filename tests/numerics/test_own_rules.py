"""Update rules that a user might write: their meta-gradients against central differences, in every form."""

# ruff: noqa: ARG002 - a rule's signature is given, whichever of it a rule uses

import pytest
import torch
from torch import nn
from torch.nn import functional

from norml.learner import Learner
from norml.meta_training import InnerLoop, MetaLearner, meta_gradient, outer_step
from norml.update_rules import UpdateRule

FORMS = ["materialised", "factored", "auto"]


def parameter(*values):
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


class Momentum(UpdateRule):
    """A velocity a layer, with a learned decay and a learned rate; inputs are handed through."""

    scales_inputs = False

    def __init__(self):
        super().__init__()
        self.decay, self.log_rate = parameter(0.4, 0.3, 0.6), parameter(0.1)

    def scaled(self, layer, delta, h, losses, carried):
        velocity = delta + self.decay[layer] * carried["velocity"] if carried else delta
        return self.log_rate.exp() * velocity, h, {"velocity": velocity}


class LossWeighted(UpdateRule):
    """Examples with a large loss, or with large inputs, count for more."""

    scales_inputs = True

    def __init__(self):
        super().__init__()
        self.by_loss, self.by_size = parameter(0.3), parameter(0.2, -0.1, 0.4)

    def scaled(self, layer, delta, h, losses, carried):
        weight = 1 + torch.tanh(self.by_loss * losses + self.by_size[layer] * h.square().mean(dim=-1))
        return delta * weight.unsqueeze(-1), h * weight.unsqueeze(-1).sqrt(), carried


class ScalesLater(UpdateRule):
    """The first step takes h as it is, the very same object; later steps scale it."""

    scales_inputs = True

    def __init__(self):
        super().__init__()
        self.gain = parameter(0.8)

    def scaled(self, layer, delta, h, losses, carried):
        if "steps" not in carried:
            return delta, h, {"steps": torch.ones((), dtype=delta.dtype)}
        return delta, h * self.gain ** carried["steps"], {"steps": carried["steps"] + 1}


class RemembersTheStart(UpdateRule):
    """The first step's signals, by way of what is carried from the start, weigh on all steps: of all layers."""

    scales_inputs = True

    def __init__(self):
        super().__init__()
        self.pull, self.gain = parameter(0.5), parameter(0.3)

    def initially_carried(self, layer, delta, h):
        return {"first_delta": delta, "size": self.gain * h.abs().mean(dim=-1, keepdim=True)}

    def scaled(self, layer, delta, h, losses, carried):
        return delta + self.pull * carried["first_delta"], h * (1 + carried["size"]), carried


class NamedAsItsInputs(UpdateRule):
    """Its parameters have the names of what it is called with."""

    scales_inputs = True

    def __init__(self):
        super().__init__()
        self.delta, self.h, self.losses = parameter(1.1), parameter(0.9), parameter(0.2)

    def scaled(self, layer, delta, h, losses, carried):
        return self.delta * delta * (1 + self.losses * losses.unsqueeze(-1)), self.h * h, carried


RULES = [Momentum, LossWeighted, ScalesLater, RemembersTheStart, NamedAsItsInputs]


def made(rule, **inner_loop):
    generator = torch.Generator().manual_seed(3)
    learner = Learner(5, [4, 4], 3, initial_weight_std=0.5, generator=generator).double()
    with torch.no_grad():
        for each in learner.parameters():
            each.add_(0.3 * torch.randn(each.shape, generator=generator, dtype=torch.float64))
    return MetaLearner(learner, rule(), InnerLoop(**({"inner_lr": 0.4} | inner_loop)))


@torch.no_grad()
def loss_of(meta_learner, batch, inner_steps):
    return functional.cross_entropy(meta_learner(batch, inner_steps).flatten(0, 1), batch.query_y.flatten()).item()


def difference_quotient(meta_learner, batch, of, direction, *, inner_steps):
    """Fourth-order central difference, as in test_meta_gradient.py."""
    step, start, value = 1e-5, of.detach().clone(), {}
    for multiple in (1, -1, 2, -2):
        of.data.copy_(start + multiple * step * direction)
        value[multiple] = loss_of(meta_learner, batch, inner_steps)
    of.data.copy_(start)
    return (8 * (value[1] - value[-1]) - (value[2] - value[-2])) / (12 * step)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rule", RULES)
def test_meta_gradients_of_a_rule_of_ones_own_are_central_differences(rule, form, make_episodes):
    batch = make_episodes(n_episodes=2)
    meta_learner = made(rule, weight_form=form)
    gradients = meta_gradient(meta_learner, batch, 3)[2]
    generator = torch.Generator().manual_seed(4)
    for name, of in meta_learner.named_parameters():
        direction = torch.randn(of.shape, generator=generator, dtype=torch.float64)
        direction /= direction.norm()
        numeric = difference_quotient(meta_learner, batch, of, direction, inner_steps=3)
        analytic = (gradients[name] * direction).sum().item()
        assert abs(numeric - analytic) <= max(1e-7 * abs(analytic), 1e-9), name
    for name in dict(meta_learner.rule.named_parameters()):
        assert gradients[f"rule.{name}"].abs().max() > 1e-6, name


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_forms_and_recomputation_do_not_change_the_meta_gradient_of_a_rule_of_ones_own(
    rule, first_order, make_episodes
):
    batch = make_episodes()
    expected = meta_gradient(made(rule, weight_form="materialised", first_order=first_order), batch, 3)[2]
    for form in FORMS:
        kept, again = (
            meta_gradient(made(rule, weight_form=form, first_order=first_order, recompute=recompute), batch, 3)[2]
            for recompute in (False, True)
        )
        for name, gradient in expected.items():
            assert torch.equal(kept[name], again[name]), name
            torch.testing.assert_close(kept[name], gradient, rtol=1e-10, atol=1e-13, msg=name)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_of_ones_own_trains(rule, make_episodes):
    batch, meta_learner = make_episodes(n_episodes=4), made(rule)
    before = [each.detach().clone() for each in meta_learner.rule.parameters()]
    optimizer = torch.optim.Adam(meta_learner.parameters(), lr=0.01)
    losses = [outer_step(meta_learner, optimizer, batch, inner_steps=2)[0].item() for _ in range(40)]
    assert losses[-1] < 0.7 * losses[0]
    assert all(not torch.equal(a, b) for a, b in zip(before, meta_learner.rule.parameters(), strict=True))
