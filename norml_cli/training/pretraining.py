"""One pretraining of a backbone: classification of the meta-training classes, judged on meta-validation.

It can be stopped anywhere and started again. What a step draws (the order of the images, their augmentation, what is
dropped) follows from the seed and the step's number alone, so on the CPU a resumed pretraining ends with the weights of
an uninterrupted one.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from norml.episodes import ExamplePool
from norml.evaluation import correct_counts
from norml.frozen_classifiers import NearestCentroid
from norml.meta_training import outer_lr_at
from norml.resnet12 import parameter_count
from norml.statistics import interval_95
from norml_cli.data.cache import Cache
from norml_cli.data.examples import episode_indices
from norml_cli.data.fixed_episodes import pretraining_requests
from norml_cli.registry.protocol import Recipe
from norml_cli.registry.recipes import HELD_OUT_EVERY
from norml_cli.registry.specs import PretrainSpec
from norml_cli.results.records import DatasetIdentity, PretrainingPoint
from norml_cli.training.build import build_backbone_classifier, generator_for
from norml_cli.training.checkpoints import CHECKPOINT_EVERY_S, Stopped, StopRequest, read_checkpoint, write_checkpoint
from norml_cli.training.divergence import Diverged, refuse_if_diverged, require_finite, write_note
from norml_cli.training.image_batches import ImageBatches, resident
from norml_cli.training.provenance import peak_memory_bytes

SHOW_EVERY_S = 0.2  # chosen: looks live, costs nothing beside a step
ADVICE = "declare a recipe with a lower learning_rate"  # to whom the loss diverges
STEPS_BETWEEN_LOOKS = 25  # steps between two looks at the loss: each look makes a GPU's queue run empty


class Display(Protocol):
    """Where a pretraining shows how far it is."""

    def pretraining(self, step: int, steps: int, batch_size: int, loss: float, validation: float | None) -> None:
        """Called now and then. `validation`: the last selection figure on meta-validation."""

    def embedding(self, split: str, done: int, images: int) -> None:
        """Called now and then while images become features."""


@dataclass
class State:
    """How far a pretraining is. All of it is saved."""

    step: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)
    last_selection: float | None = None
    best_step: int = 0
    best_selection: float = -1.0
    best_intervals: dict[str, dict[str, Any]] = field(default_factory=dict)
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    loss_sum: float = 0.0  # since the last meta-validation
    accuracy_sum: float = 0.0
    training_s: float = 0.0
    wall_s: float = 0.0
    peak_memory_bytes: int = 0


class Pretraining:
    """One recipe on one data set with one seed."""

    def __init__(
        self, spec: PretrainSpec, cache: Cache, *, seed: int, device: torch.device, checkpoint: Path, display: Display
    ) -> None:
        """Build the network and load the images; take up the checkpoint if there is one. Raises UserError."""
        self.spec, self.seed, self.device, self.display = spec, seed, device, display
        recipe = spec.values
        self._checkpoint = checkpoint
        self._identity = {"spec_hash": spec.hash(), "seed": seed, "content_hash": cache.content_hash}
        self.dataset = DatasetIdentity(id=spec.dataset, fingerprint=cache.fingerprint, content_hash=cache.content_hash)
        self._load_images(cache)
        classifier = build_backbone_classifier(recipe, self._n_classes, generator_for("initial weights", seed))
        self.classifier = classifier.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stubs know no module with it
        self._optimizer = _optimizer(recipe, [p for p in self.classifier.parameters() if p.requires_grad])
        self._order: tuple[int, Tensor] | None = None  # of one epoch, with its number
        self._stop = StopRequest()
        self.state = State()
        self._saved_step: int | None = None  # of the checkpoint
        self._started_at = time.perf_counter()
        refuse_if_diverged(checkpoint, self._identity)
        if checkpoint.exists():
            self._load()

    def _load_images(self, cache: Cache) -> None:
        recipe = self.spec.values
        self._batches = ImageBatches(recipe, self.device)
        self._train_images = resident(cache.images("meta_train"), recipe.input_size_px, self.device)
        sizes = torch.tensor(cache.sizes("meta_train"))
        self._n_classes = len(sizes)
        self._labels = torch.arange(len(sizes)).repeat_interleave(sizes)
        places = torch.arange(len(self._labels)) - (sizes.cumsum(0) - sizes)[self._labels]  # within the class
        held_out = places % HELD_OUT_EVERY == 0
        self._train_rows, self._held_out_rows = ((~held_out).nonzero().flatten(), held_out.nonzero().flatten())
        self._val_images = resident(cache.images("meta_val"), recipe.input_size_px, self.device)
        self._val_sizes = cache.sizes("meta_val")
        arrays = {shots: cache.episodes(request) for shots, request in pretraining_requests(recipe).items()}
        self.validation_hashes = {str(shots): episodes.hash() for shots, episodes in arrays.items()}
        self._episodes = {
            shots: episode_indices(found.classes, found.examples, found.turns).to(self.device)
            for shots, found in arrays.items()
        }

    @property
    def training_images(self) -> int:
        """Images of the training classes that are not held out."""
        return len(self._train_rows)

    @property
    def parameters(self) -> int:
        """Learned values of the backbone."""
        return parameter_count(self.classifier.backbone)

    def train(self) -> None:
        """Train to the end and put the best weights of meta-validation in place.

        Raises Stopped after a stop request, with the checkpoint written, and Diverged.
        """
        with self._stop.listening(), _tuned_convolutions(self.device):
            try:
                self._train()
            except Stopped:
                self.save()
                raise
            except Diverged as error:
                write_note(self._checkpoint, self._identity, error)
                raise
        self.classifier.load_state_dict(self.state.best_weights)
        self._account()

    # ------------------------------------------------------------------------------------------------- training

    def _train(self) -> None:
        """Steps and meta-validations until the schedule's end; safe to leave and re-enter between any two."""
        state, recipe = self.state, self.spec.values
        saved_at = shown_at = time.perf_counter()
        while True:
            if self._validation_is_due():
                self._validate()
            if state.step == recipe.steps:
                self.save()
                return
            self._stop.obey()
            loss = self._take_steps(self._steps_until_a_look())
            now = time.perf_counter()
            if now - shown_at > SHOW_EVERY_S:
                self.display.pretraining(state.step, recipe.steps, recipe.batch_size, loss, state.last_selection)
                shown_at = now
            if now - saved_at > CHECKPOINT_EVERY_S:
                self.save()
                saved_at = time.perf_counter()

    def _steps_until_a_look(self) -> int:
        """On a CPU every step is looked at; elsewhere some run ahead, up to the next meta-validation."""
        if self.device.type == "cpu":
            return 1
        until_validation = min(step for step in validation_steps(self.spec.values) if step > self.state.step)
        return min(STEPS_BETWEEN_LOOKS, until_validation - self.state.step)

    def _take_steps(self, count: int) -> float:
        """Take steps without waiting for the device in between; returns their mean loss."""
        state, started_at = self.state, time.perf_counter()
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)  # loss and accuracy
        for step in range(state.step, state.step + count):
            sums += self._take_step(step)
        loss_sum, accuracy_sum = sums.tolist()
        if not math.isfinite(loss_sum):
            raise Diverged(
                f"{self.spec.recipe}: the loss is {loss_sum} by step {state.step + count:,}; {self._kept()}; {ADVICE}"
            )
        state.step += count
        state.loss_sum, state.accuracy_sum = state.loss_sum + loss_sum, state.accuracy_sum + accuracy_sum
        state.training_s += time.perf_counter() - started_at
        return float(loss_sum / count)

    def _take_step(self, step: int) -> Tensor:
        """One step of the optimiser; its loss and accuracy, [2] on the device."""
        recipe = self.spec.values
        rows = self._rows(step)
        x = self._batches.augmented(
            self._train_images, rows, generator_for(f"augmentation of step {step}", self.seed).initial_seed()
        )
        y = self._labels[rows].to(self.device)
        strength = min(1.0, step / recipe.drop_ramp_steps) if recipe.drop_ramp_steps else 1.0
        dropping = generator_for(f"dropping of step {step}", self.seed, self.device)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate_at(recipe, step)
        self.classifier.train()
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
            logits = self.classifier(x, generator=dropping, drop_strength=strength)
        loss = functional.cross_entropy(logits.float(), y)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # the stubs leave it out
        self._optimizer.step()
        return torch.stack([loss.detach(), (logits.argmax(1) == y).float().mean()])

    def _rows(self, step: int) -> Tensor:
        """Where the images of a step lie: [B]. Each epoch has its own order; images that fill no batch wait."""
        batch_size = self.spec.values.batch_size
        epoch, place = divmod(step, len(self._train_rows) // batch_size)
        if self._order is None or self._order[0] != epoch:
            generator = generator_for(f"order of epoch {epoch}", self.seed)
            self._order = epoch, self._train_rows[torch.randperm(len(self._train_rows), generator=generator)]
        return self._order[1][place * batch_size : (place + 1) * batch_size]

    # ---------------------------------------------------------------------------------------------- meta-validation

    def _validation_is_due(self) -> bool:
        state = self.state
        due = state.step in validation_steps(self.spec.values)
        return due and (not state.curve or state.curve[-1]["step"] < state.step)

    def _validate(self) -> None:
        """Accuracy on the held-out images and nearest-centroid accuracy on meta-validation; the best weights are kept.

        Raises Stopped.
        """
        state, recipe = self.state, self.spec.values
        self._require_finite()
        self.classifier.eval()
        correct = self._nearest_centroid()
        per_episode = recipe.n_way * recipe.queries_per_class
        intervals = {shots: interval_95(counts).divided_by(per_episode) for shots, counts in correct.items()}
        since = state.step - (state.curve[-1]["step"] if state.curve else 0)
        point = PretrainingPoint(
            step=state.step,
            loss=state.loss_sum / since,
            train_accuracy=state.accuracy_sum / since,
            held_out_accuracy=self._held_out_accuracy(),
            nearest_centroid={shots: interval.mean for shots, interval in intervals.items()},
            learning_rate=learning_rate_at(recipe, state.step - 1),
        )
        state.curve.append(point.model_dump())
        state.loss_sum = state.accuracy_sum = 0.0
        state.last_selection = point.selection
        if point.selection > state.best_selection:
            state.best_step, state.best_selection = state.step, point.selection
            state.best_intervals = {shots: vars(interval) for shots, interval in intervals.items()}
            state.best_weights = {key: value.clone() for key, value in self.classifier.state_dict().items()}

    def _nearest_centroid(self) -> dict[str, list[int]]:
        """Correct answers of each fixed meta-validation episode, by shots."""
        rows = torch.arange(sum(self._val_sizes))
        features = self._batches.outputs(self.classifier.backbone, self._val_images, rows, self._looking("meta_val"))
        pool = ExamplePool.of_features(features, unit_length=True, sizes=torch.tensor(self._val_sizes))
        nearest = NearestCentroid("euclidean")
        return {
            str(shots): correct_counts(nearest, pool, episodes, k_shot=shots).tolist()
            for shots, episodes in self._episodes.items()
        }

    def _held_out_accuracy(self) -> float:
        rows = self._held_out_rows
        logits = self._batches.outputs(self.classifier, self._train_images, rows, self._looking("meta_train"))
        labels = self._labels[rows].to(self.device)
        return float((logits.argmax(1) == labels).double().mean())

    def _looking(self, split: str) -> "partial[None]":
        return partial(self._look, split)

    def _look(self, split: str, done: int, images: int) -> None:
        self._stop.obey()
        self.display.embedding(split, done, images)

    # -------------------------------------------------------------------------------------------------- checkpoints

    def save(self) -> None:
        """Write the checkpoint: the whole state, or the one before it stays."""
        self._require_finite()
        self._account()
        content = {
            **self._identity,
            "state": vars(self.state),
            "classifier": self.classifier.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        write_checkpoint(self._checkpoint, content)
        self._saved_step = self.state.step

    def _kept(self) -> str:
        if self._saved_step is None:
            return "there is no checkpoint yet"
        return f"the checkpoint of step {self._saved_step:,} is kept, with the last weights known to be good"

    def _require_finite(self) -> None:
        require_finite(self.classifier, self.spec.recipe, self.state.step, f"{self._kept()}; {ADVICE}")

    def keep_weights(self, path: Path) -> None:
        """Leave the best weights at `path`, as they would be on any device."""
        weights = {key: value.cpu() for key, value in self.state.best_weights.items()}
        write_checkpoint(path, {**self._identity, "best_step": self.state.best_step, "classifier": weights})

    def _load(self) -> None:
        content = read_checkpoint(self._checkpoint, self._identity)
        self.classifier.load_state_dict(content["classifier"])
        self._optimizer.load_state_dict(content["optimizer"])
        self.state = State(**content["state"])
        self._saved_step = self.state.step

    def _account(self) -> None:
        """Bring wall time and peak memory up to now."""
        now = time.perf_counter()
        self.state.wall_s += now - self._started_at
        self._started_at = now
        self.state.peak_memory_bytes = max(self.state.peak_memory_bytes, peak_memory_bytes(self.device))


def learning_rate_at(recipe: Recipe, step: int) -> float:
    """The learning rate of step `step` in 0..steps - 1."""
    if recipe.schedule == "cosine":
        return outer_lr_at(step, outer_lr=recipe.learning_rate, outer_steps=recipe.steps, schedule="cosine")
    drops = sum(step >= drop * recipe.steps for drop in recipe.lr_drops)
    return float(recipe.learning_rate * recipe.lr_factor**drops)


def validation_steps(recipe: Recipe) -> set[int]:
    """After how many steps there is a meta-validation; the last is at the end."""
    return {max(1, round(number * recipe.steps / recipe.validations)) for number in range(1, recipe.validations + 1)}


def _optimizer(recipe: Recipe, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    settings: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay, "fused": True}
    if recipe.optimiser == "adam":
        return torch.optim.Adam(parameters, **settings)
    return torch.optim.SGD(parameters, momentum=recipe.momentum, **settings)


@contextmanager
def _tuned_convolutions(device: torch.device) -> Iterator[None]:
    """On a GPU, let cuDNN try which of its convolutions is fastest for these shapes."""
    with torch.backends.cudnn.flags(benchmark=device.type == "cuda"):
        yield
