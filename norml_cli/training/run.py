"""A run: meta-training with meta-validation, then one evaluation on the meta-test episodes."""

import logging
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from typing_extensions import override

from norml.episodes import EpisodeBatch, sample_indices
from norml.frozen_classifiers import FrozenClassifier
from norml.image_moves import moved_at_random
from norml.meta_training import (
    CapturedMetaGradient,
    MetaGradient,
    MetaLearner,
    MetaTrained,
    compiled_meta_gradient,
    meta_gradient,
    outer_lr_at,
    outer_step,
)
from norml.objectives.multi_step import multi_step_gradient, step_weights_at
from norml.objectives.reptile import reptile_gradient
from norml.statistics import interval_95
from norml_cli.data.examples import Examples
from norml_cli.data.splits import SplitName
from norml_cli.files.errors import UserError, counted
from norml_cli.registry.protocol import Protocol
from norml_cli.registry.specs import RunSpec
from norml_cli.results.records import Cost, Course, CurvePoint, OfClass, Parameters
from norml_cli.training.adam import Adam
from norml_cli.training.build import build_method, generator_for
from norml_cli.training.divergence import diverging_loop, rising
from norml_cli.training.evaluation import FixedEpisodes, count_correct, multiplying_as_declared
from norml_cli.training.loop import Setting, Training
from norml_cli.training.provenance import device_name
from norml_cli.training.ranks.gradient import of_whole_batch

Compile = Literal["never", "try", "must"]


@dataclass(frozen=True)
class Outcome:
    """The result of a meta-test."""

    correct: list[int]
    by_class: dict[str, OfClass]
    evaluation_s: float


