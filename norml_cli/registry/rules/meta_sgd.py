"""Meta-SGD (Li et al. 2017)."""

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


class MetaSgdSettings(LearnedSettings):
    """Meta-SGD's update rule: a learned rate for every weight and bias, of either sign."""

    initial_rate: float = Field(
        gt=0, le=100, description="initial value of every rate, as a multiple of inner_lr; 1 starts as MAML"
    )

    @override
    def update_rule(
        self, layers: "Sequence[LayerShape]", *, n_support: int, inner_steps: int, generator: "torch.Generator | None"
    ) -> "UpdateRule":
        from norml.update_rules.meta_sgd import MetaSgd  # noqa: PLC0415 - torch; an entry is read without

        return MetaSgd(layers, initial_rate=self.initial_rate)

    @override
    def parameter_count(self, sizes: Sequence[int], *, n_support: int, inner_steps: int) -> int:
        return sum((n_in + 1) * n_out for n_in, n_out in itertools.pairwise(sizes))
