"""The counted multiplications: derived by hand, and as torch counts them."""

import itertools
from typing import Any

import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from norml.meta_training import meta_gradient
from tests.benchmarks.engines import TorchFunc
from tests.benchmarks.floor import layer_multiplications, lstm_multiplications, outer_step_multiplications
from tests.benchmarks.tiny_problem import TINY, tiny_learner
from tests.benchmarks.workloads import NORML, Workload, from_registry, made_episodes


class Products(TorchDispatchMode):
    """Counts matrix products, those in place too, and inside autograd.grad, where torch's own counter fails."""

    flop = 0

    def __torch_dispatch__(self, func: OpOverload, types: object, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        plain = getattr(torch.ops.aten, func._schema.name.split("::")[1].rstrip("_"), None)
        if plain in flop_registry:
            self.flop += flop_registry[plain](*args, **(kwargs or {}), out_val=out)
        return out


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


def test_multiplications_of_the_lstm_derived_by_hand():
    """I = 3, O = 2, S = 1, H = 2 (8 packed gates), T = 2, each product thrice unless an operand is images.

    Loss and delta (1 + 2) * 8 and the gates 2 * 5 in both steps, the hidden state 2 * 8 in the second alone; h 3 * 8 in
    both, or in the first layer once, where it costs twice.
    """
    two_steps = Workload(1, 1, meta_batch_size=1, inner_steps=2, n_way=1)
    common = 3 * (2 * 24 + 2 * 10 + 16)
    assert lstm_multiplications(2, two_steps, n_in=3, n_out=2, is_first=False) == common + 3 * 2 * 24
    assert lstm_multiplications(2, two_steps, n_in=3, n_out=2, is_first=True) == common + 2 * 24


def test_multiplications_of_a_first_layer_whose_inputs_are_scaled_derived_by_hand():
    """I = 3, O = 2, S = M = 1, T = 2: x W_0^T and the queries' (6 each, twice); x h_hat^T of the first step and the
    queries' of both (3 each, twice), and their products with delta (2 each, thrice).
    """
    two_steps = Workload(1, 1, meta_batch_size=1, inner_steps=2, n_way=1)
    shape = {"n_in": 3, "n_out": 2, "is_first": True, "inputs_scaled": True}
    assert layer_multiplications("factored", two_steps, **shape) == 2 * (6 + 6) + 2 * 3 * 3 + 3 * 3 * 2
    # Materialised: x W^T of both steps and the queries (6 each, twice), delta^T h_hat (6, thrice).
    assert layer_multiplications("materialised", two_steps, **shape) == 2 * 3 * 6 + 3 * 2 * 6


def test_the_counts_of_norml_are_about_what_its_outer_step_multiplies():
    """Our own engine, by torch's count: no less than the floor, and at most a quarter more."""
    workload = Workload(1, 1, meta_batch_size=2)
    meta_learner = from_registry(NORML, workload, cell_size=16)
    with Products() as products:
        meta_gradient(meta_learner, made_episodes(workload), workload.inner_steps)
    floor = outer_step_multiplications(meta_learner.learner.sizes, workload, cell_size=16)
    assert floor <= products.flop / 2 <= 1.25 * floor


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
