"""One HDF5 file per data set: its images by split, and the fixed evaluation episodes of its benchmarks. Torch-free.

    /images/<split>                                uint8 [C, P, height, width], or [C, P, height, width, 3] in colour
    /sizes/<split>                                 only if classes differ in size, see `array_files`
    /classes/<split>                               names of the C classes
    /episodes/<request>/classes, examples, turns   see norml.episodes.EpisodeIndices

`array_files` writes, checks and reads the file. A cache never changes once it is made, so it may be shared and
read-only. Episodes that it lacks are drawn when a command needs them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from norml_cli.data.array_files import (
    FILE_FORM,
    ArrayFile,
    again,
    content_hash_of,
    put,
    put_classes,
    put_text,
    reading,
    text,
)
from norml_cli.data.fixed_episodes import EpisodeArrays, EpisodeRequest, drawn
from norml_cli.data.splits import SPLITS, LoadedDataset, SplitName, identity
from norml_cli.files.atomic import home, write_atomically
from norml_cli.files.errors import UserError
from norml_cli.files.suggestions import suggested
from norml_cli.registry.entries import DatasetEntry
from norml_cli.registry.specs import json_sha256
from norml_cli.results.records import DatasetIdentity

SCHEMA_VERSION = 1

Freshness = Literal["missing", "stale", "up to date"]


def cache_path(dataset: str) -> Path:
    """The cache file of a data set."""
    return home() / f"{dataset}.h5"


_DECIDING_KEYS = {  # keys of an entry that decide a cache's images and splits
    "kind",
    "classes",
    "examples_per_class",
    "image_size_px",
    "resize",
    "invert",
    "rotations",
    "source_sha256",
    "generator_seed",
}
_NEWER_KEYS = {
    "channels",
    "crop",
    "background",
}  # newer keys; absent ones leave the fingerprints of old caches unchanged


def fingerprint(entry: DatasetEntry, entry_file: Path) -> str:
    """SHA-256 (hex) over every declared value that decides a cache's images and splits."""
    values = entry.model_dump(mode="json", include=_DECIDING_KEYS)
    for key in ("image_size_px", "resize", "invert", "rotations"):
        values[key] = values[key]["value"]  # without the source, whose wording changes no pixel
    values["content_sha256"] = values.pop("source_sha256")  # its name when the first caches were made
    added = {key: getattr(entry, key) for key in sorted(_NEWER_KEYS)}
    values |= {key: sourced.value for key, sourced in added.items() if sourced is not None}
    return json_sha256({**values, "splits": identity(entry, entry_file), "schema_version": SCHEMA_VERSION})


# ---------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Cache(ArrayFile):
    """An open cache that matches its data set entry."""

    kind = "images"
    dataset: str
    source_sha256: str | None = None  # None: the cache is older than this hash

    @classmethod
    def open(cls, entry: DatasetEntry, entry_file: Path) -> "Cache":
        """The cache of `entry`. Raises UserError if it is missing, damaged, or made for another schema or entry."""
        path = cache_path(entry.id)
        if not path.exists():
            prepare = suggested(f"norml prepare {entry.id}")
            raise UserError(f"data set '{entry.id}' is not prepared; run `{prepare}`{_hint(entry)}")
        remake = _remake(entry.id)
        with reading(path, remake) as file:
            schema = file.attrs.get("schema_version")
            if schema != SCHEMA_VERSION:
                raise UserError(
                    f"{path}: has schema version {schema}, but this norml reads {SCHEMA_VERSION}; {again(remake)}"
                )
            if text(file, "fingerprint") != fingerprint(entry, entry_file):
                raise UserError(f"{path}: does not match the current entry '{entry.id}'; {again(remake)}")
            return cls(
                path=path,
                remake=remake,
                fingerprint=text(file, "fingerprint"),
                content_hash=text(file, "content_hash"),
                dataset=entry.id,
                source_sha256=text(file, "source_sha256") if "source_sha256" in file.attrs else None,
            )

    def identity(self, features: str | None = None) -> DatasetIdentity:
        """What records say of the data. features: fingerprint of the features in place of the images, if any."""
        return DatasetIdentity(
            id=self.dataset, fingerprint=self.fingerprint, content_hash=self.content_hash, features=features
        )

    def images(self, split: SplitName) -> NDArray[np.uint8]:
        """Load a split: uint8 [C, P, height, width] with ink = 255, or [C, P, height, width, 3] in colour.

        If classes differ in size: [n, height, width] or [n, height, width, 3], class after class. Raises UserError if
        the cache is damaged.
        """
        with self._file() as file:
            return self._array(file, f"images/{split}")

    def episodes(self, request: EpisodeRequest) -> EpisodeArrays:
        """The fixed episodes of a request. Draws them if the cache does not have them.

        Raises UserError if they are damaged, or need more classes or examples than there are.
        """
        with self._file() as file:
            group = f"episodes/{request.key}"
            if group not in file:
                return drawn(request, self._class_names(file, request.split), self._sizes(file, request.split))
            return EpisodeArrays(*(self._array(file, f"{group}/{part}") for part in ("classes", "examples", "turns")))


