"""Read YAML files into validated entries and report all faults of a registry at once. Torch-free."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import TypeAdapter, ValidationError

import norml_cli
from norml_cli.files.errors import UserError, plain, reason
from norml_cli.files.suggestions import suggested
from norml_cli.files.yaml_files import parse_yaml, read_mapping
from norml_cli.registry.checks import cross_faults
from norml_cli.registry.entries import (
    AnyMethod,
    BenchmarkEntry,
    DatasetEntry,
    RecipeEntry,
    TableEntry,
)
from norml_cli.registry.faults import did_you_mean, fault_lines, in_short
from norml_cli.registry.likeness import NOUNS, Stated, carried_over, faulty, in_full, line_of
from norml_cli.registry.resolving import Registry

KINDS: dict[str, TypeAdapter[Any]] = {
    "datasets": TypeAdapter(DatasetEntry),
    "benchmarks": TypeAdapter(BenchmarkEntry),
    "methods": TypeAdapter(AnyMethod),
    "recipes": TypeAdapter(RecipeEntry),
    "tables": TypeAdapter(TableEntry),
}


class RegistryError(UserError):
    """All faults of a registry, one line `file: key: message` each."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))


# ---------------------------------------------------------------------------------------------------------- reading


def builtin_registry() -> Path:
    """The folder of built-in entries: inside the installed package, or at the top of a checkout."""
    package = Path(norml_cli.__file__).parent
    installed = package / "_registry"
    return installed if installed.is_dir() else package.parent / "registry"


@dataclass(frozen=True)
class Draft:
    """An entry that has no file yet."""

    kind: str
    path: Path
    text: str


def load_registry(
    extra: Path | None = None, files: Sequence[Path] = (), drafts: Sequence[Draft] = (), *, strict: bool = True
) -> Registry:
    """Read the built-in entries, those of the folder or file `extra` (default: $NORML_REGISTRY), and the files `files`.

    drafts: entries to read as if their files existed.
    strict: raise RegistryError with all faults. Otherwise leave faulty entries out; asking the registry for one raises
    its faults.
    """
    origin = "--registry"
    if extra is None and os.environ.get("NORML_REGISTRY"):
        extra, origin = Path(os.environ["NORML_REGISTRY"]), "NORML_REGISTRY"
    if extra is not None and not extra.is_dir():
        if not extra.exists() or extra.suffix != ".yaml":
            raise UserError(
                f"{origin} {extra}: is not a folder; name a folder with {', '.join(KINDS)}, or an entry's .yaml file"
            )
        return read_registry([builtin_registry()], [extra, *files], drafts, strict=strict)
    folders = [builtin_registry()] + ([extra] if extra is not None else [])
    return read_registry(folders, files, drafts, strict=strict)


