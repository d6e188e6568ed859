"""The cells of a sweep: missing trainings, and the data sets and backbones that they need. Torch-free."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

from norml_cli.data.cache import Cache, cache_path, freshness
from norml_cli.data.sources import loading as datasets
from norml_cli.files.companions import FEATURES, WEIGHTS
from norml_cli.files.errors import UserError, plain
from norml_cli.registry.recipes import backbone_path, resolve_recipe
from norml_cli.registry.resolving import Registry, Resolved
from norml_cli.registry.specs import RunSpec
from norml_cli.results.missing import Missing

ENGINES = ("here", "ray", "slurm")
FETCHED = "{results}"  # in a cell's arguments: the worker's own results folder


@dataclass(frozen=True)
class Where:
    """Where cells run, from the command's options.

    on: here, ray or slurm. at_once: cells at once; None: as many as pay. gpus: for each cell; None: chosen by what
    there is. address: the Ray cluster's. fetch: workers cannot see the results folder. sbatch: options for sbatch.
    """

    on: str = "here"
    at_once: int | None = None
    gpus: float | None = None
    address: str | None = None
    fetch: bool = False
    sbatch: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises UserError for an unknown place, and for options that belong to another place."""
        if self.on not in ENGINES:
            raise UserError(f"--on {plain(self.on)}: unknown; use {', '.join(ENGINES)}")
        if self.on == "here" and self.gpus is not None:
            raise UserError("--gpus: is for --on ray and slurm; leave it out, or add one of them")
        given = {"--address": self.address is not None, "--fetch": self.fetch, "--sbatch": bool(self.sbatch)}
        for option, engine in (("--address", "ray"), ("--fetch", "ray"), ("--sbatch", "slurm")):
            if given[option] and self.on != engine:
                raise UserError(f"{option}: is for --on {engine}; leave it out, or add that")
        if self.on == "slurm" and self.gpus is not None and self.gpus != int(self.gpus):
            raise UserError(f"--gpus {self.gpus:g}: Slurm gives whole GPUs; give a whole number")


@dataclass(frozen=True)
class Asked:
    """How the user wants cells to run.

    threads: for each cell; None: 1 if cells run side by side. minutes: time limit. retries: for each cell that fails.
    source: where the raw data lies. options: passed to every training, such as --no-compile. words: what the user typed
    for a method, by id, where that is a file.
    """

    results: Path
    seeds: Sequence[int] = (0,)
    _: KW_ONLY
    registry: Path | None = None
    source: Path | None = None
    device: str = "auto"
    threads: int | None = None
    minutes: float | None = None
    retries: int = 1
    dry_run: bool = False
    options: tuple[str, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)
    where: Where = Where()

    @property
    def is_here(self) -> bool:
        """Whether cells run on this machine."""
        return self.where.on == "here"


@dataclass(frozen=True)
class SweepCell:
    """One `norml` command. It is done once the file `leaves` exists.

    arguments: what follows `norml`. path: its lock, status file and log share this stem. needs: cells to finish first.
    expected_s: None if unknown. is_trial: whether it belongs to a study, where a diverging loss is a result. seed: of a
    training. kind: equal for trainings that differ only in their seed, which take equally long.
    """

    title: str
    arguments: tuple[str, ...]
    path: Path
    leaves: Path
    needs: tuple["SweepCell", ...] = ()
    expected_s: float | None = None
    is_trial: bool = False
    seed: int | None = None
    kind: str | None = None


def cells_of(registry: Registry, missing: Sequence[Missing], asked: Asked) -> list[SweepCell]:
    """The cells for `missing`: first what they need, each once, then the trainings in order.

    Raises UserError for data that cannot be prepared.
    """
    plan = _Plan(registry, asked)
    trainings = [plan.training(each) for each in missing]
    return [*plan.needed.values(), *trainings]


