"""`norml prepare DATASET`: read the raw data into a checked cache, with the fixed episodes of its benchmarks."""

from pathlib import Path

from norml_cli.data.cache import Cache, cache_path, freshness
from norml_cli.data.preparing import declared_requests, hashes, make
from norml_cli.data.sources import loading as datasets
from norml_cli.files.errors import UserError
from norml_cli.files.suggestions import suggested
from norml_cli.registry.resolving import Registry
from norml_cli.terminal.output import Output, print_line


def prepare(
    registry: Registry, dataset_id: str, *, source: Path | None, force: bool, verify: bool, console: Output
) -> None:
    """Make the cache of a data set, or say that it is up to date. With `verify`, only check the cache.

    Raises UserError for an unusable source and, with `verify`, for a damaged cache.
    """
    entry = registry.dataset(dataset_id)
    entry_file = registry.files["datasets", dataset_id]
    if verify:
        cache = Cache.open(entry, entry_file)
        for line in (f"verified, all {cache.verify()} checksums are right", *hashes(cache)):
            print_line(f"{dataset_id}: {line}", console)
        console.result(_result("verified", cache))
        return
    if source is not None and not datasets.needs_source(entry):
        raise UserError(f"--source: '{dataset_id}' is built in and reads no files; leave --source out")
    state = "missing" if force else freshness(entry, entry_file)  # with --force, an old cache may be damaged
    if state == "up to date":
        cache = Cache.open(entry, entry_file)
        unread = "" if source is None else "; --source was not read, use --force to read it"
        print_line(f"{dataset_id}: up to date ({cache_path(dataset_id).name}){unread}", console)
        console.result(_result("up to date", cache))
        return
    if state == "stale":
        Cache.open(entry, entry_file)  # raises and says what is wrong
    cache = make(registry, entry, declared_requests(registry, dataset_id), source=source, force=force, console=console)
    console.result(_result("made", cache))


LIKE = {False: "omniglot-5way", True: "mini-imagenet-5way-conv"}  # True: colour images


def suggest_benchmark(registry: Registry, dataset_id: str, console: Output) -> None:
    """If the data set has no benchmark, print the command that makes one."""
    if dataset_id not in {bench.dataset for bench in registry.benchmarks.values()}:
        like = LIKE[registry.dataset(dataset_id).in_colour]
        command = suggested(f"norml new benchmark NAME --like {like} --dataset {dataset_id}")
        print_line(f"next: {command}", console)


def _result(state: str, cache: Cache) -> dict[str, str | None]:
    """The result that `--json` prints."""
    return {
        "dataset": cache.dataset,
        "state": state,
        "cache": str(cache.path),
        "source_sha256": cache.source_sha256,
        "cache_sha256": cache.content_hash,
    }
