"""How many multiplications an outer step needs: matrix products only, each layer in its cheaper form.

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

NORML's h_hat_u differs from x, so that its first layer meets x h_hat_u^T of every step in place of one x x^T. Its LSTM
(H: cell size, 4 H packed gates) adds to every layer and step the products of its four sources, S (1 + O + I + H) 4 H,
and of its gates, S H (I + O); in the first layer the product of I is one for all steps, and before the first step there
is no hidden state.

Sums, batch norm, ReLU, softmax and Adam are left out: they are small beside the products. The number is a common
yardstick for all engines, not a proof that no engine could do with less.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from tests.benchmarks.workloads import Workload

Form = Literal["materialised", "factored"]
FORMS: tuple[Form, ...] = ("materialised", "factored")


class Product(NamedTuple):
    """A matrix product: its multiplications and how many of its operands need a gradient."""

    multiplications: int
    differentiated: int
    times: int = 1


def outer_step_multiplications(sizes: Sequence[int], workload: Workload, *, cell_size: int | None = None) -> int:
    """Multiplications of one outer step for a learner of these layer sizes: MAML's, or NORML's with a `cell_size`."""
    count = 0
    for layer, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        shape = {"n_in": n_in, "n_out": n_out, "is_first": layer == 0}
        scaled = cell_size is not None
        count += min(layer_multiplications(form, workload, **shape, inputs_scaled=scaled) for form in FORMS)
        if cell_size is not None:
            count += lstm_multiplications(cell_size, workload, **shape)
    return workload.meta_batch_size * count


def lstm_multiplications(cell_size: int, workload: Workload, *, n_in: int, n_out: int, is_first: bool) -> int:
    """Multiplications of NORML's LSTM with per-example gates at one layer in one episode, forward and reverse."""
    s, t, packed = workload.n_way * workload.k_shot, workload.inner_steps, 4 * cell_size
    products = [
        Product(s * (1 + n_out) * packed, 2, t),  # loss, delta
        Product(s * n_in * packed, 1, min(t, 1)) if is_first else Product(s * n_in * packed, 2, t),  # h
        Product(s * cell_size * packed, 2, max(t - 1, 0)),  # hidden
        Product(s * cell_size * (n_in + n_out), 2, t),  # gates
    ]
    return _sum(products)


def layer_multiplications(
    form: Form, workload: Workload, *, n_in: int, n_out: int, is_first: bool, inputs_scaled: bool = False
) -> int:
    """Multiplications of one layer in one episode, forward and reverse. `inputs_scaled`: h_hat differs from h."""
    s, m = workload.n_way * workload.k_shot, workload.n_way * workload.n_query
    t = workload.inner_steps
    if form == "materialised":
        products = _materialised(s, m, t, n_in, n_out, is_first=is_first, inputs_scaled=inputs_scaled)
    elif is_first:
        first = _factored_first_scaled if inputs_scaled else _factored_first
        products = first(s, m, t, n_in, n_out)
    else:
        products = _factored(s, m, t, n_in, n_out)
    return _sum(products)


def _sum(products: Iterable[Product]) -> int:
    return sum(product.times * product.multiplications * (1 + product.differentiated) for product in products)


def _materialised(s: int, m: int, t: int, i: int, o: int, *, is_first: bool, inputs_scaled: bool) -> Iterator[Product]:
    differentiated = 1 if is_first else 2
    yield Product(s * i * o, differentiated, t)  # h W^T
    if not is_first:
        yield Product(s * i * o, differentiated, t)  # delta W
    yield Product(s * i * o, 2 if inputs_scaled else differentiated, t)  # delta^T h
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


def _factored_first_scaled(s: int, m: int, t: int, i: int, o: int) -> Iterator[Product]:
    yield Product((s + m) * i * o, 1)  # x W_0^T, query x W_0^T
    later = max(t - 1, 0)  # nothing comes after the last step for the support set, the queries meet all
    for rows, steps in ((s, later), (m, t)):
        yield Product(rows * s * i, 1, steps)  # x h_hat^T
        yield Product(rows * s * o, 2, steps)
