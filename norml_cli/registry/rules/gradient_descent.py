"""MAML (Finn et al. 2017) and its learned rates."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from typing_extensions import override

from norml_cli.registry.rules.base import LearnedSettings

if TYPE_CHECKING:
    import torch

    from norml.update_rules import UpdateRule


class GradientDescentSettings(LearnedSettings):
    """MAML's update rule: signals scaled by a constant, one learned rate, or one learned rate a layer."""

    learned_rates: Literal["none", "global", "layer-wise"] = Field(
        description="which learning rates the outer loop learns (starting from inner_lr, in log space)"
    )

    @override
    def update_rule(self, sizes: Sequence[int], *, n_support: int, generator: "torch.Generator | None") -> "UpdateRule":
        from norml.update_rules.gradient_descent import GradientDescent  # noqa: PLC0415 - torch; an entry is read without

        return GradientDescent(len(sizes) - 1, **self.model_dump())

    @override
    def parameter_count(self, sizes: Sequence[int], *, n_support: int) -> int:
        return {"none": 0, "global": 1, "layer-wise": len(sizes) - 1}[self.learned_rates]