def freshness(entry: DatasetEntry, entry_file: Path) -> Freshness:
    """Whether the cache of `entry` is usable as it is. Raises UserError if the split files cannot be read."""
    if not cache_path(entry.id).exists():
        return "missing"
    wanted = fingerprint(entry, entry_file)
    try:
        with reading(cache_path(entry.id), _remake(entry.id)) as file:
            return "up to date" if text(file, "fingerprint") == wanted else "stale"
    except UserError:
        return "stale"


def _remake(dataset: str) -> str:
    return suggested(f"norml prepare {dataset} --force")


def _hint(entry: DatasetEntry) -> str:
    return "" if entry.home == "embedded" else ", with --source PATH if you have the files"


# ---------------------------------------------------------------------------------------------------------- writing


def write_cache(
    entry: DatasetEntry,
    entry_file: Path,
    loaded: LoadedDataset,
    requests: Iterable[EpisodeRequest],
) -> Cache:
    """Make the cache of `entry` with the episodes of `requests`. An old cache stays until the new one is complete.

    The caller must hold the cache's lock. At most two classes of `loaded` are in memory at a time. Raises UserError.
    """

    def write(target: BinaryIO) -> None:
        with h5py.File(target, "w", libver=FILE_FORM) as file:
            for split in SPLITS:
                put_classes(file, "images", split, loaded.splits[split], np.uint8)
            _check_source(entry, entry_file, loaded.source_sha256())
            for request in requests:
                names = [name.decode() for name in file[f"classes/{request.split}"]]
                _put_episodes(file, request, drawn(request, names, loaded.splits[request.split].sizes))
            file.attrs["schema_version"] = SCHEMA_VERSION
            put_text(file, "dataset", entry.id)
            put_text(file, "fingerprint", fingerprint(entry, entry_file))
            put_text(file, "content_hash", content_hash_of(file, "images"))
            put_text(file, "source_sha256", loaded.source_sha256())
            put_text(file, "source", loaded.source)

    write_atomically(cache_path(entry.id), write)
    return Cache.open(entry, entry_file)


def _check_source(entry: DatasetEntry, entry_file: Path, sha256: str) -> None:
    if entry.source_sha256 not in {None, sha256}:
        raise UserError(
            f"{entry_file}: source_sha256: the source has other pixels or names ({sha256}); get the original "
            f"({entry.home}), or declare that hash or none"
        )


def _put_episodes(file: h5py.File, request: EpisodeRequest, arrays: EpisodeArrays) -> None:
    group = f"episodes/{request.key}"
    put(file, f"{group}/classes", arrays.classes.astype(np.uint16))
    put(file, f"{group}/examples", arrays.examples.astype(np.uint16))
    put(file, f"{group}/turns", arrays.turns.astype(np.uint8))
    put_text(file[group], "hash", arrays.hash())
