"""One HDF5 file a data set: its images by split, and the fixed evaluation episodes of its benchmarks. Torch-free.

    /images/<split>                                uint8 [C, P, height, width], or [C, P, height, width, 3] in colour
    /sizes/<split>                                 where classes differ in size, as `array_files` has it
    /classes/<split>                               names of the C classes
    /episodes/<request>/classes, examples, turns   see norml.episodes.EpisodeIndices

How it is written, checked and read is `array_files`' job. Once made, a cache never changes: episodes that it does not
hold are drawn where they are needed, so that it may be shared and read-only.
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
from norml_cli.registry.specs import content_hash

SCHEMA_VERSION = 1

Status = Literal["missing", "stale", "up to date"]


def cache_path(dataset: str) -> Path:
    """The cache file of a data set."""
    return home() / f"{dataset}.h5"


_DECIDING = {
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
_ADDED = {"channels", "crop", "background"}  # since the first caches, whose fingerprints are without them


def fingerprint(entry: DatasetEntry, entry_file: Path) -> str:
    """SHA-256 over everything declared that decides a cache's images and splits."""
    values = entry.model_dump(mode="json", include=_DECIDING)
    for key in ("image_size_px", "resize", "invert", "rotations"):
        values[key] = values[key]["value"]  # a better worded source changes no pixel
    values["content_sha256"] = values.pop("source_sha256")  # its name when the first caches were made
    added = {key: getattr(entry, key) for key in sorted(_ADDED)}
    values |= {key: sourced.value for key, sourced in added.items() if sourced is not None}
    return content_hash({**values, "splits": identity(entry, entry_file), "schema_version": SCHEMA_VERSION})


# ---------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Cache(ArrayFile):
    """A cache that fits its declaration."""

    kind = "images"
    dataset: str
    source_sha256: str | None = None  # None: the cache is older than this hash

    @classmethod
    def open(cls, entry: DatasetEntry, entry_file: Path) -> "Cache":
        """The cache of `entry`. Raises UserError if it is missing, damaged, of another schema or declaration."""
        path = cache_path(entry.id)
        if not path.exists():
            prepare = suggested(f"norml prepare {entry.id}")
            raise UserError(f"data set '{entry.id}' is not prepared; run `{prepare}`{_hint(entry)}")
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
                source_sha256=text(file, "source_sha256") if "source_sha256" in file.attrs else None,
            )

    def images(self, split: SplitName) -> NDArray[np.uint8]:
        """[C, P, height, width] uint8, ink = 255; or [C, P, height, width, 3] in colour. All in memory.

        Where classes differ in size, all examples, class by class: [n, height, width] or [n, height, width, 3].
        """
        with self._file() as file:
            return self._array(file, f"images/{split}")

    def episodes(self, request: EpisodeRequest) -> EpisodeArrays:
        """The fixed episodes of a request, drawn now if the cache does not hold them.

        Raises UserError if they are damaged, or ask for more classes or examples than there are.
        """
        with self._file() as file:
            group = f"episodes/{request.key}"
            if group not in file:
                return drawn(request, self._class_names(file, request.split), self._sizes(file, request.split))
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
    return suggested(f"norml prepare {dataset} --force")


def _hint(entry: DatasetEntry) -> str:
    return "" if entry.home == "embedded" else ", with --source PATH if you have its files"


# ---------------------------------------------------------------------------------------------------------- writing


def write_cache(
    entry: DatasetEntry,
    entry_file: Path,
    loaded: LoadedDataset,
    requests: Iterable[EpisodeRequest],
) -> Cache:
    """Make the cache of `entry` with the episodes of `requests`, in one piece; an old one stays until it is whole.

    For who holds the cache's lock. No more than a class of `loaded` and the one read after it are in memory.
    Raises UserError.
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
            f"{entry_file}: source_sha256: the source holds other pixels or names, {sha256}; declare that or none, or "
            f"get the original ({entry.home})"
        )


def _put_episodes(file: h5py.File, request: EpisodeRequest, arrays: EpisodeArrays) -> None:
    group = f"episodes/{request.key}"
    put(file, f"{group}/classes", arrays.classes.astype(np.uint16))
    put(file, f"{group}/examples", arrays.examples.astype(np.uint16))
    put(file, f"{group}/turns", arrays.turns.astype(np.uint8))
    put_text(file[group], "hash", arrays.hash())
