"""The learner: its passes and their adjoints against autograd, batch norm, the loss, and the initial weights."""

import math

import pytest
import torch
from torch.nn import functional

from norml.fast_weights import Inputs, initial_layers
from norml.hidden_layer import Gradients
from norml.learner import Learner, cross_entropy, cross_entropy_adjoint
from norml.meta_training import InnerLoop, MetaLearner
from norml.update_rules.gradient_descent import GradientDescent

HIDDEN = [[], [6], [7, 6, 5, 4]]


def initial(learner, x, form="materialised"):
    """The learner's weights before any step, as the engine makes them."""
    parameters = list(zip(learner.weights, learner.biases, strict=True))
    weights = initial_layers(
        [form] * learner.n_layers, parameters, eta=0.1, inputs=lambda: Inputs(x, x.shape[1], 0), reversible=True
    )
    for layer_weights in weights:
        layer_weights.begin_reverse()
    return weights


@torch.no_grad()
def passed_forward(learner, x, n_reference=None):
    return learner(initial(learner, x), 0, x, source="support", n_reference=n_reference)


def written_out(learner, x):
    """Logits and pre-activations a_l of every layer by torch's own batch norm, which autograd goes through."""
    h, pre_activations = x, []
    for layer in range(learner.n_layers):
        a = functional.linear(h, learner.weights[layer], learner.biases[layer])
        pre_activations.append(a)
        if layer == learner.n_layers - 1:
            break
        scale = None if learner.scales is None else learner.scales[layer]
        normalised = (a - a.mean(dim=1, keepdim=True)) * torch.rsqrt(
            a.var(dim=1, correction=0, keepdim=True) + learner.batch_norm_epsilon
        )
        h = functional.relu((normalised if scale is None else normalised * scale) + learner.shifts[layer])
    return a, pre_activations


def moved_learner(hidden_sizes, *, seed=0, **settings):
    """A float64 learner with every parameter away from its start: shifts kill some ReLUs, scales differ in sign."""
    generator = torch.Generator().manual_seed(seed)
    learner = Learner(5, hidden_sizes, 3, initial_weight_std=0.5, generator=generator, **settings).double()
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return learner


def examples(*, seed=0, n_episodes=3, n=6):
    generator = torch.Generator().manual_seed(1000 + seed)
    x = torch.randn(n_episodes, n, 5, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (n_episodes, n), generator=generator)


def deltas_both_ways(learner, x, y, form="materialised"):
    """(explicit, by autograd) layer gradients of the mean loss of each episode, with the explicit passes' traces."""
    weights = initial(learner, x, form)
    with torch.no_grad():
        logits, trace = learner(weights, 0, x, source="support")
        _, delta_out = cross_entropy(logits, y)
        passed = learner.backward(weights, 0, trace, delta_out)
    expected_logits, pre_activations = written_out(learner, x)
    assert_relative(logits, expected_logits.detach(), 1e-12)
    loss = mean_loss(expected_logits, y)
    by_autograd = torch.autograd.grad(loss, pre_activations, create_graph=True)
    return passed.deltas, list(by_autograd), trace


def mean_loss(logits, y):
    """The mean over an episode's examples, summed over episodes."""
    return functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum") / y.shape[1]


def assert_relative(found, expected, tolerance):
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("batch_norm_scale", [True, False])
@pytest.mark.parametrize("hidden_sizes", HIDDEN)
def test_explicit_layer_gradients_are_those_of_autograd(hidden_sizes, batch_norm_scale, seed):
    learner = moved_learner(hidden_sizes, batch_norm_scale=batch_norm_scale, seed=seed)
    explicit, by_autograd, trace = deltas_both_ways(learner, *examples(seed=seed))
    assert len(explicit) == len(hidden_sizes) + 1
    for found, expected in zip(explicit, by_autograd, strict=True):
        assert_relative(found, expected, 1e-12)
    for made in trace.hidden:
        assert 0 < made.active.mean() < 1  # some ReLUs pass and some do not, or the test would prove less


