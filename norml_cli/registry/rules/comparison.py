"""Prototypical Networks (Snell et al. 2017) and Matching Networks (Vinyals et al. 2016)."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field
from typing_extensions import override

from norml_cli.registry.rules.base import ComparingSettings

if TYPE_CHECKING:
    from norml.adapted.metric_learner import SupportComparison


class ComparisonSettings(ComparingSettings):
    """Compare queries with the support set in meta-trained features; there are no inner steps."""

    compared_with: Literal["class-means", "examples"] = Field(
        description="compare a query with each class's mean ('class-means', Prototypical Networks) or with every "
        "support example, whose softmax weights add up for its class ('examples', Matching Networks)"
    )
    similarity: Literal["euclidean", "cosine"] = Field(
        description="negative squared Euclidean distance, or cosine similarity"
    )

    @override
    def comparison(self) -> "SupportComparison":
        from norml.adapted.metric_learner import SupportComparison  # noqa: PLC0415 - torch; an entry is read without

        return SupportComparison(self.compared_with, self.similarity)
