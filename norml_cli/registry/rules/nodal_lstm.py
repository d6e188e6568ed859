"""NORML and its zeroed-state variants."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from typing_extensions import override

from norml_cli.registry.rules.base import LearnedSettings

if TYPE_CHECKING:
    import torch

    from norml.layers import LayerShape
    from norml.update_rules import UpdateRule


class NodalLstmSettings(LearnedSettings):
    """NORML's update rule (eqs 14-19): one LSTM cell a layer scales both signals neuron by neuron."""

    gates: Literal["per-example", "batch-shared", "flattened"] = Field(
        description="one cell state per support example; one per episode from inputs averaged over the support set; "
        "or one per episode from all support examples flattened into one input"
    )
    previous_cell: bool = Field(description="whether the cell state is carried over inner steps (false: zero cell)")
    hidden_state: Literal["output-gate", "none"] = Field(
        description="'output-gate' feeds h = o * tanh(c) back into the gates; 'none' is eqs 14-17 as printed"
    )
    previous_hidden: bool = Field(description="whether the hidden state is carried over (false: zero hidden)")
    cell_size: Annotated[int, Field(ge=1, le=65_536)] | Literal["layer-width"] = Field(
        description="neurons of each LSTM cell; 'layer-width' = the layer's outputs"
    )
    input_normalisation: Literal["standardise", "log-sign", "none"] = Field(
        description="how delta and h enter the cell: standardised over neurons, log and sign (p = 10), or as they are"
    )
    gate_scale: float = Field(
        gt=0,
        le=100,
        description="factor on the sigmoid gates: how far one can open; untrained, it is 1 (half of this, below 2)",
    )
    forget_bias: float = Field(ge=-20, le=20, description="initial bias of the forget gate")
    layer_rates: bool = Field(
        default=False, description="whether a learned rate a layer multiplies its steps, beside the gates"
    )
    # A default, which a spec's hash leaves out: it changes nothing of fully connected layers.
    channel_summary: Literal["mean-and-size", "mean", "size"] = Field(
        default="mean-and-size",
        description="what of a convolution's channel enters the cell, over an example's positions",
    )

    @override
    def update_rule(
        self, layers: "Sequence[LayerShape]", *, n_support: int, inner_steps: int, generator: "torch.Generator | None"
    ) -> "UpdateRule":
        from norml.update_rules.nodal_lstm import NodalLstm  # noqa: PLC0415 - torch; an entry is read without

        return NodalLstm(layers, n_support=n_support, generator=generator, **self.model_dump())

    @override
    def parameter_count(self, sizes: Sequence[int], *, n_support: int, inner_steps: int) -> int:
        layers = list(itertools.pairwise(sizes))
        of_cells = sum(self._cell_parameters(n_in, n_out, n_support) for n_in, n_out in layers)
        return of_cells + (len(layers) if self.layer_rates else 0)

    def _cell_parameters(self, n_in: int, n_out: int, n_support: int) -> int:
        """Packed gates of losses, delta, h and hidden state, and the gates that open both signals."""
        size = n_out if self.cell_size == "layer-width" else self.cell_size
        feeds_hidden = self.previous_hidden and self.hidden_state == "output-gate"
        examples = n_support if self.gates == "flattened" else 1
        each = 2 if self.input_normalisation == "log-sign" else 1
        packed = (2 + self.previous_cell + feeds_hidden) * size
        inputs = examples * (1 + each * (n_out + n_in)) + feeds_hidden * size
        return packed * (inputs + 1) + (n_out + n_in) * (size + 1)
