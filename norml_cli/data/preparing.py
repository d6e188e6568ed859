"""Make the caches of data sets, with their fixed episodes."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from norml_cli.data.cache import Cache, cache_path, freshness, write_cache
from norml_cli.data.fixed_episodes import EpisodeRequest, episode_requests
from norml_cli.data.sources import loading as datasets
from norml_cli.data.splits import SPLITS, LoadedDataset, OnProgress
from norml_cli.files.locks import held
from norml_cli.registry.entries import DatasetEntry
from norml_cli.registry.resolving import Registry
from norml_cli.terminal.output import print_line


def ensure_ready(registry: Registry, dataset_id: str, requests: Iterable[EpisodeRequest], console: Console) -> Cache:
    """The open cache of a data set. A built-in data set is prepared if needed, with declared episodes and `requests`.

    Raises UserError for any other data set that is not prepared, and names the command that prepares it.
    """
    entry, entry_file = registry.dataset(dataset_id), registry.files["datasets", dataset_id]
    if not datasets.needs_source(entry) and freshness(entry, entry_file) != "up to date":
        declared = declared_requests(registry, dataset_id)
        wanted = [*dict.fromkeys([*declared, *requests])]
        return make(registry, entry, wanted, source=None, force=False, console=console)
    return Cache.open(entry, entry_file)


def make(
    registry: Registry,
    entry: DatasetEntry,
    requests: Iterable[EpisodeRequest],
    *,
    source: Path | None,
    force: bool,
    console: Console,
) -> Cache:
    """Make the cache. If another process made it while this one waited for the lock, use that one, unless `force`."""
    entry_file, requests = registry.files["datasets", entry.id], list(requests)
    with held(cache_path(entry.id), waiting=lambda line: print_line(line, console)):
        if force or freshness(entry, entry_file) != "up to date":
            return _prepare(entry, entry_file, requests, source=source, console=console)
    cache = Cache.open(entry, entry_file)
    print_line(f"{entry.id}: up to date ({cache.path.name}), made by another process meanwhile", console)
    return cache


def _prepare(
    entry: DatasetEntry,
    entry_file: Path,
    requests: Sequence[EpisodeRequest],
    *,
    source: Path | None,
    console: Console,
) -> Cache:
    started_at = time.perf_counter()
    with _progress_over_images(console, entry.id) as progress:
        loaded = datasets.load(entry, entry_file, source, progress)
        cache = write_cache(entry, entry_file, loaded, requests)  # also reads the images of large data sets
    seconds = time.perf_counter() - started_at
    made = f"{_classes(loaded)} classes, {len(requests)} sets of fixed episodes"
    size = f"{cache.path.stat().st_size / 1e6:.0f} MB in {seconds:.1f} s"
    for line in (f"{made}, {size} ({loaded.source})", *loaded.remarks(), *hashes(cache)):
        print_line(f"{entry.id}: {line}", console)
    return cache


def hashes(cache: Cache) -> list[str]:
    """Two lines: the hash of the source, which an entry may declare, and the hash of the cache's content."""
    values = {"source_sha256": cache.source_sha256, "cache_sha256": cache.content_hash}
    return [f"{key} {value}" for key, value in values.items() if value is not None]


def _classes(loaded: LoadedDataset) -> str:
    return ", ".join(f"{len(loaded.splits[split].sizes):,} {split.replace('_', '-')}" for split in SPLITS)


def declared_requests(registry: Registry, dataset_id: str) -> list[EpisodeRequest]:
    """The episodes that any declared method needs on any benchmark of the data set."""
    requests: dict[EpisodeRequest, None] = {}
    for bench in registry.benchmarks.values():
        if bench.dataset != dataset_id:
            continue
        for shots in bench.shots:
            for spec in registry.specs_on(bench.id, shots):
                requests.update(dict.fromkeys(episode_requests(spec)))
    return list(requests)


@contextmanager
def _progress_over_images(console: Console, title: str) -> Iterator[OnProgress]:
    """Show progress over images."""
    from norml_cli.terminal.progress import RunDisplay  # noqa: PLC0415 - not needed if the cache is up to date

    with RunDisplay(console, title) as display:
        yield display.reading
