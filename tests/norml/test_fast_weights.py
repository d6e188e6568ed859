"""Adapted weights in both forms: the same numbers and the same gradients, over random shapes."""

import itertools

import pytest
import torch

from norml.fast_weights import Factored, Materialised, cheaper_form

N_SHAPES = 12


def drawn_case(seed):
    """A layer, three steps' signals, inputs and gradients, of random sizes, all float64 and differentiable."""
    generator = torch.Generator().manual_seed(seed)
    e, s, b, n_in, n_out, steps = (int(torch.randint(1, high, (), generator=generator)) for high in (4, 6, 6, 7, 7, 5))

    def leaf(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    return {
        "weight": leaf(n_out, n_in),
        "bias": leaf(n_out),
        "deltas": [leaf(e, s, n_out) for _ in range(steps)],
        "inputs": [leaf(e, s, n_in) for _ in range(steps)],
        "h": leaf(e, b, n_in),
        "delta": leaf(e, b, n_out),
        "direction_a": leaf(e, b, n_out).detach(),
        "direction_below": leaf(e, b, n_in).detach(),
    }


def outcome(form, case, *, n_steps, same_input=False):
    """linear, pull_back and the gradients of one scalar of both for everything they depend on."""
    weights = form(case["weight"], case["bias"])
    for step in range(n_steps):
        weights = weights.stepped(case["deltas"][step], case["inputs"][0 if same_input else step], 0.3)
    a, below = weights.linear(case["h"]), weights.pull_back(case["delta"])
    scalar = (a * case["direction_a"]).sum() + (below * case["direction_below"]).sum() ** 2
    leaves = [case["weight"], case["bias"], *case["deltas"], *case["inputs"], case["h"], case["delta"]]
    gradients = torch.autograd.grad(scalar, leaves, allow_unused=True, materialize_grads=True)
    return [a.detach(), below.detach(), *gradients]


def assert_same_outcome(one, other):
    for left, right in zip(one, other, strict=True):
        assert left.shape == right.shape
        assert (left - right).abs().max() <= 1e-12 * (1 + right.abs().max())


@pytest.mark.parametrize("seed", range(N_SHAPES))
def test_both_forms_are_initial_weights_minus_eta_times_the_sum_of_outer_products(seed):
    case = drawn_case(seed)
    for episode in range(len(case["h"])):
        w, b = case["weight"].detach().clone(), case["bias"].detach().clone()
        for deltas, inputs in zip(case["deltas"], case["inputs"], strict=True):
            for delta_hat, h_hat in zip(deltas[episode].detach(), inputs[episode].detach(), strict=True):
                w -= 0.3 * torch.outer(delta_hat, h_hat)
                b -= 0.3 * delta_hat
        for form in (Materialised, Factored):
            a, below, *_ = outcome(form, case, n_steps=len(case["deltas"]))
            torch.testing.assert_close(a[episode], case["h"][episode].detach() @ w.T + b, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(below[episode], case["delta"][episode].detach() @ w, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(N_SHAPES))
def test_both_forms_have_the_same_gradients_after_any_number_of_steps(seed):
    case = drawn_case(100 + seed)
    for n_steps in range(len(case["deltas"]) + 1):
        assert_same_outcome(outcome(Factored, case, n_steps=n_steps), outcome(Materialised, case, n_steps=n_steps))


@pytest.mark.parametrize("seed", range(N_SHAPES))
def test_both_forms_agree_when_every_step_has_the_very_same_input(seed):
    case = drawn_case(200 + seed)
    n_steps = len(case["deltas"])
    factored = outcome(Factored, case, n_steps=n_steps, same_input=True)
    assert_same_outcome(factored, outcome(Materialised, case, n_steps=n_steps, same_input=True))


def test_steps_with_the_very_same_input_merge_and_others_do_not():
    case = drawn_case(1)
    same, other = case["inputs"][0], case["inputs"][0].detach().clone()
    weights = Factored(case["weight"], case["bias"])
    lengths = []
    for h_hat in (same, same, other, same, same):
        weights = weights.stepped(case["deltas"][0], h_hat, 0.3)
        lengths.append(len(weights.steps))
    assert lengths == [1, 1, 2, 3, 3]


def test_merged_and_unmerged_steps_give_the_same_numbers():
    case = drawn_case(2)
    sequences = [[0, 0, 1, 0, 0], [0, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    inputs = [case["inputs"][0], torch.flip(case["inputs"][0], dims=(1,))]
    for sequence in sequences:
        factored = Factored(case["weight"], case["bias"])
        materialised = Materialised(case["weight"], case["bias"])
        for place, which in enumerate(sequence):
            delta_hat = case["deltas"][0] * (place + 1)
            factored = factored.stepped(delta_hat, inputs[which], 0.3)
            materialised = materialised.stepped(delta_hat, inputs[which], 0.3)
            torch.testing.assert_close(
                factored.linear(case["h"]), materialised.linear(case["h"]), rtol=1e-12, atol=1e-12
            )


def test_the_factored_form_answers_for_each_input_however_they_alternate():
    """What it remembers of one h must serve neither another h nor another layer, nor a later step wrongly."""
    case = drawn_case(3)
    inputs = [case["h"], case["h"].detach() * 2, case["h"]]
    factored, materialised = Factored(case["weight"], case["bias"]), Materialised(case["weight"], case["bias"])
    neighbour = Factored(case["weight"] + 1, case["bias"])
    for deltas, signals in zip(case["deltas"], case["inputs"], strict=True):
        for h in inputs:
            neighbour.linear(h)
            torch.testing.assert_close(factored.linear(h), materialised.linear(h), rtol=1e-12, atol=1e-12)
        factored, materialised = factored.stepped(deltas, signals, 0.3), materialised.stepped(deltas, signals, 0.3)
    for h in inputs:
        torch.testing.assert_close(factored.linear(h), materialised.linear(h), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", [Materialised, Factored])
def test_a_step_leaves_the_weights_before_it_as_they_were(form):
    case = drawn_case(4)
    before = form(case["weight"], case["bias"])
    a = before.linear(case["h"])
    after = before.stepped(case["deltas"][0], case["inputs"][0], 0.3)
    assert torch.equal(before.linear(case["h"]), a)
    assert not torch.equal(after.linear(case["h"]), a)


@pytest.mark.parametrize("form", [Materialised, Factored])
def test_unadapted_weights_are_the_same_linear_map_for_every_episode(form):
    case = drawn_case(5)
    a = form(case["weight"], case["bias"]).linear(case["h"])
    below = form(case["weight"], case["bias"]).pull_back(case["delta"])
    torch.testing.assert_close(a, case["h"] @ case["weight"].T + case["bias"], rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(below, case["delta"] @ case["weight"], rtol=1e-13, atol=1e-13)


def form_of(n_in, n_out, *, n_support, inner_steps, is_first=False, scales_inputs=False, n_query=None):
    return cheaper_form(
        n_support=n_support,
        n_query=n_support if n_query is None else n_query,
        inner_steps=inner_steps,
        n_in=n_in,
        n_out=n_out,
        is_first=is_first,
        scales_inputs=scales_inputs,
    )


def test_a_wide_first_layer_with_a_small_support_set_is_factored():
    for inner_steps, scales_inputs in itertools.product((1, 5), (False, True)):
        settings = {"n_support": 20, "inner_steps": inner_steps, "is_first": True, "scales_inputs": scales_inputs}
        assert form_of(784, 256, **settings) == "factored"


def test_a_narrow_layer_with_a_large_support_set_is_materialised():
    for n_in, n_out in ((64, 64), (64, 20), (128, 64)):
        assert form_of(n_in, n_out, n_support=100, inner_steps=5) == "materialised"


def test_more_support_turns_a_layer_from_factored_to_materialised_once():
    forms = [form_of(256, 128, n_support=n_support, inner_steps=5, scales_inputs=True) for n_support in range(1, 400)]
    turn = forms.index("materialised")
    assert turn > 0
    assert set(forms[:turn]) == {"factored"}
    assert set(forms[turn:]) == {"materialised"}


def test_what_merges_is_never_held_in_the_dearer_form_because_of_more_steps():
    """A first layer with unscaled inputs keeps one product however many steps: its cost grows as the other form's."""
    assert {form_of(784, 256, n_support=100, inner_steps=t, is_first=True) for t in range(1, 20)} == {"factored"}
