"""Records: a JSON file for each finished run or trial, with everything its numbers depend on. Torch-free.

A record checks itself when read: its hash, mean and interval must follow from its other values, and its digest from
all its content. So a file that was edited, damaged or cut off is an error.
"""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from norml.statistics import FORMULA, interval_95
from norml_cli.files.clock import now
from norml_cli.registry.protocol import Count, Id, Sha256
from norml_cli.registry.sourced import Model, Text
from norml_cli.registry.specs import PretrainSpec, RunSpec

SCHEMA_VERSION: Final = 2

_MEAN_TOLERANCE = 1e-12
_HALF_WIDTH_TOLERANCE = 1e-9  # chosen: far above rounding errors, far below any printed digit

Fraction = Annotated[float, Field(ge=0, le=1)]
Duration = Annotated[float, Field(ge=0)]
NonNegative = Annotated[int, Field(ge=0)]


def _is_utc(text: str) -> str:
    try:
        offset = datetime.fromisoformat(text).utcoffset()
    except ValueError:
        offset = None
    if offset != timedelta(0):
        raise ValueError("must be a UTC time such as 2026-01-31T12:00:00+00:00")
    return text


Utc = Annotated[str, Field(min_length=1), AfterValidator(_is_utc)]


class Document(Model):
    """A JSON file with a digest over its content. Reading fails if it contradicts itself."""

    schema_version: Literal[2] = Field(description="version of this format; 2")


class DatasetIdentity(Model):
    """The data of a run."""

    id: Id = Field(description="id of the registry's data set")
    fingerprint: Text = Field(description="hash of the entry's values and the code's version that made the cache")
    content_hash: Text = Field(description="hash of the images and classes")
    features: Text | None = Field(
        default=None, description="fingerprint of the backbone's features; null: the run used the images"
    )


class EpisodesIdentity(Model):
    """The fixed evaluation episodes of a run."""

    validation_hash: Text = Field(description="hash of the meta-validation episodes")
    test_hash: Text = Field(description="hash of the test episodes; differences may be paired if hashes are equal")
    n_test: Count = Field(description="number of test episodes")
    queries_per_episode: Count = Field(description="M = N * Q")


class Accuracy(Model):
    """Mean meta-test accuracy with its 95% interval over episodes, as fractions."""

    mean: Fraction = Field(description="mean over test episodes")
    half_width: Annotated[float, Field(ge=0, description="half-width of the 95% interval")]
    n: Count = Field(description="number of test episodes")
    formula: Text = Field(description="formula of the half-width")

    @classmethod
    def of(cls, correct: list[int], queries: int) -> Self:
        """The accuracy of `correct` answers in each episode of `queries` queries."""
        interval = interval_95(correct).divided_by(queries)
        return cls(mean=interval.mean, half_width=interval.half_width, n=interval.n, formula=FORMULA)

    def check(self, correct: list[int], queries: int, *, half_width: bool) -> None:
        """Raises ValueError if this does not follow from `correct`. half_width: check it too, which loads scipy."""
        if max(correct) > queries:
            raise ValueError(f"correct has a count above the {queries} queries of an episode")
        if abs(self.mean - sum(correct) / len(correct) / queries) > _MEAN_TOLERANCE:
            raise ValueError("accuracy.mean is not the mean of correct / queries_per_episode")
        if self.formula != FORMULA:
            raise ValueError(f"accuracy.formula is not '{FORMULA}'")
        if half_width and abs(self.half_width - self.of(correct, queries).half_width) > _HALF_WIDTH_TOLERANCE:
            raise ValueError(f"accuracy.half_width is not {FORMULA}")


def checks_intervals(info: ValidationInfo) -> bool:
    """Whether the reader asked to check half-widths."""
    return info.context is None or bool(info.context["intervals"])


class OfClass(Model):
    """The meta-test episodes that contain one class."""

    episodes: Count = Field(description="number of these episodes")
    correct: NonNegative = Field(description="correctly classified queries of all classes in these episodes")


