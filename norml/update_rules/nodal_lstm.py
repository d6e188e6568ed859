"""NORML's update rule (paper sec. 3.2, eqs 14-19): an LSTM cell per layer gates both signals, node by node.

Symbols to names: x_{l,t} = inputs, f, i, c~ = the forget, input and update gates, c_{l,t} = cell,
sigma(W_g c + b_g) = output gate of delta, sigma(W_h c + b_h) = gate of h.

Differences from the printed equations, where section 5.2 or arithmetic requires them:
- The cell gets its hidden state h = o * tanh(c) back (sec. 5.2 ablates one; eqs 14-17 have none): `hidden_state`.
- `gate_scale` multiplies the gates. Their layers start with zero weights, and with biases that make an untrained gate 1
  (half of gate_scale if that is less). So with gate_scale of at least 2, an untrained step is a gradient step. With
  plain sigmoid gates a step could only shrink, at first to a quarter.
- A convolution's node is a channel, with one gate for all its positions. The cell gets a summary of each channel's
  signal over an example's positions: its mean, its mean size, or both (`channel_summary`; the paper has no
  convolutions).
- A tied head has one gate of delta for all its classes. Its delta is no input of the cell, because it only says which
  class the example has, and the example's loss already gives its size (chosen; the paper has no such head).
- Eq. 19 prints h_l where Algorithm 1 has h_{l-1}. This code uses the layer's input h_{l-1}.
Zeroed states (sec. 5.2): a previous cell or hidden state that is always zero is no input, and parameters that would
only multiply it do not exist.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from norml.arguments import check_layers
from norml.layers import LayerShape
from norml.update_rules import Carried, Gated, initial_gate_bias

Gates = Literal["per-example", "batch-shared", "flattened"]
InputNormalisation = Literal["standardise", "log-sign", "none"]
ChannelSummary = Literal["mean-and-size", "mean", "size"]

_EPSILON = 1e-20  # chosen: keeps a constant signal (all ReLUs dead) finite and does not affect signals over 1e-9
_LOG_SIGN_P = 10.0  # Ravi & Larochelle 2017, appendix; Andrychowicz et al. 2016, appendix A


class NodalLstm(Gated):
    """One cell per layer, batched over episodes and, unless gates are shared, over support examples."""

    def __init__(
        self,
        layers: Sequence[LayerShape],
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
        layer_rates: bool = False,
        channel_summary: ChannelSummary = "mean-and-size",
        generator: torch.Generator | None = None,
    ) -> None:
        """layers: the learner's `layers`. n_support: S of a step, needed only for flattened gates.

        layer_rates: also multiply delta by a learned rate per layer, stored as its logarithm.
        """
        check_layers(layers)
        super().__init__()
        self.gates = gates
        self.channel_summary = channel_summary
        self.previous_cell = previous_cell
        self.cells = nn.ModuleList(
            NodalCell(
                layer.nodes_in,
                layer.learned_out,
                n_features=_features(layer, n_support, gates, input_normalisation, channel_summary),
                cell_size=layer.learned_out if cell_size == "layer-width" else cell_size,
                forgets=previous_cell,
                feeds_hidden=previous_hidden and hidden_state == "output-gate",
                gate_scale=gate_scale,
                forget_bias=forget_bias,
                generator=generator,
            )
            for layer in layers
        )
        self._normalise: Callable[[Tensor], Tensor] = {
            "standardise": standardise,
            "log-sign": log_sign,
            "none": lambda x: x,
        }[input_normalisation]
        self.log_alpha = nn.Parameter(torch.zeros(len(layers))) if layer_rates else None

    @override
    def parameters_of(self, layer: int) -> dict[str, nn.Parameter]:
        rates = {} if self.log_alpha is None else {"log_alpha": self.log_alpha}
        of_cell = self.cells[layer].named_parameters()
        return rates | {f"cells.{layer}.{name}": parameter for name, parameter in of_cell}

    @override
    def of_constant_input(self, h: Tensor) -> Carried:
        """The product of h with the gates' weights. There is no cell or hidden state yet; both start at zero."""
        return {"h_product": self._cell(0).h_product(self._h_features(h))}

    @override
    def scaled(
        self, layer: int, delta: Tensor, h: Tensor, losses: Tensor, carried: Carried
    ) -> tuple[Tensor, Tensor, Carried]:
        delta_hat, h_hat, after = super().scaled(layer, delta, h, losses, carried)
        return (delta_hat if self.log_alpha is None else self.log_alpha[layer].exp() * delta_hat), h_hat, after

    @override
    def gates_of(
        self, layer: int, delta: Tensor, h: Tensor, losses: Tensor, carried: Carried
    ) -> tuple[Tensor, Tensor, Carried]:
        """The gates of delta [E, S, O] and of h [E, S, I], in 0..gate_scale, and the tensors to carry on.

        O = 1 if outputs are tied. S = 1 if examples share their gates.
        """
        cell = self._cell(layer)
        h_features = None if "h_product" in carried else self._h_features(h)
        delta_features = self._delta_features(delta) if cell.sees_delta else None
        gates, after = cell(self._loss_features(losses), delta_features, h_features, carried)
        delta_gate, h_gate = torch.split(gates, [gates.shape[-1] - h.shape[-1], h.shape[-1]], dim=-1)
        return delta_gate, h_gate, after

    def _cell(self, layer: int) -> "NodalCell":
        return cast("NodalCell", self.cells[layer])

    # x_{l,t}: loss, normalised delta and normalised h of each example or of the support set: [E, B, features].

    def _loss_features(self, losses: Tensor) -> Tensor:
        return self._gathered(losses.unsqueeze(-1))

    def _delta_features(self, delta: Tensor) -> Tensor:
        # The gradient of the example's own loss: delta times S (and P), so that its size does not depend on S. Batch
        # norm makes the mean of delta over the batch zero, so shared cells get its mean size.
        summaries = self._summaries(delta * math.prod(delta.shape[1:-1]))
        if self.gates == "batch-shared":
            summaries = [summary.abs() for summary in summaries]
        return self._features(summaries)

    def _h_features(self, h: Tensor) -> Tensor:
        return self._features(self._summaries(h))

    def _summaries(self, signal: Tensor) -> list[Tensor]:
        """Summaries of a signal by node: itself [E, S, nodes], or mean and size over positions of [E, S, P, nodes]."""
        if signal.dim() == 3:  # noqa: PLR2004
            return [signal]
        mean = [signal.mean(dim=2)] if self.channel_summary != "size" else []
        return mean if self.channel_summary == "mean" else [*mean, signal.abs().mean(dim=2)]

    def _features(self, summaries: list[Tensor]) -> Tensor:
        features = [self._normalise(self._gathered(summary)) for summary in summaries]
        return features[0] if len(features) == 1 else torch.cat(features, dim=-1)

    def _gathered(self, x: Tensor) -> Tensor:
        """[E, S, F] -> unchanged, a row per example; or a row per support set: mean [E, 1, F] or flat [E, 1, S * F]."""
        if self.gates == "batch-shared":
            return x.mean(dim=1, keepdim=True)
        return x.flatten(1).unsqueeze(1) if self.gates == "flattened" else x


