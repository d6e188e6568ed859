"""The training loop: steps, meta-validations, checkpoints, stopping, timing and divergence.

A training can be stopped at any point (Ctrl-C, SIGTERM, kill) and resumed. Everything that decides its numbers is in
the checkpoint or follows from spec and seed, so on the CPU a resumed training ends with the same record as an
uninterrupted one. Subclasses define the model, the step and the meta-validation.

Several processes (ranks) can share a training. Each computes a part of every step; the first reads and writes files.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn

from norml_cli.files.companions import Companions
from norml_cli.files.errors import UserError
from norml_cli.registry.specs import PretrainSpec, RunSpec
from norml_cli.results.records import DatasetIdentity
from norml_cli.terminal.progress import RunDisplay
from norml_cli.training.checkpoints import START_OVER, identity_of, read_checkpoint, write_checkpoint
from norml_cli.training.divergence import Diverged, refuse_if_diverged, require_finite, write_note
from norml_cli.training.provenance import among, device_name, origin_of, peak_memory_bytes
from norml_cli.training.ranks.sharing import Ranks
from norml_cli.training.resources import use_threads
from norml_cli.training.stopping import Stopped, StoppedAtOnce, StopRequest

CHECKPOINT_EVERY_S = 30.0  # chosen: a kill loses at most half a minute, and saving takes under 1% of the time
SHOW_EVERY_S = 0.2  # chosen: looks live and costs little compared with a step
STEPS_BETWEEN_CHECKS = 25  # steps between two checks of the loss, because each check waits for the GPU


@dataclass
class TrainingState:
    """A training's progress, all of which is saved. Modules and generators hold their own tensors."""

    step: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)
    best_step: int = 0
    best_accuracy: float = -1.0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    last_correct: list[int] = field(default_factory=list)  # of each meta-validation episode, for meta-training
    best_correct: list[int] = field(default_factory=list)
    best_intervals: dict[str, dict[str, Any]] = field(default_factory=dict)  # by shots, for pretraining
    loss_sum: float = 0.0  # since the last meta-validation
    accuracy_sum: float = 0.0
    training_s: float = 0.0
    compile_s: float = 0.0
    wall_s: float = 0.0
    peak_memory_bytes: int = 0
    threads: int | None = None  # CPU threads of each rank
    ranks: int = 1  # number of ranks
    devices: list[str] = field(default_factory=list)  # devices used so far, in order


@dataclass(frozen=True)
class Setting:
    """A training's device, files and display.

    changed: keys that the command line changed. shown: keys whose values are shown at the start.
    threads: None: as many as before, or for a new training as many as its sizes suggest.
    """

    seed: int
    device: torch.device
    companions: Companions
    display: RunDisplay
    stop: StopRequest = field(default_factory=StopRequest)
    threads: int | None = None
    changed: Sequence[str] = ()
    shown: Sequence[str] = ()
    ranks: Ranks = field(default_factory=Ranks)


