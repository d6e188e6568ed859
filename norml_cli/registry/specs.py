"""Specs of a run and of a pretraining: everything that decides their numbers except the seed. Torch-free."""

import hashlib
import itertools
import json
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import SerializeAsAny, ValidationInfo, field_validator

from norml_cli.registry.entries import RULES
from norml_cli.registry.protocol import Id, Protocol, Recipe, Shots
from norml_cli.registry.rules.base import LearnedSettings, RuleSettings
from norml_cli.registry.sourced import Model


class RunSpec(Model):
    """A method on a benchmark at K shots: everything that decides a run's numbers except the seed."""

    method: Id
    benchmark: Id
    dataset: Id
    shots: Shots
    algorithm: Literal[*RULES]  # type: ignore[valid-type]
    protocol: Protocol
    rule: SerializeAsAny[RuleSettings]

    @field_validator("rule", mode="before")
    @classmethod
    def _rule_of_algorithm(cls, value: Any, info: ValidationInfo) -> Any:
        """Read plain data as the rule of `algorithm`, so that a fault names only that rule's keys."""
        model = RULES.get(info.data.get("algorithm", ""))
        return model.model_validate(value) if model is not None else value

    def hash(self) -> str:
        """SHA-256 over the canonical JSON of all values that are not defaults; equal hashes mean equal protocols."""
        return json_sha256(self.model_dump(mode="json", exclude_defaults=True))

    @property
    def examples_of_an_outer_step(self) -> int:
        """E * S: the support examples of all episodes of an outer step."""
        return self.protocol.meta_batch_size * self.protocol.n_way * self.shots

    @property
    def support_of_a_step(self) -> int:
        """S of an inner step: all support examples of an episode, or one."""
        return self.protocol.n_way * self.shots if self.protocol.support_order == "full" else 1

    @property
    def steps_of_an_episode(self) -> int:
        """T, inner steps in meta-training; one by one, each pass takes one step per support example."""
        return self.protocol.inner_steps * self.protocol.n_way * self.shots // self.support_of_a_step

    @property
    def queries_per_episode(self) -> int:
        """M = N * Q."""
        return self.protocol.n_way * self.protocol.queries_per_class

    def label(self, name: str | None) -> str:
        """The method with the run's name (--name): 'maml-constant-lr+fomaml'."""
        return self.method if name is None else f"{self.method}+{name}"

    def parameter_counts(self, n_features: int) -> dict[str, int] | None:
        """Numbers of parameters of the learner and of the update rule, computed from shapes; None: only torch can tell.

        n_features: D. The learner's number leaves batch norm out, as the paper counts.
        """
        if not self.rule.meta_trained:
            return {"learner": 0, "meta_learner": 0}
        if self.protocol.learner != "fully-connected" or self.protocol.head_init != "learned":
            return None
        is_adapted = isinstance(self.rule, LearnedSettings)
        sizes = [n_features, *self.protocol.hidden_sizes, *[self.protocol.n_way] * is_adapted]
        of_rule: int | None = 0
        if isinstance(self.rule, LearnedSettings):
            of_rule = self.rule.parameter_count(
                sizes, n_support=self.support_of_a_step, inner_steps=self.steps_of_an_episode
            )
        if of_rule is None:
            return None
        return {
            "learner": sum((n_in + 1) * n_out for n_in, n_out in itertools.pairwise(sizes)),
            "meta_learner": of_rule,
        }

    def values_of(self, keys: Iterable[str]) -> dict[str, Any]:
        """The protocol's or rule's values of `keys`; keys of other rules are left out."""
        values = self.protocol.model_dump() | self.rule.model_dump()
        return {key: values[key] for key in keys if key in values}

    def title(self, changed: Iterable[str], seed: int, name: str | None = None) -> str:
        """The run's title, such as 'norml, omniglot-20way, 1-shot, seed 0, gate_scale 8.0'."""
        return ", ".join([self.label(name), self.benchmark, f"{self.shots}-shot", f"seed {seed}", *self.shown(changed)])

    def shown(self, keys: Iterable[str]) -> list[str]:
        """`values_of` as text: 'gate_scale 8.0'."""
        return [f"{key} {value}" for key, value in self.values_of(keys).items()]


class PretrainSpec(Model):
    """Everything that decides a pretraining's numbers except the seed."""

    dataset: Id
    recipe: Id
    values: Recipe

    def hash(self) -> str:
        """SHA-256 over the canonical JSON of all values that are not defaults; equal hashes mean equal pretrainings."""
        return json_sha256(self.model_dump(mode="json", exclude_defaults=True))


def json_sha256(value: Any) -> str:
    """SHA-256 (hex) of a JSON value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
