"""Convolutional learners: every proof that the fully connected ones have, on images of a few pixels.

The hand-made episode: images of 2 x 2 pixels, one convolution with a 2 x 2 window, no padding, to one channel, and a
layer to two classes. Support: x_1 with one pixel set, labelled 0, and x_2 with another, labelled 1. With weights w_1 >
w_2 at those pixels, zero bias, shift 0 and epsilon 0 batch norm makes of the channel's two values +1 and -1, and ReLU
h = (1, 0). The second layer starts at zero, so p = 1/2, delta_out = (p - one-hot) / 2 = (-1/4, 1/4) for x_1 and
(1/4, -1/4) for x_2. Nothing is pulled back through zero weights, so the convolution stays; the layer above becomes

    W = -eta * delta_out[x_1] h_1 = eta * (1/4, -1/4)        b = -eta * (0, 0) = 0

and a query set that is the support set again has logits (eta/4, -eta/4) for x_1 and (0, 0) for x_2. Its mean loss is
[ln(1 + exp(-eta/2)) + ln 2] / 2, and with eta = 2 ln 3 it is [ln(4/3) + ln 2] / 2 = ln(8/3) / 2.
"""

import math

import pytest
import torch
from torch.nn import functional

from norml.episodes import EpisodeBatch
from norml.inspection import frozen, meta_gradient_norms
from norml.layers import Convolutions
from norml.meta_training import meta_gradient
from tests.helpers.reference import (
    CHANNEL_SUMMARIES,
    METHODS,
    RULES,
    Images,
    Settings,
    example_losses,
    forward,
    loss_and_meta_gradient,
    weights_of_each_step,
)

STRIDED = {"image_size": 4}
POOLED = {"image_size": 4, "in_channels": 2, "kernel": 2, "stride": 1, "max_pool": True, "end": "flatten"}
NETS = {"strided": (STRIDED, (16, 2, 3, 3)), "pooled": (POOLED, (32, 2, 3, 3))}
ALL_RULES = RULES | CHANNEL_SUMMARIES
STEPS = 2


@pytest.fixture
def make(make_meta_learner, make_episodes):
    """A meta-learner with a convolutional learner, and episodes of its images."""

    def made(rule, net="strided", *, seed=0, n_episodes=2, **settings):
        convolutions, sizes = NETS[net]
        meta_learner = make_meta_learner(rule, sizes=sizes, convolutions=Convolutions(**convolutions), **settings)
        return meta_learner, make_episodes(seed=seed, n_episodes=n_episodes, n_features=sizes[0])

    return made


def settings_of(rule, net, inner_steps=STEPS, **options):
    images = Images(**NETS[net][0])
    return Settings(inner_lr=0.4, inner_steps=inner_steps, rule=ALL_RULES[rule], images=images, **options)


def assert_is_the_references(meta_learner, batch, inner_steps, expected):
    expected_loss, expected_gradient = expected
    loss, _, gradient = meta_gradient(meta_learner, batch, inner_steps)
    assert abs(loss - expected_loss) <= 1e-12 * expected_loss
    largest = max(reference.abs().max() for reference in expected_gradient.values())
    for name, reference in expected_gradient.items():
        found = gradient.get(name, torch.zeros_like(reference))
        if name in {f"{of}.{layer}" for of in ("learner.biases", "rule.bias_rates") for layer in range(2)}:
            assert found.abs().max() <= 1e-12 * largest, name  # batch norm takes a hidden layer's bias out again
        else:
            assert (found - reference).abs().max() <= 1e-10 * reference.abs().max(), name


@pytest.mark.parametrize(
    ("rule", "net"),
    [(rule, net) for rule in ALL_RULES for net in NETS if net == "pooled" or rule in METHODS | CHANNEL_SUMMARIES],
)
def test_loss_and_meta_gradient_of_every_rule_are_the_references(rule, net, make):
    meta_learner, batch = make(rule, net)
    expected = loss_and_meta_gradient(dict(meta_learner.named_parameters()), settings_of(rule, net), batch)
    for form in ("materialised", "factored", "auto"):
        assert_is_the_references(make(rule, net, weight_form=form)[0], batch, STEPS, expected)


@pytest.mark.parametrize("options", [{"first_order": True}, {"query_statistics": "support"}], ids=str)
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("rule", ["maml-layerwise-lr", "meta-sgd", "norml"])
def test_first_order_and_support_statistics_are_the_references(rule, net, options, make):
    meta_learner, batch = make(rule, net, **options)
    expected = loss_and_meta_gradient(dict(meta_learner.named_parameters()), settings_of(rule, net, **options), batch)
    assert_is_the_references(meta_learner, batch, STEPS, expected)


