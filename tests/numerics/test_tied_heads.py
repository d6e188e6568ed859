"""Heads that start at zero, whose classes are tied: every proof that learned heads have, and that N may change.

The hand-made episode is that of test_meta_gradient.py: a linear learner 2 -> 2, support (1, 0) labelled 0 and (0, 1)
labelled 1, query (1, 0) labelled 0. Its losses are derived there for zero weights.
"""

import math

import pytest
import torch
from torch.nn import functional

from norml.episodes import EpisodeBatch
from norml.inspection import meta_gradient_norms
from norml.layers import Convolutions
from norml.meta_training import meta_gradient
from tests.helpers.reference import (
    CHANNEL_SUMMARIES,
    RULES,
    Images,
    Settings,
    example_losses,
    forward,
    loss_and_meta_gradient,
    query_logits,
    weights_of_each_step,
)

FORMS = ("materialised", "factored", "auto")
AT_ANY_S = [rule for rule in RULES if "flattened" not in rule]  # flattened gates have weights for each example
UNSTANDARDISED = [
    rule for rule, settings in RULES.items() if "norml" not in rule or settings.get("input_normalisation")
]
UNSTANDARDISED.remove("alfa")  # whose rule looks at the weights, so at the row, too
STRIDED = {"image_size": 4}
CONVOLUTIONAL = {"sizes": (16, 2, 3, 3), "convolutions": Convolutions(**STRIDED)}
SOME = ["maml-layerwise-lr", "meta-sgd", "meta-curvature", "static-gates", "norml"]


@pytest.fixture
def make(make_meta_learner):
    """A meta-learner whose head starts at zero."""

    def made(rule, **options):
        return make_meta_learner(rule, head_init="zero", **options)

    return made


def assert_is_the_references(meta_learner, batch, inner_steps, expected):
    expected_loss, expected_gradient = expected
    loss, _, found = meta_gradient(meta_learner, batch, inner_steps)
    assert abs(loss - expected_loss) <= 1e-12 * expected_loss
    largest = max(g.abs().max() for g in expected_gradient.values() if g.numel())
    n_hidden = meta_learner.learner.n_layers - 1
    # Batch norm takes a hidden layer's bias out again.
    rounding = {f"learner.biases.{n}" for n in range(n_hidden)} | {f"rule.bias_rates.{n}" for n in range(n_hidden)}
    for name, reference in expected_gradient.items():
        if not reference.numel():
            assert name not in found
            continue
        gradient = found.get(name, torch.zeros_like(reference))
        assert gradient.shape == reference.shape, name
        if name in rounding:
            assert gradient.abs().max() <= 1e-12 * largest, name
        else:
            assert (gradient - reference).abs().max() <= 1e-10 * reference.abs().max() + 1e-15 * largest, name


@pytest.mark.parametrize("rule", RULES)
def test_loss_and_meta_gradient_of_every_rule_are_the_references(rule, make, make_episodes):
    inner_steps, batch = 3, make_episodes(n_episodes=1)
    settings = Settings(inner_lr=0.4, inner_steps=inner_steps, rule=RULES[rule], tied_classes=3)
    parameters = dict(make(rule).named_parameters())
    expected = loss_and_meta_gradient(parameters, settings, batch)
    for form in FORMS:
        meta_learner = make(rule, weight_form=form)
        assert_is_the_references(meta_learner, batch, inner_steps, expected)


@pytest.mark.parametrize("rule", RULES | CHANNEL_SUMMARIES)
def test_convolutional_learners_are_the_references(rule, make, make_episodes):
    batch = make_episodes(n_episodes=1, n_features=16)
    settings = Settings(
        inner_lr=0.4,
        inner_steps=2,
        rule=(RULES | CHANNEL_SUMMARIES)[rule],
        images=Images(**STRIDED),
        tied_classes=3,
    )
    meta_learner = make(rule, **CONVOLUTIONAL)
    expected = loss_and_meta_gradient(dict(meta_learner.named_parameters()), settings, batch)
    assert_is_the_references(meta_learner, batch, 2, expected)