class CurvePoint(Model):
    """A meta-validation. Training numbers are means since the last meta-validation."""

    step: NonNegative = Field(description="outer steps done")
    loss: Annotated[float, Field(ge=0)] | None = Field(
        description="query loss, mean over episodes and queries; null before the first step"
    )
    train_accuracy: Fraction | None = Field(description="query accuracy in training; null before the first step")
    validation_accuracy: Fraction = Field(description="mean over the meta-validation episodes")
    validation_half_width: Annotated[float, Field(ge=0, description="half-width of its 95% interval")]
    outer_lr: Annotated[float, Field(ge=0, description="Adam's learning rate at this step")]


class Parameters(Model):
    """Numbers of parameters."""

    learner: NonNegative = Field(description="initial weights and biases of the linear layers, without batch norm")
    meta_learner: NonNegative = Field(description="parameters of the update rule")


class Cost(Model):
    """Time and memory of a run."""

    wall_s: Duration = Field(description="seconds from start to record, over all restarts")
    training_s: Duration = Field(description="seconds in outer steps")
    compile_s: Duration | None = Field(
        default=None, description="seconds to compile the outer step; null: not compiled"
    )
    evaluation_s: Duration = Field(description="seconds in the meta-test")
    steps_per_s: Duration = Field(description="outer steps per second of training_s; 0 without steps")
    peak_memory_bytes: NonNegative = Field(description="peak memory of the GPU or the process; 0: unknown")


class GitState(Model):
    """The code's commit; null outside a checkout."""

    commit: Text | None = Field(description="hash of the commit")
    dirty: bool | None = Field(description="whether the code differed from that commit")


@dataclass(frozen=True)
class Origin:
    """The part of a record that is known before training; `Record` describes the fields."""

    spec: RunSpec | PretrainSpec
    changed: list[str]
    seed: int
    device: str
    versions: dict[str, str]
    git: GitState
    command: str
    deterministic: bool | None
    repeatability: str
    ranks: int | None = None


@dataclass(frozen=True)
class Course:
    """The part of a record that training produces; `Record` describes the fields."""

    dataset: DatasetIdentity
    curve: list[CurvePoint] | list["PretrainingPoint"]
    best_step: int
    cost: "Cost | PretrainingCost"


class Record(Document):
    """The record of any finished training: where its numbers come from."""

    status: Literal["finished"] = Field(description="finished; only finished trainings have a record")
    spec_hash: Sha256 = Field(description="hash of spec; equal for runs with the same protocol")
    changed: list[Text] = Field(description="keys whose registry values the command line changed")
    seed: NonNegative = Field(description="seed of the initial weights and of training")
    dataset: DatasetIdentity
    best_step: NonNegative = Field(description="step of the best weights on meta-validation")
    device: Text = Field(
        description="GPU, or CPU with torch's number of threads and its model; '2 x' means two of them (see ranks)"
    )
    versions: dict[str, Text] = Field(description="versions of norml, Python and torch")
    git: GitState
    command: Text = Field(description="the command line, without paths")
    deterministic: bool | None = Field(
        default=None, description="whether torch used deterministic algorithms; null: not requested"
    )
    repeatability: Text | None = Field(default=None, description="how closely a repetition should match")
    ranks: Count | None = Field(
        default=None, description="number of processes that shared each step, one device each; null: one"
    )
    created: Utc = Field(description="time in UTC, ISO 8601")

    @classmethod
    def _finished(cls, origin: Origin, course: Course, **found: Any) -> Self:
        return cls(
            schema_version=SCHEMA_VERSION,
            status="finished",
            spec_hash=origin.spec.hash(),
            created=now(),
            **vars(origin),
            **vars(course),
            **found,
        )

    @property
    def threads(self) -> int | None:
        """Number of CPU threads at the end of training; None on a GPU."""
        found = re.findall(r"(\d+) threads?\b", self.device)
        return int(found[-1]) if found else None

    def _check_spec(self, spec: RunSpec | PretrainSpec) -> None:
        if self.spec_hash != spec.hash():
            raise ValueError("spec_hash is not the hash of spec")
        if self.dataset.id != spec.dataset:
            raise ValueError(f"dataset.id is '{self.dataset.id}', but the spec's data set is '{spec.dataset}'")

    def _check_steps(self, steps: list[int], last: int, name: str) -> None:
        if steps != sorted(set(steps)) or steps[-1] != last:
            raise ValueError(f"curve does not end at the spec's {name}")
        if self.best_step not in steps:
            raise ValueError(f"best_step {self.best_step} is not a step of the curve")


