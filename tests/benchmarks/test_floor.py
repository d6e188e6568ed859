"""The counted multiplications: derived by hand, and as torch counts them."""

import itertools

import torch
from engines import TorchFunc
from floor import layer_multiplications, outer_step_multiplications
from tiny_problem import TINY, tiny_learner
from torch.utils.flop_counter import FlopCounterMode
from workloads import Workload, made_episodes

LAYER = Workload(1, 1, meta_batch_size=1, inner_steps=1, n_way=1)


def test_multiplications_of_one_layer_derived_by_hand():
    """I = 3, O = 2, S = M = T = 1. The images need no gradient, so each of their products costs twice, not thrice.

    Materialised: x W^T, delta^T x and the queries' h W^T, 6 each, and 6 each in reverse.
    Factored: x W_0^T (6) and the queries' h W_0^T (6), once more in reverse; h x^T (3), whose operands are images;
    its product with delta (2) and once more in reverse.
    """
    shape = {"n_in": 3, "n_out": 2, "is_first": True}
    assert layer_multiplications("materialised", LAYER, **shape) == 2 * (6 + 6 + 6)
    assert layer_multiplications("factored", LAYER, **shape) == 2 * (6 + 6) + 3 + 2 * 2
    assert outer_step_multiplications([3, 2], LAYER) == 31


def test_multiplications_of_a_hidden_layer_derived_by_hand():
    """As above where h depends on the weights: every product costs thrice, and delta is pulled back.

    Factored, T = 2: h W_0^T and delta W_0 in each step (6 each); the second step meets the first, h h_1^T (3) and
    (.) delta_1 (2), and again for delta; the queries' h W_0^T (6) and both steps' h h_u^T, (.) delta_u (5 each).
    """
    shape = {"n_in": 3, "n_out": 2, "is_first": False}
    two_steps = Workload(1, 1, meta_batch_size=1, inner_steps=2, n_way=1)
    assert layer_multiplications("materialised", LAYER, **shape) == 3 * (6 + 6 + 6 + 6)
    assert layer_multiplications("factored", two_steps, **shape) == 3 * (4 * 6 + 2 * 5 + 6 + 2 * 5)


def test_the_materialised_count_is_what_torch_counts():
    learner = tiny_learner()
    engine = TorchFunc(learner, inner_lr=0.4, inner_steps=TINY.inner_steps)
    with FlopCounterMode(display=False) as counter:
        engine.differentiate(made_episodes(TINY, dtype=torch.float64))
    counted = TINY.meta_batch_size * sum(
        layer_multiplications("materialised", TINY, n_in=n_in, n_out=n_out, is_first=layer == 0)
        for layer, (n_in, n_out) in enumerate(itertools.pairwise(learner.sizes))
    )
    assert counter.get_total_flops() == 2 * counted
    assert outer_step_multiplications(learner.sizes, TINY) <= counted