@pytest.mark.parametrize("hidden_sizes", HIDDEN)
def test_outer_products_of_the_signals_are_the_weight_gradients_of_autograd(hidden_sizes):
    """Eq. 5, and its bias: dL/dW_l = sum_s delta_l[s] h_{l-1}[s]^T, dL/db_l = sum_s delta_l[s]."""
    learner = moved_learner(hidden_sizes)
    x, y = examples()
    explicit, _, trace = deltas_both_ways(learner, x, y)
    loss = mean_loss(written_out(learner, x)[0], y)
    of_weights = torch.autograd.grad(loss, list(learner.weights), retain_graph=True)
    of_biases = torch.autograd.grad(loss, list(learner.biases))
    for delta, h, of_weight, of_bias in zip(explicit, trace.inputs, of_weights, of_biases, strict=True):
        assert_relative(torch.einsum("eso,esi->oi", delta, h), of_weight, 1e-12)
        size = delta.abs().sum(dim=(0, 1)).max()  # a hidden layer's sums are zero but for rounding
        assert (delta.sum(dim=(0, 1)) - of_bias).abs().max() <= 1e-12 * size


def drawn_like(tensors, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(tensor.shape, generator=generator, dtype=torch.float64) for tensor in tensors]


@pytest.mark.parametrize("form", ["materialised", "factored"])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("batch_norm_scale", [True, False])
@pytest.mark.parametrize("hidden_sizes", HIDDEN)
def test_the_adjoints_of_both_passes_together_are_autograds_second_order(hidden_sizes, batch_norm_scale, seed, form):
    """Of a scalar of everything that the passes give: deltas, layer inputs, losses and logits."""
    learner = moved_learner(hidden_sizes, batch_norm_scale=batch_norm_scale, seed=seed)
    x, y = examples(seed=seed)
    logits, pre_activations = written_out(learner, x)
    by_autograd = torch.autograd.grad(mean_loss(logits, y), pre_activations, create_graph=True)
    losses = functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view(y.shape)
    of_deltas, (of_losses, of_logits) = drawn_like(by_autograd, seed), drawn_like([losses, logits], 50 + seed)
    scalar = sum((d * direction).sum() for d, direction in zip(by_autograd, of_deltas, strict=True))
    scalar = scalar + (losses * of_losses).sum() + (logits * of_logits).sum()
    names, parameters = zip(*learner.named_parameters(), strict=True)
    expected = torch.autograd.grad(scalar, parameters, allow_unused=True, materialize_grads=True)

    weights = initial(learner, x, form)
    gradients = [Gradients() for _ in hidden_sizes]
    with torch.no_grad():
        made_logits, trace = learner(weights, 0, x, source="support")
        _, delta_out = cross_entropy(made_logits, y)
        passed = learner.backward(weights, 0, trace, delta_out)
        delta_out_bar, bars = learner.backward_adjoint(
            weights, 0, trace, passed, delta_bars=list(of_deltas), gradients=gradients
        )
        logits_bar = of_logits + cross_entropy_adjoint(made_logits, delta_out, delta_out_bar, of_losses)
        learner.forward_adjoint(weights, 0, trace, logits_bar, gradients, of_backward=(passed, bars))
        found = {}
        for layer, layer_weights in enumerate(weights):
            found[f"weights.{layer}"], found[f"biases.{layer}"] = layer_weights.initial_gradients()
        for layer, sums in enumerate(gradients):
            found[f"shifts.{layer}"] = sums.shift.sum(dim=(0, 1))
            found[f"scales.{layer}"] = sums.scale.sum(dim=(0, 1))
    largest = max(g.abs().max() for g in expected)
    for name, reference in zip(names, expected, strict=True):
        # A hidden bias is taken out by batch norm, so that its gradient is rounding and has no relative error.
        hidden_bias = name.startswith("biases") and name != f"biases.{len(hidden_sizes)}"
        size = largest if hidden_bias else reference.abs().max()
        assert (found[name] - reference).abs().max() <= 1e-11 * size, name


