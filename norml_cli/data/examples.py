"""What a run sees of a data set: its images, or what a pretrained backbone makes of them; and its fixed episodes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from norml.episodes import EpisodeIndices, ExamplePool
from norml_cli.data.cache import Cache
from norml_cli.data.features import FeatureCache
from norml_cli.data.splits import SplitName
from norml_cli.registry.recipes import resolve_recipe
from norml_cli.registry.resolving import Registry
from norml_cli.registry.specs import RunSpec
from norml_cli.results.records import DatasetIdentity


@dataclass(frozen=True)
class Examples:
    """The images and episodes of `cache`, and the features that stand for the images, if any."""

    cache: Cache
    features: FeatureCache | None
    unit_length: bool

    @classmethod
    def of(cls, registry: Registry, spec: RunSpec, cache: Cache) -> "Examples":
        """What `spec` asks for. Raises UserError for features that are missing, or of other images or weights."""
        protocol, features = spec.protocol, None
        if protocol.backbone is not None:
            entry, dataset = registry.recipe(protocol.backbone), registry.dataset(spec.dataset)
            recipe = resolve_recipe(entry, dataset, epochs=protocol.backbone_epochs, width=protocol.backbone_width)
            features = FeatureCache.open(recipe.spec, protocol.backbone_seed, cache, recipe.options)
        return cls(cache, features, unit_length=protocol.feature_scaling == "unit-length")

    @property
    def identity(self) -> DatasetIdentity:
        """As records tell it."""
        return DatasetIdentity(
            id=self.cache.dataset,
            fingerprint=self.cache.fingerprint,
            content_hash=self.cache.content_hash,
            features=None if self.features is None else self.features.fingerprint,
        )

    def pool(self, split: SplitName, *, rotations: bool, device: torch.device, every: int = 1) -> ExamplePool:
        """The examples of a split, resident on `device`: of each class one in `every`, the first among them.

        Raises UserError if they are damaged.
        """
        stored: NDArray[Any] = self.cache.images(split) if self.features is None else self.features.features(split)
        sizes, differing = self.cache.sizes(split), None
        if len(set(sizes)) > 1:
            differing = torch.tensor([-(-size // every) for size in sizes])
            kept = np.concatenate([np.arange(size) for size in sizes]) % every == 0
            stored = stored if every == 1 else stored[kept]
        else:
            stored = stored[:, ::every]
        examples = torch.from_numpy(stored).to(device)
        if self.features is None:
            return ExamplePool.of_images(examples, rotations=rotations, sizes=differing)
        return ExamplePool.of_features(examples, unit_length=self.unit_length, sizes=differing)


def episode_indices(classes: NDArray[Any], examples: NDArray[Any], turns: NDArray[Any]) -> EpisodeIndices:
    """Stored episodes of any integer type as tensors."""
    return EpisodeIndices(*(torch.from_numpy(array.astype(np.int64)) for array in (classes, examples, turns)))
