"""One HDF5 file a data set: its images by split, and the fixed evaluation episodes of its benchmarks. Torch-free.

    /images/<split>                                uint8 [C, P, height, width], or [C, P, height, width, 3] in colour
    /classes/<split>                               names of the C classes
    /episodes/<request>/classes, examples, turns   see norml.episodes.EpisodeIndices

How it is written, checked and read is `array_files`' job.
"""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from norml_cli.array_files import (
    FILE_FORM,
    ArrayFile,
    again,
    array_hash,
    content_hash_of,
    put,
    put_classes,
    put_text,
    reading,
    text,
)
from norml_cli.datasets.splits import SPLITS, LoadedDataset, SplitName, identity
from norml_cli.errors import UserError
from norml_cli.files import home, write_atomically
from norml_cli.locks import held
from norml_cli.spec import DatasetEntry, Recipe, RunSpec, content_hash

SCHEMA_VERSION = 1

Status = Literal["missing", "stale", "up to date"]


def cache_path(dataset: str) -> Path:
    """The cache file of a data set."""
    return home() / f"{dataset}.h5"


@dataclass(frozen=True)
class EpisodeRequest:
    """Which fixed evaluation episodes are wanted; equal requests are the same episodes on the same data."""

    split: SplitName
    n_way: int
    shots: int
    queries_per_class: int
    turned: bool
    episodes: int
    seed: int

    @property
    def key(self) -> str:
        """The request as the name of an HDF5 group."""
        turned = "turned" if self.turned else "upright"
        size = f"{self.n_way}way-{self.shots}shot-{self.queries_per_class}query-{turned}"
        return f"{self.split}-{size}-{self.episodes}episodes-seed{self.seed}"

    @property
    def generator_seed(self) -> int:
        """A seed of its own for each request, in 0..2^63 - 1: no two sets share a draw."""
        return int.from_bytes(hashlib.sha256(self.key.encode()).digest()[:8], "big") >> 1


def episode_requests(spec: RunSpec) -> tuple[EpisodeRequest, EpisodeRequest]:
    """The meta-validation and the meta-test episodes of a run."""
    protocol = spec.protocol
    validation = EpisodeRequest(
        split="meta_val",
        n_way=protocol.n_way,
        shots=spec.shots,
        queries_per_class=protocol.queries_per_class,
        turned=protocol.rotations == "every-split",
        episodes=protocol.validation_episodes,
        seed=protocol.episode_seed,
    )
    return validation, replace(validation, split="meta_test", episodes=protocol.test_episodes)


def pretraining_requests(recipe: Recipe) -> dict[int, EpisodeRequest]:
    """The meta-validation episodes of a pretraining, by shots."""
    return {
        shots: EpisodeRequest(
            split="meta_val",
            n_way=recipe.n_way,
            shots=shots,
            queries_per_class=recipe.queries_per_class,
            turned=False,
            episodes=recipe.validation_episodes,
            seed=recipe.episode_seed,
        )
        for shots in recipe.shots
    }


@dataclass(frozen=True)
class EpisodeArrays:
    """Episodes as stored: classes [E, N], examples [E, N, K + Q] and quarter turns [E, N], unsigned integers."""

    classes: NDArray[Any]
    examples: NDArray[Any]
    turns: NDArray[Any]

    def hash(self) -> str:
        """SHA-256 over shapes and numbers, whatever the integer type."""
        digest = hashlib.sha256()
        for array in (self.classes, self.examples, self.turns):
            digest.update(array_hash(array.astype("<i8")).encode())
        return digest.hexdigest()


_DECIDING = {
    "kind",
    "classes",
    "examples_per_class",
    "image_size_px",
    "resize",
    "invert",
    "rotations",
    "content_sha256",
    "generator_seed",
}


def fingerprint(entry: DatasetEntry, entry_file: Path) -> str:
    """SHA-256 over everything declared that decides a cache's images and splits."""
    values = entry.model_dump(mode="json", include=_DECIDING)
    for key in ("image_size_px", "resize", "invert", "rotations"):
        values[key] = values[key]["value"]  # a better worded source changes no pixel
    return content_hash({**values, "splits": identity(entry, entry_file), "schema_version": SCHEMA_VERSION})