class NodalCell(nn.Module):
    """The cell of one layer: eqs 14-17, then the two gates of eqs 18-19.

    The weights of all gates are packed, so that each source needs one product: input, forget and output gate, then the
    update. Forget and output gate exist only if used.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        n_features: tuple[int, int, int],
        cell_size: int,
        forgets: bool,
        feeds_hidden: bool,
        gate_scale: float,
        forget_bias: float,
        generator: torch.Generator | None,
    ) -> None:
        """n_features: of loss, delta and h. forgets: use the previous cell. feeds_hidden: use the hidden state."""
        super().__init__()
        self.cell_size = cell_size
        self.forgets, self.feeds_hidden = forgets, feeds_hidden
        self.sees_delta = n_features[1] > 0
        self.gate_scale = gate_scale
        n_packed = (2 + forgets + feeds_hidden) * cell_size
        weights = torch.split(_lecun_normal(n_packed, sum(n_features), generator), list(n_features), dim=1)
        self.loss_weight, self.delta_weight, self.h_weight = (nn.Parameter(weight.contiguous()) for weight in weights)
        self.bias = nn.Parameter(torch.zeros(n_packed))
        if forgets:
            with torch.no_grad():
                self.bias[cell_size : 2 * cell_size] = forget_bias
        self.hidden_weight = nn.Parameter(_lecun_normal(n_packed, cell_size, generator)) if feeds_hidden else None
        self.gate_weight = nn.Parameter(torch.zeros(n_out + n_in, cell_size))  # W_g above W_h
        self.gate_bias = nn.Parameter(torch.full((n_out + n_in,), initial_gate_bias(gate_scale)))

    def h_product(self, h: Tensor) -> Tensor:
        """The product of h [E, B, F] with the packed gates' weights: [E, B, G]."""
        return functional.linear(h, self.h_weight)

    def forward(
        self, losses: Tensor, delta: Tensor | None, h: Tensor | None, carried: Carried
    ) -> tuple[Tensor, Carried]:
        """Gates of delta and h, concatenated [E, B, O + I], and the new cell and hidden state, each [E, B, H].

        If `h` is None, `carried` has its product.
        """
        sources = [(losses, self.loss_weight)]
        sources += [(x, weight) for x, weight in ((delta, self.delta_weight), (h, self.h_weight)) if x is not None]
        if self.hidden_weight is not None and "hidden" in carried:
            sources.append((carried["hidden"], self.hidden_weight))
        # One product for all sources, because a GPU takes longer to launch several small ones than to compute them.
        inputs, weights = zip(*sources, strict=True)
        packed = functional.linear(torch.cat(inputs, dim=-1), torch.cat(weights, dim=1)) + self.bias
        if h is None:
            packed = packed + carried["h_product"]
        n_sigmoid = packed.shape[-1] - self.cell_size
        open_ = torch.split(packed[..., :n_sigmoid].sigmoid(), self.cell_size, dim=-1)
        cell = open_[0] * packed[..., n_sigmoid:].tanh()  # eqs 15, 16
        if self.forgets and "cell" in carried:
            cell = cell + open_[1] * carried["cell"]  # eqs 14, 17
        after = {"cell": cell} if self.forgets else {}
        if self.feeds_hidden:
            after["hidden"] = open_[-1] * cell.tanh()
        gates = self.gate_scale * (functional.linear(cell, self.gate_weight) + self.gate_bias).sigmoid()  # eqs 18, 19
        return gates, after


