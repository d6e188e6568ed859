"""One HDF5 file a data set: its images by split, and the fixed evaluation episodes of its benchmarks. Torch-free.

    /images/<split>                                uint8 [C, P, height, width], or [C, P, height, width, 3] in colour
    /classes/<split>                               names of the C classes
    /episodes/<request>/classes, examples, turns   see norml.episodes.EpisodeIndices

Every array carries the SHA-256 of its content. A cache is written beside its place and moved there when it is whole,
class by class, and verified in slabs, so that a data set may be larger than memory.
Texts have a fixed length and the file is of HDF5 1.10's form: its structure is checksummed, and the heap that texts of
any length lie in, where one flipped bit can send HDF5 into an endless loop, is not there.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import h5py
import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path

from norml_cli.datasets.splits import SPLITS, ClassStream, LoadedDataset, SplitName, identity
from norml_cli.errors import UserError
from norml_cli.files import write_atomically
from norml_cli.spec import DatasetEntry, Recipe, RunSpec, content_hash

SCHEMA_VERSION = 1
FILE_FORM = ("v110", "v110")  # see above
LEFTOVER_S = 600  # chosen: a writer adds to its file every second; one untouched for that long has lost its writer
SLAB_BYTES = 1 << 24  # chosen: 16 MiB, what `verify` holds of an array at once

_DAMAGED = (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError)  # what h5py makes of a damaged file

Status = Literal["missing", "stale", "up to date"]


def home() -> Path:
    """The folder of all caches: NORML_HOME, or the platform's cache folder."""
    return Path(os.environ["NORML_HOME"]) if os.environ.get("NORML_HOME") else user_cache_path("norml")


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


def array_hash(array: NDArray[Any]) -> str:
    """SHA-256 over type, shape and content."""
    return _hash_of_parts(array.dtype, array.shape, [array])


def _hash_of_parts(dtype: np.dtype[Any], shape: tuple[int, ...], parts: Iterable[NDArray[Any]]) -> str:
    """`array_hash` of an array of that type and shape whose rows come in `parts`."""
    digest = hashlib.sha256(f"{dtype.str}{shape}".encode())
    for part in parts:
        digest.update(np.ascontiguousarray(part).data)
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
class Cache:
    """A cache that fits its declaration; each array is checked against its checksum when it is read."""

    path: Path
    dataset: str
    fingerprint: str
    content_hash: str

    @classmethod
    def open(cls, entry: DatasetEntry, entry_file: Path) -> "Cache":
        """The cache of `entry`. Raises UserError if it is missing, damaged, of another schema or declaration."""
        path = cache_path(entry.id)
        if not path.exists():
            raise UserError(f"data set '{entry.id}' is not prepared; run `norml prepare {entry.id}`{_hint(entry)}")
        with _reading(path, entry.id) as file:
            schema = file.attrs.get("schema_version")
            if schema != SCHEMA_VERSION:
                raise UserError(
                    f"{path}: has schema version {schema}, this norml reads {SCHEMA_VERSION}; {_again(entry.id)}"
                )
            if _text(file, "fingerprint") != fingerprint(entry, entry_file):
                raise UserError(f"{path}: was made for another declaration of '{entry.id}'; {_again(entry.id)}")
            return cls(path, entry.id, _text(file, "fingerprint"), _text(file, "content_hash"))

    def images(self, split: SplitName) -> NDArray[np.uint8]:
        """[C, P, height, width] uint8, ink = 255; or [C, P, height, width, 3] in colour. All in memory."""
        with self._file() as file:
            return self._array(file, f"images/{split}")

    def size(self, split: SplitName) -> tuple[int, int]:
        """C and P: the classes of a split and the examples of each."""
        with self._file() as file:
            n_classes, n_examples, *_ = file[f"images/{split}"].shape
            return n_classes, n_examples

    def class_names(self, split: SplitName) -> list[str]:
        """The names of the C classes of a split."""
        with self._file() as file:
            return [name.decode() for name in self._array(file, f"classes/{split}")]

    def has(self, request: EpisodeRequest) -> bool:
        """Whether the cache holds these episodes."""
        with self._file() as file:
            return f"episodes/{request.key}" in file

    def episodes(self, request: EpisodeRequest) -> EpisodeArrays:
        """The fixed episodes of a request. Raises UserError if they are damaged."""
        with self._file() as file:
            group = f"episodes/{request.key}"
            if group not in file:
                raise UserError(f"{self.path}: holds no episodes '{request.key}'; {_again(self.dataset)}")
            return EpisodeArrays(*(self._array(file, f"{group}/{part}") for part in ("classes", "examples", "turns")))

    def verify(self) -> int:
        """Check every array, and that they are those the cache was made with; returns how many.

        Raises UserError that names the first damaged part.
        """
        with self._file() as file:
            names: list[str] = []
            file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
            for name in names:
                self._check(file[name], _hash_of_parts(file[name].dtype, file[name].shape, _slabs(file[name])))
            if _content_hash(lambda name: _text(file[name], "sha256")) != self.content_hash:
                raise UserError(f"{self.path}: its parts are not those it was made with; {_again(self.dataset)}")
            return len(names)

    @contextmanager
    def _file(self) -> Iterator[h5py.File]:
        with _reading(self.path, self.dataset) as file:
            yield file

    def _array(self, file: h5py.File, name: str) -> NDArray[Any]:
        array: NDArray[Any] = file[name][()]
        self._check(file[name], array_hash(array))
        return array

    def _check(self, stored: h5py.Dataset, found: str) -> None:
        if _text(stored, "sha256") != found:
            raise UserError(f"{self.path}: {stored.name.lstrip('/')} is damaged; {_again(self.dataset)}")