@pytest.mark.parametrize("still", [{0, 1}, {2}], ids=["head", "body"])
@pytest.mark.parametrize("rule", ["maml-constant-lr", "meta-curvature", "static-gates", "norml"])
def test_layers_that_stay_still_are_the_references(rule, still, make):
    meta_learner, batch = make(rule, "pooled")
    settings = settings_of(rule, "pooled", still=frozenset(still))
    loss, _ = loss_and_meta_gradient(dict(meta_learner.named_parameters()), settings, batch)
    found = meta_gradient(frozen(meta_learner, still), batch, STEPS)[0]
    torch.testing.assert_close(found.item(), float(loss), rtol=1e-12, atol=0)


@pytest.mark.parametrize("rule", ["maml-per-step-lr", "norml"])
def test_norms_of_the_meta_gradient_by_step_are_autograds(rule, make):
    meta_learner, batch = make(rule, "pooled", n_episodes=1)
    p, settings = dict(meta_learner.named_parameters()), settings_of(rule, "pooled")
    every = weights_of_each_step(p, settings, batch.support_x[0], batch.support_y[0])
    logits = forward(p, every[-1], batch.query_x[0], images=settings.images)[0][-1]
    loss = example_losses(logits, batch.query_y[0]).mean()
    gradients = torch.autograd.grad(loss, [tensor for weights in every for pair in weights for tensor in pair])
    squares = torch.stack([gradient.square().sum() for gradient in gradients])
    expected = squares.view(STEPS + 1, -1, 2).sum(-1).sqrt()
    found = meta_gradient_norms(meta_learner, batch, STEPS)[0]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def test_what_does_not_go_with_convolutions_is_told(make):
    meta_learner, batch = make("norml", support_order="one-by-one")
    with pytest.raises(ValueError, match=r"^support_order 'one-by-one' needs a learner without hidden layers"):
        meta_learner(batch, STEPS)
    meta_learner, _ = make("norml")
    with pytest.raises(ValueError, match=r"with D = 16, the learner's, got \[2, 6, 9\]$"):
        meta_learner.adapt(batch.support_x[..., :9], batch.support_y, STEPS)


@pytest.mark.parametrize("net", NETS)
def test_explicit_layer_gradients_are_those_of_autograd(net, make):
    """In float64 to 1e-12: delta of every layer, of the learner as it starts."""
    meta_learner, batch = make("maml-constant-lr", net, n_episodes=1)
    p, learner = dict(meta_learner.named_parameters()), meta_learner.learner
    weights = [(p[f"learner.weights.{layer}"], p[f"learner.biases.{layer}"]) for layer in range(3)]
    pre_activations, _, _ = forward(p, weights, batch.support_x[0], images=Images(**NETS[net][0]))
    loss = functional.cross_entropy(pre_activations[-1], batch.support_y[0])
    expected = torch.autograd.grad(loss, pre_activations)
    adaptation = meta_learner.adapt(batch.support_x, batch.support_y, 0)
    with torch.no_grad():
        deltas = adaptation._step(0, reversible=False).backward.deltas
    for found, reference, layer in zip(deltas, expected, learner.layers, strict=True):
        rows = reference if reference.dim() == 2 else reference.permute(0, 2, 3, 1).reshape(-1, layer.nodes_out)
        assert (found[0] - rows).abs().max() <= 1e-12 * rows.abs().max()


@pytest.mark.parametrize("rule", RULES)
def test_a_1x1_net_on_one_pixel_is_the_fully_connected_one(rule, make_meta_learner, make_episodes):
    """A pixel's channels are features, and a 1 x 1 window joins all of them: NORML summarised by the mean alone."""
    one_pixel = Convolutions(1, in_channels=5, kernel=1, stride=1)
    batch, plain = make_episodes(n_episodes=2), make_meta_learner(rule)
    norml = hasattr(plain.rule, "channel_summary")
    convolutional = make_meta_learner(rule, convolutions=one_pixel, **({"channel_summary": "mean"} if norml else {}))
    convolutional.load_state_dict(plain.state_dict(), strict=False)  # but for n_features
    (loss, _, gradients), (expected_loss, _, expected) = (
        meta_gradient(meta_learner, batch, 3) for meta_learner in (convolutional, plain)
    )
    torch.testing.assert_close(loss, expected_loss, rtol=1e-13, atol=0)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-10, atol=1e-13, msg=name)


@pytest.mark.parametrize("rule", ["maml-constant-lr", "meta-sgd", "norml"])
def test_hand_derived_loss_of_a_2x2_convolution(rule, make_meta_learner):
    x = torch.tensor([[[1, 0, 0, 0], [0, 0, 0, 1]] * 2], dtype=torch.float64)
    batch = EpisodeBatch(x, torch.tensor([[0, 1, 0, 1]]), 2)
    window = Convolutions(2, kernel=2, stride=1, padding="none")
    settings = {"sizes": (4, 1, 2), "n_support": 2, "perturbed": False, "inner_lr": 2 * math.log(3)}
    meta_learner = make_meta_learner(rule, convolutions=window, **settings)
    meta_learner.learner.batch_norm_epsilon = 0.0
    with torch.no_grad():
        meta_learner.learner.weights[0].copy_(torch.tensor([[0.3, 5, -7, -0.4]]))
        meta_learner.learner.weights[1].zero_()
    loss = meta_gradient(meta_learner, batch, 1)[0]
    torch.testing.assert_close(loss.item(), math.log(8 / 3) / 2, rtol=1e-13, atol=0)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("rule", ["norml", "norml-zero-hidden-zero-cell", "norml-channel-size"])
