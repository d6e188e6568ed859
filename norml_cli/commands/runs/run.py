"""`norml run`: meta-train methods, test them, and write their records."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from norml_cli.data.cache import Cache
from norml_cli.data.examples import Examples
from norml_cli.data.fixed_episodes import EpisodeRequest, episode_requests
from norml_cli.data.preparing import ensure_ready
from norml_cli.files.companions import Companions
from norml_cli.files.errors import UserError
from norml_cli.files.locks import held
from norml_cli.registry.resolving import Registry, Resolved
from norml_cli.registry.specs import RunSpec
from norml_cli.reporting.lists import render_runs
from norml_cli.results.records import EpisodesIdentity, RunRecord
from norml_cli.results.store import Results, read_record, write_record
from norml_cli.terminal.output import Output, print_line, print_text
from norml_cli.training.launch import Launch, launched_run
from norml_cli.training.run import Outcome, Run


def run(registry: Registry, resolved: list[Resolved], launches: list[Launch], console: Output) -> None:
    """Run each resolved method without a finished record, seed by seed (`launches`), then print all of them.

    All checks come before the first run. Raises UserError. Exits with 130 if the user stops it, after writing a
    checkpoint.
    """
    places = [
        (Results(launch.results).run_path(item.spec, launch.seed, launch.name), item, launch)
        for launch in launches
        for item in resolved
    ]
    ranks = launches[0].ranks
    for item in resolved:
        _refuse_idle(item.spec)
        if item.spec.protocol.outer_steps:
            ranks.require_share(item.spec.protocol.meta_batch_size, "meta_batch_size")
    ranks.of_first(lambda: _refuse_places(places))
    caches = _caches(registry, resolved, console)
    examples = {item.spec.hash(): Examples.of(registry, item.spec, caches[item.spec.dataset]) for item in resolved}
    for path, item, launch in places:
        with ranks.first_within(held(path)):
            if ranks.of_first(path.exists) and not launch.force:
                ranks.of_first(Companions(path).tidy)
                which = f"{item.spec.label(launch.name)}, seed {launch.seed}"
                print_line(f"{which}: already finished; --force runs it again", console)
            else:
                _run_one(item, examples[item.spec.hash()], launch, path, console)
    if ranks.is_first:
        finished = [(path, read_record(path)) for path, *_ in places]
        print_text(render_runs(registry, finished, console.result_format, width=console.width), console)


def _refuse_places(places: Sequence[tuple[Path, Resolved, Launch]]) -> None:
    """Raises UserError for a record that cannot be written, or that exists for another protocol."""
    for path, item, launch in places:
        if not launch.force:
            _refuse_other_protocol(path, item)
        Results(launch.results).require_writable()


def _caches(registry: Registry, resolved: list[Resolved], console: Console) -> dict[str, Cache]:
    """The open caches by data set, with every evaluation episode that the runs need."""
    requests: dict[str, list[EpisodeRequest]] = {}
    for item in resolved:
        requests.setdefault(item.spec.dataset, []).extend(episode_requests(item.spec))
    return {dataset: ensure_ready(registry, dataset, wanted, console) for dataset, wanted in requests.items()}


def _run_one(item: Resolved, examples: Examples, launch: Launch, path: Path, console: Console) -> None:
    """Meta-train and test one method, and write its record to `path`."""
    with launched_run(item, examples, launch, Companions(path), console, "meta_val", "meta_test") as run:
        run.train()
        outcome = run.test()
        if launch.ranks.is_first:
            run.keep_weights()  # before the record, which could not be verified without weights
            write_record(path, _record(run, outcome, launch.name))


def _record(run: Run, outcome: Outcome, name: str | None) -> RunRecord:
    episodes = EpisodesIdentity(
        validation_hash=run.episode_hashes["meta_val"],
        test_hash=run.episode_hashes["meta_test"],
        n_test=len(outcome.correct),
        queries_per_episode=run.spec.queries_per_episode,
    )
    return RunRecord.of(
        run.origin,
        run.course(evaluation_s=outcome.evaluation_s),
        run.parameters,
        episodes=episodes,
        correct=outcome.correct,
        by_class=outcome.by_class,
        name=name,
    )


def _refuse_idle(spec: RunSpec) -> None:
    """Raises UserError if the head starts at zero and never changes: all logits would be equal."""
    protocol = spec.protocol
    idle = {"adapted_layers: body": protocol.adapted_layers == "body", "no inner steps": not protocol.inner_steps_test}
    if protocol.head_init == "zero" and any(idle.values()):
        why = next(key for key, found in idle.items() if found)
        raise UserError(f"{spec.method}: head_init: zero with {why} makes all logits equal; use head_init: learned")


def _refuse_other_protocol(path: Path, item: Resolved) -> None:
    """Raises UserError if a record of another protocol exists at `path`: it must not be overwritten unasked."""
    if path.exists() and read_record(path).spec_hash != item.spec.hash():
        raise UserError(
            f"{path}: holds a finished run with other settings; keep both with --name NAME or another --results "
            f"folder, or replace it with --force"
        )
