"""HDF5 files of arrays by split and class, each array with the SHA-256 of its content. Torch-free.

    /<kind>/<split>    [C, P, ...]: C classes with P examples each; `kind` is 'images' or 'features'. If classes differ
                       in size: [n, ...], class after class
    /sizes/<split>     [C] examples of each class, only if classes differ in size
    /classes/<split>   names of the C classes

Arrays may be larger than memory: they are written class by class and verified in slabs. The file is written atomically.

The file format is HDF5 1.10's, which checksums the file's structure. Texts have a fixed length, which avoids the heap
of variable-length texts: one flipped bit there can send HDF5 into an endless loop.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray

from norml_cli.data.splits import SPLITS, ClassStream, SplitName
from norml_cli.files.errors import UserError, reason
from norml_cli.files.regular import require_regular
from norml_cli.registry.specs import json_sha256

FILE_FORM = ("v110", "v110")  # HDF5 1.10; see above
SLAB_BYTES = 1 << 24  # chosen: `verify` holds 16 MiB of an array at a time

_DAMAGED = (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError)  # what h5py raises for a damaged file

Kind = Literal["images", "features"]


@dataclass(frozen=True)
class ArrayFile:
    """An array file. Every read checks the array against its checksum.

    remake: the command that makes the file again, for messages.
    """

    kind: ClassVar[Kind]
    path: Path
    remake: str
    fingerprint: str
    content_hash: str

    def sizes(self, split: SplitName) -> tuple[int, ...]:
        """The number of examples of each of the C classes of a split."""
        with self._file() as file:
            return self._sizes(file, split)

    def _sizes(self, file: h5py.File, split: SplitName) -> tuple[int, ...]:
        stored = _stored_array(file, f"{self.kind}/{split}")
        if f"sizes/{split}" not in file:
            n_classes, n_examples = map(int, stored.shape[:2])
            return (n_examples,) * n_classes
        sizes: tuple[int, ...] = tuple(self._array(file, f"sizes/{split}").tolist())
        if sum(sizes) != len(stored) or min(sizes) < 1:
            raise UserError(f"{self.path}: sizes/{split} is damaged; {again(self.remake)}")
        return sizes

    def class_names(self, split: SplitName) -> list[str]:
        """The names of the C classes of a split."""
        with self._file() as file:
            return self._class_names(file, split)

    def _class_names(self, file: h5py.File, split: SplitName) -> list[str]:
        return [name.decode() for name in self._array(file, f"classes/{split}")]

    def verify(self) -> int:
        """Check every array against its checksum. Returns the number of arrays.

        Raises UserError, which names the first damaged part.
        """
        with self._file() as file:
            names: list[str] = []
            file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
            for name in names:
                stored = _stored_array(file, name)
                self._check(stored, _hash_of_parts(stored.dtype, stored.shape, _slabs(stored)))
            return len(names)

    @contextmanager
    def _file(self) -> Iterator[h5py.File]:
        """Open the file. Raises UserError if its content has changed since this object was made."""
        with reading(self.path, self.remake) as file:
            if text(file, "content_hash") != self.content_hash or text(file, "fingerprint") != self.fingerprint:
                raise UserError(f"{self.path}: changed while this command ran; start the command again")
            if content_hash_of(file, self.kind) != self.content_hash:
                raise UserError(f"{self.path}: its arrays do not match its content hash; {again(self.remake)}")
            yield file

    def _array(self, file: h5py.File, name: str) -> NDArray[Any]:
        stored = _stored_array(file, name)
        array: NDArray[Any] = stored[()]
        self._check(stored, array_hash(array))
        return array

    def _check(self, stored: h5py.Dataset, found: str) -> None:
        if text(stored, "sha256") != found:
            raise UserError(f"{self.path}: {stored.name.lstrip('/')} is damaged; {again(self.remake)}")


def _stored_array(file: h5py.File, name: str) -> h5py.Dataset:
    """The array of that name. Raises ValueError unless its data is stored in this file, in full.

    A hostile file could have links and virtual or external arrays, which read other files of the user, or an array that
    stores little but claims to be larger than memory.
    """
    parts = name.strip("/").split("/")
    for end in range(1, len(parts) + 1):
        if not isinstance(file.get("/".join(parts[:end]), getlink=True), h5py.HardLink):
            raise ValueError(f"{name} is not in this file; do not trust it")  # noqa: TRY004 - as h5py raises for damage
    stored = file[name]
    if not isinstance(stored, h5py.Dataset):
        raise ValueError(f"{name} is not an array")  # noqa: TRY004 - as above
    if stored.is_virtual or stored.external:
        raise ValueError(f"{name} is stored in another file; do not trust it")
    if stored.id.get_storage_size() != stored.nbytes:
        raise ValueError(f"{name} declares {stored.nbytes:,} bytes but stores {stored.id.get_storage_size():,}")
    return stored


def _slabs(stored: h5py.Dataset) -> Iterator[NDArray[Any]]:
    """The rows of a stored array in parts of at most SLAB_BYTES, or of one row if a row is larger."""
    row_bytes = max(1, stored.nbytes // max(1, len(stored)))
    rows = max(1, SLAB_BYTES // row_bytes)
    for start in range(0, len(stored), rows):
        yield stored[start : start + rows]


@contextmanager
def reading(path: Path, remake: str) -> Iterator[h5py.File]:
    """Open the file at `path`. Raises UserError for every fault that h5py finds, also while the file is in use."""
    try:
        require_regular(path)
        with h5py.File(path, "r", locking=False) as file:  # no lock: files are replaced atomically
            yield file
    except (PermissionError, BlockingIOError, FileNotFoundError) as error:
        raise UserError(f"{path}: cannot be opened ({reason(error)}); fix that first, the file may be fine") from None
    except _DAMAGED as error:
        raise UserError(f"{path}: not a readable cache ({reason(error)}); {again(remake)}") from None


def again(remake: str) -> str:
    """The end of every message about an unusable file."""
    return f"make it again: {remake}"


def content_hash_of(file: h5py.File, kind: Kind) -> str:
    """One hash over the checksums of the arrays, class names and sizes of all splits."""
    parts = [f"{part}/{split}" for part in (kind, "classes") for split in SPLITS]
    parts += [f"sizes/{split}" for split in SPLITS if f"sizes/{split}" in file]
    return json_sha256([text(file[part], "sha256") for part in parts])


def array_hash(array: NDArray[Any]) -> str:
    """SHA-256 (hex) over type, shape and content."""
    return _hash_of_parts(array.dtype, array.shape, [array])


def _hash_of_parts(dtype: np.dtype[Any], shape: tuple[int, ...], parts: Iterable[NDArray[Any]]) -> str:
    """`array_hash` of an array of that type and shape, whose rows come in `parts`."""
    digest = hashlib.sha256(f"{dtype.str}{shape}".encode())
    for part in parts:
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------------------- writing


def put_classes(file: h5py.File, kind: Kind, split: SplitName, classes: ClassStream, dtype: DTypeLike) -> None:
    """Write the examples of a split as one array, class by class, and the names of the classes."""
    sizes, names = classes.sizes, list[str]()
    equal = len(set(sizes)) == 1
    shape = (len(sizes), sizes[0]) if equal else (sum(sizes),)
    stored = file.create_dataset(f"{kind}/{split}", shape=(*shape, *classes.example_shape), dtype=dtype)

    def written() -> Iterator[NDArray[Any]]:
        start = 0
        for class_name, examples in classes:
            stored[len(names) if equal else slice(start, start + len(examples))] = examples
            names.append(class_name)
            start += len(examples)
            yield examples

    put_text(stored, "sha256", _hash_of_parts(stored.dtype, stored.shape, written()))
    put(file, f"classes/{split}", np.array([name.encode() for name in names]))
    if not equal:
        put(file, f"sizes/{split}", np.array(sizes, np.int32))


def put(file: h5py.File, name: str, array: NDArray[Any]) -> None:
    """Write an array with its checksum."""
    put_text(file.create_dataset(name, data=array), "sha256", array_hash(array))


def put_text(item: h5py.HLObject, name: str, text: str) -> None:
    """Write an attribute."""
    item.attrs[name] = np.bytes_(text.encode())  # of fixed length; see the module docstring


def text(item: h5py.HLObject, name: str) -> str:
    """An attribute's text. Raises KeyError if it is not there."""
    value = item.attrs[name]
    return value.decode() if isinstance(value, bytes) else str(value)