@dataclass
class _Reading:
    """Entries read so far, and all faults: of misplaced files, and of entries by kind and id."""

    stated: dict[str, dict[str, Stated]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    entries: dict[str, dict[str, Any]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    files: dict[tuple[str, str], Path] = field(default_factory=dict)
    strays: list[str] = field(default_factory=list)
    taken: list[tuple[tuple[str, str], str]] = field(default_factory=list)  # faults of ids that were declared before
    faults: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def add_folder(self, folder: Path) -> None:
        """Read every file of a registry folder."""
        self.strays += _strays(folder)
        for kind in KINDS:
            for path in sorted((folder / kind).glob("*.yaml")):
                if not path.name.startswith("."):
                    self.add(kind, path)

    def add_file(self, path: Path) -> None:
        """Read one entry's file from any folder, unless it has been read."""
        if path.resolve() not in {known.resolve() for known in self.files.values()}:
            self.add(_kind_of(path, self.stated), path)

    def add(self, kind: str, path: Path, text: str | None = None) -> None:
        """Read one entry from `path`, or from `text` if the file does not exist yet; note its faults."""
        key = kind, path.stem
        if key in self.files:
            other = self.files[key]
            self.taken.append((key, f"{path}: id: '{path.stem}' is already declared in {other}; choose another id"))
            return
        self.files[key] = path
        try:
            self.stated[kind][path.stem] = read_mapping(path) if text is None else parse_yaml(text)
        except OSError as error:
            self._fault(key, f"{path}: cannot be read ({error.strerror})")
        except ValueError as error:
            self._fault(key, f"{path}: {error}")

    def complete(self) -> None:
        """Build the entries, those that others name with `like` first."""
        lines: list[tuple[str, list[str]]] = []
        for kind, id_ in [(kind, id_) for kind, stated in self.stated.items() for id_ in stated]:
            try:
                lines.append((kind, line_of(kind, id_, self.stated)))
            except ValueError as error:
                self._fault((kind, id_), f"{self.files[kind, id_]}: {error}")
        for kind, line in sorted(lines, key=lambda each: len(each[1])):
            self._complete(kind, line)
        self._carry_over([line for kind, line in lines if kind == "benchmarks"])
        for key, fault in self.taken:
            self._fault(key, fault)
        for kind, stated in self.stated.items():  # restore the order of the files
            self.entries[kind] = {id_: self.entries[kind][id_] for id_ in stated if id_ in self.entries[kind]}

    def _complete(self, kind: str, line: list[str]) -> None:
        key = kind, line[0]
        path = self.files[key]
        if len(line) > 1 and (kind, line[1]) in self.faults:
            self._fault(key, f"{path}: {faulty(line[1])}")
            return
        data = in_full(kind, line, self.stated[kind])
        try:
            entry = KINDS[kind].validate_python(data)
        except ValidationError as error:
            self._fault(key, *(f"{path}: {text}" for text in fault_lines(error, data)))
            return
        if entry.id != path.stem:
            text = f"id: is '{entry.id}', but the file is named '{path.stem}'; make them agree"
            self._fault(key, f"{path}: {text}")
            return
        self.entries[kind][entry.id] = entry

    def _carry_over(self, lines: list[list[str]]) -> None:
        """Copy methods' settings for a benchmark to the benchmarks that are like it."""
        shots = {id_: bench.shots for id_, bench in self.entries["benchmarks"].items()}
        sound = [line for line in lines if line[0] in shots]
        for id_, method in self.entries["methods"].items():
            by_shots = carried_over(method.rule_by_shots, sound)
            for bench in by_shots.keys() - method.rule_by_shots.keys():
                by_shots[bench] = {k: values for k, values in by_shots[bench].items() if k in shots[bench]}
            settings = {
                "rule_by_benchmark": carried_over(method.rule_by_benchmark, sound),
                "rule_by_shots": by_shots,
            }
            self.entries["methods"][id_] = method.model_copy(update=settings)

    def _fault(self, key: tuple[str, str], *lines: str) -> None:
        self.faults.setdefault(key, []).extend(lines)

    def registry(self) -> Registry:
        """All entries that could be read."""
        return Registry(**_frozen(self.entries), files=MappingProxyType(self.files))

    def sound(self) -> Registry:
        """The entries without faults; the registry keeps the faults of the others."""
        sound = {
            kind: {id_: entry for id_, entry in entries.items() if (kind, id_) not in self.faults}
            for kind, entries in self.entries.items()
        }
        faults = {key: tuple(lines) for key, lines in self.faults.items()}
        left_out = [*self.strays, *(in_short(lines) for lines in self.faults.values())]
        return Registry(
            **_frozen(sound),
            files=MappingProxyType(self.files),
            faults=MappingProxyType(faults),
            left_out=tuple(f"{line}; `{suggested('norml validate')}` lists all faults" for line in left_out),
        )


def _frozen(entries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {kind: MappingProxyType(found) for kind, found in entries.items()}


def read_registry(
    folders: Sequence[Path], files: Sequence[Path] = (), drafts: Sequence[Draft] = (), *, strict: bool = True
) -> Registry:
    """Read and cross-check the entries of `folders`, `files` and `drafts`.

    strict: raise RegistryError with all faults; otherwise leave faulty entries out.
    """
    reading = _Reading()
    for folder in folders:
        reading.add_folder(folder)
    for path in files:
        reading.add_file(path)
    for draft in drafts:
        reading.add(draft.kind, draft.path, draft.text)
    reading.complete()
    registry = reading.registry()
    for key, fault in cross_faults(registry, frozenset(reading.faults)):
        reading.faults.setdefault(key, []).append(fault)
    faults = reading.strays + [fault for lines in reading.faults.values() for fault in lines]
    if faults and strict:
        raise RegistryError(faults)
    return reading.sound() if faults else registry


_KEY_OF_KIND = {  # keys that only entries of one kind have
    "algorithm": "methods",
    "default_benchmark": "methods",
    "shots": "benchmarks",
    "splits": "datasets",
    "recipe": "recipes",
    "columns": "tables",
}


def _kind_of(path: Path, stated: Mapping[str, Mapping[str, Stated]]) -> str:
    """The kind of the entry in `path`: from its folder's name, its keys, or the entry named by `like`.

    Raises UserError.
    """
    if path.absolute().parent.name in KINDS:
        return path.absolute().parent.name
    try:
        keys = read_mapping(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); name an entry's .yaml file") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    kinds = [kind for key, kind in _KEY_OF_KIND.items() if key in keys]
    like = keys.get("like")
    kinds += [kind for kind in NOUNS if isinstance(like, str) and like in stated[kind]]
    if not kinds and like is not None:
        known = [id_ for kind in NOUNS for id_ in stated[kind]]
        raise UserError(f"{path}: like: unknown method or benchmark '{plain(like)}'{did_you_mean(str(like), known)}")
    if not kinds:
        listed = ", ".join(f"{key} ({kind})" for key, kind in _KEY_OF_KIND.items())
        raise UserError(f"{path}: is not a registry entry; it has none of the keys {listed}")
    return kinds[0]


def _strays(folder: Path) -> Iterator[str]:
    """YAML files that would silently be ignored: in a misspelt or nested folder, or named `.yml` or `.YAML`.

    Skips names that begin with a dot, which belong to other programs (.git, .ipynb_checkpoints, macOS's ._x.yaml).
    """
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or path.suffix.lower() not in {".yaml", ".yml"}:
            continue
        in_place = path.parent.parent == folder and path.parent.name in KINDS
        if not in_place or path.suffix != ".yaml":
            yield f"{path}: entries are read from {', '.join(KINDS)}/<id>.yaml; move or rename this file"
