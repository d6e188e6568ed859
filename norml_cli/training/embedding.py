"""Compute a pretrained backbone's features of all images of a data set."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from norml.resnet12 import ResNet12
from norml_cli.data.cache import Cache
from norml_cli.data.features import FeatureCache
from norml_cli.data.image_batches import ImageBatches, resident
from norml_cli.data.splits import SPLITS, SplitName
from norml_cli.files.companions import WEIGHTS
from norml_cli.files.errors import UserError
from norml_cli.registry.recipes import backbone_path, resolve_recipe
from norml_cli.registry.resolving import Registry
from norml_cli.registry.specs import PretrainSpec
from norml_cli.results.records import RunRecord
from norml_cli.training.build import build_backbone_classifier
from norml_cli.training.checkpoints import identity_of, read_checkpoint
from norml_cli.training.precision import computed_in, precision_on
from norml_cli.training.pretraining import Pretraining, trial_step

OnSplitProgress = Callable[[str, int, int], None]  # called with (split, done, images); may raise to stop


def read_backbone(path: Path, spec: PretrainSpec, seed: int, cache: Cache, device: torch.device) -> ResNet12:
    """The backbone with the weights at `path`, in evaluation mode.

    Raises UserError if the weights are damaged or belong to another recipe, seed or data.
    """
    content = read_checkpoint(path, identity_of(spec, seed, cache.identity()))
    classifier = build_backbone_classifier(spec.values, len(cache.sizes("meta_train")), generator=None)
    classifier.load_state_dict(content[Pretraining.weights_key])
    return classifier.backbone.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload, no-any-return]  # missing in torch's stubs


def features_of_images(
    registry: Registry, record: RunRecord, images: NDArray[np.uint8], device: torch.device
) -> Tensor:
    """Features [n, F] of images [n, height, width, 3], computed by the backbone of the run of `record`.

    Raises UserError if its weights are missing.
    """
    protocol, dataset = record.spec.protocol, registry.dataset(record.spec.dataset)
    if protocol.backbone is None:
        raise TypeError(f"{record.spec.method} was trained on images, not on features of them")
    recipe = resolve_recipe(
        registry.recipe(protocol.backbone), dataset, epochs=protocol.backbone_epochs, width=protocol.backbone_width
    )
    spec, seed = recipe.spec, protocol.backbone_seed
    cache = Cache.open(dataset, registry.files["datasets", dataset.id])
    if FeatureCache.open(spec, seed, cache, recipe.options).fingerprint != record.dataset.features:
        raise UserError(f"the backbone '{spec.recipe}' has changed since the run; restore the run's backbone")
    backbone = read_backbone(backbone_path(spec, seed, WEIGHTS), spec, seed, cache, device)
    stored = resident(images, spec.values.input_size_px, device)
    return ImageBatches(spec.values, device).outputs(backbone, stored, torch.arange(len(images)))


def feature_streams(
    backbone: ResNet12, spec: PretrainSpec, cache: Cache, device: torch.device, on_progress: OnSplitProgress
) -> dict[SplitName, "FeatureStream"]:
    """The features of each split, computed on demand."""
    batches = ImageBatches(spec.values, device)
    precision = precision_on(spec.values.precision, device, trial_step(backbone, spec.values))
    return {
        split: FeatureStream(backbone, spec, cache, split, device, batches, on_progress, precision) for split in SPLITS
    }


@dataclass(frozen=True)
class FeatureStream:
    """The features of a split, class by class: float32 [P, F] for a class with P images."""

    backbone: ResNet12
    spec: PretrainSpec
    cache: Cache
    split: SplitName
    device: torch.device
    batches: ImageBatches
    on_progress: OnSplitProgress
    precision: torch.dtype

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """How many images each class has."""
        return self.cache.sizes(self.split)

    @property
    def example_shape(self) -> tuple[int, ...]:
        """[F], the shape of an image's features."""
        return (self.backbone.n_features,)

    def __iter__(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Each class's name and its features [P, F]."""
        images = self.cache.images(self.split)
        images = images.reshape(-1, *images.shape[-3:])  # class by class; class sizes may differ
        start, n_images = 0, len(images)
        for name, size in zip(self.cache.class_names(self.split), self.sizes, strict=True):
            self.on_progress(self.split, start, n_images)
            of_class = resident(images[start : start + size], self.spec.values.input_size_px, self.device)
            with computed_in(self.precision, self.device):
                features = self.batches.outputs(self.backbone, of_class, torch.arange(size))
            yield name, features.cpu().numpy()
            start += size
