"""The feature cache of a backbone: what it makes of every image of a data set, in one HDF5 file. Torch-free.

    /features/<split>   float32 [C, P, F]
    /classes/<split>    names of the C classes

Its fingerprint chains the images' content, the recipe and the weights' file, so that features are never taken for those
of other images or weights.
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
from norml_cli.registry.specs import PretrainSpec, content_hash

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class FeatureCache(ArrayFile):
    """Features of the images and by the weights that are there now."""

    kind = "features"

    @classmethod
    def open(cls, spec: PretrainSpec, seed: int, cache: Cache, options: str = "") -> "FeatureCache":
        """The features of `cache`'s images by the backbone of `spec` and `seed`.

        options: of the command that makes them, which messages name.
        Raises UserError if they are missing or damaged, and if the images or the weights have changed since.
        """
        path = backbone_path(spec, seed, FEATURES)
        pretrain = suggested(f"norml pretrain {spec.dataset} --recipe {spec.recipe}{options} --seed {seed}")
        if not path.exists():
            lacking = f"'{spec.dataset}' has no features by '{spec.recipe}'{options}, seed {seed}; run `{pretrain}`"
            others = "name those of another --epochs or --width with --set backbone_epochs=N or backbone_width=W"
            raise UserError(f"{lacking}; {others}" if any(path.parent.glob(f"*{FEATURES}")) else lacking)
        chain, remake = _chain(spec, seed, cache), f"{pretrain} --force"
        with reading(path, remake) as file:
            for part, expected in chain.items():
                if text(file, part) != expected:
                    raise UserError(f"{path}: was made with other {part} than are there now; make it again: {remake}")
            return cls(
                path=path,
                remake=remake,
                fingerprint=text(file, "fingerprint"),
                content_hash=text(file, "content_hash"),
            )

    def features(self, split: SplitName) -> NDArray[np.float32]:
        """[C, P, F] float32, all in memory. Raises UserError if they are damaged."""
        with self._file() as file:
            return self._array(file, f"features/{split}")


def write_features(
    spec: PretrainSpec, seed: int, cache: Cache, streams: Mapping[SplitName, ClassStream]
) -> FeatureCache:
    """Make the feature cache in one piece, class by class; an old one stays until it is whole. Raises UserError."""
    chain = _chain(spec, seed, cache)

    def write(target: BinaryIO) -> None:
        with h5py.File(target, "w", libver=FILE_FORM) as file:
            for split in SPLITS:
                put_classes(file, "features", split, streams[split], np.float32)
            for part, value in chain.items():
                put_text(file, part, value)
            put_text(file, "fingerprint", content_hash(chain))
            put_text(file, "content_hash", content_hash_of(file, "features"))

    write_atomically(backbone_path(spec, seed, FEATURES), write)
    return FeatureCache.open(spec, seed, cache)


def _chain(spec: PretrainSpec, seed: int, cache: Cache) -> dict[str, str]:
    """What features follow from, by the word that messages call it. Raises UserError if the weights cannot be read."""
    return {
        "schema": str(SCHEMA_VERSION),
        "images": cache.content_hash,
        "recipe": spec.hash(),
        "weights": file_sha256(backbone_path(spec, seed, WEIGHTS)),
    }
