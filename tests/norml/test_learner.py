"""The learner: its explicit backward pass against autograd, batch norm, the loss, and the initial weights."""

import math

import pytest
import torch
from torch.nn import functional

from norml.fast_weights import Materialised
from norml.learner import Learner, cross_entropy
from norml.meta_training import InnerLoop, MetaLearner
from norml.update_rules.gradient_descent import GradientDescent

HIDDEN = [[], [6], [7, 6, 5, 4]]


class Watched:
    """Layer weights that keep the pre-activations they make, so that autograd can be asked for dL/da."""

    def __init__(self, weights):
        self.weights = weights

    def linear(self, h):
        self.a = self.weights.linear(h)
        return self.a

    def pull_back(self, delta):
        return self.weights.pull_back(delta)


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


def deltas_both_ways(learner, x, y):
    """(explicit, by autograd) layer gradients of the mean loss of each episode, with their trace."""
    watched = [Watched(weights) for weights in learner.initial()]
    logits, trace = learner(watched, x)
    losses, delta_out = cross_entropy(logits, y)
    explicit = learner.backward(watched, trace, delta_out)
    loss = losses.mean(dim=1).sum()
    by_autograd = torch.autograd.grad(loss, [layer.a for layer in watched], create_graph=True)
    return explicit, list(by_autograd), trace


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
    for active in trace.active:
        assert 0 < active.mean() < 1  # some ReLUs pass and some do not, or the test would prove less


@pytest.mark.parametrize("hidden_sizes", HIDDEN)
def test_outer_products_of_the_signals_are_the_weight_gradients_of_autograd(hidden_sizes):
    """Eq. 5, and its bias: dL/dW_l = sum_s delta_l[s] h_{l-1}[s]^T, dL/db_l = sum_s delta_l[s]."""
    learner = moved_learner(hidden_sizes)
    x, y = examples()
    explicit, _, trace = deltas_both_ways(learner, x, y)
    loss = cross_entropy(learner(learner.initial(), x)[0], y)[0].mean(dim=1).sum()
    of_weights = torch.autograd.grad(loss, list(learner.weights), retain_graph=True)
    of_biases = torch.autograd.grad(loss, list(learner.biases))
    for delta, h, of_weight, of_bias in zip(explicit, trace.inputs, of_weights, of_biases, strict=True):
        assert_relative(torch.einsum("eso,esi->oi", delta, h), of_weight, 1e-12)
        size = delta.abs().sum(dim=(0, 1)).max()  # a hidden layer's sums are zero but for rounding
        assert (delta.sum(dim=(0, 1)) - of_bias).abs().max() <= 1e-12 * size


@pytest.mark.parametrize("hidden_sizes", HIDDEN)
def test_gradients_of_the_explicit_layer_gradients_are_those_of_autograds_second_order(hidden_sizes):
    learner = moved_learner(hidden_sizes)
    explicit, by_autograd, _ = deltas_both_ways(learner, *examples())
    generator = torch.Generator().manual_seed(5)
    directions = [torch.randn(d.shape, generator=generator, dtype=torch.float64) for d in explicit]
    second = []
    for deltas in (explicit, by_autograd):
        scalar = sum((d * direction).sum() for d, direction in zip(deltas, directions, strict=True))
        second.append(
            torch.autograd.grad(
                scalar, list(learner.parameters()), retain_graph=True, allow_unused=True, materialize_grads=True
            )
        )
    largest = max(g.abs().max() for g in second[1])
    for (name, _), found, expected in zip(learner.named_parameters(), *second, strict=True):
        # A hidden bias is taken out by batch norm, so that its gradient is rounding and has no relative error.
        size = largest if name.startswith("biases") else expected.abs().max()
        assert (found - expected).abs().max() <= 1e-11 * size, name


def test_explicit_layer_gradients_are_exact_where_neurons_and_whole_examples_are_dead():
    learner = moved_learner([6, 5])
    with torch.no_grad():
        learner.shifts[0][2] = -100  # a neuron dead for all examples
        learner.shifts[1].fill_(-1.0)
    explicit, by_autograd, trace = deltas_both_ways(learner, *examples())
    for found, expected in zip(explicit, by_autograd, strict=True):
        assert_relative(found, expected, 1e-12)
    assert not trace.active[0][:, :, 2].any()
    assert not explicit[0][:, :, 2].any()
    assert (trace.active[1].sum(dim=-1) == 0).any()  # an example no neuron of the layer answers to


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
    logits, trace = learner(learner.initial(), x)
    for episode in range(len(x)):
        h = x[episode]
        for layer in range(2):
            a = functional.linear(h, learner.weights[layer], learner.biases[layer])
            scale, shift = learner.scales[layer], learner.shifts[layer]
            h = functional.relu(functional.batch_norm(a, None, None, scale, shift, training=True, eps=1e-3))
            torch.testing.assert_close(trace.inputs[layer + 1][episode], h, rtol=1e-12, atol=1e-12)
        expected = functional.linear(h, learner.weights[2], learner.biases[2])
        torch.testing.assert_close(logits[episode], expected, rtol=1e-12, atol=1e-12)


def test_normalised_pre_activations_have_zero_mean_and_the_variance_epsilon_leaves():
    """v / (v + epsilon) where v is the variance before: statistics hold 1 / sqrt(v + epsilon)."""
    learner = moved_learner([6, 4], batch_norm_epsilon=0.25)
    _, trace = learner(learner.initial(), examples()[0])
    for normalised, (_, inverse_std) in zip(trace.normalised, trace.statistics, strict=True):
        variance = inverse_std.squeeze(1) ** -2 - 0.25
        torch.testing.assert_close(normalised.mean(dim=1), torch.zeros_like(variance), rtol=0, atol=1e-13)
        expected = variance / (variance + 0.25)
        torch.testing.assert_close(normalised.var(dim=1, correction=0), expected, rtol=1e-12, atol=0)


def test_given_statistics_are_used_in_place_of_the_batchs_own():
    learner = moved_learner([6, 4])
    support, _ = examples()
    query, _ = examples(seed=1, n=2)
    statistics = learner(learner.initial(), support)[1].statistics
    logits, trace = learner(learner.initial(), query, statistics)
    assert [len(pair) for pair in trace.statistics] == [2, 2]
    h_support, h = support, query
    for layer in range(2):
        a_support, a = (functional.linear(v, learner.weights[layer], learner.biases[layer]) for v in (h_support, h))
        mean, variance = a_support.mean(dim=1, keepdim=True), a_support.var(dim=1, correction=0, keepdim=True)

        def activation(a, mean=mean, variance=variance, layer=layer):
            return functional.relu(
                (a - mean) / torch.sqrt(variance + 1e-3) * learner.scales[layer] + learner.shifts[layer]
            )

        h_support, h = activation(a_support), activation(a)
    expected = functional.linear(h, learner.weights[2], learner.biases[2])
    torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)


def test_support_statistics_of_the_support_set_are_its_own():
    learner = moved_learner([6, 4])
    x, _ = examples()
    logits, trace = learner(learner.initial(), x)
    assert torch.equal(learner(learner.initial(), x, trace.statistics)[0], logits)


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


def test_all_layers_are_materialised_unless_told_otherwise():
    learner = moved_learner([4])
    assert [type(weights) for weights in learner.initial()] == [Materialised, Materialised]
    assert [type(w).__name__ for w in learner.initial(["factored", "materialised"])] == ["Factored", "Materialised"]
