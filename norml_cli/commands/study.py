"""`norml study`: the same meta-training over a grid of values, judged on meta-validation alone."""

from pathlib import Path

from rich.console import Console

from norml_cli.data.examples import Examples
from norml_cli.data.fixed_episodes import episode_requests
from norml_cli.data.preparing import ensure_ready
from norml_cli.files.companions import Companions
from norml_cli.files.errors import UserError
from norml_cli.files.locks import held
from norml_cli.registry.resolving import Registry, Resolved
from norml_cli.reporting.formats import require_format
from norml_cli.reporting.lists import render_trials
from norml_cli.results.records import TrialRecord
from norml_cli.results.store import Results, write_record
from norml_cli.terminal.output import Output, print_text
from norml_cli.training.divergence import Diverged
from norml_cli.training.launch import Launch, launched_run


def study(
    registry: Registry,
    name: str,
    trials: list[Resolved],
    launch: Launch,
    *,
    format_: str,
    console: Output,
) -> None:
    """Run each trial that has no record in the study yet, then print all of the study's trials, the best first.

    Meta-test is left alone: neither its images nor its episodes are read. Raises UserError; exits with 130 when the
    user stopped it (its checkpoint is written, the same command goes on).
    """
    require_format(format_)
    results, seed = launch.results, launch.seed
    if trials:
        Results(results).require_writable()
    for item in trials:
        path = Results(results).trial_path(name, item, seed)
        with held(path):
            if path.exists() and not launch.force:
                Companions(path).tidy()
                continue
            try:
                cache = ensure_ready(registry, item.spec.dataset, [episode_requests(item.spec)[0]], console)
                _run_one(name, item, Examples.of(registry, item.spec, cache), launch, path, console=console)
            except Diverged as error:  # a finding of the study; the other trials are none the worse
                title = item.spec.title(item.changed, seed)
                console.print(f"no trial of {title}: {error}", highlight=False, markup=False, soft_wrap=True)
    finished = [trial for _, trial in Results(results).scan_trials(name).sound()]
    if not finished:
        raise UserError(f"{results / 'studies' / name}: holds no trials; name methods, and values with --grid")
    print_text(render_trials(finished, format_, width=console.width), console)


def _run_one(name: str, item: Resolved, examples: Examples, launch: Launch, path: Path, *, console: Console) -> None:
    """Meta-train, and write the record of one trial to `path`."""
    with launched_run(item, examples, launch, Companions(path), console, "meta_val") as run:
        run.train()
        validation_hash = run.episode_hashes["meta_val"]
        write_record(path, TrialRecord.of(run.origin, run.course(), run.parameters, name, validation_hash))
