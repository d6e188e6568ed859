"""What is typed on the command line, parsed: --set, --grid, ids for the shell's completion."""

import itertools
import math
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer import Context

from norml_cli.files.errors import UserError, plain
from norml_cli.files.yaml_files import parse_yaml
from norml_cli.registry.reading import builtin_registry
from norml_cli.registry.resolving import Registry, Resolved
from norml_cli.results.evaluations import Split
from norml_cli.results.store import DEFAULT_FOLDER

MAX_TRIALS = 10_000  # chosen: years of training; a longer grid is a slip of the keyboard


def nameable(path: Path | None) -> Path | None:
    """A path that this system can look for at all; whether it is there is the command's to say."""
    try:
        if path is not None:
            path.exists()
    except OSError as error:
        raise UserError(f"{plain(path)}: cannot be looked for ({error.strerror}); name another place") from None
    return path


def nameable_all(paths: list[Path]) -> list[Path]:
    """As `nameable`, of several paths."""
    for path in paths:
        nameable(path)
    return paths


def with_outer_steps(items: list[str] | None, outer_steps: int | None) -> dict[str, Any]:
    """`--set` items and `--outer-steps` as one mapping. Raises UserError where they contradict each other."""
    overrides = overrides_of(items)
    if outer_steps is None:
        return overrides
    if "outer_steps" in overrides:
        raise UserError("--outer-steps: is given twice, also by --set outer_steps; give it once")
    return overrides | {"outer_steps": outer_steps}


def overrides_of(items: list[str] | None) -> dict[str, Any]:
    """`--set KEY=VALUE` items as a mapping; values are read as YAML, as in the entries."""
    return _read_items("--set", items, "KEY=VALUE, such as --set inner_lr=0.2", "{}")


def grid_of(items: list[str] | None) -> dict[str, list[Any]]:
    """`--grid KEY=V1,V2` items as a mapping to the values, read as YAML."""
    return _read_items("--grid", items, "KEY=V1,V2, such as --grid inner_lr=0.1,0.2", "[{}]")


def _read_items(option: str, items: list[str] | None, expected: str, form: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in items or []:
        key, equals, text = item.partition("=")
        if not key or not equals:
            raise UserError(f"{option} {plain(item)}: expected {expected}")
        if key in values:
            raise UserError(f"{option} {plain(key)}: given twice; give it once")
        try:
            values[key] = parse_yaml(form.format(text))
        except ValueError as error:
            raise UserError(f"{option} {plain(item)}: {error}") from None
    return values


def split_of(text: str) -> Split:
    """What --split names. Raises UserError."""
    splits: dict[str, Split] = {"meta-val": "meta_val", "meta-test": "meta_test"}
    if text not in splits:
        raise UserError(f"--split {plain(text)}: expected {' or '.join(splits)}")
    return splits[text]


def trials_of(
    registry: Registry,
    methods: list[str],
    benchmark: str | None,
    shots: int | None,
    grid: dict[str, list[Any]],
    overrides: dict[str, Any],
) -> list[Resolved]:
    """Every method with every combination of the grid's values. Raises UserError, before anything runs."""
    for key, values in grid.items():
        if key in overrides:
            raise UserError(f"--grid {key}: is also given by --set or --outer-steps; give it once")
        if not values:
            raise UserError(f"--grid {key}: names no values; expected KEY=V1,V2")
    n_trials = math.prod(len(values) for values in grid.values()) * len(methods)
    if n_trials > MAX_TRIALS:
        raise UserError(f"--grid: {n_trials:,} combinations are more than {MAX_TRIALS:,}; try fewer values at a time")
    combinations = [dict(zip(grid, chosen, strict=True)) for chosen in itertools.product(*grid.values())]
    return [
        registry.resolve(method, benchmark, shots, overrides | combination)
        for method in methods
        for combination in combinations
    ]


def places_text(results: Path, registry: Path | None) -> str:
    """' --results out --registry mine': what a suggested command needs to find the same places; '' for the default."""
    named = {"--results": results if results != DEFAULT_FOLDER else None, "--registry": registry}
    return "".join(f" {option} {shlex.quote(str(path))}" for option, path in named.items() if path is not None)


def ids_of(*kinds: str) -> Callable[[Context, str], list[str]]:
    """What completes an id of these kinds (folders of a registry), of the built-in and of the user's own entries.

    By file names alone, since a key press cannot wait for YAML.
    """

    def complete(context: Context, incomplete: str) -> list[str]:
        extra = context.params.get("registry") or os.environ.get("NORML_REGISTRY")
        folders = [builtin_registry(), *([Path(extra)] if extra else [])]
        given = context.params.get("methods") or []  # on the line already
        ids = {path.stem for folder in folders for kind in kinds for path in (folder / kind).glob("*.yaml")}
        return sorted(id_ for id_ in ids if id_.startswith(incomplete) and id_ not in given)

    return complete
