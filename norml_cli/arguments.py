"""Parse command-line values (--set, --grid, --seeds, entries), and complete them in the shell."""

import itertools
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

from typer import Context

from norml_cli.files.errors import UserError, plain
from norml_cli.files.yaml_files import parse_yaml
from norml_cli.registry.entries import RULES
from norml_cli.registry.protocol import ID_PATTERN, Precision, Protocol
from norml_cli.registry.reading import builtin_registry, load_registry
from norml_cli.registry.resolving import Registry, Resolved
from norml_cli.registry.sourced import Model
from norml_cli.results.evaluations import Split
from norml_cli.terminal.output import name_left_out

_OPTION_INSTEAD = {  # keys that --set and --grid refuse, and the option to use instead
    "seed": "--seeds",
    "seeds": "--seeds",
    "shots": "--shots",
    "benchmark": "--benchmark",
    "dataset": "--benchmark, which names its data set",
    "method": "the METHOD argument",
    "device": "--device",
    "threads": "--threads",
    "compile": "--compile or --no-compile",
    **{word: f"--{word}" for word in ("results", "registry", "name", "force", "deterministic", "tensorboard")},
}
MAX_SEEDS = 1000  # chosen: more would be a typing error, as with MAX_TRIALS
MAX_TRIALS = 10_000  # chosen: years of training; a longer grid is a typing error


def nameable(path: Path | None) -> Path | None:
    """Check that the system accepts `path`. The path need not exist. Raises UserError."""
    try:
        if path is not None:
            path.exists()
    except OSError as error:
        raise UserError(f"{plain(path)}: not a usable path ({error.strerror}); name another one") from None
    return path


def nameable_all(paths: list[Path]) -> list[Path]:
    """Like `nameable`, for several paths."""
    for path in paths:
        nameable(path)
    return paths


def entries_of(registry: Path | None, words: Sequence[str] = ()) -> Registry:
    """The built-in entries, those of `registry` (--registry), and the entry files among `words`.

    Faulty entries are left out, and a line on standard error names each. Asking for one of them raises UserError.
    """
    entries = load_registry(registry, [Path(word) for word in words if _is_file(word)], strict=False)
    name_left_out(entries.left_out)
    return entries


_OPTIONS_OF_NEW = {  # the options that each kind of new entry takes; the first is required
    "dataset": ("--source", "--min-images"),
    "benchmark": ("--like", "--dataset", "--shots"),
    "method": ("--like", "--benchmark"),
}


def require_options_of(kind: str, given: Mapping[str, Any]) -> None:
    """Raises UserError for an unknown kind of new entry, a missing option, and options that the kind does not take."""
    if kind not in _OPTIONS_OF_NEW:
        raise UserError(f"{plain(kind)}: not a kind of entry; write dataset, benchmark or method")
    required, *_ = _OPTIONS_OF_NEW[kind]
    if not given[required]:
        raise UserError(f"{required}: is missing; a {kind} needs it, see the examples of `norml new --help`")
    for option in (option for option, value in given.items() if value and option not in _OPTIONS_OF_NEW[kind]):
        raise UserError(f"{option}: does not apply to a {kind}; leave it out")


def own_folder(registry: Path | None) -> Path:
    """The folder that new entries go to: --registry, NORML_REGISTRY, or `mine`. Raises UserError."""
    folder = registry or Path(os.environ.get("NORML_REGISTRY") or "mine")
    if folder.suffix == ".yaml" or folder.is_file():
        raise UserError(f"--registry {plain(folder)}: this is a file; name the folder of your own entries")
    if folder.resolve() == builtin_registry().resolve():
        raise UserError(f"--registry {plain(folder)}: holds the built-in entries; name a folder of your own")
    return folder


def methods_of(registry: Registry, words: Sequence[str]) -> list[str]:
    """Ids of the methods that `words` name by id or by file, each once. Raises UserError for a file of another kind."""
    for word in words:
        if word.isdecimal() and word not in registry.methods:
            raise UserError(f"{word}: not a method; write several seeds as --seeds 0,1,2")
    return list(dict.fromkeys(_method_in(registry, word) if _is_file(word) else word for word in words))


def _method_in(registry: Registry, word: str) -> str:
    same = [key for key, path in registry.files.items() if path.resolve() == Path(word).resolve()]
    if not same or same[0][0] != "methods":
        raise UserError(f"{plain(word)}: not a method; give this file to --registry, and name a method here")
    return same[0][1]


def _is_file(word: str) -> bool:
    return word.endswith(".yaml")


def require_id(option: str, name: str | None) -> None:
    """Raises UserError for a name that cannot be an id."""
    if name is not None and not re.fullmatch(ID_PATTERN, name):
        raise UserError(f"{option} {plain(name)!r}: use only a-z, 0-9 and single hyphens, such as inner-lr")


def format_of(format_: str, *, as_json: bool) -> str:
    """The format that --format and --json ask for together. Raises UserError if they contradict each other."""
    if as_json and format_ not in {"rich", "json"}:
        raise UserError(f"--json: contradicts --format {plain(format_)}; give one of them")
    return "json" if as_json else format_


def seeds_of(texts: Sequence[str]) -> list[int]:
    """The seeds of `0`, `0,1,2` and `0..2`, in the order given. Raises UserError for anything else."""
    seeds = [seed for text in texts for part in text.split(",") for seed in _seed_range(part.strip())]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds {plain(','.join(texts))}: a seed is named twice; name it once")
    return seeds


