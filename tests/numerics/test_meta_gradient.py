"""Meta-gradients: exact values derived by hand, and central differences for every meta-parameter.

The hand-made episode: a linear learner 2 -> 2 with zero initial weights, support (1, 0) labelled 0 and (0, 1) labelled
1, query (1, 0) labelled 0. Softmax over two logits is a sigmoid of their difference, so with rows w_0, w_1 of W let

    u = w_0 - w_1,  beta = b_0 - b_1,  z_1 = u_1 + beta,  z_2 = u_2 + beta        (the support examples' margins)

and sigma the sigmoid. The mean support loss is 1/2 [ln(1 + exp(-z_1)) + ln(1 + exp(z_2))], and as w_0 and w_1 move by
the same amount in opposite directions, a step with rate eta moves (u, beta) by 2 eta:

    u_1 += eta sigma(-z_1)      u_2 -= eta sigma(z_2)      beta += eta (sigma(-z_1) - sigma(z_2))

From zero, symmetry keeps beta = 0 and u_2 = -u_1, so the margin z = z_1 = -z_2 obeys z <- z + eta sigma(-z). With
eta = 2 ln 3 = 2 lambda:

    z after one step:  eta / 2 = lambda = ln 3                  sigma(-z) = 1/4, sigma'(z) = 3/16
    z after two:       lambda + 2 lambda / 4 = 3/2 lambda        sigma(-z) = 1 / (1 + 3 sqrt 3)

The query loss is ln(1 + exp(-z)): ln(4/3) after one step. Its gradient for the adapted (u_1, u_2, beta) is
-sigma(-z) (1, 0, 1). A step's Jacobian for (u_1, u_2, beta) is I - eta sigma'(z) A with A = [[1,0,1],[0,1,1],[1,1,2]],
and A (a, b, a+b) = (2a+b, a+2b, 3a+3b): in the coordinates (a, b) it is G = [[2,1],[1,2]]. So the meta-gradient is
-sigma(-z_T) (a, b, a+b) with

    one step:   (a, b) = (I - lambda/2 G) (1, 0)                     = (1 - lambda, -lambda/2)
    two steps:  (a, b) = (I - 3/8 lambda G)(I - lambda/2 G) (1, 0)   = (1 - 7/4 lambda + 15/16 lambda^2,
                                                                        -7/8 lambda + 3/4 lambda^2)

(eta sigma' is lambda/2 at z = 0 and 3/8 lambda at z = lambda; G^2 = [[5,4],[4,5]]). First order: (a, b) = (1, 0).
For the parameters themselves: dL/dw_0 = (a, b), dL/db_0 = a + b, each times -sigma(-z_T); row 1 has the opposite sign.
"""

import math

import pytest
import torch
from torch.nn import functional

from norml.episodes import EpisodeBatch
from tests.helpers.reference import RULES

LAMBDA = math.log(3)
ETA = 2 * LAMBDA
WRONG = {1: 1 / 4, 2: 1 / (1 + 3 * math.sqrt(3))}  # sigma(-z_T)
LOSS = {1: math.log(4 / 3), 2: math.log1p(3**-1.5)}
AB = {
    1: (1 - LAMBDA, -LAMBDA / 2),
    2: (1 - 7 / 4 * LAMBDA + 15 / 16 * LAMBDA**2, -7 / 8 * LAMBDA + 3 / 4 * LAMBDA**2),
}
FORMS = ["materialised", "factored", "auto"]


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture
def episode():
    return EpisodeBatch.joined(
        tensor([[[1, 0], [0, 1]]]), torch.tensor([[0, 1]]), tensor([[[1, 0]]]), torch.tensor([[0]])
    )


@pytest.fixture
def make_linear(make_meta_learner):
    """The hand-made episode's learner, with zero initial weights."""

    def made(rule, **inner_loop):
        settings = {"sizes": (2, 2), "n_support": 2, "perturbed": False, "inner_lr": ETA}
        meta_learner = make_meta_learner(rule, **(settings | inner_loop))
        meta_learner.learner.weights[0].data.zero_()
        return meta_learner

    return made


def loss_of(meta_learner, batch, inner_steps):
    return functional.cross_entropy(meta_learner(batch, inner_steps).flatten(0, 1), batch.query_y.flatten())


