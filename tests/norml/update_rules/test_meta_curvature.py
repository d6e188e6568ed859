"""Meta-Curvature and T-net; `numerics/test_reference.py` holds their meta-gradients against the slow reference."""

import pytest
import torch
from torch import Tensor

from norml.layers import fully_connected
from norml.meta_training import InnerLoop, MetaLearner
from norml.update_rules.meta_curvature import MetaCurvature


def double(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_parameters_of_a_layer():
    layers = fully_connected((5, 4, 3))
    both, t_net = MetaCurvature(layers), MetaCurvature(layers, curvature="t-net")
    assert {name: list(p.shape) for name, p in both.named_parameters()} == {
        "out_matrices.0": [4, 4],
        "out_matrices.1": [3, 3],
        "in_matrices.0": [5, 5],
        "in_matrices.1": [4, 4],
    }
    assert set(both.parameters_of(1)) == {"out_matrices.1", "in_matrices.1"}
    assert set(dict(t_net.named_parameters())) == {"out_matrices.0", "out_matrices.1"}
    assert set(t_net.parameters_of(1)) == {"out_matrices.1"}


def test_signals_by_hand():
    """G = delta h^T = (1, 2)^T (3, 4) for one example; M_o = [[1, 1], [0, 1]], M_i = [[2, 0], [1, 1]]:

    M_o delta = (3, 2), M_i^T h = (2 * 3 + 1 * 4, 4) = (10, 4), and M_o G M_i = [[30, 12], [20, 8]].
    """
    rule = MetaCurvature(fully_connected((2, 2))).double()
    m_o, m_i = double([[1, 1], [0, 1]]), double([[2, 0], [1, 1]])
    rule.out_matrices[0].data.copy_(m_o)
    rule.in_matrices[0].data.copy_(m_i)
    delta, h = double([[[1, 2]]]), double([[[3, 4]]])
    for carried in ({}, rule.of_constant_input(h)):
        delta_hat, h_hat, _ = rule.scaled(0, delta, h, torch.zeros(1, 1), carried)
        assert (delta_hat.tolist(), h_hat.tolist()) == ([[[3, 2]]], [[[10, 4]]])
    assert torch.equal(delta_hat.mT @ h_hat, (m_o @ delta.mT @ h @ m_i))


@pytest.mark.parametrize("inner_steps", [1, 3])
def test_t_net_is_maml_on_layers_with_a_matrix_of_their_own(inner_steps, make_meta_learner, make_episodes):
    """One layer T (W x + b), W and b adapted by their own gradients, which autograd finds."""
    t_net, batch = make_meta_learner("t-net", sizes=(5, 3)), make_episodes(n_episodes=1)
    t = t_net.rule.out_matrices[0].detach()
    start = (t_net.learner.weights[0].detach(), t_net.learner.biases[0].detach())  # T W_0 and T b_0
    inner = [torch.linalg.solve(t, each).requires_grad_() for each in start]
    for _ in range(inner_steps):
        logits = (batch.support_x[0] @ inner[0].T + inner[1]) @ t.T
        loss = torch.nn.functional.cross_entropy(logits, batch.support_y[0])
        gradients = torch.autograd.grad(loss, inner)
        inner = [(p - 0.4 * g).detach().requires_grad_() for p, g in zip(inner, gradients, strict=True)]
    expected = (batch.query_x @ inner[0].T + inner[1]) @ t.T
    torch.testing.assert_close(t_net(batch, inner_steps).detach(), expected.detach(), rtol=1e-10, atol=1e-10)


def test_t_net_is_meta_curvature_with_that_square(make_meta_learner, make_episodes):
    t_net, batch = make_meta_learner("t-net"), make_episodes()
    both = MetaLearner(t_net.learner, MetaCurvature(t_net.learner.layers).double(), InnerLoop(inner_lr=0.4))
    for of_both, of_t in zip(both.rule.out_matrices, t_net.rule.out_matrices, strict=True):
        of_both.data.copy_(of_t @ of_t.T)
    torch.testing.assert_close(both(batch, 3), t_net(batch, 3), rtol=1e-12, atol=1e-12)


def test_multiples_of_the_identity_are_layer_wise_rates(make_meta_learner, make_episodes):
    """M_o = a I and M_i = I; the bias takes a, too."""
    maml, curvature, rates = make_meta_learner("maml-layerwise-lr"), make_meta_learner("meta-curvature"), (0.5, 1, 3)
    curvature.learner.load_state_dict(maml.learner.state_dict())
    maml.rule.log_alpha.data.copy_(double(rates).log())
    for layer, rate in enumerate(rates):
        n_in, n_out = curvature.learner.sizes[layer : layer + 2]
        curvature.rule.out_matrices[layer].data.copy_(rate * torch.eye(n_out))
        curvature.rule.in_matrices[layer].data.copy_(torch.eye(n_in))
    batch = make_episodes()
    torch.testing.assert_close(curvature(batch, 3), maml(batch, 3), rtol=1e-12, atol=1e-12)
