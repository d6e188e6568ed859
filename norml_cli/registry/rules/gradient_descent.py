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
    """MAML's update rule: signals scaled by a constant, one learned rate, or one learned rate a layer."""

    learned_rates: Literal["none", "global", "layer-wise"] = Field(
        description="which learning rates the outer loop learns (starting from inner_lr, in log space)"
    )

    @override
    def update_rule(
        self, layers: "Sequence[LayerShape]", *, n_support: int, generator: "torch.Generator | None"
    ) -> "UpdateRule":
        from norml.update_rules.gradient_descent import GradientDescent  # noqa: PLC0415 - torch; an entry is read without

        return GradientDescent(len(layers), **self.model_dump())
