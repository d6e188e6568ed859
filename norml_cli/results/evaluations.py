"""Files next to a run's record: evaluations under other protocols, and the card of published weights. Torch-free.

Both hold the digest of the run's record, so that they cannot be mistaken for another run's.
"""

from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, model_validator

from norml_cli.files.clock import now
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
)

Split = Literal["meta_val", "meta_test"]


class EvaluationEpisodes(Model):
    """The fixed episodes of an evaluation."""

    hash: Text = Field(description="hash of the episodes; differences may be paired if hashes are equal")
    n: Count = Field(description="number of episodes")
    queries_per_episode: Count = Field(description="M = N * Q")


class EvaluationRecord(Document):
    """An evaluation of a run's trained weights under another protocol, on fixed episodes."""

    run_digest: Sha256 = Field(description="digest of the record of the run that trained the weights")
    seed: NonNegative = Field(description="seed of that run")
    changed: dict[Text, int | str] = Field(description="values that differ from the run's")
    split: Split = Field(description="split of the episodes: meta_val or meta_test")
    spec: RunSpec = Field(description="the run's values with the changed values")
    spec_hash: Sha256 = Field(description="hash of spec")
    dataset: DatasetIdentity
    episodes: EvaluationEpisodes
    correct: list[NonNegative] = Field(min_length=2, description="correctly classified queries of each episode")
    accuracy: Accuracy
    device: Text = Field(description="GPU, or CPU with torch's number of threads and its model")
    versions: dict[str, Text] = Field(description="versions of norml, Python and torch")
    git: GitState
    command: Text = Field(description="the command line, without paths")
    created: Utc = Field(description="time in UTC, ISO 8601")

    @classmethod
    def of(cls, origin: Origin, run_digest: str, *, changed: dict[str, Any], correct: list[int], **where: Any) -> Self:
        """The record of an evaluation with `origin.spec`. where: its split, dataset and episodes."""
        if not isinstance(origin.spec, RunSpec):
            raise TypeError("origin.spec is a pretraining's, expected a run's")
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
            raise ValueError("changed has a value that differs from spec")
        if not self.changed and self.split == "meta_test":
            raise ValueError("changed is empty, so it repeats the run's own meta-test")
        self._check_counts()
        self.accuracy.check(self.correct, self.episodes.queries_per_episode, half_width=checks_intervals(info))
        return self

    def _check_counts(self) -> None:
        episodes, protocol = self.episodes, self.spec.protocol
        if episodes.queries_per_episode != self.spec.queries_per_episode:
            raise ValueError("episodes.queries_per_episode is not n_way * queries_per_class")
        declared = protocol.test_episodes if self.split == "meta_test" else protocol.validation_episodes
        if len({len(self.correct), episodes.n, self.accuracy.n, declared}) != 1:
            raise ValueError("correct, episodes.n, accuracy.n and the spec have different numbers of episodes")


class Card(Document):
    """The model card of a run's published weights. It follows from the record, the weights and the registry."""

    run_digest: Sha256 = Field(description="digest of the record of the run that trained the weights")
    file_sha256: Sha256 = Field(description="hash of the weights' file")
    licence: Text = Field(description="licence of the training data")
    title: Text = Field(description="method, benchmark, shots and seed in words")
    seed: NonNegative = Field(description="seed of that run")
    spec: RunSpec
    dataset: DatasetIdentity
    accuracy: Accuracy = Field(description="accuracy in the run's meta-test")
    parameters: Parameters
    shapes: dict[Text, list[NonNegative]] = Field(description="shape of each tensor in the file, by name")
    versions: dict[str, Text] = Field(description="versions of norml, Python and torch that trained the weights")

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
