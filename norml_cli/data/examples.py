"""The inputs of a run: images of a data set or features of a pretrained backbone, and fixed episodes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from norml.episodes import TURNS, EpisodeIndices, ExamplePool, turns_as_classes
from norml_cli.data.cache import Cache
from norml_cli.data.features import FeatureCache
from norml_cli.data.splits import SplitName
from norml_cli.registry.protocol import HELD_OUT_EVERY, Protocol
from norml_cli.registry.recipes import resolve_recipe
from norml_cli.registry.resolving import Registry
from norml_cli.registry.specs import RunSpec
from norml_cli.results.records import DatasetIdentity


@dataclass(frozen=True)
class Examples:
    """The images and episodes of `cache`, and the features to use in place of the images, if any."""

    cache: Cache
    features: FeatureCache | None
    unit_length: bool
    in_colour: bool = False  # whether the images are in colour

    @classmethod
    def of(cls, registry: Registry, spec: RunSpec, cache: Cache) -> "Examples":
        """The examples that `spec` needs. Raises UserError if features are missing, or of other images or weights."""
        protocol, dataset, features = spec.protocol, registry.dataset(spec.dataset), None
        if protocol.backbone is not None:
            entry = registry.recipe(protocol.backbone)
            recipe = resolve_recipe(entry, dataset, epochs=protocol.backbone_epochs, width=protocol.backbone_width)
            features = FeatureCache.open(recipe.spec, protocol.backbone_seed, cache, recipe.options)
        unit_length = protocol.feature_scaling == "unit-length"
        return cls(cache, features, unit_length, dataset.in_colour)

    @property
    def identity(self) -> DatasetIdentity:
        """The identity that records store."""
        return self.cache.identity(None if self.features is None else self.features.fingerprint)

    def pool(self, split: SplitName, *, rotations: bool, device: torch.device) -> ExamplePool:
        """The examples of a split, all on `device`. Raises UserError if they are damaged."""
        return self._pool(self._classes(split), rotations=rotations, device=device)

    def training_pool(self, protocol: Protocol, device: torch.device) -> ExamplePool:
        """The examples for training episodes under `protocol`, all on `device`. Raises UserError for damaged ones."""
        every = HELD_OUT_EVERY if protocol.training_examples == "held-out-from-pretraining" else 1
        classes = self._classes("meta_train", every=every)
        if protocol.training_classes == "meta-train-and-meta-val":
            classes = classes.joined(self._classes("meta_val", every=every))
        as_classes = protocol.training_turns == "as-classes"
        rotations = protocol.rotations != "none" and not as_classes
        return self._pool(classes.turned() if as_classes else classes, rotations=rotations, device=device)

    def _classes(self, split: SplitName, *, every: int = 1) -> "_Classes":
        """The examples of a split. every: take each class's first example and then one in `every`."""
        stored: NDArray[Any] = self.cache.images(split) if self.features is None else self.features.features(split)
        sizes = self.cache.sizes(split)
        rows = stored if len(set(sizes)) > 1 else stored.reshape(-1, *stored.shape[2:])
        if every > 1:
            rows = rows[np.concatenate([np.arange(size) for size in sizes]) % every == 0]
        return _Classes(torch.from_numpy(rows), [-(-size // every) for size in sizes])

    def _pool(self, classes: "_Classes", *, rotations: bool, device: torch.device) -> ExamplePool:
        rows, sizes, differing = classes.rows.to(device), classes.sizes, None
        if len(set(sizes)) > 1:
            differing = torch.tensor(sizes)
        else:
            rows = rows.view(len(sizes), sizes[0], *rows.shape[1:])
        if self.features is None:
            return ExamplePool.of_images(rows, rotations=rotations, sizes=differing)
        return ExamplePool.of_features(rows, unit_length=self.unit_length, sizes=differing)


@dataclass(frozen=True)
class _Classes:
    """Examples [n, ...], class after class, and the number of examples of each class."""

    rows: torch.Tensor
    sizes: list[int]

    def joined(self, other: "_Classes") -> "_Classes":
        return _Classes(torch.cat([self.rows, other.rows]), self.sizes + other.sizes)

    def turned(self) -> "_Classes":
        """These classes, with each quarter turn of a class as a class of its own."""
        return _Classes(turns_as_classes(self.rows, first=1), self.sizes * TURNS)


def episode_indices(classes: NDArray[Any], examples: NDArray[Any], turns: NDArray[Any]) -> EpisodeIndices:
    """Stored episodes, of any integer type, as tensors."""
    return EpisodeIndices(*(torch.from_numpy(array.astype(np.int64)) for array in (classes, examples, turns)))
