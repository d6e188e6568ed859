"""Pretrain a backbone to classify the meta-training classes, and choose the best weights on meta-validation.

A step's random draws (order of the images, augmentation, dropout) depend only on the seed and the step's number.
"""

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from norml.episodes import ExamplePool
from norml.evaluation import correct_counts
from norml.frozen_classifiers import NearestCentroid
from norml.meta_training import outer_lr_at
from norml.resnet12 import Classifier, PartOfBatch, ResNet12, parameter_count
from norml.statistics import FORMULA, interval_95
from norml_cli.data.cache import Cache
from norml_cli.data.examples import episode_indices
from norml_cli.data.fixed_episodes import pretraining_requests
from norml_cli.data.image_batches import EVALUATED_TOGETHER, ImageBatches, resident
from norml_cli.files.errors import counted
from norml_cli.registry.protocol import HELD_OUT_EVERY, Recipe
from norml_cli.registry.specs import PretrainSpec
from norml_cli.results.records import Accuracy, Course, PretrainingCost, PretrainingPoint
from norml_cli.training.build import build_backbone_classifier, generator_for
from norml_cli.training.loop import Setting, Training
from norml_cli.training.precision import computed_in, precision_on
from norml_cli.training.ranks.sharing import Ranks

TRIAL_IMAGES = 2  # chosen: a trial takes seconds, and even few maps of 84 px keep the processor busy


