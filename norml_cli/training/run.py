"""One run: meta-training with meta-validation and checkpoints, then one evaluation on the meta-test episodes.

A run can be stopped anywhere (Ctrl-C, SIGTERM, kill) and started again. Everything that decides its numbers is in the
checkpoint or follows from spec and seed, so on the CPU a resumed run ends with the record of an uninterrupted one.
"""

import logging
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from norml.episodes import EpisodeBatch, sample_indices
from norml.evaluation import correct_counts
from norml.frozen_classifiers import FrozenClassifier
from norml.matrix_products import multiplying
from norml.meta_training import (
    CapturedMetaGradient,
    MetaGradient,
    MetaLearner,
    compiled_meta_gradient,
    meta_gradient,
    outer_lr_at,
    outer_step,
)
from norml.statistics import interval_95
from norml_cli.data.examples import Examples, episode_indices
from norml_cli.data.fixed_episodes import episode_requests
from norml_cli.data.splits import SplitName
from norml_cli.files.errors import UserError, reason
from norml_cli.registry.specs import RunSpec
from norml_cli.training.build import build_method, generator_for
from norml_cli.training.checkpoints import CHECKPOINT_EVERY_S, Stopped, StopRequest, read_checkpoint, write_checkpoint
from norml_cli.training.divergence import Diverged, refuse_if_diverged, require_finite, rising, told_apart, write_note
from norml_cli.training.provenance import device_name, peak_memory_bytes

SHOW_EVERY_S = 0.2  # chosen: looks live, costs nothing beside a step
EPISODES_BETWEEN_LOOKS = 320  # evaluated between two looks at the display and at a stop request
EPISODES_AT_ONCE = {"cpu": 32, "cuda": 320}  # of an evaluation; chosen: a GPU waits for launches, a CPU for its caches
STEPS_BETWEEN_LOOKS = 25  # outer steps between two looks at the loss: each look makes a GPU's queue run empty


class Display(Protocol):
    """Where a run shows how far it is."""

    def training(self, step: int, outer_steps: int, loss: float, validation: float | None) -> None:
        """Called now and then during meta-training. `validation`: last accuracy on meta-validation."""

    def evaluating(self, split: str, done: int, episodes: int) -> None:
        """Called now and then during an evaluation."""

    def validated(self, point: Mapping[str, Any]) -> None:
        """Called after each meta-validation, with its point of the learning curve."""

    def tested(self, step: int, accuracy: float) -> None:
        """Called after the meta-test of the weights of outer step `step`."""

    def say(self, line: str) -> None:
        """Show one line that stays."""


@dataclass
class State:
    """How far a run is. All of it is saved; tensors belong to the modules and generators beside it."""

    step: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)
    best_step: int = 0
    best_accuracy: float = -1.0
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)
    loss_sum: float = 0.0  # since the last meta-validation
    accuracy_sum: float = 0.0
    training_s: float = 0.0
    compile_s: float = 0.0
    wall_s: float = 0.0
    peak_memory_bytes: int = 0
    devices: list[str] = field(default_factory=list)  # that it was computed on, one after the other


@dataclass(frozen=True)
class Outcome:
    """What a test found."""

    correct: list[int]
    evaluation_s: float


Compile = Literal["never", "try", "must"]


