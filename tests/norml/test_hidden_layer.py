"""Batch norm and ReLU: both passes against the formula, their adjoints against autograd's second order."""

import pytest
import torch

from norml import hidden_layer
from norml.hidden_layer import Gradients

SEEDS = range(12)
EPSILON = 1e-3


def drawn_case(seed):
    """Pre-activations, a scale and shift an episode, a gradient from above, and directions; of random sizes."""
    generator = torch.Generator().manual_seed(seed)
    e, b, width = (int(torch.randint(low, high, (), generator=generator)) for low, high in ((1, 4), (2, 8), (1, 7)))

    def leaf(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    case = {"a": leaf(e, b, width), "scale": leaf(e, 1, width), "shift": leaf(e, 1, width), "above": leaf(e, b, width)}
    directions = [leaf(e, b, width).detach() for _ in range(2)]
    return case, directions, int(torch.randint(1, b + 1, (), generator=generator))


def formula(a, scale, shift, n_reference=None):
    seen = a[:, :n_reference]
    mean, variance = seen.mean(dim=1, keepdim=True), seen.var(dim=1, correction=0, keepdim=True)
    return torch.relu((a - mean) / torch.sqrt(variance + EPSILON) * scale + shift)


def delta_of(h, case):
    return torch.autograd.grad(h, case["a"], case["above"], create_graph=True)[0]


def detached(case):
    return {name: tensor.detach() for name, tensor in case.items()}


def assert_close(found, expected):
    assert (found - expected).abs().max() <= 1e-12 * (1 + expected.abs().max())


@pytest.mark.parametrize("seed", SEEDS)
def test_forward_and_backward_are_the_formula_and_its_gradient_by_autograd(seed):
    case, _, n_reference = drawn_case(seed)
    plain = detached(case)
    for rows in (None, n_reference):
        made = hidden_layer.forward(plain["a"], plain["scale"], plain["shift"], epsilon=EPSILON, n_reference=rows)
        assert_close(made.h, formula(plain["a"], plain["scale"], plain["shift"], rows))
        assert torch.equal(made.active, (made.h > 0).double())
    made = hidden_layer.forward(plain["a"], plain["scale"], plain["shift"], epsilon=EPSILON)
    passed = hidden_layer.backward(plain["above"], made, plain["scale"])
    assert_close(passed.delta, delta_of(formula(case["a"], case["scale"], case["shift"]), case))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_adjoint_of_a_forward_pass_equals_autograd_for_each_choice_of_statistics(seed):
    case, (direction, _), n_reference = drawn_case(100 + seed)
    plain = detached(case)
    for rows in (None, n_reference):
        h = formula(case["a"], case["scale"], case["shift"], rows)
        expected = torch.autograd.grad(h, [case["a"], case["scale"], case["shift"]], direction)
        made = hidden_layer.forward(plain["a"], plain["scale"], plain["shift"], epsilon=EPSILON, n_reference=rows)
        gradients = Gradients()
        a_bar = hidden_layer.forward_adjoint(direction, made, plain["scale"], gradients, n_reference=rows)
        for found, reference in zip((a_bar, gradients.scale, gradients.shift), expected, strict=True):
            assert_close(found, reference)


@pytest.mark.parametrize("uses", [1, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_adjoints_of_both_passes_equal_autograds_second_order_and_add_up(seed, uses):
    case, (of_h, of_delta), _ = drawn_case(200 + seed)
    h = formula(case["a"], case["scale"], case["shift"])
    scalar = (h * of_h).sum() + (delta_of(h, case) * of_delta).sum()
    leaves = [case[name] for name in ("a", "above", "scale", "shift")]
    expected = torch.autograd.grad(scalar, leaves)
    plain = detached(case)
    made = hidden_layer.forward(plain["a"], plain["scale"], plain["shift"], epsilon=EPSILON)
    passed = hidden_layer.backward(plain["above"], made, plain["scale"])
    gradients = Gradients()
    for _ in range(uses):
        above_bar, bar = hidden_layer.backward_adjoint(of_delta, made, passed, plain["scale"], gradients)
        a_bar = hidden_layer.forward_adjoint(of_h, made, plain["scale"], gradients, of_backward=(passed, bar))
    found = (a_bar, above_bar, gradients.scale / uses, gradients.shift / uses)
    for one, reference in zip(found, expected, strict=True):
        assert_close(one, reference)


def test_the_adjoints_change_none_of_their_operands():
    case, (of_h, of_delta), _ = drawn_case(1)
    plain = detached(case)
    made = hidden_layer.forward(plain["a"], plain["scale"], plain["shift"], epsilon=EPSILON)
    passed = hidden_layer.backward(plain["above"], made, plain["scale"])
    operands = [*plain.values(), *vars(made).values(), *vars(passed).values(), of_h, of_delta]
    before = [tensor.clone() for tensor in operands]
    gradients = Gradients()
    _, bar = hidden_layer.backward_adjoint(of_delta, made, passed, plain["scale"], gradients)
    hidden_layer.forward_adjoint(of_h, made, plain["scale"], gradients, of_backward=(passed, bar))
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(operands, before, strict=True))


def test_a_dead_neuron_passes_nothing_either_way():
    case, (of_h, of_delta), _ = drawn_case(2)
    plain = detached(case)
    plain["shift"] = torch.full_like(plain["shift"], -100.0)
    made = hidden_layer.forward(plain["a"], plain["scale"], plain["shift"], epsilon=EPSILON)
    passed = hidden_layer.backward(plain["above"], made, plain["scale"])
    gradients = Gradients()
    above_bar, bar = hidden_layer.backward_adjoint(of_delta, made, passed, plain["scale"], gradients)
    a_bar = hidden_layer.forward_adjoint(of_h, made, plain["scale"], gradients, of_backward=(passed, bar))
    for tensor in (made.h, passed.delta, above_bar, a_bar, gradients.scale, gradients.shift):
        assert not tensor.any()