class TrainingRecord(Record):
    """The record of a finished meta-training: one method, benchmark, number of shots and seed."""

    spec: RunSpec
    curve: list[CurvePoint] = Field(min_length=1, description="all meta-validations, in order")
    parameters: Parameters
    cost: Cost

    @model_validator(mode="after")
    def _training_consistent(self) -> Self:
        self._check_spec(self.spec)
        self._check_steps([point.step for point in self.curve], self.spec.protocol.outer_steps, "outer_steps")
        return self

    @property
    def best(self) -> CurvePoint:
        """The best meta-validation."""
        return next(point for point in self.curve if point.step == self.best_step)


class RunRecord(TrainingRecord):
    """The record of a finished run: the best weights on meta-validation, tested on the fixed meta-test episodes."""

    name: Id | None = Field(default=None, description="the run's name (--name); null: none")
    episodes: EpisodesIdentity
    correct: list[NonNegative] = Field(description="correctly classified queries of each test episode, in order")
    accuracy: Accuracy
    by_class: dict[Text, OfClass] | None = Field(
        default=None, description="counts of each test class, by name, for intervals over classes; null: older record"
    )

    @classmethod
    def of(
        cls,
        origin: Origin,
        course: Course,
        parameters: Parameters,
        *,
        episodes: EpisodesIdentity,
        correct: list[int],
        by_class: dict[str, OfClass],
        name: str | None = None,
    ) -> Self:
        """The record of a tested training. correct: correct answers of each test episode. by_class: by test class."""
        accuracy = Accuracy.of(correct, episodes.queries_per_episode)
        return cls._finished(
            origin,
            course,
            parameters=parameters,
            name=name,
            episodes=episodes,
            correct=correct,
            accuracy=accuracy,
            by_class=by_class,
        )

    @property
    def label(self) -> str:
        """The method, with the run's name if it has one: 'maml-constant-lr' or 'maml-constant-lr+fomaml'."""
        return self.spec.label(self.name)

    @model_validator(mode="after")
    def _test_consistent(self, info: ValidationInfo) -> Self:
        self._check_counts()
        self.accuracy.check(self.correct, self.episodes.queries_per_episode, half_width=checks_intervals(info))
        return self

    def _check_counts(self) -> None:
        episodes, protocol = self.episodes, self.spec.protocol
        if episodes.queries_per_episode != protocol.n_way * protocol.queries_per_class:
            raise ValueError("episodes.queries_per_episode is not n_way * queries_per_class")
        sizes = {len(self.correct), episodes.n_test, self.accuracy.n, protocol.test_episodes}
        if len(sizes) != 1:
            raise ValueError("correct, episodes.n_test, accuracy.n and the spec have different numbers of episodes")
        if self.by_class is not None:
            held = [(of_class.episodes, of_class.correct) for of_class in self.by_class.values()]
            if [sum(each) for each in zip(*held, strict=True)] != [
                protocol.n_way * len(self.correct),
                protocol.n_way * sum(self.correct),
            ]:
                raise ValueError("by_class does not add up to the episodes and their correct answers")


