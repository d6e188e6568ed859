"""Prototypical Networks (Snell et al. 2017) and Matching Networks (Vinyals et al. 2016)."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field
from typing_extensions import override

from norml_cli.registry.rules.base import ComparingSettings

if TYPE_CHECKING:
    from norml.adapted.metric_learner import SupportComparison


class ComparisonSettings(ComparingSettings):
    """Queries are compared with the support set, in the features of a meta-trained body; nothing is adapted."""

    compared_with: Literal["class-means", "examples"] = Field(
        description="'class-means': with each class's mean (Prototypical Networks); 'examples': with every support "
        "example, whose class gets its share of a softmax (Matching Networks)"
    )
    similarity: Literal["euclidean", "cosine"] = Field(
        description="minus the squared Euclidean distance, or the cosine of the angle"
    )

    @override
    def comparison(self) -> "SupportComparison":
        from norml.adapted.metric_learner import SupportComparison  # noqa: PLC0415 - torch; an entry is read without

        return SupportComparison(self.compared_with, self.similarity)