@pytest.mark.parametrize("n_reference", [None, 2, 6])
@pytest.mark.parametrize("batch_norm_scale", [True, False])
@pytest.mark.parametrize("hidden_sizes", HIDDEN)
def test_the_adjoint_of_a_query_pass_equals_autograd_for_each_choice_of_statistics(
    hidden_sizes, batch_norm_scale, n_reference
):
    learner = moved_learner(hidden_sizes, batch_norm_scale=batch_norm_scale)
    x, _ = examples(n=6)
    h = x
    for layer in range(learner.n_layers):
        a = functional.linear(h, learner.weights[layer], learner.biases[layer])
        if layer < learner.n_layers - 1:
            seen = a[:, :n_reference]
            mean, variance = seen.mean(dim=1, keepdim=True), seen.var(dim=1, correction=0, keepdim=True)
            h = (a - mean) / torch.sqrt(variance + 1e-3) * (learner.scales[layer] if batch_norm_scale else 1)
            h = functional.relu(h + learner.shifts[layer])
    direction = drawn_like([a], 8)[0]
    names, parameters = zip(*learner.named_parameters(), strict=True)
    expected = torch.autograd.grad(a, parameters, direction)
    weights, gradients = initial(learner, x), [Gradients() for _ in hidden_sizes]
    with torch.no_grad():
        logits, trace = learner(weights, 0, x, source="support", n_reference=n_reference)
        assert_relative(logits, a.detach(), 1e-12)
        learner.forward_adjoint(weights, 0, trace, direction, gradients, n_reference=n_reference)
    found = {}
    for layer, layer_weights in enumerate(weights):
        found[f"weights.{layer}"], found[f"biases.{layer}"] = layer_weights.initial_gradients()
    for layer, sums in enumerate(gradients):
        found[f"shifts.{layer}"], found[f"scales.{layer}"] = sums.shift.sum(dim=(0, 1)), sums.scale.sum(dim=(0, 1))
    largest = max(g.abs().max() for g in expected)
    for name, reference in zip(names, expected, strict=True):
        hidden_bias = name.startswith("biases") and name != f"biases.{len(hidden_sizes)}"
        assert (found[name] - reference).abs().max() <= 1e-11 * (largest if hidden_bias else reference.abs().max()), (
            name
        )


