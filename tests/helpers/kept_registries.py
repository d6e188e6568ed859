"""Registries that were read before: tests read the same entries thousands of times, in ever new folders."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from norml_cli.registry.reading import Draft, builtin_registry
from norml_cli.registry.resolving import Registry

Contents = tuple[tuple[Path, bytes], ...]


class KeptRegistries:
    """`read_registry`, which reads folders with the same contents once. Nobody can change a registry.

    The built-in folder counts as unchanged. Registries with faults are read again, because their lines hold advice to
    the user of a command.
    """

    def __init__(self, read: Callable[..., Registry]) -> None:
        self._read = read
        self._kept: dict[object, tuple[Path, Registry]] = {}

    def __call__(
        self, folders: Sequence[Path], files: Sequence[Path] = (), drafts: Sequence[Draft] = (), *, strict: bool = True
    ) -> Registry:
        """As `read_registry`."""
        built_in, *own = folders
        if built_in != builtin_registry() or len(own) > 1 or files or drafts:
            return self._read(folders, files, drafts, strict=strict)
        key = strict, *(_contents(folder) for folder in own)
        if key not in self._kept:
            found = self._read(folders, strict=strict)
            if found.left_out:
                return found
            self._kept[key] = (own[0] if own else built_in), found
        folder, registry = self._kept[key]
        return _moved(registry, folder, own[0]) if own else registry


class KeptMappings:
    """`read_mapping`, which parses each built-in file once."""

    def __init__(self, read: Callable[[Path], dict[str, Any]]) -> None:
        self._read, self._parsed = read, cache(read)
        self._built_in = builtin_registry()

    def __call__(self, path: Path) -> dict[str, Any]:
        """As `read_mapping`."""
        return self._parsed(path) if path.is_relative_to(self._built_in) else self._read(path)


def _contents(folder: Path) -> Contents:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return tuple((path.relative_to(folder), path.read_bytes()) for path in files)


def _moved(registry: Registry, folder: Path, to: Path) -> Registry:
    """The same entries in another folder."""
    places = {
        key: to / path.relative_to(folder) if path.is_relative_to(folder) else path
        for key, path in registry.files.items()
    }
    return replace(registry, files=MappingProxyType(places))
