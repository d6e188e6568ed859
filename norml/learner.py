"""The learner: a network of linear layers or convolutions with batch norm and ReLU, its explicit backward pass (paper
eqs 1-5), and the adjoints of both.

Symbols: a_l = pre-activations at the linear output (before batch norm), h_l = activations, delta_l = dL/da_l, where L
is the support loss. `*_bar` = the derivative of the query loss by `*`, which the outer loop needs. A convolution is a
linear layer on patches (`norml.layers.convolution`); its tensors have a row per example and position, [E, B * P, C].
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from norml import hidden_layer
from norml.fast_weights import InputSource, LayerWeights, Product
from norml.layers import Convolutions, LayerShape, convolutional, fully_connected
from norml.layers.convolution import Choice, pooled, spread, taken

WeightStd = float | Literal["he", "xavier"]
HeadInit = Literal["learned", "zero"]


@dataclass(frozen=True)
class ForwardTrace:
    """Values of a forward pass that the backward pass and the adjoints need; lists are by layer, from the input up.

    source: origin of the inputs. inputs: h_{l-1} of every layer. patches: the rows of those that the weights multiply
    (fully connected: the same [E, B, I]). products: of every linear operation. hidden: of every hidden layer. choices:
    of the pools after every hidden layer.
    """

    source: InputSource
    inputs: list[Tensor]
    patches: list[Tensor]
    products: list[Product]
    hidden: list[hidden_layer.Forward]
    choices: list[list[Choice]]


@dataclass(frozen=True)
class BackwardTrace:
    """Values of a backward pass that its adjoint needs.

    deltas: [E, B * P, O] of every layer. products: of every pull-back, for all layers except the first. hidden: of
    every hidden layer.
    """

    deltas: list[Tensor]
    products: list[Product]
    hidden: list[hidden_layer.Backward]


class Learner(nn.Module):
    """Initial weights of a D -> hidden -> N network, shared by all episodes.

    weights: the learned weights of each layer in `layers`, [O, I]; a convolution has I = k * k * C values of a patch; a
    head that starts at zero has no rows.
    """

    def __init__(
        self,
        n_features: int,
        hidden_sizes: Sequence[int],
        n_way: int,
        *,
        batch_norm_scale: bool = True,
        batch_norm_epsilon: float = 1e-3,
        initial_weight_std: WeightStd = 0.01,
        head_weight_std: WeightStd | None = None,
        head_init: HeadInit = "learned",
        convolutions: Convolutions | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw truncated-normal weights (cut at two standard deviations) and zero biases (cbfinn/maml maml.py:168-177).

        The defaults are cbfinn/maml's, except for the learned scale. initial_weight_std: 'he' is sqrt(2 / inputs),
        'xavier' draws uniform weights (Glorot & Bengio 2010). head_weight_std: of the last layer, if it differs.
        head_init: the last layer before the first inner step, 'learned' or 'zero' (Kao et al. 2022). With 'zero',
        classes differ only by their support examples, so the learner works for any N. One learned row shared by all
        classes (UNICORN-MAML: Ye & Chao 2022) is equivalent: it adds the same number to all logits, which softmax
        cancels. n_way: 0 makes a body whose last layer has no outputs. convolutions: makes the hidden layers
        convolutions, with `hidden_sizes` channels.
        Raises ValueError if the images are too small for the convolutions or do not have D values.
        """
        super().__init__()
        self.sizes = (n_features, *hidden_sizes, n_way)
        self.batch_norm_epsilon = batch_norm_epsilon
        if convolutions is None:
            self.layers = fully_connected(self.sizes)
        else:
            if n_features != convolutions.n_features:
                raise ValueError(f"{n_features} features, but images have {convolutions.n_features} values")
            self.layers = convolutional(convolutions, hidden_sizes, n_way)
            self.register_buffer("n_features", torch.tensor(n_features))  # not known from the weights' shapes
        if head_init == "zero":
            self.layers[-1] = replace(self.layers[-1], tied=True)
        learned_rows = [*hidden_sizes, 0 if head_init == "zero" else n_way]
        stds = [initial_weight_std] * len(hidden_sizes)
        stds.append(initial_weight_std if head_weight_std is None else head_weight_std)
        self.weights = nn.ParameterList(
            _initial_weights(layer, n_rows, std, generator)
            for layer, n_rows, std in zip(self.layers, learned_rows, stds, strict=True)
        )
        self.biases = nn.ParameterList(torch.zeros(n_rows) for n_rows in learned_rows)
        self.shifts = nn.ParameterList(torch.zeros(width) for width in hidden_sizes)
        self.scales = nn.ParameterList(torch.ones(width) for width in hidden_sizes) if batch_norm_scale else None

    @property
    def n_layers(self) -> int:
        """L: number of linear layers."""
        return len(self.weights)

    def initial_weights(self) -> list[tuple[Tensor, Tensor]]:
        """W_0 [O, I] and b_0 [O] of every layer."""
        *below, (weight, bias) = zip(self.weights, self.biases, strict=True)
        head = self.layers[-1]
        if head.tied:
            weight, bias = weight.new_zeros(head.weight_shape), bias.new_zeros(head.nodes_out)
        return [*below, (weight, bias)]

    def learned_gradients(self, layer: int, weight_bar: Tensor, bias_bar: Tensor) -> dict[str, Tensor]:
        """Derivatives by a layer's parameters, by name, from those by its W_0 [O, I] and b_0 [O]."""
        return {} if self.layers[layer].tied else {f"weights.{layer}": weight_bar, f"biases.{layer}": bias_bar}

    def forward(
        self,
        weights: Sequence[LayerWeights],
        t: int,
        x: Tensor,
        *,
        source: InputSource = "other",
        n_reference: int | None = None,
    ) -> tuple[Tensor, ForwardTrace]:
        """Logits [E, B, N] for x [E, B, D], with the weights W_t of every layer.

        source: origin of x. n_reference: number of first examples for batch norm's statistics; default all.
        """
        trace = ForwardTrace(source, [], [], [], [], [])
        h = self.rows(x)
        for layer, layer_weights in enumerate(weights):
            patches = self.layers[layer].patches(h)
            a, products = layer_weights.linear(t, patches, source)
            trace.inputs.append(h)
            trace.patches.append(patches)
            trace.products.append(products)
            if layer == self.n_layers - 1:
                break
            hidden = hidden_layer.forward(
                a,
                self._scale(layer),
                self.shifts[layer],
                epsilon=self.batch_norm_epsilon,
                n_reference=self._reference_rows(layer, n_reference),
            )
            h, choices = pooled(self.layers[layer].pools, hidden.h)
            trace.hidden.append(hidden)
            trace.choices.append(choices)
        return a, trace

    def rows(self, x: Tensor) -> Tensor:
        """Examples [E, B, D] as rows of the first layer; for a convolution a row per pixel, [E, B * P, C]."""
        return x if self.layers[0].window is None else x.reshape(x.shape[0], -1, self.layers[0].nodes_in)

    def backward(
        self, weights: Sequence[LayerWeights], t: int, trace: ForwardTrace, delta_out: Tensor
    ) -> BackwardTrace:
        """delta_l of every layer from delta_out [E, B, N] (eq. 4, with batch norm between a_l and f_l)."""
        backward_pass = BackwardTrace([delta_out], [], [])
        for layer in reversed(range(self.n_layers - 1)):
            patches, products = weights[layer + 1].pull_back(t, backward_pass.deltas[0])
            above = spread(self.layers[layer].pools, self.layers[layer + 1].maps(patches), trace.choices[layer])
            hidden = hidden_layer.backward(above, trace.hidden[layer], self._scale(layer))
            backward_pass.products.insert(0, products)
            backward_pass.hidden.insert(0, hidden)
            backward_pass.deltas.insert(0, hidden.delta)
        return backward_pass

    def backward_adjoint(
        self,
        weights: Sequence[LayerWeights],
        t: int,
        trace: ForwardTrace,
        backward_pass: BackwardTrace,
        *,
        delta_bars: list[Tensor],
        gradients: Sequence[hidden_layer.Gradients],
    ) -> tuple[Tensor, list[hidden_layer.BackwardBar]]:
        """delta_bar of every layer -> delta_out_bar [E, B, N], and values for `forward_adjoint`."""
        bars = []
        for layer in range(self.n_layers - 1):
            above_bar, bar = hidden_layer.backward_adjoint(
                delta_bars[layer],
                trace.hidden[layer],
                backward_pass.hidden[layer],
                self._scale(layer),
                gradients[layer],
            )
            bars.append(bar)
            delta, products = backward_pass.deltas[layer + 1], backward_pass.products[layer]
            maps_bar = taken(self.layers[layer].pools, above_bar, trace.choices[layer])
            patches_bar = self.layers[layer + 1].patches(maps_bar)
            pulled = weights[layer + 1].pull_back_adjoint(t, delta, products, patches_bar)
            delta_bars[layer + 1] = delta_bars[layer + 1] + pulled
        return delta_bars[-1], bars

    def forward_adjoint(
        self,
        weights: Sequence[LayerWeights],
        t: int,
        trace: ForwardTrace,
        logits_bar: Tensor,
        gradients: Sequence[hidden_layer.Gradients],
        *,
        input_bars: Sequence[Tensor | None] | None = None,
        of_backward: tuple[BackwardTrace, list[hidden_layer.BackwardBar]] | None = None,
        n_reference: int | None = None,
    ) -> None:
        """Add the derivatives through logits_bar [E, B, N] to the gradients of weights, scales and shifts.

        input_bars: derivatives by each layer's input h_{l-1} from elsewhere. of_backward: the backward pass through the
        same trace, with the result of its adjoint.
        """
        a_bar = logits_bar
        for layer in reversed(range(self.n_layers)):
            patches, products = trace.patches[layer], trace.products[layer]
            patches_bar = weights[layer].linear_adjoint(t, patches, trace.source, products, a_bar, to_input=layer > 0)
            if patches_bar is None:
                return
            h_bar = self.layers[layer].maps(patches_bar)
            elsewhere = input_bars[layer] if input_bars is not None else None
            if elsewhere is not None:
                h_bar += elsewhere
            a_bar = hidden_layer.forward_adjoint(
                spread(self.layers[layer - 1].pools, h_bar, trace.choices[layer - 1]),
                trace.hidden[layer - 1],
                self._scale(layer - 1),
                gradients[layer - 1],
                of_backward=of_backward and (of_backward[0].hidden[layer - 1], of_backward[1][layer - 1]),
                n_reference=self._reference_rows(layer - 1, n_reference),
            )

    def named_gradients(
        self, weights: Sequence[LayerWeights], gradients: Sequence[hidden_layer.Gradients]
    ) -> dict[str, Tensor]:
        """The sums of all adjoints, by parameter name; parameters without influence are left out."""
        by_name: dict[str, Tensor] = {}
        for layer, layer_weights in enumerate(weights):
            by_name |= self.learned_gradients(layer, *layer_weights.initial_gradients())
        for layer, of_layer in enumerate(gradients):
            if of_layer.shift is not None:
                by_name[f"shifts.{layer}"] = of_layer.shift.sum(dim=(0, 1))
            if of_layer.scale is not None and self.scales is not None:
                by_name[f"scales.{layer}"] = of_layer.scale.sum(dim=(0, 1))
        return by_name

    def _reference_rows(self, layer: int, n_reference: int | None) -> int | None:
        return None if n_reference is None else n_reference * self.layers[layer].positions

    def _scale(self, layer: int) -> Tensor:
        return torch.ones_like(self.shifts[layer]) if self.scales is None else self.scales[layer]


def cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of each example [E, B] and delta_out = (softmax - one-hot) / B [E, B, N] (eq. 3, for the mean over B).

    Uses softmax cross-entropy, because the gradient of eq. 2's sum of binary terms is not eq. 3.
    """
    log_p = functional.log_softmax(logits, dim=-1)
    losses = -log_p.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    one_hot = functional.one_hot(labels, logits.shape[-1]).to(logits.dtype)
    return losses, (log_p.exp() - one_hot) / logits.shape[1]


def cross_entropy_adjoint(
    logits: Tensor, delta_out: Tensor, delta_out_bar: Tensor, losses_bar: Tensor | None
) -> Tensor:
    """logits_bar [E, B, N] from delta_out_bar [E, B, N] and losses_bar [E, B] (None: nothing used the losses)."""
    p = functional.softmax(logits, dim=-1)
    n_examples = logits.shape[1]
    mixed = delta_out_bar - (p * delta_out_bar).sum(dim=-1, keepdim=True)
    logits_bar = p * mixed / n_examples
    if losses_bar is not None:
        logits_bar.addcmul_(delta_out, losses_bar.unsqueeze(-1), value=n_examples)
    return logits_bar


def _initial_weights(layer: LayerShape, n_rows: int, std: WeightStd, generator: torch.Generator | None) -> Tensor:
    n_out, n_in = layer.weight_shape
    weights = torch.empty(n_rows, n_in)
    if std == "xavier":
        bound = (6 / (n_in + n_in // layer.nodes_in * n_out)) ** 0.5  # a convolution's fans include its window
        return nn.init.uniform_(weights, -bound, bound, generator=generator)
    scale = (2 / n_in) ** 0.5 if std == "he" else std
    return nn.init.trunc_normal_(weights, std=scale, a=-2 * scale, b=2 * scale, generator=generator)