@pytest.mark.parametrize("with_losses", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_the_adjoint_of_the_cross_entropy_is_autograds(seed, with_losses):
    generator = torch.Generator().manual_seed(seed)
    e, b, n_way = (int(torch.randint(1, high, (), generator=generator)) for high in (4, 7, 6))
    logits = (3 * torch.randn(e, b, n_way, generator=generator, dtype=torch.float64)).requires_grad_()
    labels = torch.randint(n_way, (e, b), generator=generator)
    losses, delta_out = cross_entropy(logits, labels)
    delta_out_bar, losses_bar = drawn_like([delta_out, losses], 100 + seed)
    scalar = (delta_out * delta_out_bar).sum()
    if with_losses:
        scalar = scalar + (losses * losses_bar).sum()
    expected = torch.autograd.grad(scalar, logits)[0]
    operands = (logits.detach(), delta_out.detach(), delta_out_bar, losses_bar if with_losses else None)
    before = [None if operand is None else operand.clone() for operand in operands]
    found = cross_entropy_adjoint(*operands)
    assert (found - expected).abs().max() <= 1e-12 * (1 + expected.abs().max())
    for operand, copy in zip(operands, before, strict=True):
        assert operand is None if copy is None else torch.equal(operand, copy)


def test_the_cross_entropys_delta_is_the_gradient_of_its_mean_loss_by_autograd():
    logits = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    labels = torch.randint(3, (2, 5), generator=torch.Generator().manual_seed(1))
    losses, delta_out = cross_entropy(logits, labels)
    expected = torch.autograd.grad(losses.mean(dim=1).sum(), logits)[0]
    torch.testing.assert_close(delta_out.detach(), expected, rtol=1e-13, atol=1e-16)


def test_layer_gradients_are_exact_with_dead_neurons_and_dead_examples():
    learner = moved_learner([6, 5])
    with torch.no_grad():
        learner.shifts[0][2] = -100  # a neuron dead for all examples
        learner.shifts[1].fill_(-1.0)
    explicit, by_autograd, trace = deltas_both_ways(learner, *examples())
    for found, expected in zip(explicit, by_autograd, strict=True):
        assert_relative(found, expected, 1e-12)
    assert not trace.hidden[0].active[:, :, 2].any()
    assert not explicit[0][:, :, 2].any()
    assert (trace.hidden[1].active.sum(dim=-1) == 0).any()  # an example no neuron of the layer answers to


def test_all_dead_layers_give_zero_gradients_below():
    learner = moved_learner([6, 5])
    with torch.no_grad():
        learner.shifts[1].fill_(-100.0)
    explicit, by_autograd, _ = deltas_both_ways(learner, *examples())
    assert_relative(explicit[2], by_autograd[2], 1e-12)
    for layer in (0, 1):
        assert not explicit[layer].any()
        assert not by_autograd[layer].any()


def test_cross_entropy_of_known_probabilities():
    """softmax of (ln 1, ln 2, ln 5) is (1, 2, 5) / 8; with B = 2, delta = (softmax - one-hot) / 2."""
    logits = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64).log().expand(1, 2, 3)
    losses, delta = cross_entropy(logits, torch.tensor([[0, 2]]))
    assert losses.tolist() == [[pytest.approx(math.log(8), rel=1e-15), pytest.approx(math.log(8 / 5), rel=1e-15)]]
    expected = torch.tensor([[[1 - 8, 2, 5], [1, 2, 5 - 8]]], dtype=torch.float64) / 16
    torch.testing.assert_close(delta, expected, rtol=1e-15, atol=1e-16)


def test_cross_entropy_stays_finite_for_huge_logits():
    logits = torch.tensor([[[1e4, -1e4, 0.0]]], dtype=torch.float64)
    losses, delta = cross_entropy(logits, torch.tensor([[1]]))
    assert losses.item() == 2e4
    assert delta.flatten().tolist() == [1.0, -1.0, 0.0]


def test_forward_is_the_formula_with_batch_norm_over_one_episodes_examples():
    learner = moved_learner([6, 4])
    x, _ = examples()
    logits, trace = passed_forward(learner, x)
    for episode in range(len(x)):
        h = x[episode]
        for layer in range(2):
            a = functional.linear(h, learner.weights[layer], learner.biases[layer])
            scale, shift = learner.scales[layer], learner.shifts[layer]
            h = functional.relu(functional.batch_norm(a, None, None, scale, shift, training=True, eps=1e-3))
            torch.testing.assert_close(trace.inputs[layer + 1][episode], h, rtol=1e-12, atol=1e-12)
        expected = functional.linear(h, learner.weights[2], learner.biases[2])
        torch.testing.assert_close(logits[episode], expected, rtol=1e-12, atol=1e-12)


def test_normalised_pre_activations_have_zero_mean_and_unit_variance_up_to_epsilon():
    """v / (v + epsilon) where v is the variance before: inverse_std is 1 / sqrt(v + epsilon)."""
    learner = moved_learner([6, 4], batch_norm_epsilon=0.25)
    _, trace = passed_forward(learner, examples()[0])
    for made in trace.hidden:
        normalised, variance = made.normalised, made.inverse_std.squeeze(1) ** -2 - 0.25
        torch.testing.assert_close(normalised.mean(dim=1), torch.zeros_like(variance), rtol=0, atol=1e-13)
        expected = variance / (variance + 0.25)
        torch.testing.assert_close(normalised.var(dim=1, correction=0), expected, rtol=1e-12, atol=0)


