"""Logistic regression on frozen features."""

from typing import TYPE_CHECKING

from pydantic import Field
from typing_extensions import override

from norml_cli.registry.rules.base import FittedSettings

if TYPE_CHECKING:
    from norml.frozen_classifiers import FrozenClassifier


class LogisticRegressionSettings(FittedSettings):
    """Logistic regression fitted to each support set; there is no outer loop."""

    inverse_penalty: float = Field(
        gt=0, le=1000, description="C: the loss is summed over the support set, plus a penalty |W|^2 / (2 C)"
    )

    @override
    def classifier(self) -> "FrozenClassifier":
        from norml.frozen_classifiers import LogisticRegression  # noqa: PLC0415 - torch; an entry is read without

        return LogisticRegression(self.inverse_penalty)