class Run:
    """One method on one benchmark with one seed."""

    def __init__(
        self,
        spec: RunSpec,
        examples: Examples,
        *,
        seed: int,
        device: torch.device,
        checkpoint: Path,
        display: Display,
        compile_: Compile = "never",
        splits: Sequence[SplitName] = ("meta_val", "meta_test"),
    ) -> None:
        """Build the model and load the data; take up the checkpoint if there is one.

        `compile_`: whether to torch.compile the outer step's meta-gradient. `splits`: those to evaluate on, meta_val
        among them; the others are not touched.
        """
        self.spec, self.seed, self.device, self.display = spec, seed, device, display
        self.compiled = False
        self._compile_wanted = compile_
        self._gradient: MetaGradient = CapturedMetaGradient() if device.type == "cuda" else meta_gradient
        self._checkpoint = checkpoint
        self.dataset = examples.identity
        self._identity = {"spec_hash": spec.hash(), "seed": seed, "content_hash": self.dataset.content_hash}
        if self.dataset.features is not None:
            self._identity["features"] = self.dataset.features
        # All of the data now: a cache that is made anew during hours of training changes nothing here.
        rotations = spec.protocol.rotations != "none"
        self._train_pool = examples.pool("meta_train", rotations=rotations, device=device)
        self.method = build_method(spec, self._train_pool.n_features, generator_for("initial weights", seed)).to(device)
        self._optimizer = _optimizer(self.method, spec.protocol.outer_lr)
        self._generator = generator_for("training episodes", seed, device)
        requests = [request for request in episode_requests(spec) if request.split in splits]
        fixed = {request.split: (request, examples.cache.episodes(request)) for request in requests}
        self._fixed = {
            split: (
                examples.pool(split, rotations=request.rotations, device=device),
                episode_indices(arrays.classes, arrays.examples, arrays.turns).to(device),
            )
            for split, (request, arrays) in fixed.items()
        }
        self.episode_hashes = {split: arrays.hash() for split, (_, arrays) in fixed.items()}
        self._stop = StopRequest()
        self.state = State()
        self._saved_step: int | None = None  # of the checkpoint
        self._started_at = time.perf_counter()
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)  # loss and accuracy since the last look
        refuse_if_diverged(checkpoint, self._identity)
        if checkpoint.exists():
            self._load()
        name = device_name(device, spec.examples_of_an_outer_step)
        if self.state.devices[-1:] != [name]:
            self.state.devices.append(name)

    def train(self) -> None:
        """Train to the end and put the best weights of meta-validation in place.

        Raises Stopped after a stop request, with the checkpoint written.
        """
        with self._stoppable():
            self._train()
        self.method.load_state_dict(self.state.best_weights)
        if isinstance(self.method, MetaLearner):
            batch = self._meta_batch(generator_for("looking at the inner loop", self.seed, self.device))
            warning = rising(self.method, batch, self.spec.protocol.inner_steps)
            if warning is not None:
                self.display.say(warning)
        self._account()

    def test(self) -> Outcome:
        """Test the weights of `train` on the meta-test episodes. Raises Stopped as it does."""
        started_at = time.perf_counter()
        with self._stoppable():
            correct = self._evaluate("meta_test")
        self._account()
        evaluation_s = time.perf_counter() - started_at
        self.display.tested(self.state.best_step, float(correct.mean()) / self.queries_per_episode)
        return Outcome(correct.tolist(), evaluation_s)

    def take_weights(self, path: Path) -> None:
        """Put the weights of `keep_weights` in place. Raises UserError if they are missing or another run's."""
        content = read_checkpoint(path, self._identity)
        try:
            self.method.load_state_dict(content["meta_learner"])
        except (RuntimeError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}: holds no weights of this run ({reason(error)}); run it again with --force"
            ) from None

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        products = multiplying(
            self.spec.protocol.matmul_precision, self.device, examples=self.spec.examples_of_an_outer_step
        )
        with self._stop.listening(), products:
            try:
                yield
            except Stopped:
                self.save()
                raise
            except Diverged as error:
                write_note(self._checkpoint, self._identity, error)
                raise

    # ------------------------------------------------------------------------------------------------- training

    def _train(self) -> None:
        """Outer steps and meta-validations until the schedule's end; safe to leave and re-enter between any two."""
        state, outer_steps = self.state, self.spec.protocol.outer_steps
        if self._compile_wanted != "never" and state.step < outer_steps:
            self._compile()
        saved_at = shown_at = time.perf_counter()
        while True:
            if self._validation_is_due():
                self._validate()
            if state.step == outer_steps:
                self.save()
                return
            self._stop.obey()
            loss = self._outer_steps(self._steps_until_a_look())
            now = time.perf_counter()
            if now - shown_at > SHOW_EVERY_S:
                self._show(loss)
                shown_at = now
            if now - saved_at > CHECKPOINT_EVERY_S:
                self.save()
                saved_at = time.perf_counter()

    def _steps_until_a_look(self) -> int:
        """On a CPU every step is looked at; elsewhere some run ahead, up to the next meta-validation or the end."""
        protocol, step = self.spec.protocol, self.state.step
        if self.device.type == "cpu":
            return 1
        until_validation = protocol.validate_every - step % protocol.validate_every
        return min(STEPS_BETWEEN_LOOKS, until_validation, protocol.outer_steps - step)

    def _outer_steps(self, count: int) -> float:
        """Take outer steps without waiting for the device in between; returns their mean loss."""
        state, started_at = self.state, time.perf_counter()
        self._sums.zero_()
        for step in range(state.step, state.step + count):
            loss, accuracy = self._outer_step(step)
            self._sums += torch.stack([loss, accuracy])
        loss_sum, accuracy_sum = self._sums.tolist()
        if not math.isfinite(loss_sum):  # on a CPU it was found before the optimiser's step, in `_checked`
            self._diverged(loss_sum, state.step + count, "lower inner_lr or outer_lr with --set, or set gradient_clip")
        state.step += count
        state.loss_sum, state.accuracy_sum = state.loss_sum + loss_sum, state.accuracy_sum + accuracy_sum
        state.training_s += time.perf_counter() - started_at
        return float(loss_sum / count)

    def _outer_step(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        protocol, meta_learner = self.spec.protocol, self._meta_learner()
        if self._optimizer is None:
            raise TypeError(f"{self.spec.algorithm} has nothing to learn")
        for group in self._optimizer.param_groups:
            group["lr"] = self._outer_lr(step)
        return outer_step(
            meta_learner,
            self._optimizer,
            self._meta_batch(self._generator),
            inner_steps=protocol.inner_steps,
            gradient_clip=protocol.gradient_clip,
            gradient_norm_limit=protocol.gradient_norm_limit,
            gradient=self._checked if self.device.type == "cpu" else self._gradient,
        )

    def _checked(
        self, meta_learner: MetaLearner, batch: EpisodeBatch, inner_steps: int
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """The meta-gradient, if its loss is a number. Raises Diverged while the weights are those it came from."""
        loss, accuracy, gradients = self._gradient(meta_learner, batch, inner_steps)
        if not math.isfinite(float(loss)):
            self._diverged(float(loss), self.state.step + 1, told_apart(meta_learner, batch, inner_steps))
        return loss, accuracy, gradients

    def _diverged(self, loss: float, step: int, why: str) -> NoReturn:
        raise Diverged(f"{self.spec.method}: the query loss is {loss} by outer step {step:,}; {self._kept()}; {why}")

    def _kept(self) -> str:
        if self._saved_step is None:
            return "there is no checkpoint yet"
        return f"the checkpoint of outer step {self._saved_step:,} is kept, with the last weights known to be good"

    def _require_finite(self) -> None:
        advice = f"{self._kept()}; the outer loop diverges: lower outer_lr with --set, or set gradient_clip"
        require_finite(self.method, self.spec.method, self.state.step, advice)

    def _meta_batch(self, generator: torch.Generator) -> EpisodeBatch:
        """E training episodes."""
        protocol = self.spec.protocol
        indices = sample_indices(
            n_classes=self._train_pool.n_classes,
            n_examples=self._train_pool.n_examples,
            n_way=protocol.n_way,
            examples_per_class=self.spec.shots + protocol.queries_per_class,
            rotations=self._train_pool.rotations,
            n_episodes=protocol.meta_batch_size,
            generator=generator,
        )
        return self._train_pool.gather(indices, k_shot=self.spec.shots)

    def _compile(self) -> None:
        """Compile the meta-gradient, on episodes of its own.

        Raises UserError if it must be and cannot; Stopped at once on a stop request.
        """
        self.display.say("compiling the outer step; --no-compile would begin at once, and run slower")
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # on CPUs it warns of no CUDA
        started_at = time.perf_counter()
        batch = self._meta_batch(generator_for("compiling", self.seed, self.device))
        gradient = compiled_meta_gradient(self.device)
        try:
            with self._stop.breaking_off(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="TensorFloat32")  # declared: matmul_precision
                gradient(self._meta_learner(), batch, self.spec.protocol.inner_steps)
        except (RuntimeError, OSError) as error:  # whatever torch's compilers raise is a RuntimeError
            self._stop.obey()  # Ctrl-C ends the C++ compiler, too, and torch wraps what is raised within it
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            fault = f"the outer step cannot be compiled here ({reason})"
            if self._compile_wanted == "must":
                raise UserError(f"{self.spec.method}: {fault}; run it with --no-compile") from error
            self.display.say(f"{fault}; going on without, slower; --no-compile does not try")
            return
        self._gradient, self.compiled = gradient, True
        self.state.compile_s += time.perf_counter() - started_at
        self.display.say(f"compiled in {time.perf_counter() - started_at:.0f} s")

    def _outer_lr(self, step: int) -> float:
        protocol = self.spec.protocol
        return outer_lr_at(
            step, outer_lr=protocol.outer_lr, outer_steps=protocol.outer_steps, schedule=protocol.outer_schedule
        )

    def _meta_learner(self) -> MetaLearner:
        if not isinstance(self.method, MetaLearner):
            raise TypeError(f"{self.spec.algorithm} is not meta-trained")
        return self.method

    def _validation_is_due(self) -> bool:
        state, protocol = self.state, self.spec.protocol
        at_an_interval = state.step > 0 and state.step % protocol.validate_every == 0
        due = at_an_interval or state.step == protocol.outer_steps
        return due and (not state.curve or state.curve[-1]["step"] < state.step)

    def _validate(self) -> None:
        """Accuracy on the fixed meta-validation episodes; the best weights so far are kept."""
        state = self.state
        self._require_finite()
        correct = self._evaluate("meta_val")
        interval = interval_95(correct.tolist()).divided_by(self.queries_per_episode)
        since = state.step - (state.curve[-1]["step"] if state.curve else 0)
        state.curve.append(
            {
                "step": state.step,
                "loss": state.loss_sum / since if since else None,
                "train_accuracy": state.accuracy_sum / since if since else None,
                "validation_accuracy": interval.mean,
                "validation_half_width": interval.half_width,
                "outer_lr": self._outer_lr(max(0, state.step - 1)),
            }
        )
        self.display.validated(state.curve[-1])
        state.loss_sum = state.accuracy_sum = 0.0
        if interval.mean > state.best_accuracy:
            state.best_step, state.best_accuracy = state.step, interval.mean
            state.best_weights = {key: value.clone() for key, value in self.method.state_dict().items()}

    # ----------------------------------------------------------------------------------------------- evaluation

    @property
    def queries_per_episode(self) -> int:
        """M = N * Q."""
        return self.spec.protocol.n_way * self.spec.protocol.queries_per_class

    def _evaluate(self, split: SplitName) -> NDArray[np.int64]:
        """Correct answers of each fixed episode of a split: [E]. Raises Stopped."""
        pool, episodes = self._fixed[split]
        counts = []
        query_logits = partial(self.method, inner_steps=self.spec.protocol.inner_steps_test)
        for start in range(0, len(episodes), EPISODES_BETWEEN_LOOKS):
            self._stop.obey()
            self.display.evaluating(split, start, len(episodes))
            counts.append(
                correct_counts(
                    query_logits,
                    pool,
                    episodes[start : start + EPISODES_BETWEEN_LOOKS],
                    k_shot=self.spec.shots,
                    episodes_at_once=EPISODES_AT_ONCE[self.device.type],
                ).cpu()
            )
        correct: NDArray[np.int64] = torch.cat(counts).numpy()
        return correct

    # ---------------------------------------------------------------------------------------------- checkpoints

    def save(self) -> None:
        """Write the checkpoint: the whole state, or the one before it stays."""
        self._require_finite()
        self._account()
        content = {
            **self._identity,
            "state": vars(self.state),
            "meta_learner": self.method.state_dict(),
            "optimizer": None if self._optimizer is None else self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
        }
        write_checkpoint(self._checkpoint, content)
        self._saved_step = self.state.step

    def keep_weights(self, path: Path) -> None:
        """Leave the tested weights at `path`."""
        content = {**self._identity, "best_step": self.state.best_step, "meta_learner": self.state.best_weights}
        write_checkpoint(path, content)

    def _load(self) -> None:
        content = read_checkpoint(self._checkpoint, self._identity)
        self.method.load_state_dict(content["meta_learner"])
        if self._optimizer is not None:
            self._optimizer.load_state_dict(content["optimizer"])
        self.state = State(**content["state"])
        self._take_up_draws(content["generator"].cpu())
        self._saved_step = self.state.step

    def _take_up_draws(self, generator_state: torch.Tensor) -> None:
        """Go on drawing training episodes where it was left; on another kind of device, which cannot, by new ones."""
        if generator_state.shape == self._generator.get_state().shape:
            self._generator.set_state(generator_state)
            return
        step = self.state.step
        self._generator = generator_for(f"training episodes from outer step {step}", self.seed, self.device)
        self.display.say("begun on another kind of device, so from here on other training episodes are drawn")

    def _account(self) -> None:
        """Bring wall time and peak memory up to now."""
        now = time.perf_counter()
        self.state.wall_s += now - self._started_at
        self._started_at = now
        self.state.peak_memory_bytes = max(self.state.peak_memory_bytes, peak_memory_bytes(self.device))

    def _show(self, loss: float) -> None:
        last = self.state.curve[-1]["validation_accuracy"] if self.state.curve else None
        self.display.training(self.state.step, self.spec.protocol.outer_steps, loss, last)


def _optimizer(method: MetaLearner | FrozenClassifier, outer_lr: float) -> torch.optim.Optimizer | None:
    """Of what is meta-learned; None if nothing is."""
    parameters = list(method.parameters())
    return torch.optim.Adam(parameters, lr=outer_lr, fused=True) if parameters else None