class Training(ABC):
    """A training with one seed, resumed from its checkpoint if there is one."""

    step_name: ClassVar[str]  # name of a step in messages
    phase: ClassVar[str]  # name of the training in progress
    weights_key: ClassVar[str]  # key of the model's weights in files
    advice: ClassVar[str]  # what to change if the loss diverges

    def __init__(
        self, spec: RunSpec | PretrainSpec, setting: Setting, dataset: DatasetIdentity, *, name: str, steps: int
    ) -> None:
        self.seed, self.device, self.display, self.dataset = setting.seed, setting.device, setting.display, dataset
        self.state = TrainingState()
        self.saved_step: int | None = None  # step of the checkpoint
        self._name, self.steps = name, steps
        self._setting, self._stop, self._companions = setting, setting.stop, setting.companions
        self._ranks = setting.ranks
        self._spec, self._identity = spec, identity_of(spec, setting.seed, dataset)
        self._started_at = time.perf_counter()
        self._ranks.of_first(lambda: refuse_if_diverged(self._companions.diverged, self._identity))

    # --------------------------------------------------------------------------------------- what a subclass supplies

    model: nn.Module

    @abstractmethod
    def begins(self) -> str:
        """The message at the start or when resuming."""

    @abstractmethod
    def _take_step(self, step: int) -> Tensor:
        """Take one optimiser step; returns its loss and accuracy, [2] on the device."""

    @abstractmethod
    def _validates_at(self, step: int) -> bool:
        """Whether there is a meta-validation after `step` steps; true for the last step."""

    @abstractmethod
    def _validate(self) -> float:
        """Add a point to the learning curve; returns the accuracy that chooses the best weights."""

    @abstractmethod
    def _show(self, loss: float) -> None:
        """Show progress on the display."""

    @abstractmethod
    def _arithmetic(self) -> AbstractContextManager[object]:
        """A context with the arithmetic settings of training and test."""

    @abstractmethod
    def _work(self) -> float:
        """Multiply-adds of one forward pass of a step's examples."""

    @abstractmethod
    def _tensors(self) -> dict[str, Any]:
        """Content of a checkpoint besides the state and the model."""

    @abstractmethod
    def _take_up(self, tensors: Mapping[str, Any]) -> None:
        """Restore the `_tensors` of a checkpoint."""

    # ----------------------------------------------------------------------------------------------------- its life

    def train(self) -> None:
        """Train to the end, then load the weights with the best meta-validation.

        Raises Stopped after a stop request, after writing the checkpoint, and Diverged, after writing a note.
        """
        with self._stoppable():
            self._train()
        self.model.load_state_dict(self.state.best_weights)
        self._account()

    def keep_weights(self) -> None:
        """Write the best weights next to the record, independent of the device."""
        weights = {key: value.cpu() for key, value in self.state.best_weights.items()}
        content = {**self._identity, "best_step": self.state.best_step, self.weights_key: weights}
        write_checkpoint(self._companions.weights, content)

    def save(self) -> None:
        """Write the checkpoint; if that fails, the last one stays."""
        self._require_finite()
        self._account()
        if self._ranks.is_first:
            content = {
                **self._identity,
                "state": vars(self.state),
                self.weights_key: self.model.state_dict(),
                **self._tensors(),
            }
            write_checkpoint(self._companions.checkpoint, content)
        self.saved_step = self.state.step

    def _begin(self) -> None:
        """Resume from the checkpoint if there is one. A subclass calls this at the end of its __init__."""
        content = self._ranks.of_first(self._read)
        if content is not None:
            self._load(content)
        self._ranks.copy_first(self.model.state_dict().values())
        self._choose_threads()
        self._choose_arithmetic()
        name = among(self._ranks.size, self._device_name())
        if self.state.devices[-1:] != [name]:
            self.state.devices.append(name)
        self.origin = origin_of(
            self._spec, self._setting.changed, self.seed, self.device, self.state.devices, ranks=self._ranks.size
        )

    def _choose_threads(self) -> None:
        state, ranks = self.state, self._ranks
        wanted = self._setting.threads or (state.threads if state.ranks == ranks.size else None)
        state.ranks = ranks.size
        if self.device.type == "cpu":
            state.threads = use_threads(wanted, self._work() / ranks.size, processes=ranks.local_size)

    def _candidate(self) -> nn.Module:
        """The model to meta-validate and, if best, to keep."""
        return self.model

    def _choose_arithmetic(self) -> None:  # noqa: B027 - optional
        """Choose settings that depend on the device and its threads; by default there are none."""

    def _device_name(self) -> str:
        return device_name(self.device)

    def _read(self) -> dict[str, Any] | None:
        path = self._companions.checkpoint
        return read_checkpoint(path, self._identity) if path.exists() else None

    def _load(self, content: Mapping[str, Any]) -> None:
        try:
            self.state = TrainingState(**content["state"])
            self.model.load_state_dict(content[self.weights_key])
            self._take_up(content)
        except (TypeError, KeyError, ValueError, RuntimeError) as error:
            path = self._companions.checkpoint
            raise UserError(f"{path}: was written by another version of norml; {START_OVER}") from error
        self.saved_step = self.state.step

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        with self._arithmetic():
            try:
                yield
            except StoppedAtOnce:
                raise
            except Stopped:
                self.save()
                raise
            except Diverged as error:
                if self._ranks.is_first:
                    write_note(self._companions.diverged, self._identity, error)
                raise

    def _train(self) -> None:
        """Take steps and meta-validations until the end of the schedule; can be left and resumed between any two."""
        state = self.state
        saved_at = shown_at = time.perf_counter()
        while True:
            if self._validates_at(state.step) and (not state.curve or state.curve[-1]["step"] < state.step):
                self._validate_and_keep_the_best()
            if state.step == self.steps:
                self.save()
                return
            self.obey()
            loss = self._take_steps(self._steps_until_a_look())
            now = time.perf_counter()
            if now - shown_at > SHOW_EVERY_S:
                self._show(loss)
                shown_at = now
            if now - saved_at > CHECKPOINT_EVERY_S:
                self.save()
                saved_at = time.perf_counter()

    def obey(self) -> None:
        """Raise Stopped on every rank if any rank got a stop request."""
        if self._ranks.any(self._stop.made):
            raise Stopped

    def _steps_until_a_look(self) -> int:
        """Steps to take before the loss is checked: one on a CPU, several on a GPU, up to the next meta-validation."""
        return 1 if self.device.type == "cpu" else steps_ahead(self.state.step, self._validates_at)

    def _take_steps(self, count: int) -> float:
        """Take `count` steps without waiting for the device in between; returns their mean loss."""
        state, started_at = self.state, time.perf_counter()
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)  # loss and accuracy
        for step in range(state.step, state.step + count):
            sums += self._take_step(step)
        loss_sum, accuracy_sum = sums.tolist()
        if not math.isfinite(loss_sum):
            self._diverged(loss_sum, state.step + count, self.advice)
        state.step += count
        state.loss_sum, state.accuracy_sum = state.loss_sum + loss_sum, state.accuracy_sum + accuracy_sum
        state.training_s += time.perf_counter() - started_at
        return float(loss_sum / count)

    def _validate_and_keep_the_best(self) -> None:
        state = self.state
        self._require_finite()
        accuracy = self._validate()
        state.loss_sum = state.accuracy_sum = 0.0
        if accuracy > state.best_accuracy:
            state.best_step, state.best_accuracy, state.best_correct = state.step, accuracy, state.last_correct
            state.best_weights = {key: value.clone() for key, value in self._candidate().state_dict().items()}

    def _means(self) -> tuple[float | None, float | None]:
        """Mean loss and accuracy of the steps since the last meta-validation; None without steps."""
        state = self.state
        since = state.step - (state.curve[-1]["step"] if state.curve else 0)
        return (state.loss_sum / since, state.accuracy_sum / since) if since else (None, None)

    # ---------------------------------------------------------------------------------------- numbers that go wrong

    def _diverged(self, loss: float, step: int, why: str) -> NoReturn:
        raise Diverged(f"{self._name}: the loss is {loss} by {self.step_name} {step:,}; {self._kept()}; {why}")

    def _kept(self) -> str:
        if self.saved_step is None:
            return "there is no checkpoint yet"
        return f"the checkpoint of {self.step_name} {self.saved_step:,} keeps the last finite weights"

    def _require_finite(self) -> None:
        when = f"{self.step_name} {self.state.step:,}"
        require_finite(self.model, self._name, when, f"{self._kept()}; {self.advice}")

    def _account(self) -> None:
        """Update wall time and peak memory."""
        now = time.perf_counter()
        self.state.wall_s += now - self._started_at
        self._started_at = now
        self.state.peak_memory_bytes = max(self.state.peak_memory_bytes, peak_memory_bytes(self.device))


def steps_ahead(step: int, validates_at: Callable[[int], bool]) -> int:
    """Number of steps after `step` before the loss is checked."""
    ahead = range(1, STEPS_BETWEEN_CHECKS)
    return next((count for count in ahead if validates_at(step + count)), STEPS_BETWEEN_CHECKS)
