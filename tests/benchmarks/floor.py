"""How many multiplications MAML's outer step needs: matrix products only, each layer in its cheaper form.

A product of m multiplications costs m once forward, and m again in the reverse sweep for each operand that needs a
gradient: two, or one where the other operand is the images' (the first layer's input), or none. A layer's weights
W_t = W_0 - eta sum_u delta_u^T h_u may be held in two forms (I, O: neurons in and out; S, M: support and query
examples; T: inner steps; all of one episode):

    materialised   every step          h W_t^T, delta W_t (not in the first layer), delta^T h       S I O each
                   queries             h W_T^T                                                      M I O
    factored       every step          h W_0^T and delta W_0                                        S I O each
                   each earlier step   h h_u^T, (.) delta_u; delta delta_u^T, (.) h_u               S S I + S S O, twice
                   queries             h W_0^T; h h_u^T, (.) delta_u of every step                  M I O; M S I + M S O
    factored,      once                x W_0^T and x x^T, as x is the same in every step            S I O, S S I
    first layer    every later step    x x^T (sum of delta)                                         S S O
                   queries             h W_0^T, h x^T, (.) (sum of delta)                           M I O, M S I, M S O

Sums, batch norm, ReLU, softmax and Adam are left out: they are small beside the products. The number is a common
yardstick for all engines, not a proof that no engine could do with less.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from workloads import Workload

Form = Literal["materialised", "factored"]
FORMS: tuple[Form, ...] = ("materialised", "factored")


class Product(NamedTuple):
    """A matrix product: its multiplications and how many of its operands need a gradient."""

    multiplications: int
    differentiated: int
    times: int = 1


def outer_step_multiplications(sizes: Sequence[int], workload: Workload) -> int:
    """Multiplications of one outer step for a learner of these layer sizes."""
    return workload.meta_batch_size * sum(
        min(layer_multiplications(form, workload, n_in=n_in, n_out=n_out, is_first=layer == 0) for form in FORMS)
        for layer, (n_in, n_out) in enumerate(itertools.pairwise(sizes))
    )


def layer_multiplications(form: Form, workload: Workload, *, n_in: int, n_out: int, is_first: bool) -> int:
    """Multiplications of one layer in one episode, forward and reverse."""
    s, m = workload.n_way * workload.k_shot, workload.n_way * workload.n_query
    t = workload.inner_steps
    if form == "materialised":
        products = _materialised(s, m, t, n_in, n_out, is_first=is_first)
    elif is_first:
        products = _factored_first(s, m, t, n_in, n_out)
    else:
        products = _factored(s, m, t, n_in, n_out)
    return sum(product.times * product.multiplications * (1 + product.differentiated) for product in products)


def _materialised(s: int, m: int, t: int, i: int, o: int, *, is_first: bool) -> Iterator[Product]:
    differentiated = 1 if is_first else 2
    yield Product(s * i * o, differentiated, t)  # h W^T
    if not is_first:
        yield Product(s * i * o, differentiated, t)  # delta W
    yield Product(s * i * o, differentiated, t)  # delta^T h
    yield Product(m * i * o, differentiated)  # the queries' h W^T


def _factored(s: int, m: int, t: int, i: int, o: int) -> Iterator[Product]:
    pairs = t * (t - 1) // 2  # a step meets those before it
    yield Product(s * i * o, 2, 2 * t)  # h W_0^T, delta W_0
    yield Product(s * s * (i + o), 2, 2 * pairs)
    yield Product(m * i * o, 2)
    yield Product(m * s * (i + o), 2, t)


def _factored_first(s: int, m: int, t: int, i: int, o: int) -> Iterator[Product]:
    if t > 0:
        yield Product(s * i * o, 1)  # x W_0^T
        yield Product(m * s * i, 0)  # query x, support x
        yield Product(m * s * o, 1)
    if t > 1:
        yield Product(s * s * i, 0)  # x x^T
        yield Product(s * s * o, 1, t - 1)
    yield Product(m * i * o, 1)  # query x W_0^T
