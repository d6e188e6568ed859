"""NORML's update rule (paper sec. 3.2, eqs 14-19): an LSTM cell a layer gates both signals neuron by neuron.

Symbols to names: x_{l,t} = inputs, f, i, c~ = the forget, input and update gates, c_{l,t} = cell,
sigma(W_g c + b_g) = output gate of delta, sigma(W_h c + b_h) = gate of h.

Departs from the printed equations where section 5.2 or arithmetic asks for it, each by a switch:
- A hidden state h = o * tanh(c) is fed back (sec. 5.2 ablates one; eqs 14-17 have none): `hidden_state`.
- Gates are multiplied by `gate_scale` and their layers start at zero, so that with gate_scale = 2 an untrained step
  is exactly a gradient step. With plain sigmoid gates a step could only shrink, to a quarter at the start.
- Eq. 19 prints h_l where Algorithm 1 has h_{l-1}; the layer's input h_{l-1} is meant.
Zeroed states (sec. 5.2): a previous cell or hidden state that is always zero is not fed in, and parameters that would
only ever multiply it are not made.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from norml.update_rules import State, UpdateRule

Gates = Literal["per-example", "batch-shared", "flattened"]
InputNormalisation = Literal["standardise", "log-sign", "none"]

_EPSILON = 1e-20  # chosen: keeps a constant signal (all-dead ReLUs) finite, and is nothing beside signals over 1e-9
_LOG_SIGN_P = 10.0  # Ravi & Larochelle 2017, appendix; Andrychowicz et al. 2016, appendix A


class NodalLstm(UpdateRule):
    """One gated cell a layer, batched over episodes (and over support examples, unless gates are shared)."""

    scales_inputs = True

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        n_support: int,
        gates: Gates = "per-example",
        previous_cell: bool = True,
        previous_hidden: bool = True,
        hidden_state: Literal["output-gate", "none"] = "output-gate",
        cell_size: int | Literal["layer-width"] = "layer-width",
        input_normalisation: InputNormalisation = "standardise",
        gate_scale: float = 2.0,
        forget_bias: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        """`sizes`: the learner's D, hidden widths, N. `n_support`: S, which only flattened gates depend on."""
        super().__init__()
        self.gates = gates
        self.previous_cell = previous_cell
        self.cells = nn.ModuleList(
            NodalCell(
                n_in,
                n_out,
                n_inputs=_input_size(n_in + n_out, n_support, gates, input_normalisation),
                cell_size=n_out if cell_size == "layer-width" else cell_size,
                forgets=previous_cell,
                feeds_hidden=previous_hidden and hidden_state == "output-gate",
                gate_scale=gate_scale,
                forget_bias=forget_bias,
                generator=generator,
            )
            for n_in, n_out in itertools.pairwise(sizes)
        )
        self._normalise: Callable[[Tensor], Tensor] = {
            "standardise": standardise,
            "log-sign": log_sign,
            "none": lambda x: x,
        }[input_normalisation]

    @override
    def initial_state(self, layer: int, delta: Tensor) -> State:
        # Zero cell and hidden state, each [E, B, H]; B = S for per-example gates, else 1.
        rows = delta.shape[1] if self.gates == "per-example" else 1
        cell = cast("NodalCell", self.cells[layer])
        zero = delta.new_zeros((delta.shape[0], rows, cell.cell_size))
        return zero, zero

    @override
    def scaled(
        self, layer: int, delta: Tensor, h: Tensor, losses: Tensor, state: State
    ) -> tuple[Tensor, Tensor, State]:
        delta_gate, h_gate, state = self.cells[layer](self._inputs(delta, h, losses), state)
        return delta * delta_gate, h * h_gate, state

    def _inputs(self, delta: Tensor, h: Tensor, losses: Tensor) -> Tensor:
        """x_{l,t}: loss, delta and h of each example, or of the support set, normalised: [E, B, F].

        delta enters as the gradient of the example's own loss, times S, so that its size does not depend on S.
        """
        losses, delta = losses.unsqueeze(-1), delta * delta.shape[1]
        if self.gates == "batch-shared":
            # Batch norm makes the mean of delta over the batch zero: its mean size is what carries a signal.
            losses, delta, h = (x.mean(dim=1, keepdim=True) for x in (losses, delta.abs(), h))
        elif self.gates == "flattened":
            losses, delta, h = (x.flatten(1).unsqueeze(1) for x in (losses, delta, h))
        return torch.cat([losses, self._normalise(delta), self._normalise(h)], dim=-1)