class PretrainingPoint(Model):
    """A meta-validation of the backbone. Training numbers are means since the last one."""

    step: Count = Field(description="steps done")
    loss: Annotated[float, Field(ge=0)] = Field(description="cross-entropy over the training classes")
    train_accuracy: Fraction = Field(description="over the training classes, on augmented images")
    held_out_accuracy: Fraction = Field(description="over the training classes, on held-out images")
    nearest_centroid: dict[str, Fraction] = Field(description="meta-validation accuracy, by shots")
    learning_rate: Annotated[float, Field(ge=0)]

    @property
    def selection(self) -> float:
        """The number that chooses the best weights: the mean nearest-centroid accuracy over shots."""
        return sum(self.nearest_centroid.values()) / len(self.nearest_centroid)


class PretrainingCost(Model):
    """Time and memory of a pretraining."""

    wall_s: Duration = Field(description="seconds from start to record, over all restarts")
    training_s: Duration = Field(description="seconds in training steps")
    images_per_s: Duration = Field(description="training images per second of training_s")
    peak_memory_bytes: NonNegative = Field(description="peak memory of the GPU or the process; 0: unknown")


class PretrainingRecord(Record):
    """The record of a finished pretraining of a backbone, which never uses meta-test."""

    spec: PretrainSpec
    curve: list[PretrainingPoint] = Field(min_length=1, description="all meta-validations, in order")
    nearest_centroid: dict[str, Accuracy] = Field(description="meta-validation accuracy of the best weights, by shots")
    validation_hashes: dict[str, Text] = Field(description="hashes of the meta-validation episodes, by shots")
    training_images: Count = Field(description="images of the training classes that were not held out")
    parameters: NonNegative = Field(description="number of parameters of the backbone")
    weights_sha256: Sha256 = Field(description="hash of the backbone's weights file")
    cost: PretrainingCost

    @classmethod
    def of(
        cls,
        origin: Origin,
        course: Course,
        *,
        nearest_centroid: dict[str, Accuracy],
        validation_hashes: dict[str, str],
        training_images: int,
        parameters: int,
        weights_sha256: str,
    ) -> Self:
        """The record of a pretraining."""
        return cls._finished(
            origin,
            course,
            nearest_centroid=nearest_centroid,
            validation_hashes=validation_hashes,
            training_images=training_images,
            parameters=parameters,
            weights_sha256=weights_sha256,
        )

    @model_validator(mode="after")
    def _pretraining_consistent(self) -> Self:
        self._check_spec(self.spec)
        self._check_steps([point.step for point in self.curve], self.spec.values.steps, "steps")
        best = next(point for point in self.curve if point.step == self.best_step)
        if best.selection < max(point.selection for point in self.curve):
            raise ValueError(f"best_step {self.best_step} is not the best on meta-validation")
        means = {shots: accuracy.mean for shots, accuracy in self.nearest_centroid.items()}
        if means != best.nearest_centroid:
            raise ValueError("nearest_centroid differs from that of best_step")
        return self


class TrialRecord(TrainingRecord):
    """The record of a finished trial of a study: meta-trained and meta-validated, without a meta-test."""

    study: Id
    validation_hash: Text = Field(description="hash of the meta-validation episodes")
    correct: list[NonNegative] | None = Field(
        default=None,
        description="correctly classified queries of each meta-validation episode at best_step; null: older record",
    )

    @classmethod
    def of(
        cls,
        origin: Origin,
        course: Course,
        parameters: Parameters,
        *,
        study: str,
        validation_hash: str,
        correct: list[int],
    ) -> Self:
        """The record of a training without a meta-test. correct: correct answers at its best meta-validation."""
        found: dict[str, Any] = {"study": study, "validation_hash": validation_hash, "correct": correct or None}
        return cls._finished(origin, course, parameters=parameters, **found)

    @model_validator(mode="after")
    def _counts_consistent(self) -> Self:
        if self.correct is None:
            return self
        if len(self.correct) != self.spec.protocol.validation_episodes:
            raise ValueError("correct does not have a count for each of the spec's validation_episodes")
        mean = sum(self.correct) / len(self.correct) / self.spec.queries_per_episode
        if abs(mean - self.best.validation_accuracy) > _MEAN_TOLERANCE:
            raise ValueError("the mean of correct is not the validation_accuracy of best_step")
        return self