@pytest.mark.parametrize("options", [{"first_order": True}, {"query_statistics": "support"}], ids=str)
@pytest.mark.parametrize("rule", SOME)
def test_first_order_and_support_statistics_are_the_references(rule, options, make, make_episodes):
    batch = make_episodes(seed=7, n_episodes=1)
    settings = Settings(inner_lr=0.4, inner_steps=3, rule=RULES[rule], tied_classes=3, **options)
    meta_learner = make(rule, **options)
    expected = loss_and_meta_gradient(dict(meta_learner.named_parameters()), settings, batch)
    assert_is_the_references(meta_learner, batch, 3, expected)


@pytest.mark.parametrize("rule", UNSTANDARDISED)
def test_a_row_that_all_classes_share_changes_nothing(rule, make, make_episodes):
    """UNICORN-MAML's head is this one: by the reference, its row has no influence on losses of any number of steps."""
    meta_learner, batch = make(rule), make_episodes(n_episodes=2)
    p = dict(meta_learner.named_parameters())
    p["learner.weights.2"] = torch.tensor([[2.0, -3.0, 1.0, 0.5]], dtype=torch.float64, requires_grad=True)
    settings = Settings(inner_lr=0.4, inner_steps=3, rule=RULES[rule], tied_classes=3)
    expected_loss, expected = loss_and_meta_gradient(p, settings, batch)
    loss, _, found = meta_gradient(meta_learner, batch, 3)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-10, atol=0)
    largest = max(gradient.abs().max() for gradient in found.values())
    assert expected["learner.weights.2"].abs().max() <= 1e-12 * largest


