"""YAML files -> validated entries. Torch-free; all errors of a registry are told at once."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import TypeAdapter, ValidationError

import norml_cli
from norml_cli.files.errors import UserError
from norml_cli.files.yaml_files import read_mapping
from norml_cli.registry.checks import cross_faults
from norml_cli.registry.entries import (
    AnyMethod,
    BenchmarkEntry,
    DatasetEntry,
    RecipeEntry,
    TableEntry,
)
from norml_cli.registry.faults import fault_lines
from norml_cli.registry.resolving import Registry

KINDS: dict[str, TypeAdapter[Any]] = {
    "datasets": TypeAdapter(DatasetEntry),
    "benchmarks": TypeAdapter(BenchmarkEntry),
    "methods": TypeAdapter(AnyMethod),
    "recipes": TypeAdapter(RecipeEntry),
    "tables": TypeAdapter(TableEntry),
}


class RegistryError(UserError):
    """Every fault of a registry, one `file: key: message` a line."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))


# ---------------------------------------------------------------------------------------------------------- reading


def builtin_registry() -> Path:
    """The folder of built-in entries: inside an installed package, or at the top of a checkout."""
    package = Path(norml_cli.__file__).parent
    installed = package / "_registry"
    return installed if installed.is_dir() else package.parent / "registry"


def load_registry(extra: Path | None = None) -> Registry:
    """Read the built-in entries and those under `extra` (default: the folder that NORML_REGISTRY names).

    Raises RegistryError with every fault found.
    """
    origin = "--registry"
    if extra is None and os.environ.get("NORML_REGISTRY"):
        extra, origin = Path(os.environ["NORML_REGISTRY"]), "NORML_REGISTRY"
    if extra is not None and not extra.is_dir():
        raise UserError(f"{origin} {extra}: not a folder; name one that holds {', '.join(KINDS)}")
    return read_registry([builtin_registry()] + ([extra] if extra is not None else []))


@dataclass
class _Reading:
    """What has been read so far, and every fault met."""

    entries: dict[str, dict[str, Any]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    files: dict[tuple[str, str], Path] = field(default_factory=dict)
    unread: set[tuple[str, str]] = field(default_factory=set)  # kind and file name of what could not be read
    faults: list[str] = field(default_factory=list)

    def add(self, kind: str, path: Path) -> None:
        """Read one file into the entries, or its faults into the faults."""
        entry = _read_entry(kind, path, self.faults)
        if entry is None:
            self.unread.add((kind, path.stem))
        elif entry.id in self.entries[kind]:
            other = self.files[kind, entry.id]
            self.faults.append(f"{path}: id: '{entry.id}' is already declared in {other}; choose another id")
        else:
            self.entries[kind][entry.id] = entry
            self.files[kind, entry.id] = path

    def registry(self) -> Registry:
        frozen = {kind: MappingProxyType(found) for kind, found in self.entries.items()}
        return Registry(**frozen, files=MappingProxyType(self.files))


def read_registry(folders: list[Path]) -> Registry:
    """Read and cross-check the entries of `folders`. Raises RegistryError with every fault found."""
    reading = _Reading()
    for folder in folders:
        reading.faults += _strays(folder)
        for kind in KINDS:
            for path in sorted((folder / kind).glob("*.yaml")):
                if not path.name.startswith("."):
                    reading.add(kind, path)
    registry = reading.registry()
    faults = reading.faults + list(cross_faults(registry, frozenset(reading.unread)))
    if faults:
        raise RegistryError(faults)
    return registry


def _strays(folder: Path) -> Iterator[str]:
    """Files that would silently not be read: a misspelt folder, `.yml`, `.YAML`, a nested folder.

    Names that begin with a dot are those of other programs (.git, .ipynb_checkpoints, macOS's ._x.yaml): passed over.
    """
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or path.suffix.lower() not in {".yaml", ".yml"}:
            continue
        in_place = path.parent.parent == folder and path.parent.name in KINDS
        if not in_place or path.suffix != ".yaml":
            yield f"{path}: entries are read from {', '.join(KINDS)}/<id>.yaml; move or rename this file"


def _read_entry(kind: str, path: Path, faults: list[str]) -> Any:
    try:
        data = read_mapping(path)
    except OSError as error:
        faults.append(f"{path}: cannot be read ({error.strerror})")
        return None
    except ValueError as error:
        faults.append(f"{path}: {error}")
        return None
    try:
        entry = KINDS[kind].validate_python(data)
    except ValidationError as error:
        faults += [f"{path}: {line}" for line in fault_lines(error, data)]
        return None
    if entry.id != path.stem:
        faults.append(f"{path}: id: is '{entry.id}', but the file is named '{path.stem}'; make them agree")
        return None
    return entry
