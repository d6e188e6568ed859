"""Static nodal gates: NORML's gates without its LSTM."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field
from typing_extensions import override

from norml_cli.registry.rules.base import LearnedSettings

if TYPE_CHECKING:
    import torch

    from norml.layers import LayerShape
    from norml.update_rules import UpdateRule


class StaticGatesSettings(LearnedSettings):
    """Two learned gates per neuron or channel, the same in every episode, example and inner step."""

    gate_scale: float = Field(
        gt=0,
        le=100,
        description="largest value of a gate, which is this times a sigmoid; an untrained gate is 1 (half of this if "
        "below 2)",
    )

    @override
    def update_rule(
        self, layers: "Sequence[LayerShape]", *, n_support: int, inner_steps: int, generator: "torch.Generator | None"
    ) -> "UpdateRule":
        from norml.update_rules.static_gates import StaticGates  # noqa: PLC0415 - torch; an entry is read without

        return StaticGates(layers, **self.model_dump())

    @override
    def parameter_count(self, sizes: Sequence[int], *, n_support: int, inner_steps: int) -> int:
        return sum(n_in + n_out for n_in, n_out in itertools.pairwise(sizes))
