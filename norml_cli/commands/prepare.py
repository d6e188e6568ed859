"""`norml prepare DATASET`: raw source -> one checked cache with the fixed episodes of every benchmark on it."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from norml_cli import datasets
from norml_cli.cache import (
    Cache,
    EpisodeArrays,
    EpisodeRequest,
    add_episodes,
    cache_path,
    episode_requests,
    status,
    write_cache,
)
from norml_cli.datasets.splits import SPLITS, LoadedDataset
from norml_cli.datasets.splits import Progress as ProgressCallback
from norml_cli.errors import UserError
from norml_cli.locks import held
from norml_cli.output import Output
from norml_cli.registry import Registry
from norml_cli.spec import DatasetEntry


def prepare(
    registry: Registry, dataset_id: str, *, source: Path | None, force: bool, verify: bool, console: Output
) -> None:
    """Make the cache of a data set, or say that it is up to date; `verify` only checks it.

    Raises UserError for a source that cannot be used and, with `verify`, for a damaged cache.
    """
    entry = registry.dataset(dataset_id)
    entry_file = registry.files["datasets", dataset_id]
    if verify:
        cache = Cache.open(entry, entry_file)
        checked = f"verified, {cache.verify()} arrays as they were written"
        console.print(f"{dataset_id}: {checked}, content sha256 {cache.content_hash}", highlight=False, soft_wrap=True)
        console.result(_result("verified", cache))
        return
    if source is not None and not datasets.needs_source(entry):
        raise UserError(f"--source: '{dataset_id}' is embedded and reads no files; leave --source out")
    state = "missing" if force else status(entry, entry_file)  # what is forced is not looked at: it may be damaged
    if state == "up to date":
        cache = Cache.open(entry, entry_file)
        added = _add_lacking(cache, _declared_requests(registry, dataset_id))
        more = f", {added} sets of fixed episodes added" if added else ""  # of benchmarks declared since
        console.print(f"{dataset_id}: up to date ({cache_path(dataset_id).name}){more}", highlight=False)
        console.result(_result("up to date", cache))
        return
    if state == "stale":
        Cache.open(entry, entry_file)  # says what is wrong with it
    cache = _make(
        registry, entry, _declared_requests(registry, dataset_id), source=source, force=force, console=console
    )
    console.result(_result("made", cache))


def _result(state: str, cache: Cache) -> dict[str, str]:
    """What `--json` prints."""
    return {"dataset": cache.dataset, "state": state, "cache": str(cache.path), "content_sha256": cache.content_hash}


def ensure_ready(registry: Registry, dataset_id: str, requests: Iterable[EpisodeRequest], console: Console) -> Cache:
    """The open cache of a data set, holding all `requests`.

    An embedded data set is prepared on the way; for any other, UserError names the command that does it.
    """
    entry, entry_file = registry.datasets[dataset_id], registry.files["datasets", dataset_id]
    requests = list(dict.fromkeys(requests))
    if not datasets.needs_source(entry) and status(entry, entry_file) != "up to date":
        declared = _declared_requests(registry, dataset_id)
        wanted = [*dict.fromkeys([*declared, *requests])]
        return _make(registry, entry, wanted, source=None, force=False, console=console)
    cache = Cache.open(entry, entry_file)
    _add_lacking(cache, requests)
    return cache


def _add_lacking(cache: Cache, requests: Iterable[EpisodeRequest]) -> int:
    """Draw those `requests` that the cache does not hold; returns how many."""
    lacking = [request for request in requests if not cache.has(request)]
    if lacking:
        add_episodes(cache, {request: _draw(request, *cache.size(request.split)) for request in lacking})
    return len(lacking)


def _make(
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
    _add_lacking(cache, requests)
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


def _declared_requests(registry: Registry, dataset_id: str) -> list[EpisodeRequest]:
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
            turned=request.turned,
            n_episodes=request.episodes,
            generator=torch.Generator().manual_seed(request.generator_seed),
        )
    except ValueError as error:
        raise UserError(f"{request.split}: {error}") from None
    return EpisodeArrays(indices.classes.numpy(), indices.examples.numpy(), indices.turns.numpy())


@contextmanager
def _shown(console: Console, title: str) -> Iterator[ProgressCallback]:
    """Progress over images."""
    from norml_cli.display import RunDisplay  # noqa: PLC0415 - an up-to-date cache shows none

    with RunDisplay(console, title) as display:
        yield display.reading