class NodalCell(nn.Module):
    """The cell of one layer: eqs 14-17, then the two gates of eqs 18-19."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        n_inputs: int,
        cell_size: int,
        forgets: bool,
        feeds_hidden: bool,
        gate_scale: float,
        forget_bias: float,
        generator: torch.Generator | None,
    ) -> None:
        """`forgets`: there is a previous cell state. `feeds_hidden`: there is a previous hidden state."""
        super().__init__()
        self.cell_size = cell_size
        self.forgets, self.feeds_hidden = forgets, feeds_hidden
        self.gate_scale = gate_scale
        n_gates = 2 + forgets + feeds_hidden  # input, update, and as needed forget and output
        self.input_weight = nn.Parameter(_lecun_normal(n_gates * cell_size, n_inputs, generator))
        self.bias = nn.Parameter(torch.zeros(n_gates * cell_size))
        if forgets:
            with torch.no_grad():
                self.bias[2 * cell_size : 3 * cell_size] = forget_bias
        self.hidden_weight = (
            nn.Parameter(_lecun_normal(n_gates * cell_size, cell_size, generator)) if feeds_hidden else None
        )
        self.delta_gate_weight = nn.Parameter(torch.zeros(n_out, cell_size))
        self.delta_gate_bias = nn.Parameter(torch.zeros(n_out))
        self.h_gate_weight = nn.Parameter(torch.zeros(n_in, cell_size))
        self.h_gate_bias = nn.Parameter(torch.zeros(n_in))

    def forward(self, inputs: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Gates of delta [E, B, O] and of h [E, B, I], and the new (cell, hidden) [E, B, H], from inputs [E, B, F]."""
        previous_cell, previous_hidden = state
        packed = functional.linear(inputs, self.input_weight, self.bias)
        if self.hidden_weight is not None:
            packed = packed + functional.linear(previous_hidden, self.hidden_weight)
        gates = list(torch.split(packed, self.cell_size, dim=-1))
        i = gates.pop(0).sigmoid()  # eq. 15
        update = gates.pop(0).tanh()  # eq. 16
        cell = i * update
        if self.forgets:
            cell = cell + gates.pop(0).sigmoid() * previous_cell  # eqs 14, 17
        hidden = gates.pop(0).sigmoid() * cell.tanh() if self.feeds_hidden else previous_hidden
        delta_gate = functional.linear(cell, self.delta_gate_weight, self.delta_gate_bias).sigmoid()  # eq. 18
        h_gate = functional.linear(cell, self.h_gate_weight, self.h_gate_bias).sigmoid()  # eq. 19
        return self.gate_scale * delta_gate, self.gate_scale * h_gate, (cell, hidden)


def standardise(x: Tensor) -> Tensor:
    """Zero mean and unit variance over the last axis."""
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(dim=-1, keepdim=True) + _EPSILON)


def log_sign(x: Tensor) -> Tensor:
    """(log|x| / p, sign x) where |x| >= exp(-p), else (-1, exp(p) x): twice the features (Ravi & Larochelle 2017)."""
    large = x.abs() >= math.exp(-_LOG_SIGN_P)
    safe = torch.where(large, x, torch.ones_like(x))  # no log of zero, not even on the branch that is dropped
    size = torch.where(large, safe.abs().log() / _LOG_SIGN_P, -torch.ones_like(x))
    sign = torch.where(large, x.sign(), x * math.exp(_LOG_SIGN_P))
    return torch.cat([size, sign], dim=-1)


def _input_size(signals: int, n_support: int, gates: Gates, normalisation: InputNormalisation) -> int:
    """F: one loss and the signals' features, for every support example if flattened."""
    examples = n_support if gates == "flattened" else 1
    return examples * (1 + signals * (2 if normalisation == "log-sign" else 1))


def _lecun_normal(n_out: int, n_in: int, generator: torch.Generator | None) -> Tensor:
    """Standardised inputs give pre-activations of unit variance (LeCun et al. 1998, sec. 4.6)."""
    return torch.randn(n_out, n_in, generator=generator) / math.sqrt(n_in)
