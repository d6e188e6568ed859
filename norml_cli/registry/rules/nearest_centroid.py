"""Nearest class mean of frozen features."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field
from typing_extensions import override

from norml_cli.registry.rules.base import FittedSettings

if TYPE_CHECKING:
    from norml.frozen_classifiers import FrozenClassifier


class NearestCentroidSettings(FittedSettings):
    """Choose the class whose mean support example is nearest; there is no outer loop."""

    similarity: Literal["euclidean", "cosine"] = Field(
        description="nearest by Euclidean distance, or by cosine similarity"
    )

    @override
    def classifier(self) -> "FrozenClassifier":
        from norml.frozen_classifiers import NearestCentroid  # noqa: PLC0415 - torch; an entry is read without

        return NearestCentroid(self.similarity)