class _Plan:
    def __init__(self, registry: Registry, asked: Asked) -> None:
        self.needed: dict[Path, SweepCell] = {}  # by the file that each leaves
        self._registry, self._asked = registry, asked
        self._entries = ("--registry", self._place(asked.registry)) if asked.registry is not None else ()
        threads = () if asked.threads is None else ("--threads", str(asked.threads))
        results = FETCHED if asked.where.fetch else self._place(asked.results)
        self._options = ("--device", asked.device, *threads, "--results", results, *self._entries)

    def training(self, each: Missing) -> SweepCell:
        spec, words = each.item.spec, self._asked.words
        needs = self._data(spec) + self._backbone(spec)
        method = self._place(Path(words[spec.method])) if spec.method in words else spec.method
        command = ("run", method) if each.study is None else ("study", each.study, method)
        named = ("--name", each.name) if each.name is not None else ()
        place = ("--benchmark", spec.benchmark, "--shots", str(spec.shots), "--seed", str(each.seed))
        alone = ("--at-once", "1") if each.study is not None else ()
        arguments = (*command, *place, *named, *changes(each.item), *alone, *self._asked.options, *self._options)
        title = spec.title(each.item.changed, each.seed)
        return SweepCell(
            title,
            arguments,
            each.path,
            each.path,
            needs,
            each.expected_s,
            is_trial=each.study is not None,
            seed=each.seed,
            kind=spec.hash(),
        )

    def _place(self, path: Path) -> str:
        """A path that a cell's process can use."""
        return str(path if self._asked.is_here else path.absolute())

    def _data(self, spec: RunSpec) -> tuple[SweepCell, ...]:
        path = cache_path(spec.dataset)
        if path not in self.needed:
            entry, entry_file = self._registry.dataset(spec.dataset), self._registry.files["datasets", spec.dataset]
            state, source = freshness(entry, entry_file), self._asked.source
            if state == "up to date" or (self._asked.where.fetch and not datasets.needs_source(entry)):
                return ()
            if state == "stale" or self._asked.where.fetch or (source is None and not datasets.is_downloaded(entry)):
                Cache.open(entry, entry_file)  # raises with what is wrong
            named = ("--source", self._place(source)) if source is not None and datasets.needs_source(entry) else ()
            arguments = ("prepare", entry.id, *named, *self._entries)
            self.needed[path] = SweepCell(f"prepare {entry.id}", arguments, path, path)
        return (self.needed[path],)

    def _backbone(self, spec: RunSpec) -> tuple[SweepCell, ...]:
        protocol, seed = spec.protocol, spec.protocol.backbone_seed
        if protocol.backbone is None:
            return ()
        entry, dataset = self._registry.recipe(protocol.backbone), self._registry.dataset(spec.dataset)
        recipe = resolve_recipe(entry, dataset, epochs=protocol.backbone_epochs, width=protocol.backbone_width)
        weights, features = (backbone_path(recipe.spec, seed, suffix) for suffix in (WEIGHTS, FEATURES))
        if features not in self.needed:
            if features.exists():
                return ()
            options = ("--seed", str(seed), *recipe.options.split())
            command = ("pretrain", dataset.id, "--recipe", entry.id, *options)
            if self._asked.where.fetch:
                raise UserError(f"--fetch: the features of {entry.id} are not there; run `norml {' '.join(command)}`")
            title = f"pretrain {entry.id} on {dataset.id}, seed {seed}"
            self.needed[features] = SweepCell(title, (*command, *self._options), weights, features, self._data(spec))
        return (self.needed[features],)


def changes(item: Resolved) -> tuple[str, ...]:
    """The changed values, as `--set` options of a command."""
    said = item.spec.model_dump(mode="json")
    values = said["protocol"] | said["rule"]
    return tuple(word for key in item.changed for word in ("--set", f"{key}={json.dumps(values[key])}"))


def environment() -> dict[str, str]:
    """NORML_* variables with absolute paths, for a process on another machine or in another folder."""
    named = {key: value for key, value in os.environ.items() if key.startswith("NORML_") and value}
    return {key: str(Path(value).absolute()) for key, value in named.items()}


def told(cell: SweepCell) -> dict[str, Any]:
    """A cell as JSON."""
    return {"title": cell.title, "leaves": str(cell.leaves), "expected_s": cell.expected_s}


def at_once_of(text: str) -> int | None:
    """The number of `--at-once`; None for 'auto'. Raises UserError."""
    if text == "auto":
        return None
    if text.isdecimal() and 0 < len(text) <= 4 and int(text) > 0:  # noqa: PLR2004 - up to 9,999
        return int(text)
    raise UserError(f"--at-once {plain(text)}: give a number from 1 on, or auto")
