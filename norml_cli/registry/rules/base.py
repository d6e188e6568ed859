"""Base classes for the settings of an algorithm. Each algorithm is one file of this folder; importing needs no torch.

The file is named after the algorithm: `meta_sgd.py` is `algorithm: meta-sgd`. It holds one class, whose fields are the
settings with their types, ranges and meaning. There is nothing to register: entries, `--set`, records, the
documentation and the builder find the class here.
"""

import importlib
import pkgutil
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from norml_cli.registry import rules
from norml_cli.registry.protocol import Protocol
from norml_cli.registry.sourced import Model

if TYPE_CHECKING:
    import torch

    from norml.adapted.metric_learner import SupportComparison
    from norml.frozen_classifiers import FrozenClassifier
    from norml.layers import LayerShape
    from norml.update_rules import UpdateRule


class RuleSettings(Model):
    """Settings of an algorithm. A name has one meaning in all rules and in the protocol."""

    meta_trained: ClassVar[bool]
    """Whether there is an outer loop."""

    has_head: ClassVar[bool] = False
    """Whether the learner ends in a layer with an output for each class."""

    lacks: ClassVar[Mapping[str, str]] = {}
    """Protocol values that are always 0 for this algorithm, each with the reason."""

    def contradictions(self, protocol: Protocol) -> Iterator[tuple[str, str]]:
        """Contradictions between a protocol and these settings: pairs of the key to change and the fault."""
        if not self.meta_trained and protocol.outer_gradient != "query-loss":
            yield "outer_gradient", f"is {protocol.outer_gradient}, but there is no outer loop; leave it out"


class LearnedSettings(RuleSettings):
    """Settings of an update rule, which is meta-trained together with the learner's initial weights."""

    meta_trained: ClassVar[bool] = True
    has_head: ClassVar[bool] = True

    @abstractmethod
    def update_rule(
        self, layers: "Sequence[LayerShape]", *, n_support: int, inner_steps: int, generator: "torch.Generator | None"
    ) -> "UpdateRule":
        """The untrained rule for a learner with `layers`.

        n_support: S, support examples of a step. inner_steps: T of training; evaluation may use another number.
        """

    def parameter_count(self, sizes: Sequence[int], *, n_support: int, inner_steps: int) -> int | None:  # noqa: ARG002 - subclasses use them
        """How many values the rule learns, computed from shapes; None: only torch can tell."""
        return None

    @override
    def contradictions(self, protocol: Protocol) -> Iterator[tuple[str, str]]:
        learned = self.parameter_count([1, 1], n_support=1, inner_steps=1) != 0
        if protocol.outer_gradient == "reptile" and learned:
            yield "outer_gradient", "is reptile, which cannot train this method's update rule; use query-loss"


class ComparingSettings(RuleSettings):
    """Settings of a metric learner, which compares queries with the support set in meta-trained features."""

    meta_trained: ClassVar[bool] = True
    lacks: ClassVar[Mapping[str, str]] = dict.fromkeys(("inner_steps", "inner_steps_test"), "takes no inner steps")

    @abstractmethod
    def comparison(self) -> "SupportComparison":
        """The comparison."""

    @override
    def contradictions(self, protocol: Protocol) -> Iterator[tuple[str, str]]:
        if not protocol.hidden_sizes:
            yield "hidden_sizes", "is [], so there is nothing to meta-train; use nearest-centroid"
        untouched = {"adapted_layers": "all", "first_order": False, "support_order": "full"}
        for key, value in (untouched | {"outer_gradient": "query-loss"}).items():
            if getattr(protocol, key) != value:
                yield key, f"is {getattr(protocol, key)}, but there are no inner steps; leave it out"
        if protocol.head_init != "learned":
            yield "head_init", f"is {protocol.head_init}, but a comparison has no head; leave it out"


class FittedSettings(RuleSettings):
    """Settings of a classifier that is fitted to each support set; there is no outer loop."""

    meta_trained: ClassVar[bool] = False
    lacks: ClassVar[Mapping[str, str]] = {"outer_steps": "has no outer loop"}

    @abstractmethod
    def classifier(self) -> "FrozenClassifier":
        """The classifier."""


def settings_by_algorithm() -> dict[str, type[RuleSettings]]:
    """The settings of each algorithm, by its name in entries."""
    names = sorted(module.name for module in pkgutil.iter_modules(rules.__path__) if module.name != "base")
    return {name.replace("_", "-"): _settings_in(f"{rules.__name__}.{name}") for name in names}


def _settings_in(name: str) -> type[RuleSettings]:
    values = vars(importlib.import_module(name)).values()
    classes = [value for value in values if isinstance(value, type) and value.__module__ == name]
    (settings,) = (each for each in classes if issubclass(each, RuleSettings))
    return settings
