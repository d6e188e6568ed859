"""ALFA (Baik et al. 2020)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field
from typing_extensions import override

from norml_cli.registry.rules.base import LearnedSettings

if TYPE_CHECKING:
    import torch

    from norml.layers import LayerShape
    from norml.update_rules import UpdateRule


class AlfaSettings(LearnedSettings):
    """A small network sets each layer's rate and weight decay in each inner step from mean weights and gradients."""

    initial_decay: float = Field(
        ge=0, lt=1, description="weight decay of an inner step before training, as a share of a layer's weights"
    )

    @override
    def update_rule(
        self, layers: "Sequence[LayerShape]", *, n_support: int, inner_steps: int, generator: "torch.Generator | None"
    ) -> "UpdateRule":
        from norml.update_rules.alfa import Alfa  # noqa: PLC0415 - torch; an entry is read without

        return Alfa(len(layers), inner_steps=inner_steps, initial_decay=self.initial_decay, generator=generator)

    @override
    def parameter_count(self, sizes: Sequence[int], *, n_support: int, inner_steps: int) -> int:
        width = 2 * (len(sizes) - 1)
        return 2 * width * (width + 1) + width * max(inner_steps, 1)