def standardise(x: Tensor) -> Tensor:
    """Zero mean and unit variance over the last axis."""
    return functional.layer_norm(x, x.shape[-1:], eps=_EPSILON)


def log_sign(x: Tensor) -> Tensor:
    """(log|x| / p, sign x) if |x| >= exp(-p), otherwise (-1, exp(p) x): twice the features (Ravi & Larochelle 2017)."""
    large = x.abs() >= math.exp(-_LOG_SIGN_P)
    safe = torch.where(large, x, torch.ones_like(x))  # no log of zero, even in the branch that is not used
    size = torch.where(large, safe.abs().log() / _LOG_SIGN_P, -torch.ones_like(x))
    sign = torch.where(large, x.sign(), x * math.exp(_LOG_SIGN_P))
    return torch.cat([size, sign], dim=-1)


def _features(
    layer: LayerShape, n_support: int, gates: Gates, normalisation: InputNormalisation, summary: ChannelSummary
) -> tuple[int, int, int]:
    """Numbers of loss, delta and h features; flattened gates have those of all support examples."""
    examples = n_support if gates == "flattened" else 1
    each = 2 if normalisation == "log-sign" else 1
    if layer.window is not None and summary == "mean-and-size":
        each *= 2
    nodes_seen = 0 if layer.tied else layer.nodes_out
    return examples, examples * nodes_seen * each, examples * layer.nodes_in * each


def _lecun_normal(n_out: int, n_in: int, generator: torch.Generator | None) -> Tensor:
    """Weights that give pre-activations of unit variance for standardised inputs (LeCun et al. 1998, sec. 4.6)."""
    return torch.randn(n_out, n_in, generator=generator) / math.sqrt(n_in)
