"""The feature cache: a backbone's features of every image of a data set, in one HDF5 file. Torch-free.

    /features/<split>   float32 [C, P, F]
    /classes/<split>    names of the C classes

Its fingerprint covers the images, the recipe and the weights, so that features are never used with other images or
weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from norml_cli.data.array_files import FILE_FORM, ArrayFile, content_hash_of, put_classes, put_text, reading, text
from norml_cli.data.cache import Cache
from norml_cli.data.splits import SPLITS, ClassStream, SplitName
from norml_cli.files.atomic import file_sha256, write_atomically
from norml_cli.files.companions import FEATURES, WEIGHTS
from norml_cli.files.errors import UserError
from norml_cli.files.suggestions import suggested
from norml_cli.registry.recipes import backbone_path
from norml_cli.registry.specs import PretrainSpec, json_sha256

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class FeatureCache(ArrayFile):
    """An open feature cache that matches the current images and weights."""

    kind = "features"

    @classmethod
    def open(cls, spec: PretrainSpec, seed: int, cache: Cache, options: str = "") -> "FeatureCache":
        """The features of the images in `cache`, by the backbone of `spec` and `seed`.

        options: options of the command that makes them, for messages.
        Raises UserError if they are missing or damaged, or if the images or weights have changed since.
        """
        path = backbone_path(spec, seed, FEATURES)
        pretrain = suggested(f"norml pretrain {spec.dataset} --recipe {spec.recipe}{options} --seed {seed}")
        if not path.exists():
            lacking = f"'{spec.dataset}' has no features by '{spec.recipe}'{options}, seed {seed}; run `{pretrain}`"
            others = "or choose other existing features with --set backbone_epochs=N or --set backbone_width=W"
            raise UserError(f"{lacking}, {others}" if any(path.parent.glob(f"*{FEATURES}")) else lacking)
        chain, remake = _chain(spec, seed, cache), f"{pretrain} --force"
        with reading(path, remake) as file:
            for part, expected in chain.items():
                if text(file, part) != expected:
                    raise UserError(f"{path}: does not match the current {part}; make it again: {remake}")
            return cls(
                path=path,
                remake=remake,
                fingerprint=text(file, "fingerprint"),
                content_hash=text(file, "content_hash"),
            )

    def features(self, split: SplitName) -> NDArray[np.float32]:
        """Load a split: float32 [C, P, F]. Raises UserError if it is damaged."""
        with self._file() as file:
            return self._array(file, f"features/{split}")


def write_features(
    spec: PretrainSpec, seed: int, cache: Cache, streams: Mapping[SplitName, ClassStream]
) -> FeatureCache:
    """Write the feature cache class by class. An old cache stays until the new one is complete. Raises UserError."""
    chain = _chain(spec, seed, cache)

    def write(target: BinaryIO) -> None:
        with h5py.File(target, "w", libver=FILE_FORM) as file:
            for split in SPLITS:
                put_classes(file, "features", split, streams[split], np.float32)
            for part, value in chain.items():
                put_text(file, part, value)
            put_text(file, "fingerprint", json_sha256(chain))
            put_text(file, "content_hash", content_hash_of(file, "features"))

    write_atomically(backbone_path(spec, seed, FEATURES), write)
    return FeatureCache.open(spec, seed, cache)


def _chain(spec: PretrainSpec, seed: int, cache: Cache) -> dict[str, str]:
    """The identity of everything that features depend on, by its name in messages.

    Raises UserError if the weights cannot be read.
    """
    return {
        "schema": str(SCHEMA_VERSION),
        "images": cache.content_hash,
        "recipe": spec.hash(),
        "weights": file_sha256(backbone_path(spec, seed, WEIGHTS)),
    }
