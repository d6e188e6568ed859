"""Adapted weights in all three forms: the same numbers and, by their adjoints, autograd's gradients; random shapes."""

import itertools

import pytest
import torch

from norml.fast_weights import (
    Factored,
    FactoredInput,
    Inputs,
    Materialised,
    Rated,
    cheaper_form,
    initial_layers,
    layer_forms,
)
from norml.layers import fully_connected

N_SHAPES = 12
ETA = 0.3
MANY_STEPS = 44  # the seed of a case of four steps


def drawn_case(seed, dtype=torch.float64):
    """A layer, some steps' signals, an input and a gradient for every step and the queries, of random sizes.

    Of the outcomes at every step, and the queries': directions, along which gradients are taken.
    """
    generator = torch.Generator().manual_seed(seed)
    e, s, m, n_in, n_out, steps = (int(torch.randint(1, high, (), generator=generator)) for high in (4, 6, 6, 7, 7, 5))

    def leaf(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    def leaves(count, *shape):
        return [leaf(*shape) for _ in range(count)]

    return {
        "weight": leaf(n_out, n_in),
        "bias": leaf(n_out),
        "delta_hats": leaves(steps, e, s, n_out),
        "h_hats": leaves(steps, e, s, n_in),
        "inputs": leaves(steps, e, s, n_in),
        "deltas": leaves(steps, e, s, n_out),
        "query": leaf(e, m, n_in),
        "of_a": [tensor.detach() for tensor in leaves(steps, e, s, n_out)],
        "of_below": [tensor.detach() for tensor in leaves(steps, e, s, n_in)],
        "of_query": leaf(e, m, n_out).detach(),
    }


def with_a_constant_input(case, pattern):
    """A first layer's case: one support set for all steps, which those steps in `pattern` take as h_hat itself."""
    support = case["inputs"][0]
    steps = range(len(case["delta_hats"]))
    h_hats = [support if pattern(u) else case["h_hats"][u] for u in steps]
    return case | {"inputs": [support for _ in steps], "h_hats": h_hats}


def is_scaled(case, t):
    """Whether step t's h_hat is another tensor than the layer's input."""
    return case["h_hats"][t] is not case["inputs"][t]


def formula(case, t):
    """W_t [E, O, I] and b_t [E, 1, O], as a sum of outer products, for autograd."""
    n_episodes = len(case["query"])
    w, b = case["weight"].expand(n_episodes, -1, -1), case["bias"].expand(n_episodes, 1, -1)
    for delta_hat, h_hat in zip(case["delta_hats"][:t], case["h_hats"][:t], strict=True):
        w = w - ETA * torch.einsum("eso,esi->eoi", delta_hat, h_hat)
        b = b - ETA * delta_hat.sum(dim=1, keepdim=True)
    return w, b


def distinct(tensors):
    return list({id(tensor): tensor for tensor in tensors}.values())


def expected_outcome(case, *, pulls):
    """Results of every operation, and the derivatives of their sum along the directions, by autograd."""
    results, scalar = [], 0
    steps = len(case["delta_hats"])
    for t in range(steps):
        w, b = formula(case, t)
        results.append(case["inputs"][t] @ w.mT + b)
        scalar = scalar + (results[-1] * case["of_a"][t]).sum()
        if pulls:
            results.append(case["deltas"][t] @ w)
            scalar = scalar + (results[-1] * case["of_below"][t]).sum()
    w, b = formula(case, steps)
    results.append(case["query"] @ w.mT + b)
    scalar = scalar + (results[-1] * case["of_query"]).sum()
    leaves = [case["weight"], case["bias"], *case["delta_hats"]]
    inner = [*case["h_hats"], *case["inputs"], case["query"], *case["deltas"]]
    unique = distinct([*leaves, *inner])
    found = torch.autograd.grad(scalar, unique, allow_unused=True, materialize_grads=True)
    by_id = {id(leaf): gradient for leaf, gradient in zip(unique, found, strict=True)}
    return [result.detach() for result in results], by_id


def made(form, case, *, reversible=True, query_known=True):
    plain = {name: case[name].detach() for name in ("weight", "bias")}
    if form is not FactoredInput:
        return form(**plain, eta=ETA, reversible=reversible)
    support, query = case["inputs"][0], case["query"] if query_known else None
    rows = support if query is None else torch.cat([support, query], dim=1)
    return form(**plain, eta=ETA, reversible=reversible, inputs=Inputs(rows, support.shape[1], support.shape[1]))


@torch.no_grad()
def outcome(form, case, *, pulls, reverse=True, **settings):
    """The same of one form: forwards, then backwards by its adjoints, in the order of the engine."""
    weights = made(form, case, **settings)
    results, left = [], []
    steps = len(case["delta_hats"])
    for t in range(steps):
        a, of_linear = weights.linear(t, case["inputs"][t], "support")
        results.append(a.clone())
        of_pull = None
        if pulls:
            below, of_pull = weights.pull_back(t, case["deltas"][t])
            results.append(below.clone())
        left.append((of_linear, of_pull))
        weights.step(case["delta_hats"][t], case["h_hats"][t], h_is_scaled=is_scaled(case, t))
    a, of_query = weights.linear(steps, case["query"], "query" if settings.get("query_known", True) else "other")
    results.append(a.clone())
    if not reverse:
        return results, {}
    bars = {}

    def add(leaf, bar):
        assert bar.shape == leaf.shape
        bars[id(leaf)] = bars.get(id(leaf), 0) + bar

    def adjoint_of_linear(t, h, rows, products, a_bar):
        h_bar = weights.linear_adjoint(t, h, rows, products, a_bar.clone(), to_input=pulls)
        if pulls:
            add(h, h_bar)
        else:
            assert h_bar is None

    weights.begin_reverse()
    adjoint_of_linear(steps, case["query"], "query", of_query, case["of_query"])
    for t in reversed(range(steps)):
        delta_hat_bar, h_hat_bar = weights.step_adjoint(t, case["delta_hats"][t], case["h_hats"][t])
        add(case["delta_hats"][t], delta_hat_bar.clone())
        if h_hat_bar is not None:
            add(case["h_hats"][t], h_hat_bar.clone())
        if pulls:
            below_bar = case["of_below"][t].clone()
            add(case["deltas"][t], weights.pull_back_adjoint(t, case["deltas"][t], left[t][1], below_bar))
        adjoint_of_linear(t, case["inputs"][t], "support", left[t][0], case["of_a"][t])
    bars[id(case["weight"])], bars[id(case["bias"])] = weights.initial_gradients()
    return results, bars


def assert_same_outcome(found, expected, leaves, tolerance=1e-12):
    for left, right in zip(found[0], expected[0], strict=True):
        assert left.shape == right.shape
        assert (left - right).abs().max() <= tolerance * (1 + right.abs().max())
    for leaf in leaves:
        left, right = found[1][id(leaf)], expected[1][id(leaf)]
        assert left.shape == right.shape
        assert (left - right).abs().max() <= tolerance * (1 + right.abs().max())


def leaves_of(case):
    return [case[name] for name in ("weight", "bias", "query")] + [
        leaf for name in ("delta_hats", "h_hats", "inputs", "deltas") for leaf in case[name]
    ]


@pytest.mark.parametrize("seed", range(N_SHAPES))
@pytest.mark.parametrize("form", [Materialised, Factored])
def test_every_operation_and_its_adjoint_are_the_formula_and_its_gradient_by_autograd(form, seed):
    case = drawn_case(seed)
    assert_same_outcome(outcome(form, case, pulls=True), expected_outcome(case, pulls=True), leaves_of(case))


PATTERNS = {
    "every step merges": lambda _: True,
    "no step merges": lambda _: False,
    "the first step alone has the very same input": lambda u: u == 0,
    "every second step has the very same input": lambda u: u % 2 == 1,
}


@pytest.mark.parametrize("seed", range(N_SHAPES))
@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_every_form_of_a_first_layer_equals_the_formula_and_its_gradient_by_autograd(pattern, seed):
    """Its input is constant: what derivatives by it come out, by whichever way, the engine has no use for."""
    case = with_a_constant_input(drawn_case(300 + seed), pattern)
    expected = expected_outcome(case, pulls=False)
    support = case["inputs"][0]
    varying = [h_hat for h_hat in case["h_hats"] if h_hat is not support]
    leaves = [case["weight"], case["bias"], *case["delta_hats"], *varying]
    for form in (Materialised, Factored, FactoredInput):
        assert_same_outcome(outcome(form, case, pulls=False), expected, leaves)


@pytest.mark.parametrize("seed", range(N_SHAPES))
def test_in_single_precision_all_forms_agree_to_rounding(seed):
    case = with_a_constant_input(drawn_case(500 + seed, torch.float32), lambda _: seed % 2 == 0)
    leaves = [case["weight"], case["bias"], *case["delta_hats"]]
    expected = outcome(Materialised, case, pulls=False)
    for form in (Factored, FactoredInput):
        found = outcome(form, case, pulls=False)
        assert_same_outcome(found, expected, leaves, tolerance=2e-5)
        assert all(bar.dtype == torch.float32 for bar in found[1].values())
    case = drawn_case(600 + seed, torch.float32)
    expected = outcome(Materialised, case, pulls=True)
    assert_same_outcome(outcome(Factored, case, pulls=True), expected, leaves_of(case), tolerance=2e-5)


@pytest.mark.parametrize("seed", range(N_SHAPES))
def test_weights_that_keep_the_newest_alone_give_the_same_numbers(seed):
    for case, forms, pulls in (
        (drawn_case(700 + seed), (Materialised, Factored), True),
        (with_a_constant_input(drawn_case(700 + seed), lambda u: u == 0), (FactoredInput,), False),
    ):
        for form in forms:
            kept, _ = outcome(form, case, pulls=pulls)
            newest, _ = outcome(form, case, pulls=pulls, reversible=False, reverse=False)
            assert all(torch.equal(a, b) for a, b in zip(kept, newest, strict=True))


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
@pytest.mark.parametrize("seed", range(4))
def test_a_factored_first_layer_answers_queries_whether_it_knew_them_or_not(pattern, seed):
    case = with_a_constant_input(drawn_case(800 + seed), pattern)
    known, _ = outcome(FactoredInput, case, pulls=False)
    unknown, _ = outcome(FactoredInput, case, pulls=False, reverse=False, query_known=False)
    for a, b in zip(known, unknown, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_the_very_same_input_merges_into_one_product_and_others_do_not():
    drawn = drawn_case(MANY_STEPS)
    for pattern, expected in (
        (lambda _: True, 1),
        (lambda _: False, len(drawn["h_hats"])),
        (lambda u: u > 0, len(drawn["h_hats"])),
    ):
        case = with_a_constant_input(drawn, pattern)
        weights = made(FactoredInput, case)
        with torch.no_grad():
            for t, signals in enumerate(zip(case["delta_hats"], case["h_hats"], strict=True)):
                weights.step(*signals, h_is_scaled=is_scaled(case, t))
            product = weights.linear(len(case["h_hats"]), case["query"], "query")[1]
            assert product.shape[2] == expected * case["inputs"][0].shape[1]
    assert len(drawn["h_hats"]) == 4


def test_an_equal_input_in_the_scaled_form_gives_the_same_numbers():
    drawn = drawn_case(MANY_STEPS)
    same = with_a_constant_input(drawn, lambda _: True)
    copies = same | {"h_hats": [same["inputs"][0].detach().clone() for _ in same["h_hats"]]}
    for a, b in zip(
        outcome(FactoredInput, same, pulls=False)[0], outcome(FactoredInput, copies, pulls=False)[0], strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", [Materialised, Factored])
def test_a_step_leaves_the_weights_before_it_as_they_were(form):
    case = drawn_case(MANY_STEPS)
    weights = made(form, case)
    with torch.no_grad():
        answers = []
        for t, (delta_hat, h_hat) in enumerate(zip(case["delta_hats"], case["h_hats"], strict=True)):
            answers.append((weights.linear(t, case["query"], "query")[0], weights.pull_back(t, case["deltas"][0])[0]))
            weights.step(delta_hat, h_hat, h_is_scaled=True)
        for t, (a, below) in enumerate(answers):
            assert torch.equal(weights.linear(t, case["query"], "query")[0], a)
            assert torch.equal(weights.pull_back(t, case["deltas"][0])[0], below)
            assert not torch.equal(weights.linear(t + 1, case["query"], "query")[0], a)


@pytest.mark.parametrize("form", [Materialised, Factored, FactoredInput])
def test_operations_and_adjoints_change_none_of_their_operands(form):
    case = drawn_case(MANY_STEPS)
    if form is FactoredInput:
        case = with_a_constant_input(case, lambda u: u == 1)
    tensors = leaves_of(case)
    before = [tensor.detach().clone() for tensor in tensors]
    outcome(form, case, pulls=form is not FactoredInput)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(tensors, before, strict=True))


@pytest.mark.parametrize("form", [Materialised, Factored])
def test_unadapted_weights_are_the_same_linear_map_for_every_episode(form):
    case = drawn_case(5)
    weights = made(form, case)
    h, delta = case["query"].detach(), case["deltas"][0].detach()
    torch.testing.assert_close(
        weights.linear(0, h, "other")[0], (h @ case["weight"].T + case["bias"]).detach(), rtol=1e-13, atol=1e-13
    )
    torch.testing.assert_close(
        weights.pull_back(0, delta)[0], (delta @ case["weight"]).detach(), rtol=1e-13, atol=1e-13
    )


def test_nothing_is_pulled_back_through_a_factored_first_layer():
    case = with_a_constant_input(drawn_case(MANY_STEPS), lambda _: True)
    weights = made(FactoredInput, case)
    with pytest.raises(NotImplementedError, match="no layer below the first"):
        weights.pull_back(0, case["deltas"][0])
    with pytest.raises(NotImplementedError, match="no layer below the first"):
        weights.pull_back_adjoint(0, case["deltas"][0], [], case["of_below"][0])


def test_gradients_asked_for_before_any_adjoint_are_refused():
    case = drawn_case(MANY_STEPS)
    weights = made(Materialised, case)
    weights.begin_reverse()
    with pytest.raises(RuntimeError, match="no adjoint has been called"):
        weights.initial_gradients()


def test_made_weights_take_the_given_forms_with_the_first_layers_own():
    x = torch.zeros(2, 3, 4)
    parameters = [(torch.zeros(5, 4), torch.zeros(5)), (torch.zeros(6, 5), torch.zeros(6))]

    def types(*forms, rates=None):
        made = initial_layers(forms, parameters, eta=0.1, inputs=lambda: Inputs(x, 3, 3), reversible=True, rates=rates)
        return [type(layer) for layer in made]

    assert types("materialised", "materialised") == [Materialised, Materialised]
    assert types("factored", "materialised") == [FactoredInput, Materialised]
    assert types("factored", "factored") == [FactoredInput, Factored]
    assert types("factored", "factored", rates=[parameters[0], None]) == [Rated, Factored]


def test_layer_forms_are_the_one_asked_for_or_the_cheaper_of_each_layer():
    settings = {"n_support": 20, "n_query": 20, "inner_steps": 5, "scales_inputs": True, "device": torch.device("cpu")}
    sizes = (784, 256, 128, 20)
    for form in ("materialised", "factored"):
        assert layer_forms(fully_connected(sizes), **settings, form=form) == [form] * 3
    expected = [
        cheaper_form(**settings, n_in=n_in, n_out=n_out, is_first=layer == 0)
        for layer, (n_in, n_out) in enumerate(itertools.pairwise(sizes))
    ]
    assert layer_forms(fully_connected(sizes), **settings) == expected
    assert expected[0] == "factored"


@pytest.fixture(params=["cpu", "cuda"])  # the device's name is all that the count asks of it
def device(request):
    return torch.device(request.param)


def form_of(n_in, n_out, *, n_support, inner_steps, device, is_first=False, scales_inputs=False, n_query=None):
    return cheaper_form(
        n_support=n_support,
        n_query=n_support if n_query is None else n_query,
        inner_steps=inner_steps,
        n_in=n_in,
        n_out=n_out,
        is_first=is_first,
        scales_inputs=scales_inputs,
        device=device,
    )


def test_a_wide_first_layer_with_a_small_support_set_is_factored(device):
    for inner_steps, scales_inputs in itertools.product((1, 5), (False, True)):
        settings = {"n_support": 20, "inner_steps": inner_steps, "is_first": True}
        assert form_of(784, 256, **settings, scales_inputs=scales_inputs, device=device) == "factored"


def test_a_narrow_layer_with_a_large_support_set_is_materialised(device):
    for n_in, n_out in ((64, 64), (64, 20), (128, 64)):
        assert form_of(n_in, n_out, n_support=100, inner_steps=5, device=device) == "materialised"


def test_more_support_turns_a_layer_from_factored_to_materialised_once(device):
    forms = [
        form_of(256, 128, n_support=n_support, inner_steps=5, scales_inputs=True, device=device)
        for n_support in range(1, 400)
    ]
    turn = forms.index("materialised")
    assert turn > 0
    assert set(forms[:turn]) == {"factored"}
    assert set(forms[turn:]) == {"materialised"}


def test_more_steps_never_choose_a_dearer_form_of_merged_layers(device):
    """A first layer with unscaled inputs keeps one product however many steps: its cost grows as the other form's.

    With 100 examples a single step costs about the same either way.
    """
    for n_support, always_from in ((20, 1), (100, 2)):
        settings = {"n_support": n_support, "is_first": True, "device": device}
        forms = {form_of(784, 256, inner_steps=t, **settings) for t in range(always_from, 20)}
        assert forms == {"factored"}


def test_a_single_layer_of_640_features_with_five_ways_is_materialised(device):
    """25 support and 75 query examples, ten steps of NORML: 3200 weights are few beside the products."""
    settings = {"n_support": 25, "n_query": 75, "inner_steps": 10, "is_first": True, "scales_inputs": True}
    assert form_of(640, 5, **settings, device=device) == "materialised"