# ---------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Cache(ArrayFile):
    """A cache that fits its declaration."""

    kind = "images"
    dataset: str

    @classmethod
    def open(cls, entry: DatasetEntry, entry_file: Path) -> "Cache":
        """The cache of `entry`. Raises UserError if it is missing, damaged, of another schema or declaration."""
        path = cache_path(entry.id)
        if not path.exists():
            raise UserError(f"data set '{entry.id}' is not prepared; run `norml prepare {entry.id}`{_hint(entry)}")
        remake = _remake(entry.id)
        with reading(path, remake) as file:
            schema = file.attrs.get("schema_version")
            if schema != SCHEMA_VERSION:
                raise UserError(
                    f"{path}: has schema version {schema}, this norml reads {SCHEMA_VERSION}; {again(remake)}"
                )
            if text(file, "fingerprint") != fingerprint(entry, entry_file):
                raise UserError(f"{path}: was made for another declaration of '{entry.id}'; {again(remake)}")
            return cls(
                path=path,
                remake=remake,
                fingerprint=text(file, "fingerprint"),
                content_hash=text(file, "content_hash"),
                dataset=entry.id,
            )

    def images(self, split: SplitName) -> NDArray[np.uint8]:
        """[C, P, height, width] uint8, ink = 255; or [C, P, height, width, 3] in colour. All in memory."""
        with self._file() as file:
            return self._array(file, f"images/{split}")

    def has(self, request: EpisodeRequest) -> bool:
        """Whether the cache holds these episodes."""
        with self._file() as file:
            return f"episodes/{request.key}" in file

    def episodes(self, request: EpisodeRequest) -> EpisodeArrays:
        """The fixed episodes of a request. Raises UserError if they are damaged."""
        with self._file() as file:
            group = f"episodes/{request.key}"
            if group not in file:
                raise UserError(f"{self.path}: holds no episodes '{request.key}'; {again(self.remake)}")
            return EpisodeArrays(*(self._array(file, f"{group}/{part}") for part in ("classes", "examples", "turns")))


def status(entry: DatasetEntry, entry_file: Path) -> Status:
    """Whether the cache of `entry` can be used as it is. Raises UserError if the split files cannot be read."""
    if not cache_path(entry.id).exists():
        return "missing"
    wanted = fingerprint(entry, entry_file)
    try:
        with reading(cache_path(entry.id), _remake(entry.id)) as file:
            return "up to date" if text(file, "fingerprint") == wanted else "stale"
    except UserError:
        return "stale"


def _remake(dataset: str) -> str:
    return f"norml prepare {dataset} --force"


def _hint(entry: DatasetEntry) -> str:
    return "" if entry.home == "embedded" else ", with --source PATH if you have its files"


# ---------------------------------------------------------------------------------------------------------- writing


def write_cache(
    entry: DatasetEntry,
    entry_file: Path,
    loaded: LoadedDataset,
    episodes: Mapping[EpisodeRequest, EpisodeArrays],
) -> Cache:
    """Make the cache of `entry` in one piece; an old one stays until the new one is whole.

    For who holds the cache's lock. No more than a class of `loaded` and the one read after it are in memory.
    Raises UserError.
    """

    def write(target: BinaryIO) -> None:
        with h5py.File(target, "w", libver=FILE_FORM) as file:
            for split in SPLITS:
                put_classes(file, "images", split, loaded.splits[split], np.uint8)
            _put_episodes(file, episodes)
            file.attrs["schema_version"] = SCHEMA_VERSION
            put_text(file, "dataset", entry.id)
            put_text(file, "fingerprint", fingerprint(entry, entry_file))
            content = content_hash_of(file, "images")
            if loaded.content_hash not in {None, content}:
                raise UserError(
                    f"{entry_file}: content_sha256: the source holds other pixels or names ({content}); declare that, "
                    "or none"
                )
            put_text(file, "content_hash", content)
            put_text(file, "source", loaded.source)

    write_atomically(cache_path(entry.id), write)
    return Cache.open(entry, entry_file)


def add_episodes(cache: Cache, episodes: Mapping[EpisodeRequest, EpisodeArrays]) -> None:
    """Put further episodes into a cache, again in one piece; those that it holds by now are left as they are.

    Processes take turns, each adding to what the one before it left. Raises UserError, also if the cache was made anew
    with other content since it was opened.
    """

    def write(target: BinaryIO) -> None:
        with cache.path.open("rb") as old:
            shutil.copyfileobj(old, target)
        with h5py.File(target, "r+", libver=FILE_FORM) as file:
            _put_episodes(file, {request: arrays for request, arrays in episodes.items() if not cache.has(request)})

    with held(cache.path, waiting=lambda _: None):  # for a second at most
        write_atomically(cache.path, write)


def _put_episodes(file: h5py.File, episodes: Mapping[EpisodeRequest, EpisodeArrays]) -> None:
    for request, arrays in episodes.items():
        group = f"episodes/{request.key}"
        put(file, f"{group}/classes", arrays.classes.astype(np.uint16))
        put(file, f"{group}/examples", arrays.examples.astype(np.uint16))
        put(file, f"{group}/turns", arrays.turns.astype(np.uint8))
        put_text(file[group], "hash", arrays.hash())