def assert_values(found, expected):
    torch.testing.assert_close(found, tensor(expected), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("inner_steps", [1, 2])
@pytest.mark.parametrize("rule", RULES)
def test_hand_derived_loss_after_one_and_two_steps_of_every_untrained_rule(
    rule, inner_steps, form, make_linear, episode
):
    """Untrained, every rule is gradient descent: both gates are gate_scale / 2, which eta undoes where it is not 1."""
    start = RULES[rule].get("gate_scale", 2.0) / 2
    meta_learner = make_linear(rule, weight_form=form, inner_lr=ETA / start**2)
    assert_values(loss_of(meta_learner, episode, inner_steps).detach(), LOSS[inner_steps])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("inner_steps", [1, 2])
@pytest.mark.parametrize("rule", ["maml-constant-lr", "norml"])
def test_hand_derived_meta_gradient_of_the_initial_weights(
    rule, inner_steps, *, first_order, form, make_linear, episode
):
    meta_learner = make_linear(rule, first_order=first_order, weight_form=form)
    loss_of(meta_learner, episode, inner_steps).backward()
    a, b = (1.0, 0.0) if first_order else AB[inner_steps]
    wrong = WRONG[inner_steps]
    assert_values(meta_learner.learner.weights[0].grad, [[-wrong * a, -wrong * b], [wrong * a, wrong * b]])
    assert_values(meta_learner.learner.biases[0].grad, [-wrong * (a + b), wrong * (a + b)])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rule", ["maml-global-lr", "maml-layerwise-lr"])
def test_hand_derived_meta_gradient_of_a_learned_rate(rule, form, make_linear, episode):
    """With rate alpha eta: z_1 = alpha lambda, z_2 = z_1 + 2 alpha lambda sigma(-z_1), at alpha = 1:

    dz_1/dlog alpha = lambda;  dz_2/dlog alpha = lambda + lambda / 2 - 2 lambda * 3/16 * lambda.
    First order holds the gradient sigma(-z_1) fixed, so that its last term is missing.
    """
    exact = {1: LAMBDA, 2: 3 / 2 * LAMBDA - 3 / 8 * LAMBDA**2}
    first = {1: LAMBDA, 2: 3 / 2 * LAMBDA}
    for inner_steps in (1, 2):
        for first_order, expected in ((False, exact), (True, first)):
            meta_learner = make_linear(rule, weight_form=form, first_order=first_order)
            loss_of(meta_learner, episode, inner_steps).backward()
            assert_values(meta_learner.rule.log_alpha.grad, [-WRONG[inner_steps] * expected[inner_steps]])


@pytest.mark.parametrize("form", FORMS)
def test_hand_derived_meta_gradient_of_the_gates_after_one_step(form, make_linear, episode):
    """A gate 2 sigma(g) is 1 at g = 0, and dgate/dg = 1/2.

    delta gate of neuron n: its row moves by eta/4 (1, -1) gate_n, so dz/dg_n = eta/4 * 1/2 = lambda/4 for both.
    h gate of input i: u_i moves by eta/2 gate_i, and the query sees only i = 1: dz/dg_1 = lambda/2, dz/dg_2 = 0.
    """
    meta_learner = make_linear("norml", weight_form=form)
    loss_of(meta_learner, episode, 1).backward()
    cell = meta_learner.rule.cells[0]
    assert_values(cell.gate_bias.grad, [-LAMBDA / 16, -LAMBDA / 16, -LAMBDA / 8, 0])  # of delta, then of h


@pytest.mark.parametrize("form", FORMS)
def test_two_steps_of_a_gate_layer_give_the_meta_gradient_derived_by_hand(form, make_linear, episode):
    """Cells made blind (input weights zero): i = sigma(0) = 1/2, update = tanh(artanh 1/2) = 1/2, f = sigma(0) = 1/2,
    so c_1 = 1/4 and c_2 = 1/2 * 1/4 + 1/4 = 3/8 whatever they see.

    A delta gate opened by dg at step 1 moves z after it by lambda/4 dg, of which 1 - eta sigma'(lambda) =
    1 - 3/8 lambda is left after step 2; opened at step 2 it moves z by eta/2 sigma(-lambda) dg/2 = lambda/8 dg.
    The bias opens both, the weight from cell j opens step t by c_t. (Both neurons open u along (1, -1), on which
    the symmetric path stays.)
    """
    meta_learner = make_linear("norml-zero-hidden", weight_form=form)
    cell = meta_learner.rule.cells[0]
    for weight in (cell.loss_weight, cell.delta_weight, cell.h_weight):
        weight.data.zero_()
    cell.bias.data.copy_(tensor([0, 0, 0, 0, math.atanh(0.5), math.atanh(0.5)]))  # input, forget, update
    loss_of(meta_learner, episode, 2).backward()
    at_one, at_two = LAMBDA / 4 * (1 - 3 / 8 * LAMBDA), LAMBDA / 8
    by_bias = -WRONG[2] * (at_one + at_two)
    by_weight = -WRONG[2] * (at_one / 4 + at_two * 3 / 8)
    assert_values(cell.gate_bias.grad[:2], [by_bias, by_bias])
    assert_values(cell.gate_weight.grad[:2], [[by_weight, by_weight], [by_weight, by_weight]])


@pytest.mark.parametrize("form", FORMS)
def test_hand_derived_weights_with_gates_away_from_one(form, make_linear, episode):
    """Delta gates 2 sigma(ln 3) = 3/2 and 2 sigma(-ln 3) = 1/2, h gates 2 sigma(ln 7) = 7/4 and 1, eta = 4.

    delta is (-1/4, 1/4) for the first support example and (1/4, -1/4) for the second, so that
    W = -4 [[-1/4 * 3/2 * 7/4, 1/4 * 3/2], [1/4 * 1/2 * 7/4, -1/4 * 1/2]] = [[21/8, -3/2], [-7/8, 1/2]], b = 0.
    The query (1, 0) has logits (21/8, -7/8).
    """
    meta_learner = make_linear("norml", inner_lr=4.0, weight_form=form)
    cell = meta_learner.rule.cells[0]
    cell.gate_bias.data.copy_(tensor([LAMBDA, -LAMBDA, math.log(7), 0]))
    assert_values(meta_learner(episode, 1).detach(), [[[21 / 8, -7 / 8]]])


def difference_quotient(meta_learner, batch, parameter, direction, *, inner_steps):
    """Fourth-order central difference: (8 (f(s) - f(-s)) - (f(2s) - f(-2s))) / 12s is the slope but for O(s^4)."""
    step = 1e-5
    start = parameter.detach().clone()
    value = {}
    for multiple in (1, -1, 2, -2):
        with torch.no_grad():
            parameter.copy_(start + multiple * step * direction)
            value[multiple] = loss_of(meta_learner, batch, inner_steps).item()
    parameter.data.copy_(start)
    return (8 * (value[1] - value[-1]) - (value[2] - value[-2])) / (12 * step)


# Log-sign inputs bend at exp(-10) after a slope of exp(10), so a random point can lie within a step of a bend, where a
# quotient says nothing of the slope; tests/numerics/test_reference.py holds their gradients to autograd's.
SMOOTH = [rule for rule in RULES if rule != "maml-constant-lr" and "log-sign" not in rule]


@pytest.mark.parametrize(
    ("rule", "query_statistics"),
    [
        *((rule, "query") for rule in SMOOTH),
        *((rule, "support") for rule in ("maml-layerwise-lr", "meta-sgd", "norml")),
    ],
)
def test_central_differences_of_every_meta_parameter(rule, query_statistics, make_meta_learner, make_episodes):
    """A random unit direction in each tensor, to 1e-7 relative or 1e-9 absolute.

    A loss known to 1e-16 gives a quotient known to about 1e-11 at a step of 1e-5. The formula of second order would
    err by 1e-10 times the third derivative.
    """
    batch = make_episodes(n_episodes=2)
    meta_learner = make_meta_learner(rule, query_statistics=query_statistics)
    loss_of(meta_learner, batch, 3).backward()
    generator = torch.Generator().manual_seed(4)
    for name, parameter in meta_learner.named_parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        direction /= direction.norm()
        numeric = difference_quotient(meta_learner, batch, parameter, direction, inner_steps=3)
        analytic = (parameter.grad * direction).sum().item()
        assert abs(numeric - analytic) <= max(1e-7 * abs(analytic), 1e-9), name


@pytest.mark.parametrize("rule", ["maml-layerwise-lr", "meta-sgd", "norml"])
def test_central_differences_of_every_single_entry(rule, make_meta_learner, make_episodes):
    batch = make_episodes(n_episodes=2)
    meta_learner = make_meta_learner(rule, sizes=(5, 3, 3))
    loss_of(meta_learner, batch, 2).backward()
    for name, parameter in meta_learner.named_parameters():
        for entry in range(parameter.numel()):
            direction = torch.zeros(parameter.numel(), dtype=torch.float64)
            direction[entry] = 1
            numeric = difference_quotient(meta_learner, batch, parameter, direction.view_as(parameter), inner_steps=2)
            analytic = parameter.grad.flatten()[entry].item()
            assert abs(numeric - analytic) <= max(1e-7 * abs(analytic), 1e-9), (name, entry)
