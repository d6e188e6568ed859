"""`norml run`: meta-train methods, test them, and write their records."""

from pathlib import Path
from typing import Any

from rich.console import Console

from norml.statistics import FORMULA, interval_95
from norml_cli.data.cache import Cache
from norml_cli.data.examples import Examples
from norml_cli.data.fixed_episodes import EpisodeRequest, episode_requests
from norml_cli.data.preparing import ensure_ready
from norml_cli.data.splits import SplitName
from norml_cli.files.errors import UserError
from norml_cli.files.locks import held
from norml_cli.registry.resolving import Registry, Resolved
from norml_cli.reporting.lists import render_runs
from norml_cli.results.records import Accuracy, EpisodesIdentity, RunRecord
from norml_cli.results.store import Results, read_record, write_record
from norml_cli.terminal.output import Output, print_text
from norml_cli.terminal.status_files import SUFFIX
from norml_cli.training.launch import Launch, device_of, found_fields, launched, require_writable
from norml_cli.training.run import Outcome, Run


def run(
    registry: Registry,
    resolved: list[Resolved],
    *,
    seed: int,
    device: str,
    force: bool,
    compiled: bool | None,
    tensorboard: Path | None,
    results: Path,
    console: Output,
) -> None:
    """Run each resolved method that has no finished record yet, and print what they reached.

    Everything that can be refused is refused before the first run starts. Raises UserError; exits with 130 when the
    user stopped it (its checkpoint is written, the same command goes on).
    """
    launch = Launch(seed, device_of(device), force, compiled, tensorboard)
    places = [(Results(results).run_path(item.spec, seed), item) for item in resolved]
    if not force:
        for path, item in places:
            _refuse_other_protocol(path, item)
    require_writable(results)
    caches = _caches(registry, resolved, console)
    examples = [Examples.of(registry, item.spec, caches[item.spec.dataset]) for item in resolved]
    for (path, item), seen in zip(places, examples, strict=True):
        with held(path):
            if path.exists() and not force:
                for suffix in (".checkpoint", SUFFIX):  # of who was killed just before removing them
                    path.with_suffix(suffix).unlink(missing_ok=True)
                console.print(f"{item.spec.method}: finished already; --force runs it again", highlight=False)
            else:
                _run_one(item, seen, launch, path, console=console)
    finished = [(path, read_record(path)) for path, _ in places]
    print_text(render_runs(registry, finished, console.result_format, width=console.width), console)


def _caches(registry: Registry, resolved: list[Resolved], console: Console) -> dict[str, Cache]:
    """Open caches by data set, holding every evaluation episode that the runs ask for."""
    requests: dict[str, list[EpisodeRequest]] = {}
    for item in resolved:
        requests.setdefault(item.spec.dataset, []).extend(episode_requests(item.spec))
    return {dataset: ensure_ready(registry, dataset, wanted, console) for dataset, wanted in requests.items()}


def _run_one(item: Resolved, examples: Examples, launch: Launch, path: Path, *, console: Console) -> None:
    """Meta-train, test and write the record of one method to `path`."""
    checkpoint = path.with_suffix(".checkpoint")
    splits: list[SplitName] = ["meta_val", "meta_test"]
    with launched(item, examples, launch, checkpoint=checkpoint, console=console, splits=splits) as (run, known):
        run.train()
        outcome = run.test()
        run.keep_weights(path.with_suffix(".weights"))  # first: a record without its weights could not be verified
        found = found_fields(run, evaluation_s=outcome.evaluation_s)
        write_record(path, RunRecord(**known, **found, **_tested_fields(run, outcome)))


def _tested_fields(run: Run, outcome: Outcome) -> dict[str, Any]:
    interval = interval_95(outcome.correct).divided_by(run.queries_per_episode)
    return {
        "episodes": EpisodesIdentity(
            validation_hash=run.episode_hashes["meta_val"],
            test_hash=run.episode_hashes["meta_test"],
            n_test=len(outcome.correct),
            queries_per_episode=run.queries_per_episode,
        ),
        "correct": outcome.correct,
        "accuracy": Accuracy(mean=interval.mean, half_width=interval.half_width, n=interval.n, formula=FORMULA),
    }


def _refuse_other_protocol(path: Path, item: Resolved) -> None:
    """A record of another protocol in this place is neither taken for this run nor overwritten unasked."""
    if path.exists() and read_record(path).spec_hash != item.spec.hash():
        raise UserError(
            f"{path}: holds a finished run under other values; replace it with --force, "
            f"or keep both with another --results folder"
        )
