"""What is typed on the command line, parsed: --set, --grid, ids for the shell's completion."""

import itertools
import math
import os
import re
import shlex
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from typer import Context

from norml_cli.files.errors import UserError, plain
from norml_cli.files.yaml_files import parse_yaml
from norml_cli.registry.reading import builtin_registry
from norml_cli.registry.resolving import Registry, Resolved
from norml_cli.results.store import DEFAULT_FOLDER

MAX_TRIALS = 10_000  # chosen: years of training; a longer grid is a slip of the keyboard
LARGEST_SEED = 2**63 - 1


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


def seeds_of(texts: list[str] | None) -> list[int]:
    """The seeds of `--seeds`: '0 1 2', '0,1,2' or '0..2', each once; 0 where none is given. Raises UserError."""
    parts = [part for text in texts or ["0"] for part in text.split(",")]
    seeds = [seed for part in parts for seed in _seeds(part)]
    return list(dict.fromkeys(seeds))


def _seeds(text: str) -> range:
    """'4' or '0..4'."""
    ends = re.fullmatch(r"(\d{1,19})(?:\.\.(\d{1,19}))?", text.strip(), re.ASCII)
    first, last = (int(ends[1]), int(ends[2] or ends[1])) if ends else (1, 0)
    if first > last or last > LARGEST_SEED:
        raise UserError(f"--seeds {plain(text)}: give whole numbers from 0 on, such as 0 1 2, or 0..2")
    if last - first >= MAX_TRIALS:
        raise UserError(f"--seeds {text}: {last - first + 1:,} seeds are more than {MAX_TRIALS:,}; give fewer")
    return range(first, last + 1)


def sweep_of(
    registry: Registry, methods: list[str], benchmarks: list[str], shots: list[int], overrides: dict[str, Any]
) -> list[Resolved]:
    """Every method on every benchmark (none: its own) with each number of shots (none: the first). Raises UserError."""
    places = itertools.product(dict.fromkeys(benchmarks) or [None], dict.fromkeys(shots) or [None])
    return [registry.resolve(method, on, k, overrides) for on, k in places for method in dict.fromkeys(methods)]


def run_options_of(items: list[str] | None, outer_steps: int | None) -> tuple[str, ...]:
    """`--set` and `--outer-steps` again, for a `norml run` of its own."""
    steps = () if outer_steps is None else ("--outer-steps", str(outer_steps))
    return (*(word for item in items or [] for word in ("--set", item)), *steps)


def spread(words: list[str], options: Collection[str]) -> list[str]:
    """`--seeds 0 1` as `--seeds 0 --seeds 1`: each of `options` takes every word up to the next option."""
    spread_out, option = list[str](), ""
    for word, before in zip(words, ["", *words], strict=False):
        option = "" if word.startswith("-") else before if before in options else option
        spread_out += [option, word] if option and before != option else [word]
    return spread_out


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