def test_norml_with_gates_fixed_open_is_maml_to_the_bit(rule, net, make):
    maml, batch = make("maml-constant-lr", net, weight_form="materialised")
    norml, _ = make(rule, net, weight_form="materialised")
    norml.learner.load_state_dict(maml.learner.state_dict())
    with torch.no_grad():
        for cell in norml.rule.cells:
            cell.gate_weight.zero_()
            cell.gate_bias.zero_()
    found, expected = (meta_gradient(meta_learner, batch, 3) for meta_learner in (norml, maml))
    assert torch.equal(found[0], expected[0])
    for name, gradient in expected[2].items():
        torch.testing.assert_close(found[2][name], gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("rule", ["maml-layerwise-lr", "meta-sgd", "norml", "norml-channel-size"])
def test_an_episodes_result_does_not_depend_on_other_episodes(rule, net, make):
    meta_learner, batch = make(rule, net, n_episodes=3)
    expected = meta_learner(batch, STEPS)
    for chosen in ([0], [2, 1], [1, 1, 0, 2]):
        logits = meta_learner(EpisodeBatch(batch.x[chosen], batch.y[chosen], batch.n_support), STEPS)
        torch.testing.assert_close(logits, expected[chosen], rtol=0, atol=1e-12)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("rule", ["maml-layerwise-lr", "meta-sgd", "norml"])
@pytest.mark.parametrize("form", ["materialised", "factored"])
def test_recomputing_changes_no_bit(form, rule, net, make):
    kept, again = (
        meta_gradient(*make(rule, net, weight_form=form, recompute=recompute), 3) for recompute in (False, True)
    )
    assert torch.equal(again[0], kept[0])
    assert list(again[2]) == list(kept[2])
    assert all(torch.equal(again[2][name], gradient) for name, gradient in kept[2].items())


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("rule", ["maml-layerwise-lr", "norml"])
def test_autograd_through_the_query_logits_finds_the_same_meta_gradient(rule, net, make):
    meta_learner, batch = make(rule, net)
    logits = meta_learner(batch, STEPS)
    functional.cross_entropy(logits.flatten(0, 1), batch.query_y.flatten()).backward()
    for name, gradient in meta_gradient(meta_learner, batch, STEPS)[2].items():
        found = meta_learner.get_parameter(name).grad
        torch.testing.assert_close(found, gradient, rtol=1e-10, atol=1e-14, msg=name)


@pytest.mark.parametrize(("rule", "net", "steps"), [("meta-sgd", "strided", 1), ("norml", "pooled", 2)])
def test_the_whole_meta_gradient_is_traced_as_one_graph_with_the_same_numbers(rule, net, steps, make):
    torch._dynamo.reset()
    meta_learner, batch = make(rule, net)
    traced = torch.compile(meta_gradient, fullgraph=True, dynamic=False, backend="aot_eager")
    (loss, _, gradients), (expected_loss, _, expected) = (
        of(meta_learner, batch, steps) for of in (traced, meta_gradient)
    )
    torch._dynamo.reset()
    torch.testing.assert_close(loss, expected_loss, rtol=1e-12, atol=0)
    largest = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in expected.items():
        assert (gradients[name] - gradient).abs().max() <= 1e-12 * largest, name


@torch.no_grad()
def loss_of(meta_learner, batch):
    return functional.cross_entropy(meta_learner(batch, STEPS).flatten(0, 1), batch.query_y.flatten()).item()


@pytest.mark.parametrize("net", NETS)
def test_central_differences_of_normls_parameters(net, make):
    """One random unit direction in each tensor, as in test_meta_gradient.py: fourth order, a step of 1e-5."""
    meta_learner, batch = make("norml", net)
    gradients = meta_gradient(meta_learner, batch, STEPS)[2]
    generator = torch.Generator().manual_seed(4)
    for name, parameter in meta_learner.named_parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        direction /= direction.norm()
        start, value = parameter.detach().clone(), {}
        for multiple in (1, -1, 2, -2):
            parameter.data.copy_(start + multiple * 1e-5 * direction)
            value[multiple] = loss_of(meta_learner, batch)
        parameter.data.copy_(start)
        numeric = (8 * (value[1] - value[-1]) - (value[2] - value[-2])) / 12e-5
        analytic = (gradients[name] * direction).sum().item() if name in gradients else 0.0
        assert abs(numeric - analytic) <= max(1e-7 * abs(analytic), 1e-9), name