@pytest.mark.parametrize("rule", AT_ANY_S)
def test_what_was_learned_at_3_ways_works_at_7(rule, make, make_episodes):
    three = make(rule)
    seven = make(rule, sizes=(5, 4, 4, 7))
    seven.load_state_dict(three.state_dict())
    batch = make_episodes(n_way=7, n_episodes=1)
    settings = Settings(inner_lr=0.4, inner_steps=2, rule=RULES[rule], tied_classes=7)
    of_first = (batch.support_x[0], batch.support_y[0], batch.query_x[0])
    expected = query_logits(dict(seven.named_parameters()), settings, *of_first)
    with torch.no_grad():
        torch.testing.assert_close(seven(batch, 2)[0], expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_it_does_not_matter_which_class_is_called_what(rule, make, make_meta_learner, make_episodes):
    """MAML's answer depends on how an episode's classes are numbered (Ye & Chao 2022); here it does not."""
    meta_learner, batch = make(rule), make_episodes()
    renamed = torch.tensor([2, 0, 1])
    other = EpisodeBatch(batch.x, renamed[batch.y], batch.n_support)
    with torch.no_grad():
        found, expected = meta_learner(other, 3), meta_learner(batch, 3)
        torch.testing.assert_close(found[..., renamed], expected, rtol=1e-10, atol=1e-11)
        learned = make_meta_learner(rule)
        assert (learned(other, 3)[..., renamed] - learned(batch, 3)).abs().max() > 1e-3


@pytest.mark.parametrize("rule", RULES)
def test_hand_derived_losses(rule, make):
    """ln(4/3) after one step with eta = 2 ln 3, ln(1 + 3^-1.5) after two; ln 2 before any."""
    batch = EpisodeBatch(
        torch.tensor([[[1, 0], [0, 1], [1, 0]]], dtype=torch.float64), torch.tensor([[0, 1, 0]]), n_support=2
    )
    start = RULES[rule].get("gate_scale", 2.0) / 2
    settings = {"sizes": (2, 2), "n_support": 2, "perturbed": False, "inner_lr": 2 * math.log(3) / start**2}
    meta_learner = make(rule, **settings)
    for inner_steps, expected in enumerate((math.log(2), math.log(4 / 3), math.log1p(3**-1.5))):
        loss, _, gradients = meta_gradient(meta_learner, batch, inner_steps)
        torch.testing.assert_close(loss.item(), expected, rtol=1e-13, atol=0)
        assert "learner.weights.0" not in gradients


@pytest.mark.parametrize("rule", SOME)
def test_recomputing_changes_no_bit(rule, make, make_episodes):
    batch = make_episodes()
    kept, again = (meta_gradient(make(rule, recompute=recompute), batch, 3) for recompute in (False, True))
    assert torch.equal(again[0], kept[0])
    assert all(torch.equal(again[2][name], gradient) for name, gradient in kept[2].items())


@pytest.mark.parametrize("rule", ["maml-per-step-lr", "norml"])
def test_norms_of_the_meta_gradient_by_step_are_autograds(rule, make, make_episodes):
    meta_learner, batch = make(rule), make_episodes(n_episodes=1)
    p = dict(meta_learner.named_parameters())
    settings = Settings(inner_lr=0.4, inner_steps=2, rule=RULES[rule], tied_classes=3)
    every = weights_of_each_step(p, settings, batch.support_x[0], batch.support_y[0])
    loss = example_losses(forward(p, every[-1], batch.query_x[0])[0][-1], batch.query_y[0]).mean()
    gradients = torch.autograd.grad(loss, [tensor for weights in every for pair in weights for tensor in pair])
    expected = torch.stack([gradient.square().sum() for gradient in gradients]).view(3, -1, 2).sum(-1).sqrt()
    torch.testing.assert_close(meta_gradient_norms(meta_learner, batch, 2)[0], expected, rtol=1e-10, atol=1e-14)


def test_the_whole_meta_gradient_is_traced_as_one_graph_with_the_same_numbers(make, make_episodes):
    torch._dynamo.reset()
    meta_learner, batch = make("norml"), make_episodes()
    traced = torch.compile(meta_gradient, fullgraph=True, dynamic=False, backend="aot_eager")
    (loss, _, gradients), (expected_loss, _, expected) = (of(meta_learner, batch, 2) for of in (traced, meta_gradient))
    torch._dynamo.reset()
    torch.testing.assert_close(loss, expected_loss, rtol=1e-12, atol=0)
    largest = max(gradient.abs().max() for gradient in expected.values() if gradient.numel())
    for name, gradient in expected.items():
        assert torch.allclose(gradients[name], gradient, rtol=0, atol=1e-12 * largest), name


@torch.no_grad()
def loss_of(meta_learner, batch):
    return functional.cross_entropy(meta_learner(batch, 2).flatten(0, 1), batch.query_y.flatten()).item()


def test_central_differences_of_normls_parameters(make, make_episodes):
    """One random unit direction in each tensor, as in test_meta_gradient.py: fourth order, a step of 1e-5."""
    meta_learner, batch = make("norml"), make_episodes(n_episodes=2)
    gradients = meta_gradient(meta_learner, batch, 2)[2]
    generator = torch.Generator().manual_seed(4)
    for name, parameter in meta_learner.named_parameters():
        if not parameter.numel():
            continue
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


def test_float32_episodes_are_as_good_as_float64_ones(make, make_episodes):
    """Nothing reaches below a head of zeros in the first step. Rounding in its place would be standardised to one."""
    batch = make_episodes()
    single = EpisodeBatch(batch.x.float(), batch.y, batch.n_support)
    exact = make("norml")
    rounded = make("norml").float()
    expected, found = meta_gradient(exact, batch, 3), meta_gradient(rounded, single, 3)
    torch.testing.assert_close(found[0].double(), expected[0], rtol=1e-5, atol=0)
    largest = max(gradient.abs().max() for gradient in expected[2].values() if gradient.numel())
    for name, gradient in expected[2].items():
        assert torch.allclose(found[2][name].double(), gradient, rtol=0, atol=1e-4 * largest), name