def _seed_range(text: str) -> range:
    match = re.fullmatch(r"([0-9]{1,19})(?:\.\.([0-9]{1,19}))?", text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
    if not first <= last < 2**63:
        raise UserError(f"--seeds {plain(text)}: expected whole numbers from 0: one, several (0,1,2) or a range (0..2)")
    if last - first >= MAX_SEEDS:
        raise UserError(f"--seeds {plain(text)}: more than {MAX_SEEDS:,} seeds; name fewer")
    return range(first, last + 1)


def with_outer_steps(items: list[str] | None, outer_steps: int | None) -> dict[str, Any]:
    """`--set` items and `--outer-steps` as one mapping. Raises UserError if both set the outer steps."""
    overrides = overrides_of(items)
    if outer_steps is None:
        return overrides
    if "outer_steps" in overrides:
        raise UserError("--outer-steps: given twice, also by --set outer_steps; give it once")
    return overrides | {"outer_steps": outer_steps}


def overrides_of(items: list[str] | None) -> dict[str, Any]:
    """`--set KEY=VALUE` items as a mapping. Values are YAML, as in the entries. Raises UserError."""
    return _read_items("--set", items, "KEY=VALUE, such as --set inner_lr=0.2", "{}")


def grid_of(items: list[str] | None) -> dict[str, list[Any]]:
    """`--grid KEY=V1,V2` items as a mapping from each key to its values, read as YAML. Raises UserError."""
    return _read_items("--grid", items, "KEY=V1,V2, such as --grid inner_lr=0.1,0.2", "[{}]")


def _read_items(option: str, items: list[str] | None, expected: str, form: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in items or []:
        key, equals, text = item.partition("=")
        if not key or not equals:
            raise UserError(f"{option} {plain(item)}: expected {expected}")
        if key in _OPTION_INSTEAD:
            raise UserError(f"{option} {key}: not a setting of a method; use {_OPTION_INSTEAD[key]}")
        if key in values:
            raise UserError(f"{option} {plain(key)}: given twice; give it once")
        try:
            values[key] = parse_yaml(form.format(text))
        except ValueError as error:
            raise UserError(f"{option} {plain(item)}: {error}; write a list as [64,64], and text as it is") from None
    return values


def split_of(text: str) -> Split:
    """The split that --split names. Raises UserError."""
    splits: dict[str, Split] = {"meta-val": "meta_val", "meta-test": "meta_test"}
    if text not in splits:
        raise UserError(f"--split {plain(text)}: expected {' or '.join(splits)}")
    return splits[text]


def items_of(
    registry: Registry,
    methods: Sequence[str],
    benchmarks: Sequence[str],
    shots: Sequence[int],
    grid: dict[str, list[Any]],
    overrides: dict[str, Any],
) -> list[Resolved]:
    """Every combination of method, benchmark, shots and grid values, each once.

    No benchmarks: each method on its default one. No shots: the benchmark's first number. Raises UserError.
    """
    for key, values in grid.items():
        if key in overrides:
            raise UserError(f"--grid {key}: also set by --set or --outer-steps; give it once")
        if not values:
            raise UserError(f"--grid {key}: no values; expected KEY=V1,V2")
    n_combinations = math.prod(len(values) for values in grid.values()) * len(methods)
    if n_combinations > MAX_TRIALS:
        raise UserError(
            f"--grid: {n_combinations:,} combinations are more than {MAX_TRIALS:,}; try fewer values at a time"
        )
    combinations = [dict(zip(grid, chosen, strict=True)) for chosen in itertools.product(*grid.values())]
    places = itertools.product(dict.fromkeys(benchmarks) or [None], dict.fromkeys(shots) or [None])
    items = [
        replace(registry.resolve(method, on, k, overrides | combination), varied=tuple(grid))
        for on, k in places
        for method in methods
        for combination in combinations
    ]
    return list({item.spec.hash(): item for item in items}.values())


def words_of(registry: Registry, words: Sequence[str]) -> dict[str, str]:
    """The method files among `words`, by the id of the method in each."""
    return {_method_in(registry, word): word for word in words if _is_file(word)}


def training_options_of(compiled: bool | None, tensorboard: Path | None, *, deterministic: bool) -> tuple[str, ...]:  # noqa: FBT001 - as typer gives it
    """The options of this command as words, to pass on to a training in a process of its own."""
    options = ["--deterministic"] if deterministic else []
    if compiled is not None:
        options.append("--compile" if compiled else "--no-compile")
    return (*options, "--tensorboard", str(tensorboard.absolute())) if tensorboard is not None else (*options,)


def ids_of(*kinds: str) -> Callable[[Context, str], list[str]]:
    """A completer for the ids of these kinds (folders of a registry), built-in and the user's own.

    It reads file names only: parsing YAML would be too slow for a key press.
    """

    def complete(context: Context, incomplete: str) -> list[str]:
        extra = context.params.get("registry") or os.environ.get("NORML_REGISTRY")
        folders = [builtin_registry(), *([Path(extra)] if extra else [])]
        given = context.params.get("methods") or []  # already on the command line
        ids = {path.stem for folder in folders for kind in kinds for path in (folder / kind).glob("*.yaml")}
        return sorted(id_ for id_ in ids if id_.startswith(incomplete) and id_ not in given)

    return complete


def precision_of(text: str | None) -> Precision | None:
    """The precision that --precision names. Raises UserError."""
    if text is None or text in get_args(Precision):
        return cast("Precision | None", text)
    raise UserError(f"--precision {plain(text)}: unknown; use {', '.join(get_args(Precision))}")


def one_of(*words: str) -> Callable[[str], list[str]]:
    """A completer for one of `words`."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


def keys_of(incomplete: str) -> list[str]:
    """Complete the KEY of --set and --grid. It offers the keys of every algorithm: the method may come later."""
    models: list[type[Model]] = [Protocol, *RULES.values()]
    keys = dict.fromkeys(key for model in models for key in model.model_fields)
    return [f"{key}=" for key in keys if key.startswith(incomplete)]
