"""Data sets -> caches that hold the episodes that are asked for."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from norml_cli.data.cache import Cache, add_episodes, cache_path, status, write_cache
from norml_cli.data.fixed_episodes import EpisodeArrays, EpisodeRequest, episode_requests
from norml_cli.data.sources import loading as datasets
from norml_cli.data.splits import SPLITS, LoadedDataset, OnProgress
from norml_cli.files.errors import UserError
from norml_cli.files.locks import held
from norml_cli.registry.entries import DatasetEntry
from norml_cli.registry.resolving import Registry


def ensure_ready(registry: Registry, dataset_id: str, requests: Iterable[EpisodeRequest], console: Console) -> Cache:
    """The open cache of a data set, holding all `requests`.

    An embedded data set is prepared on the way; for any other, UserError names the command that does it.
    """
    entry, entry_file = registry.dataset(dataset_id), registry.files["datasets", dataset_id]
    requests = list(dict.fromkeys(requests))
    if not datasets.needs_source(entry) and status(entry, entry_file) != "up to date":
        declared = declared_requests(registry, dataset_id)
        wanted = [*dict.fromkeys([*declared, *requests])]
        return make(registry, entry, wanted, source=None, force=False, console=console)
    cache = Cache.open(entry, entry_file)
    add_lacking(cache, requests)
    return cache


def add_lacking(cache: Cache, requests: Iterable[EpisodeRequest]) -> int:
    """Draw those `requests` that the cache does not hold; returns how many."""
    lacking = [request for request in requests if not cache.has(request)]
    if lacking:
        add_episodes(cache, {request: _draw(request, *cache.size(request.split)) for request in lacking})
    return len(lacking)


def make(
    registry: Registry,
    entry: DatasetEntry,
    requests: Iterable[EpisodeRequest],
    *,
    source: Path | None,
    force: bool,
    console: Console,
) -> Cache:
    """Make the cache, once: what another process made while this one waited for it is taken, unless `force`."""
    entry_file, requests = registry.files["datasets", entry.id], list(requests)
    with held(cache_path(entry.id), waiting=lambda line: console.print(line, highlight=False, soft_wrap=True)):
        if force or status(entry, entry_file) != "up to date":
            return _made(entry, entry_file, requests, source=source, console=console)
    cache = Cache.open(entry, entry_file)
    add_lacking(cache, requests)
    console.print(f"{entry.id}: up to date ({cache.path.name}), made by the process waited for", highlight=False)
    return cache


def _made(
    entry: DatasetEntry,
    entry_file: Path,
    requests: Sequence[EpisodeRequest],
    *,
    source: Path | None,
    console: Console,
) -> Cache:
    started_at = time.perf_counter()
    with _shown(console, entry.id) as progress:
        loaded = datasets.load(entry, entry_file, source, progress)
        episodes = {request: _draw(request, *loaded.splits[request.split].shape[:2]) for request in requests}
        cache = write_cache(entry, entry_file, loaded, episodes)  # reads the images, where there are many
    seconds = time.perf_counter() - started_at
    made = f"{_classes(loaded)} classes, {len(episodes)} sets of fixed episodes"
    size = f"{cache.path.stat().st_size / 1e6:.0f} MB in {seconds:.1f} s"
    for line in (f"{made}, {size} ({loaded.source})", *loaded.remarks(), f"content sha256 {cache.content_hash}"):
        console.print(f"{entry.id}: {line}", highlight=False, soft_wrap=True)
    return cache


def _classes(loaded: LoadedDataset) -> str:
    return ", ".join(f"{loaded.splits[split].shape[0]:,} {split.replace('_', '-')}" for split in SPLITS)


def declared_requests(registry: Registry, dataset_id: str) -> list[EpisodeRequest]:
    """The episodes that any method asks for on any benchmark of the data set."""
    requests: dict[EpisodeRequest, None] = {}
    for bench in registry.benchmarks.values():
        if bench.dataset != dataset_id:
            continue
        for method in registry.methods:
            for shots in bench.shots:
                requests.update(dict.fromkeys(episode_requests(registry.resolve(method, bench.id, shots).spec)))
    return list(requests)


def _draw(request: EpisodeRequest, n_classes: int, n_examples: int) -> EpisodeArrays:
    """The episodes of a request: the same for every method, and wherever they are drawn."""
    import torch  # noqa: PLC0415 - an up-to-date cache is found so in a fraction of a second

    from norml.episodes import sample_indices  # noqa: PLC0415 - as torch

    try:
        indices = sample_indices(
            n_classes=n_classes,
            n_examples=n_examples,
            n_way=request.n_way,
            examples_per_class=request.shots + request.queries_per_class,
            rotations=request.rotations,
            n_episodes=request.episodes,
            generator=torch.Generator().manual_seed(request.generator_seed),
        )
    except ValueError as error:
        raise UserError(f"{request.split}: {error}") from None
    return EpisodeArrays(indices.classes.numpy(), indices.examples.numpy(), indices.turns.numpy())


@contextmanager
def _shown(console: Console, title: str) -> Iterator[OnProgress]:
    """Progress over images."""
    from norml_cli.terminal.progress import RunDisplay  # noqa: PLC0415 - an up-to-date cache shows none

    with RunDisplay(console, title) as display:
        yield display.reading