class Pretraining(Training):
    """One recipe on one data set with one seed."""

    step_name = "step"
    phase = "pretraining"
    weights_key = "classifier"
    advice = "declare a recipe with a lower learning_rate"

    model: Classifier

    def __init__(self, spec: PretrainSpec, cache: Cache, setting: Setting) -> None:
        """Build the network, load the images, and resume from the checkpoint if there is one. Raises UserError."""
        recipe = spec.values
        super().__init__(spec, setting, cache.identity(), name=spec.recipe, steps=recipe.steps)
        self.spec = spec
        self._validation_steps = validation_steps(recipe)
        self._load_images(cache)
        classifier = build_backbone_classifier(recipe, self._n_classes, generator_for("initial weights", self.seed))
        self.model = classifier.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
        self._optimizer = _optimizer(recipe, [p for p in self.model.parameters() if p.requires_grad])
        self._order: tuple[int, Tensor] | None = None  # an epoch's number and its order of images
        self._begin()
        self._network = _shared(self.model, recipe, self._ranks)

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

    @override
    def begins(self) -> str:
        begun = f"continues from {self.state.step:,} of" if self.state.step else "begins"
        return f"{begun} {counted(self.steps, 'step')}, {counted(self.training_images, 'training image')}"

    @property
    def training_images(self) -> int:
        """Number of images of the training classes that are not held out."""
        return len(self._train_rows)

    @property
    def parameters(self) -> int:
        """Number of parameters of the backbone."""
        return parameter_count(self.model.backbone)

    @property
    def nearest_centroid(self) -> dict[str, Accuracy]:
        """Nearest-centroid accuracy of the best weights on meta-validation, by shots."""
        best = self.state.best_intervals
        return {shots: Accuracy(**interval, formula=FORMULA) for shots, interval in best.items()}

    def course(self) -> Course:
        """The training's part of the record."""
        state = self.state
        cost = PretrainingCost(
            wall_s=state.wall_s,
            training_s=state.training_s,
            images_per_s=state.step * self.spec.values.batch_size / state.training_s,
            peak_memory_bytes=state.peak_memory_bytes,
        )
        return Course(self.dataset, [PretrainingPoint(**point) for point in state.curve], state.best_step, cost)

    # ------------------------------------------------------------------------------------------------- training

    @override
    def _take_step(self, step: int) -> Tensor:
        """Take one optimiser step; returns its loss and accuracy, [2] on the device."""
        recipe, ranks = self.spec.values, self._ranks
        rows, share = self._rows(step), ranks.share(recipe.batch_size)
        seed = generator_for(f"augmentation of step {step}", self.seed).initial_seed()
        x = self._batches.augmented(self._train_images, rows, seed, share)
        y = self._labels[rows[share]].to(self.device)
        weight, part = len(y) / len(rows), PartOfBatch(share.start, len(rows))
        strength = min(1.0, step / recipe.drop_ramp_steps) if recipe.drop_ramp_steps else 1.0
        dropping = generator_for(f"dropping of step {step}", self.seed, self.device)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate_at(recipe, step)
        self.model.train()
        with computed_in(self._precision, self.device):
            logits = self._network(x, generator=dropping, drop_strength=strength, part=part)
        loss = functional.cross_entropy(logits.float(), y)
        self._optimizer.zero_grad()
        (loss * (weight * ranks.size)).backward()  # type: ignore[no-untyped-call]  # DistributedDataParallel averages over ranks
        self._optimizer.step()
        loss_and_accuracy = torch.stack([loss.detach(), (logits.argmax(1) == y).float().mean()])
        return ranks.means([loss_and_accuracy], weight)[0]

    def _rows(self, step: int) -> Tensor:
        """Rows of a step's images: [B]. Each epoch has its own order; images beyond the last full batch are skipped."""
        batch_size = self.spec.values.batch_size
        epoch, place = divmod(step, len(self._train_rows) // batch_size)
        if self._order is None or self._order[0] != epoch:
            generator = generator_for(f"order of epoch {epoch}", self.seed)
            self._order = epoch, self._train_rows[torch.randperm(len(self._train_rows), generator=generator)]
        return self._order[1][place * batch_size : (place + 1) * batch_size]

    # ---------------------------------------------------------------------------------------------- meta-validation

    @override
    def _validates_at(self, step: int) -> bool:
        return step in self._validation_steps

    @override
    def _validate(self) -> float:
        """Compute accuracy on held-out images and nearest-centroid accuracy on meta-validation. Raises Stopped."""
        state, recipe = self.state, self.spec.values
        self.model.eval()
        self._ranks.copy_first(self.model.buffers())  # running statistics, which may differ between ranks
        correct = self._nearest_centroid()
        per_episode = recipe.n_way * recipe.queries_per_class
        intervals = {shots: interval_95(counts).divided_by(per_episode) for shots, counts in correct.items()}
        loss, accuracy = self._means()
        if loss is None or accuracy is None:
            raise ValueError("a meta-validation without a step before it")
        point = PretrainingPoint(
            step=state.step,
            loss=loss,
            train_accuracy=accuracy,
            held_out_accuracy=self._held_out_accuracy(),
            nearest_centroid={shots: interval.mean for shots, interval in intervals.items()},
            learning_rate=learning_rate_at(recipe, state.step - 1),
        )
        state.curve.append(point.model_dump())
        if point.selection > state.best_accuracy:
            state.best_intervals = {shots: vars(interval) for shots, interval in intervals.items()}
        return point.selection

    def _nearest_centroid(self) -> dict[str, list[int]]:
        """Correct answers of each fixed meta-validation episode, by shots."""
        rows = torch.arange(sum(self._val_sizes))
        backbone = self.model.backbone
        features = self._outputs(backbone, backbone.n_features, self._val_images, rows, "meta_val")
        pool = ExamplePool.of_features(features, unit_length=True, sizes=torch.tensor(self._val_sizes))
        nearest = NearestCentroid("euclidean")
        return {
            str(shots): correct_counts(nearest, pool, episodes, k_shot=shots).tolist()
            for shots, episodes in self._episodes.items()
        }

    def _held_out_accuracy(self) -> float:
        rows = self._held_out_rows
        logits = self._outputs(self.model, self._n_classes, self._train_images, rows, "meta_train")
        labels = self._labels[rows].to(self.device)
        return float((logits.argmax(1) == labels).double().mean())

    def _outputs(self, model: nn.Module, width: int, images: Tensor, rows: Tensor, split: str) -> Tensor:
        """Outputs of `model` for the images at `rows` [n]: float32 [n, width]. Ranks take turns at batches."""
        ranks, outputs = self._ranks, torch.zeros(len(rows), width, device=self.device)
        for done in range(0, len(rows), EVALUATED_TOGETHER * ranks.size):
            self.obey()
            self.display.embedding(split, done, len(rows))
            start = done + EVALUATED_TOGETHER * ranks.rank
            batch = slice(start, start + EVALUATED_TOGETHER)
            if start < len(rows):
                with computed_in(self._precision, self.device):
                    outputs[batch] = self._batches.outputs(model, images, rows[batch])
        return ranks.sum(outputs)

    @override
    def _show(self, loss: float) -> None:
        last = PretrainingPoint(**self.state.curve[-1]).selection if self.state.curve else None
        self.display.pretraining(self.state.step, self.steps, self.spec.values.batch_size, loss, last)

    @override
    def _arithmetic(self) -> AbstractContextManager[object]:
        """On a GPU, let cuDNN choose the fastest convolution algorithm for these shapes."""
        return torch.backends.cudnn.flags(benchmark=self.device.type == "cuda")

    @override
    def _choose_arithmetic(self) -> None:
        recipe = self.spec.values
        trial = trial_step(self.model.backbone, recipe)
        self._precision = self._ranks.of_first(lambda: precision_on(recipe.precision, self.device, trial))

    @override
    def _device_name(self) -> str:
        name = super()._device_name()
        names_precision = self.device.type == "cpu" and self._precision == torch.bfloat16
        return f"{name.removesuffix(')')}, bfloat16)" if names_precision else name

    @override
    def _work(self) -> float:
        recipe, size_px, work = self.spec.values, self.spec.values.input_size_px, 0
        for n_in, n_out in pairwise([3, *recipe.widths]):  # three convolutions of 3 x 3 a block, which halves the image
            work += 9 * size_px**2 * (n_in * n_out + 2 * n_out**2)
            size_px //= 2
        return float(recipe.batch_size * work)

    @override
    def _tensors(self) -> dict[str, Any]:
        return {"optimizer": self._optimizer.state_dict()}

    @override
    def _take_up(self, tensors: Mapping[str, Any]) -> None:
        self._optimizer.load_state_dict(tensors["optimizer"])


def _shared(model: Classifier, recipe: Recipe, ranks: Ranks) -> nn.Module:
    """The network with gradients averaged over `ranks`, each of which computes its part of a batch."""
    if ranks.size == 1:
        return model
    from torch.nn.parallel import DistributedDataParallel  # noqa: PLC0415 - takes a second to import

    from norml_cli.training.ranks.batch_norm import take_statistics_of_all  # noqa: PLC0415

    if recipe.batch_statistics == "whole-batch":
        take_statistics_of_all(model, recipe.batch_size)
    return DistributedDataParallel(model)


def trial_step(backbone: ResNet12, recipe: Recipe) -> Callable[[], Tensor]:
    """A forward and a backward pass on a few images of the recipe's size, on a copy of the network."""
    network = copy.deepcopy(backbone).train()
    device = next(network.parameters()).device
    shape = (TRIAL_IMAGES, 3, recipe.input_size_px, recipe.input_size_px)
    images = torch.rand(shape, generator=generator_for("trial of precision", 0)).to(device)
    images = images.contiguous(memory_format=torch.channels_last)

    def step() -> Tensor:
        loss: Tensor = network(images).float().square().sum()
        loss.backward()  # type: ignore[no-untyped-call]  # missing in torch's stubs
        return loss

    return step


def learning_rate_at(recipe: Recipe, step: int) -> float:
    """The learning rate of step `step` in 0..steps - 1."""
    if recipe.schedule == "cosine":
        return outer_lr_at(step, outer_lr=recipe.learning_rate, outer_steps=recipe.steps, schedule="cosine")
    drops = sum(step >= drop * recipe.steps for drop in recipe.lr_drops)
    return float(recipe.learning_rate * recipe.lr_factor**drops)


def validation_steps(recipe: Recipe) -> set[int]:
    """Steps with a meta-validation after them; the last step is one."""
    return {max(1, round(number * recipe.steps / recipe.validations)) for number in range(1, recipe.validations + 1)}


def _optimizer(recipe: Recipe, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    settings: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay, "fused": True}
    if recipe.optimiser == "adam":
        return torch.optim.Adam(parameters, **settings)
    return torch.optim.SGD(parameters, momentum=recipe.momentum, **settings)
