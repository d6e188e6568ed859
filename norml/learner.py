"""The learner: a fully connected network with batch norm and ReLU, and its explicit backward pass (paper eqs 1-5).

Symbols: a_l = pre-activations at the linear output (before batch norm), h_l = activations, delta_l = dL/da_l.
Batch norm normalises each neuron over the examples of one episode's set; its scale and shift belong to the initial
weights and are learned by the outer loop only (cbfinn/maml does the same with a shift).

The layer gradients are written in differentiable tensor operations, so the outer loop gets second order from one
ordinary `backward()`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from norml.fast_weights import Factored, Form, LayerWeights, Materialised

Statistics = tuple[Tensor, Tensor]  # mean and inverse standard deviation, each [E, 1, O]


@dataclass(frozen=True)
class Trace:
    """What a forward pass leaves for the backward pass; lists run over layers from the input up.

    inputs: h_{l-1} [E, B, I] of every layer. normalised: batch-normed pre-activations [E, B, O] before scale and
    shift, of hidden layers. active: 1 where the ReLU passes, [E, B, O]. statistics: batch norm's, of hidden layers.
    """

    inputs: list[Tensor]
    normalised: list[Tensor]
    active: list[Tensor]
    statistics: list[Statistics]


class Learner(nn.Module):
    """Initial weights of a D -> hidden -> N network, shared by all episodes."""

    def __init__(
        self,
        n_features: int,
        hidden_sizes: Sequence[int],
        n_way: int,
        *,
        batch_norm_scale: bool = True,
        batch_norm_epsilon: float = 1e-3,
        initial_weight_std: float | Literal["he"] = 0.01,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw truncated-normal weights (cut at two standard deviations) and zero biases (cbfinn/maml maml.py:168-177).

        The defaults are cbfinn/maml's, but for the learned scale.
        """
        super().__init__()
        self.sizes = (n_features, *hidden_sizes, n_way)
        self.batch_norm_epsilon = batch_norm_epsilon
        shapes = list(zip(self.sizes[1:], self.sizes[:-1], strict=True))
        self.weights = nn.ParameterList(_truncated_normal(shape, initial_weight_std, generator) for shape in shapes)
        self.biases = nn.ParameterList(torch.zeros(n_out) for n_out, _ in shapes)
        self.shifts = nn.ParameterList(torch.zeros(width) for width in hidden_sizes)
        self.scales = nn.ParameterList(torch.ones(width) for width in hidden_sizes) if batch_norm_scale else None

    @property
    def n_layers(self) -> int:
        """L: linear layers."""
        return len(self.weights)

    def initial(self, forms: Sequence[Form] | None = None) -> list[LayerWeights]:
        """The weights before any inner step, each layer in the form given (default: all materialised)."""
        forms = forms or ["materialised"] * self.n_layers
        made = {"materialised": Materialised, "factored": Factored}
        return [made[form](w, b) for form, w, b in zip(forms, self.weights, self.biases, strict=True)]

    def forward(
        self, weights: Sequence[LayerWeights], x: Tensor, statistics: Sequence[Statistics] | None = None
    ) -> tuple[Tensor, Trace]:
        """Logits [E, B, N] and the trace for x [E, B, D].

        Batch norm uses the statistics of x itself, or those given (of the support set, for queries).
        """
        trace = Trace([], [], [], [])
        h = x
        for layer in range(self.n_layers - 1):
            trace.inputs.append(h)
            a = weights[layer].linear(h)
            mean, inverse_std = self._statistics(a) if statistics is None else statistics[layer]
            normalised = (a - mean) * inverse_std
            z = self._scaled(layer, normalised) + self.shifts[layer]
            h = functional.relu(z)
            trace.normalised.append(normalised)
            trace.active.append((z > 0).to(z.dtype))
            trace.statistics.append((mean, inverse_std))
        trace.inputs.append(h)
        return weights[-1].linear(h), trace

    def backward(self, weights: Sequence[LayerWeights], trace: Trace, delta_out: Tensor) -> list[Tensor]:
        """delta_l [E, B, O] of every layer from delta_out [E, B, N] (eq. 4, with batch norm between a_l and f_l).

        Holds for a trace whose batch norm used its own statistics.
        """
        deltas = [delta_out]
        for layer in reversed(range(self.n_layers - 1)):
            above = weights[layer + 1].pull_back(deltas[0])
            d_normalised = self._scaled(layer, above * trace.active[layer])
            normalised = trace.normalised[layer]
            centred = d_normalised - d_normalised.mean(dim=1, keepdim=True)
            along = normalised * (d_normalised * normalised).mean(dim=1, keepdim=True)
            deltas.insert(0, trace.statistics[layer][1] * (centred - along))
        return deltas

    def _statistics(self, a: Tensor) -> Statistics:
        # Two means: on the CPU torch.var_mean takes tens of times as long as one.
        mean = a.mean(dim=1, keepdim=True)
        variance = (a - mean).square().mean(dim=1, keepdim=True)
        return mean, torch.rsqrt(variance + self.batch_norm_epsilon)

    def _scaled(self, layer: int, x: Tensor) -> Tensor:
        return x if self.scales is None else x * self.scales[layer]


def cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of each example [E, B] and delta_out = (softmax - one-hot) / B [E, B, N] (eq. 3, for the mean over B).

    Softmax cross-entropy in place of eq. 2's sum of binary terms, whose gradient would not be eq. 3.
    """
    log_p = functional.log_softmax(logits, dim=-1)
    losses = -log_p.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    one_hot = functional.one_hot(labels, logits.shape[-1]).to(logits.dtype)
    return losses, (log_p.exp() - one_hot) / logits.shape[1]


def _truncated_normal(shape: tuple[int, int], std: float | Literal["he"], generator: torch.Generator | None) -> Tensor:
    scale = (2 / shape[1]) ** 0.5 if std == "he" else std
    return nn.init.trunc_normal_(torch.empty(shape), std=scale, a=-2 * scale, b=2 * scale, generator=generator)
