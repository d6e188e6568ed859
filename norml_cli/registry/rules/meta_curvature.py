"""Meta-Curvature (Park & Oliva 2019) and T-net (Lee & Choi 2018)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from typing_extensions import override

from norml_cli.registry.rules.base import LearnedSettings

if TYPE_CHECKING:
    import torch

    from norml.layers import LayerShape
    from norml.update_rules import UpdateRule


class MetaCurvatureSettings(LearnedSettings):
    """Learned matrices on both sides of a layer's gradient."""

    curvature: Literal["two-matrices", "t-net"] = Field(
        description="'two-matrices': M_o G M_i (Meta-Curvature); 't-net': T T^T G, as if the layer were T (W x + b)"
    )

    @override
    def update_rule(
        self, layers: "Sequence[LayerShape]", *, n_support: int, inner_steps: int, generator: "torch.Generator | None"
    ) -> "UpdateRule":
        from norml.update_rules.meta_curvature import MetaCurvature  # noqa: PLC0415 - torch; an entry is read without

        return MetaCurvature(layers, **self.model_dump())

    @override
    def parameter_count(self, sizes: Sequence[int], *, n_support: int, inner_steps: int) -> int:
        of_inputs = sizes[:-1] if self.curvature == "two-matrices" else ()
        return sum(size**2 for size in (*sizes[1:], *of_inputs))
