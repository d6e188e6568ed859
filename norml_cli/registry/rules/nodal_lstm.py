"""NORML and its variants with zeroed states."""

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
    """NORML's update rule (eqs 14-19): one LSTM cell per layer scales both signals, neuron by neuron."""

    gates: Literal["per-example", "batch-shared", "flattened"] = Field(
        description="one cell state per support example; one per episode, with inputs averaged over the support set; "
        "or one per episode, with all support examples concatenated into one input"
    )
    previous_cell: bool = Field(description="whether a step gets the last step's cell state (false: zero cell)")
    hidden_state: Literal["output-gate", "none"] = Field(
        description="'output-gate' feeds h = o * tanh(c) back into the gates; 'none' is eqs 14-17 as printed"
    )
    previous_hidden: bool = Field(description="whether a step gets the last step's hidden state (false: zero hidden)")
    cell_size: Annotated[int, Field(ge=1, le=65_536)] | Literal["layer-width"] = Field(
        description="neurons of each LSTM cell; 'layer-width' = the layer's outputs"
    )
    input_normalisation: Literal["standardise", "log-sign", "none"] = Field(
        description="inputs delta and h of the cell: standardised over neurons, as log and sign (p = 10), or unchanged"
    )
    gate_scale: float = Field(
        gt=0,
        le=100,
        description="largest value of a gate, which is this times a sigmoid; an untrained gate is 1 (half of this if "
        "below 2)",
    )
    forget_bias: float = Field(ge=-20, le=20, description="initial bias of the forget gate")
    layer_rates: bool = Field(
        default=False, description="whether each layer also has a learned rate that multiplies its steps"
    )
    # Has a default, which a spec's hash leaves out; fully connected layers do not use it.
    channel_summary: Literal["mean-and-size", "mean", "size"] = Field(
        default="mean-and-size",
        description="input of the cell for a convolution's channel: mean and size over an example's positions, or one",
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
        """Parameters of the LSTM's packed gates, plus those of the gates that scale both signals."""
        size = n_out if self.cell_size == "layer-width" else self.cell_size
        feeds_hidden = self.previous_hidden and self.hidden_state == "output-gate"
        examples = n_support if self.gates == "flattened" else 1
        each = 2 if self.input_normalisation == "log-sign" else 1
        packed = (2 + self.previous_cell + feeds_hidden) * size
        inputs = examples * (1 + each * (n_out + n_in)) + feeds_hidden * size
        return packed * (inputs + 1) + (n_out + n_in) * (size + 1)