def _slabs(stored: h5py.Dataset) -> Iterator[NDArray[Any]]:
    """The rows of a stored array in parts of at most SLAB_BYTES, or one row."""
    row_bytes = max(1, stored.nbytes // max(1, len(stored)))
    rows = max(1, SLAB_BYTES // row_bytes)
    for start in range(0, len(stored), rows):
        yield stored[start : start + rows]


def status(entry: DatasetEntry, entry_file: Path) -> Status:
    """Whether the cache of `entry` can be used as it is. Raises UserError if the split files cannot be read."""
    if not cache_path(entry.id).exists():
        return "missing"
    wanted = fingerprint(entry, entry_file)
    try:
        with _reading(cache_path(entry.id), entry.id) as file:
            return "up to date" if _text(file, "fingerprint") == wanted else "stale"
    except UserError:
        return "stale"


@contextmanager
def _reading(path: Path, dataset: str) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r") as file:
            yield file
    except _DAMAGED as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a readable cache ({reason}); {_again(dataset)}") from None


def _again(dataset: str) -> str:
    return f"make it again: norml prepare {dataset} --force"


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

    No more than a class of `loaded` and the one read after it are in memory. Raises UserError.
    """

    def write(target: BinaryIO) -> None:
        with h5py.File(target, "w", libver=FILE_FORM) as file:
            for split in SPLITS:
                names = _put_images(file, f"images/{split}", loaded.splits[split])
                _put(file, f"classes/{split}", np.array([name.encode() for name in names]))
            _put_episodes(file, episodes)
            file.attrs["schema_version"] = SCHEMA_VERSION
            _put_text(file, "dataset", entry.id)
            _put_text(file, "fingerprint", fingerprint(entry, entry_file))
            content = _content_hash(lambda name: _text(file[name], "sha256"))
            if loaded.content_hash not in {None, content}:
                raise UserError(
                    f"{entry_file}: content_sha256: the source holds other pixels or names ({content}); declare that, "
                    "or none"
                )
            _put_text(file, "content_hash", content)
            _put_text(file, "source", loaded.source)

    _write(cache_path(entry.id), write)
    return Cache.open(entry, entry_file)


def add_episodes(cache: Cache, episodes: Mapping[EpisodeRequest, EpisodeArrays]) -> None:
    """Put further episodes into a cache, again in one piece."""

    def write(target: BinaryIO) -> None:
        with cache.path.open("rb") as old:
            shutil.copyfileobj(old, target)
        with h5py.File(target, "r+", libver=FILE_FORM) as file:
            _put_episodes(file, episodes)

    _write(cache.path, write)


def _write(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write a cache in one piece, and clear away what killed writers of it left."""
    for leftover in path.parent.glob(f".{path.name}.*"):
        with suppress(OSError):  # another process may clear it away at the same time
            if time.time() - leftover.stat().st_mtime > LEFTOVER_S:
                leftover.unlink()
    write_atomically(path, write)


def _put_episodes(file: h5py.File, episodes: Mapping[EpisodeRequest, EpisodeArrays]) -> None:
    for request, arrays in episodes.items():
        group = f"episodes/{request.key}"
        _put(file, f"{group}/classes", arrays.classes.astype(np.uint16))
        _put(file, f"{group}/examples", arrays.examples.astype(np.uint16))
        _put(file, f"{group}/turns", arrays.turns.astype(np.uint8))
        _put_text(file[group], "hash", arrays.hash())


def _put_images(file: h5py.File, name: str, classes: ClassStream) -> list[str]:
    """Write the images of all classes as one array, class by class; returns the names of the classes."""
    stored = file.create_dataset(name, shape=classes.shape, dtype=np.uint8)
    names: list[str] = []

    def written() -> Iterator[NDArray[np.uint8]]:
        for class_name, images in classes:
            stored[len(names)] = images
            names.append(class_name)
            yield images

    _put_text(stored, "sha256", _hash_of_parts(stored.dtype, stored.shape, written()))
    return names


def _put(file: h5py.File, name: str, array: NDArray[Any]) -> None:
    _put_text(file.create_dataset(name, data=array), "sha256", array_hash(array))


def _put_text(item: h5py.HLObject, name: str, text: str) -> None:
    item.attrs[name] = np.bytes_(text.encode())  # of fixed length, as said at the top


def _text(item: h5py.HLObject, name: str) -> str:
    value = item.attrs[name]
    return value.decode() if isinstance(value, bytes) else str(value)


def _content_hash(sha256_of: Callable[[str], str]) -> str:
    """One hash over images and class names of all splits, from the arrays' own."""
    return content_hash([sha256_of(f"{kind}/{split}") for kind in ("images", "classes") for split in SPLITS])