def test_the_first_rows_make_the_statistics_in_place_of_the_whole_batch():
    learner = moved_learner([6, 4])
    support, _ = examples()
    query, _ = examples(seed=1, n=2)
    logits, _ = passed_forward(learner, torch.cat([support, query], dim=1), n_reference=support.shape[1])
    h_support, h = support, query
    for layer in range(2):
        a_support, a = (functional.linear(v, learner.weights[layer], learner.biases[layer]) for v in (h_support, h))
        mean, variance = a_support.mean(dim=1, keepdim=True), a_support.var(dim=1, correction=0, keepdim=True)

        def activation(a, mean=mean, variance=variance, layer=layer):
            return functional.relu(
                (a - mean) / torch.sqrt(variance + 1e-3) * learner.scales[layer] + learner.shifts[layer]
            )

        h_support, h = activation(a_support), activation(a)
    for found, seen in ((logits[:, 6:], h), (logits[:, :6], h_support)):
        expected = functional.linear(seen, learner.weights[2], learner.biases[2]).detach()
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_statistics_of_all_rows_are_the_batchs_own():
    learner = moved_learner([6, 4])
    x, _ = examples()
    assert torch.equal(passed_forward(learner, x, n_reference=x.shape[1])[0], passed_forward(learner, x)[0])


def test_rows_that_make_no_statistics_change_none_of_the_others():
    learner = moved_learner([6, 4])
    x, _ = examples()
    changed = x.clone()
    changed[:, 4:] *= -3
    torch.testing.assert_close(
        passed_forward(learner, changed, n_reference=4)[0][:, :4],
        passed_forward(learner, x, n_reference=4)[0][:, :4],
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize(("std", "n_in"), [(0.01, 784), (0.5, 300), ("he", 784), ("he", 50)])
def test_initial_weights_are_normal_cut_at_two_standard_deviations(std, n_in):
    """A normal cut at 2 sigma has variance 1 - 2 * 2 phi(2) / (2 Phi(2) - 1) = 0.7737 sigma^2, so 0.8796 sigma."""
    generator = torch.Generator().manual_seed(0)
    weight = Learner(n_in, [2000], 2, initial_weight_std=std, generator=generator).weights[0].detach().double()
    sigma = math.sqrt(2 / n_in) if std == "he" else std
    assert weight.abs().max() <= 2 * sigma * (1 + 1e-6)
    assert weight.abs().max() > 1.99 * sigma
    assert weight.std().item() == pytest.approx(0.8796 * sigma, rel=0.01)
    assert abs(weight.mean().item()) < 0.01 * sigma


def test_other_parameters_start_at_zero_and_scales_at_one():
    learner = Learner(5, [4, 3], 2, generator=torch.Generator().manual_seed(0))
    assert not any(bias.any() for bias in learner.biases)
    assert not any(shift.any() for shift in learner.shifts)
    assert all((scale == 1).all() for scale in learner.scales)
    assert Learner(5, [4, 3], 2, batch_norm_scale=False, generator=torch.Generator().manual_seed(0)).scales is None


def test_initial_weights_come_from_the_generator_alone():
    before = torch.get_rng_state()
    first, again = (Learner(5, [4], 2, generator=torch.Generator().manual_seed(9)) for _ in range(2))
    other = Learner(5, [4], 2, generator=torch.Generator().manual_seed(10))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.weights, again.weights, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first.weights, other.weights, strict=True))


def test_the_ablations_learner_has_247572_weights_and_biases():
    """784*256+256 + 256*128+128 + 128*64+64 + 64*64+64 + 64*20+20 = 200960 + 32896 + 8256 + 4160 + 1300."""
    learner = Learner(784, [256, 128, 64, 64], 20, generator=torch.Generator().manual_seed(0))
    meta_learner = MetaLearner(learner, GradientDescent(5), InnerLoop(inner_lr=0.1))
    assert meta_learner.parameter_counts() == {"learner": 247_572, "meta_learner": 0}
    assert learner.n_layers == 5
    norm = 2 * (256 + 128 + 64 + 64)
    assert sum(p.numel() for p in learner.parameters()) == 247_572 + norm