class Run(Training):
    """A method on a benchmark with one seed."""

    step_name = "outer step"
    phase = "meta-training"
    weights_key = "meta_learner"
    advice = "lower outer_lr or inner_lr with --set, or set gradient_clip"

    model: MetaTrained | FrozenClassifier

    def __init__(
        self,
        spec: RunSpec,
        examples: Examples,
        setting: Setting,
        *,
        compile_: Compile = "never",
        splits: Sequence[SplitName] = ("meta_val", "meta_test"),
    ) -> None:
        """Build the model, load the data, and resume from the checkpoint if there is one.

        compile_: whether to compile the meta-gradient with torch.compile. splits: the splits to evaluate on, including
        meta_val; other splits are not read.
        """
        protocol, device = spec.protocol, setting.device
        super().__init__(spec, setting, examples.identity, name=spec.method, steps=protocol.outer_steps)
        self.spec = spec
        self.compiled = False
        self._compile_wanted = compile_
        self._gradient: MetaGradient = meta_gradient
        self._followed: MetaGradient | None = None  # the function behind `_gradient`
        self._step_weights = torch.empty(protocol.inner_steps, device=device)
        self._of_every_step = partial(multi_step_gradient, step_weights=self._step_weights)
        # Load all data now, so that a cache that is rewritten during training has no effect.
        self._train_pool = examples.training_pool(protocol, device)
        initial = generator_for("initial weights", self.seed)
        self.model = build_method(spec, self._train_pool.n_features, initial).to(device)
        self._optimizer = _optimizer(self.model, protocol.outer_lr)
        self._average = None if protocol.weight_average is None else _average(self.model, protocol.weight_average)
        self._moves = _moves(protocol, in_colour=examples.in_colour)
        self._generator = generator_for("training episodes", self.seed, device)
        self._fixed = {split: FixedEpisodes.of(spec, examples, split, device) for split in splits}
        self._begin()

    @override
    def begins(self) -> str:
        changes = self.spec.shown(key for key in self._setting.shown if key != "outer_steps")  # steps are shown anyway
        having = f" with {', '.join(changes)}" if changes else ""
        if not self.steps:
            return f"begins{having}; nothing is meta-trained"
        step = self.state.step
        return f"{f'continues from {step:,} of' if step else 'begins'} {counted(self.steps, 'outer step')}{having}"

    @override
    def train(self) -> None:
        super().train()
        if isinstance(self.model, MetaLearner):
            batch = self._meta_batch(generator_for("looking at the inner loop", self.seed, self.device))
            warning = rising(self.model, batch, self.spec.protocol.inner_steps)
            if warning is not None:
                self.display.say(warning)
            self._account()

    def test(self) -> Outcome:
        """Test the weights of `train` on the meta-test episodes. Raises Stopped after a stop request."""
        started_at = time.perf_counter()
        with self._stoppable():
            correct = self._evaluate("meta_test", self.model)
        self._account()
        evaluation_s = time.perf_counter() - started_at
        self.display.tested(self.state.best_step, float(correct.mean()) / self.spec.queries_per_episode)
        return Outcome(correct.tolist(), self._fixed["meta_test"].by_class(correct), evaluation_s)

    @property
    def episode_hashes(self) -> dict[SplitName, str]:
        """The hashes of the fixed episodes, by split."""
        return {split: episodes.hash for split, episodes in self._fixed.items()}

    @property
    def parameters(self) -> Parameters:
        """Numbers of parameters."""
        return Parameters(**self.model.parameter_counts())

    def course(self, *, evaluation_s: float = 0.0) -> Course:
        """The training's part of the record."""
        state = self.state
        cost = Cost(
            wall_s=state.wall_s,
            training_s=state.training_s,
            compile_s=state.compile_s or None,
            evaluation_s=evaluation_s,
            steps_per_s=state.step / state.training_s if state.step else 0.0,
            peak_memory_bytes=state.peak_memory_bytes,
        )
        return Course(self.dataset, [CurvePoint(**point) for point in state.curve], state.best_step, cost)

    # ------------------------------------------------------------------------------------------------- training

    @override
    def _train(self) -> None:
        if self.state.step < self.steps:
            self._follow(self.state.step)
        super()._train()

    @override
    def _take_step(self, step: int) -> torch.Tensor:
        protocol, meta_learner = self.spec.protocol, self._meta_learner()
        if self._optimizer is None:
            raise TypeError(f"{self.spec.algorithm} has nothing to learn")
        for group in self._optimizer.param_groups:
            group["lr"] = self._outer_lr(step)
        compile_s = self.state.compile_s
        self._follow(step)
        self.state.training_s -= self.state.compile_s - compile_s  # a step's time excludes compiling
        loss, accuracy = outer_step(
            meta_learner,
            self._optimizer,
            self._share_of_a_meta_batch(),
            inner_steps=protocol.inner_steps,
            gradient_clip=protocol.gradient_clip,
            gradient_norm_limit=protocol.gradient_norm_limit,
            gradient=self._checked if self.device.type == "cpu" else self._shared,
        )
        if self._average is not None:
            self._average.update_parameters(meta_learner)
        return torch.stack([loss, accuracy])

    def _checked(
        self, meta_learner: MetaTrained, batch: EpisodeBatch, inner_steps: int
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """The meta-gradient. Raises Diverged before the weights change if its loss is not finite."""
        loss, accuracy, gradients = self._shared(meta_learner, batch, inner_steps)
        if not math.isfinite(float(loss)):
            why = self.advice
            if isinstance(meta_learner, MetaLearner):
                why = diverging_loop(meta_learner, self._drawn, inner_steps)
            self._diverged(float(loss), self.state.step + 1, why)
        return loss, accuracy, gradients

    def _shared(
        self, meta_learner: MetaTrained, batch: EpisodeBatch, inner_steps: int
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """The meta-gradient of the whole meta-batch. batch: this rank's share of it."""
        weight = len(batch) / self.spec.protocol.meta_batch_size
        return of_whole_batch(self._gradient(meta_learner, batch, inner_steps), self._ranks, weight)

    def _share_of_a_meta_batch(self) -> EpisodeBatch:
        """This rank's part of the next E training episodes. Every rank draws all E."""
        self._drawn = self._meta_batch(self._generator)
        return self._share(self._drawn)

    def _share(self, batch: EpisodeBatch) -> EpisodeBatch:
        return batch[self._ranks.share(len(batch))]

    def _meta_batch(self, generator: torch.Generator) -> EpisodeBatch:
        """Draw E training episodes."""
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
        batch = self._train_pool.gather(indices, k_shot=self.spec.shots)
        if self._moves is None:
            return batch
        return EpisodeBatch(self._moves(batch.x, generator=generator), batch.y, batch.n_support)

    def _follow(self, step: int) -> None:
        """Choose the meta-gradient function of outer step `step`; compile or capture it if it is a new one."""
        protocol = self.spec.protocol
        followed: MetaGradient = meta_gradient
        if protocol.outer_gradient == "every-step":
            until = protocol.multi_step_share * protocol.outer_steps
            weights = step_weights_at(step, until=until, inner_steps=protocol.inner_steps)
            if weights is not None:
                self._step_weights.copy_(torch.tensor(weights))
                followed = self._of_every_step
        elif protocol.outer_gradient == "reptile":
            followed = reptile_gradient
        if followed is self._followed:
            return
        self._gradient = CapturedMetaGradient(followed) if self.device.type == "cuda" else followed
        if self._compile_wanted != "never":
            self._compile(followed)
        self._followed = followed

    def _compile(self, followed: MetaGradient) -> None:
        """Compile the meta-gradient on separate episodes.

        Raises UserError if compiling is required and fails, and Stopped at once after a stop request.
        """
        self.display.say("compiling the outer step; --no-compile would start at once, but run slower")
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # silence its warning of no CUDA
        started_at = time.perf_counter()
        batch = self._share(self._meta_batch(generator_for("compiling", self.seed, self.device)))
        gradient = compiled_meta_gradient(self.device, followed)
        try:
            with self._stop.breaking_off(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="TensorFloat32")  # matmul_precision decides it
                gradient(self._meta_learner(), batch, self.spec.protocol.inner_steps)
        except (RuntimeError, OSError) as error:  # torch's compilers raise RuntimeError
            self._stop.obey()  # Ctrl-C also ends the C++ compiler, which torch reports as an error
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            fault = f"the outer step cannot be compiled here ({reason})"
            if self._compile_wanted == "must":
                raise UserError(f"{self.spec.method}: {fault}; run it with --no-compile") from error
            self.display.say(f"{fault}; running uncompiled, which is slower; --no-compile skips the attempt")
            return
        self._gradient, self.compiled = gradient, True
        self.state.compile_s += time.perf_counter() - started_at
        self.display.say(f"compiled in {time.perf_counter() - started_at:.0f} s")

    def _outer_lr(self, step: int) -> float:
        protocol = self.spec.protocol
        return outer_lr_at(
            step, outer_lr=protocol.outer_lr, outer_steps=protocol.outer_steps, schedule=protocol.outer_schedule
        )

    def _meta_learner(self) -> MetaTrained:
        if not isinstance(self.model, MetaTrained):
            raise TypeError(f"{self.spec.algorithm} is not meta-trained")
        return self.model

    @override
    def _validates_at(self, step: int) -> bool:
        return step == self.steps or (step > 0 and step % self.spec.protocol.validate_every == 0)

    @override
    def _validate(self) -> float:
        """Compute the accuracy on the fixed meta-validation episodes."""
        step = self.state.step
        correct = self._evaluate("meta_val", self._candidate())
        self.state.last_correct = correct.tolist()
        interval = interval_95(self.state.last_correct).divided_by(self.spec.queries_per_episode)
        loss, accuracy = self._means()
        point = {
            "step": step,
            "loss": loss,
            "train_accuracy": accuracy,
            "validation_accuracy": interval.mean,
            "validation_half_width": interval.half_width,
            "outer_lr": self._outer_lr(max(0, step - 1)),
        }
        self.state.curve.append(point)
        self.display.validated(point)
        return interval.mean

    def _evaluate(self, split: SplitName, model: nn.Module) -> NDArray[np.int64]:
        """Correct answers of `model` in each fixed episode of a split: [E]. Raises Stopped after a stop request."""

        def on_progress(done: int, episodes: int) -> None:
            self.obey()
            self.display.evaluating(split, done, episodes)

        return count_correct(model, self.spec, self._fixed[split], on_progress, self._ranks)

    @override
    def _candidate(self) -> nn.Module:
        """The moving average if there is one and a step was taken, otherwise the model."""
        return self.model if self._average is None or not self.state.step else self._average.module

    @override
    def _show(self, loss: float) -> None:
        last = self.state.curve[-1]["validation_accuracy"] if self.state.curve else None
        self.display.training(self.state.step, self.steps, loss, last)

    @override
    def _arithmetic(self) -> AbstractContextManager[None]:
        return multiplying_as_declared(self.spec, self.device)

    @override
    def _device_name(self) -> str:
        return device_name(self.device, self.spec.examples_of_an_outer_step)

    @override
    def _work(self) -> float:
        return self.spec.examples_of_an_outer_step * float(self.parameters.learner)

    # ---------------------------------------------------------------------------------------------- checkpoints

    @override
    def _tensors(self) -> dict[str, Any]:
        return {
            "optimizer": None if self._optimizer is None else self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
            "average": None if self._average is None else self._average.state_dict(),
        }

    @override
    def _take_up(self, tensors: Mapping[str, Any]) -> None:
        if self._optimizer is not None:
            self._optimizer.load_state_dict(tensors["optimizer"])
        if self._average is not None:
            self._average.load_state_dict(tensors["average"])
        self._take_up_draws(tensors["generator"].cpu())

    def _take_up_draws(self, generator_state: torch.Tensor) -> None:
        """Continue the sequence of training episodes; on another kind of device start a new sequence."""
        if generator_state.shape == self._generator.get_state().shape:
            self._generator.set_state(generator_state)
            return
        step = self.state.step
        self._generator = generator_for(f"training episodes from outer step {step}", self.seed, self.device)
        self.display.say("resumed on another kind of device, so the training episodes from here on are different ones")


def _average(model: nn.Module, share: float) -> AveragedModel:
    """An exponential moving average of `model` with decay `share`; the first update copies the model."""
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(share))  # type: ignore[no-untyped-call]
    return average.requires_grad_(requires_grad=False)


def _moves(protocol: Protocol, *, in_colour: bool) -> Callable[..., torch.Tensor] | None:
    """The random shift and rotation of training images; None without."""
    shift, tilt = protocol.training_shift_px, protocol.training_tilt_degrees
    if not shift and not tilt:
        return None
    return partial(moved_at_random, in_colour=in_colour, max_shift_px=shift, max_tilt_degrees=tilt)


def _optimizer(model: MetaTrained | FrozenClassifier, outer_lr: float) -> torch.optim.Optimizer | None:
    """Adam for the model's parameters; None without parameters."""
    parameters = list(model.parameters())
    return Adam(parameters, lr=outer_lr, fused=True) if parameters else None
