"""MAML (Finn et al. 2017) and its learned rates."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from typing_extensions import override

from norml_cli.registry.rules.base import LearnedSettings

if TYPE_CHECKING:
    import torch

    from norml.layers import LayerShape
    from norml.update_rules import UpdateRule


class GradientDescentSettings(LearnedSettings):
    """MAML's update rule: signals scaled by a constant or by learned rates."""

    learned_rates: Literal["none", "global", "layer-wise", "layer-and-step-wise"] = Field(
        description="learning rates that the outer loop learns, in log space from inner_lr: none, one, one per layer, "
        "or one per layer and inner step, where steps beyond training use the last rate"
    )

    @override
    def update_rule(
        self, layers: "Sequence[LayerShape]", *, n_support: int, inner_steps: int, generator: "torch.Generator | None"
    ) -> "UpdateRule":
        from norml.update_rules.gradient_descent import GradientDescent  # noqa: PLC0415 - torch; an entry is read without

        return GradientDescent(len(layers), inner_steps=inner_steps, **self.model_dump())

    @override
    def parameter_count(self, sizes: Sequence[int], *, n_support: int, inner_steps: int) -> int:
        n_layers = len(sizes) - 1
        return {"none": 0, "global": 1, "layer-wise": n_layers, "layer-and-step-wise": n_layers * inner_steps}[
            self.learned_rates
        ]
