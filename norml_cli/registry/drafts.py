"""Write new entries: check the text together with the other entries first, never overwrite a file. Torch-free."""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from norml_cli.files.errors import UserError, plain
from norml_cli.registry.entries import RULES, BenchmarkEntry
from norml_cli.registry.faults import did_you_mean, in_short
from norml_cli.registry.protocol import ID_PATTERN, Protocol
from norml_cli.registry.reading import Draft, load_registry
from norml_cli.registry.resolving import Registry

SET = "chosen: with --set of norml new"
_SAYS = "# State each value that differs, with its source; `norml show {}` lists the keys. For example:\n# {}\n"


class _Plain(yaml.SafeDumper):
    """Without anchors, which entries may not have, and with quotes only where YAML needs them."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the same for all data
        return True


def _text(dumper: _Plain, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if set(text) & set(":'#,") else None)


_Plain.add_representer(str, _text)


def sourced(value: Any, source: str) -> dict[str, Any]:
    """A value with its source, as entries write it."""
    return {"value": value, "source": source}


def title_of(id_: str) -> str:
    """The title for an id: 'My birds' for 'my-birds'."""
    return id_.replace("-", " ").capitalize()


@dataclass(frozen=True)
class Changes:
    """What a new entry changes of the entry `like`.

    values: by key. dataset, shots: of a benchmark. benchmark: a method's default benchmark.
    """

    like: str
    values: Mapping[str, Any]
    dataset: str | None = None
    shots: Sequence[int] = ()
    benchmark: str | None = None


def benchmark_draft(registry: Registry, id_: str, changes: Changes) -> str:
    """The text of a benchmark. Its episodes are not rotated if the data set forbids rotations. Raises UserError."""
    base = registry.benchmark(changes.like)
    _require_keys(changes.values, Protocol.model_fields)
    images = registry.dataset(changes.dataset or base.dataset)
    protocol = {key: sourced(value, SET) for key, value in changes.values.items()}
    rotates = _rotates(base)
    if rotates and images.rotations.value != "per-episode" and "rotations" not in protocol:
        protocol["rotations"] = sourced("none", f"chosen: '{images.id}' declares rotations: {images.rotations.value}")
    entry = {
        "dataset": changes.dataset,
        "shots": list(dict.fromkeys(changes.shots)),
        "protocol": protocol,
    }
    return _draft(id_, changes.like, entry, 'protocol: {n_way: {value: 3, source: "chosen: why"}}')


def _require_keys(values: Mapping[str, Any], known: Collection[str]) -> None:
    for key in (key for key in values if key not in known):
        raise UserError(f"--set {plain(key)}: unknown key{did_you_mean(key, known)}")


def _rotates(bench: BenchmarkEntry) -> bool:
    rotations = getattr(bench.protocol, "rotations", None)
    return rotations is not None and rotations.value != "none"


def method_draft(registry: Registry, id_: str, changes: Changes) -> str:
    """The text of a method. Its protocol values apply to every benchmark. Raises UserError."""
    base = registry.method(changes.like)
    _require_keys(changes.values, [*Protocol.model_fields, *RULES[base.algorithm].model_fields])
    values = {key: sourced(value, SET) for key, value in changes.values.items()}
    protocol = {key: value for key, value in values.items() if key in Protocol.model_fields}
    entry = {
        "default_benchmark": None if changes.benchmark is None else registry.benchmark(changes.benchmark).id,
        "rule": {key: value for key, value in values.items() if key not in protocol},
        "protocol": {"everywhere": protocol} if protocol else {},
    }
    return _draft(id_, changes.like, entry, 'protocol: {everywhere: {inner_lr: {value: 0.1, source: "chosen: why"}}}')


def _draft(id_: str, like: str, changed: Mapping[str, Any], example: str) -> str:
    stated = {key: value for key, value in changed.items() if value}
    text = text_of({"id": id_, "title": title_of(id_), "like": like, **stated})
    return text if stated else text + _SAYS.format(like, example)


def text_of(entry: Mapping[str, Any]) -> str:
    """The entry as YAML: one line per key, a value together with its source."""
    return "".join(_lines(entry, ""))


def _lines(mapping: Mapping[Any, Any], indent: str) -> list[str]:
    lines = []
    for key, value in mapping.items():
        nested = isinstance(value, dict) and any(isinstance(inner, dict) for inner in value.values())
        lines += (
            [f"{indent}{key}:\n", *_lines(value, f"{indent}  ")] if nested else [f"{indent}{key}: {_flow(value)}\n"]
        )
    return lines


def _flow(value: Any) -> str:
    text = yaml.dump(
        [value], Dumper=_Plain, default_flow_style=True, sort_keys=False, allow_unicode=True, width=1 << 20
    )
    return text.strip()[1:-1]


def place_of_new(folder: Path, kind: str, id_: str) -> Path:
    """The path of a new entry. Raises UserError for an invalid id or an existing file."""
    if not re.fullmatch(ID_PATTERN, id_):
        raise UserError(f"{plain(id_)!r}: may contain only a-z, 0-9 and single hyphens, such as my-birds")
    path = folder / kind / f"{id_}.yaml"
    if os.path.lexists(path):
        raise UserError(f"{path}: already exists; choose another name, or remove it")
    return path


def write_new(folder: Path, kind: str, id_: str, text: str) -> Path:
    """Check an entry together with those of `folder` and the built-in ones, then write it. Raises UserError."""
    path = place_of_new(folder, kind, id_)
    registry = load_registry(folder if folder.exists() else None, drafts=[Draft(kind, path, text)], strict=False)
    faults = registry.faults.get((kind, id_), ())
    if faults:
        listed = in_short([fault.removeprefix(f"{path}: ") for fault in faults])
        raise UserError(f"{id_}: not written: {listed}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "w", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{path}: already exists; choose another name, or remove it") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --registry") from None
    return path
