"""A registry folder whose runs take a second: the embedded glyphs, cut down, with a learner of a few neurons."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from norml_cli.files.yaml_files import read_mapping
from norml_cli.registry.reading import builtin_registry

PROTOCOL = {
    "hidden_sizes": [12, 8],
    "inner_steps": 2,
    "inner_steps_test": 2,
    "meta_batch_size": 2,
    "outer_steps": 9,
    "validate_every": 4,
    "validation_episodes": 330,  # more than one look at the display
    "test_episodes": 350,
}


def write_registry(folder: Path) -> Path:
    """Data set `tiny-glyphs` and benchmark `tiny-5way` (1 and 5 shots), made from the built-in entries."""
    for place, text in _texts().items():
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@cache
def _texts() -> dict[str, str]:
    """The files' texts by their places."""
    dataset = read("datasets/glyphs.yaml")
    dataset.update(id="tiny-glyphs", classes=30)
    dataset["splits"].update(meta_train=14, meta_val=8, meta_test=8)
    benchmark = read("benchmarks/glyphs-5way.yaml")
    benchmark.update(id="tiny-5way", dataset="tiny-glyphs")
    for key, value in PROTOCOL.items():
        benchmark["protocol"][key]["value"] = value
    places = {"datasets/tiny-glyphs.yaml": dataset, "benchmarks/tiny-5way.yaml": benchmark}
    return {place: yaml.safe_dump(entry) for place, entry in places.items()}


def write_entry(folder: Path, kind: str, entry: dict[str, object]) -> Path:
    """One entry's file."""
    path = folder / kind / f"{entry['id']}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.dump(entry, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)))
    return path


def read(name: str) -> dict[str, Any]:
    """A built-in entry's values."""
    return read_mapping(builtin_registry() / name)


def with_changes(values: dict[str, Any], changes: dict[str, object]) -> dict[str, Any]:
    """An entry's values with `changes` by key, `a__b` for key b under a."""
    for key, value in changes.items():
        outer, _, inner = key.partition("__")
        if inner:
            values[outer][inner] = value
        else:
            values[outer] = value
    return values
