"""What may stand beside a run's record: its weights under other protocols, and the card of its published weights.

Both name the run's digest, so neither is ever taken for another run's. Torch-free.
"""

from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, model_validator

from norml_cli.registry.protocol import Count, Sha256
from norml_cli.registry.sourced import Model, Text
from norml_cli.registry.specs import RunSpec
from norml_cli.results.records import (
    SCHEMA_VERSION,
    Accuracy,
    DatasetIdentity,
    Document,
    GitState,
    NonNegative,
    Origin,
    Parameters,
    RunRecord,
    Utc,
    checks_intervals,
    now,
)

Split = Literal["meta_val", "meta_test"]


class EvaluationEpisodes(Model):
    """Which fixed episodes the weights were evaluated on."""

    hash: Text = Field(description="equal hashes: the same episodes, so differences may be paired")
    n: Count = Field(description="episodes")
    queries_per_episode: Count = Field(description="M = N * Q")


class EvaluationRecord(Document):
    """The trained weights of one run under another protocol, on fixed episodes."""

    run_digest: Sha256 = Field(description="digest of the record of the run whose weights these are")
    seed: NonNegative = Field(description="of that run")
    changed: dict[Text, int | str] = Field(description="values that are not the run's")
    split: Split = Field(description="whose classes: meta_val or meta_test")
    spec: RunSpec = Field(description="the run's values with the changed ones in place")
    spec_hash: Sha256 = Field(description="of spec")
    dataset: DatasetIdentity
    episodes: EvaluationEpisodes
    correct: list[NonNegative] = Field(min_length=2, description="correctly classified queries of each episode")
    accuracy: Accuracy
    device: Text = Field(description="GPU, or CPU with the threads that torch used and its model")
    versions: dict[str, Text] = Field(description="of norml, Python and torch")
    git: GitState
    command: Text = Field(description="as it was given, without paths")
    created: Utc = Field(description="UTC, ISO 8601")

    @classmethod
    def of(cls, origin: Origin, run_digest: str, *, changed: dict[str, Any], correct: list[int], **where: Any) -> Self:
        """The record of an evaluation by `origin.spec`; `where`: its split, dataset and episodes."""
        if not isinstance(origin.spec, RunSpec):
            raise TypeError("a pretraining is not evaluated")
        return cls(
            schema_version=SCHEMA_VERSION,
            run_digest=run_digest,
            seed=origin.seed,
            changed=changed,
            spec=origin.spec,
            spec_hash=origin.spec.hash(),
            correct=correct,
            accuracy=Accuracy.of(correct, origin.spec.queries_per_episode),
            device=origin.device,
            versions=origin.versions,
            git=origin.git,
            command=origin.command,
            created=now(),
            **where,
        )

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Self:
        spec, protocol = self.spec, self.spec.protocol
        if self.spec_hash != spec.hash():
            raise ValueError("spec_hash is not the hash of spec")
        if self.dataset.id != spec.dataset:
            raise ValueError(f"dataset.id is '{self.dataset.id}', but the spec's data set is '{spec.dataset}'")
        values = protocol.model_dump() | {"benchmark": spec.benchmark, "shots": spec.shots}
        if any(value != values.get(key) for key, value in self.changed.items()):
            raise ValueError("changed holds a value that spec does not have")
        if not self.changed and self.split == "meta_test":
            raise ValueError("nothing is changed, so it repeats the run's own meta-test")
        self._check_counts()
        self.accuracy.check(self.correct, self.episodes.queries_per_episode, half_width=checks_intervals(info))
        return self

    def _check_counts(self) -> None:
        episodes, protocol = self.episodes, self.spec.protocol
        if episodes.queries_per_episode != self.spec.queries_per_episode:
            raise ValueError("episodes.queries_per_episode is not n_way * queries_per_class")
        wanted = protocol.test_episodes if self.split == "meta_test" else protocol.validation_episodes
        if len({len(self.correct), episodes.n, self.accuracy.n, wanted}) != 1:
            raise ValueError("correct, episodes.n, accuracy.n and the spec's episodes of the split disagree in number")


class Card(Document):
    """What is said of a run's published weights; all of it follows from the record, the weights and the registry."""

    run_digest: Sha256 = Field(description="digest of the record of the run that made them")
    file_sha256: Sha256 = Field(description="of the file with the weights")
    licence: Text = Field(description="of the data that they were trained on")
    title: Text = Field(description="method, benchmark, shots and seed in words")
    seed: NonNegative = Field(description="of that run")
    spec: RunSpec
    dataset: DatasetIdentity
    accuracy: Accuracy = Field(description="of the run's meta-test")
    parameters: Parameters
    shapes: dict[Text, list[NonNegative]] = Field(description="of each tensor in the file, by its name")
    versions: dict[str, Text] = Field(description="of norml, Python and torch, when they were trained")

    @classmethod
    def of(
        cls, record: RunRecord, run_digest: str, *, file_sha256: str, licence: str, shapes: dict[str, list[int]]
    ) -> Self:
        """The card of the weights of `record`."""
        return cls(
            schema_version=SCHEMA_VERSION,
            run_digest=run_digest,
            file_sha256=file_sha256,
            licence=licence,
            title=record.spec.title(record.changed, record.seed),
            seed=record.seed,
            spec=record.spec,
            dataset=record.dataset,
            accuracy=record.accuracy,
            parameters=record.parameters,
            shapes=shapes,
            versions=record.versions,
        )
