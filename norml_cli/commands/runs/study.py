"""`norml study`: meta-train over a grid of settings, and compare on meta-validation only."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from norml_cli.files.companions import Companions
from norml_cli.files.errors import UserError, counted
from norml_cli.files.locks import Busy, held
from norml_cli.registry.resolving import Registry, Resolved
from norml_cli.reporting.formats import require_format
from norml_cli.reporting.lists import render_trials
from norml_cli.results.missing import plan_trials
from norml_cli.results.records import TrialRecord
from norml_cli.results.store import Results, write_record
from norml_cli.sweeps.cells import Asked
from norml_cli.sweeps.here import as_many_as_pay
from norml_cli.sweeps.sweep import carry_out
from norml_cli.terminal.output import Output, name_left_out, print_line, print_text
from norml_cli.terminal.status_files import find_unfinished

if TYPE_CHECKING:
    from norml_cli.training.launch import Launch  # loads torch; printing a study does not need it


def print_study(name: str, results: Path, *, format_: str, console: Console) -> None:
    """Print the study's finished trials, the best first. Names damaged ones.

    Raises UserError if the study has no trials, or only damaged ones.
    """
    require_format(format_)
    store = Results(results)
    scan, folder = store.scan_trials(name), store.study_folder(name)
    finished = [trial for _, trial in scan.records or scan.sound()]  # raises if all are damaged
    unfinished = len(find_unfinished(folder)[0])
    if not finished and not unfinished:
        raise UserError(f"{folder}: no trials yet; name methods, and values with --grid")
    if unfinished and format_ == "rich":
        said = f"{counted(unfinished, 'unfinished trial')}; `norml status` shows their progress"
        print_line(f"{name}: {said}", console)
    if finished or format_ != "rich":
        print_text(render_trials(finished, format_, width=console.width), console)
    name_left_out(scan.faults)


def is_one_by_one(asked: Asked, n_trials: int, *, force: bool) -> bool:
    """Whether this process runs the trials, one after the other. Raises UserError if `force` is given otherwise."""
    chosen = asked.where.at_once
    if force and not (asked.is_here and chosen in {None, 1}):
        raise UserError("--force: runs trials one after the other on this machine; leave out --at-once and --on")
    if not asked.is_here or asked.dry_run or asked.minutes is not None:
        return False
    return force or n_trials == 1 or (as_many_as_pay(asked) if chosen is None else chosen) == 1


def sweep_trials(
    name: str, registry: Registry, trials: list[Resolved], asked: Asked, *, format_: str, console: Output
) -> int:
    """Run each trial without a record in a process of its own, then print the study. Returns the exit code.

    A trial that diverges is a result, not a failure. Raises UserError before anything starts.
    """
    require_format(format_)
    plan = plan_trials(Results(asked.results), name, trials, asked.seeds)
    outcome = carry_out(registry, name, plan, asked, console)
    if asked.dry_run:
        console.result(outcome.result)
    elif outcome.code == 0:
        print_study(name, asked.results, format_=format_, console=console)
    return outcome.code


def study(
    name: str,
    registry: Registry,
    trials: list[Resolved],
    launches: "list[Launch]",
    *,
    format_: str,
    console: Output,
) -> None:
    """Run each trial without a record, one after the other, then print all trials of the study.

    It skips trials that another process is running. It never reads meta-test images or episodes. Raises UserError.
    Exits with 130 if the user stops it, after writing a checkpoint.
    """
    require_format(format_)
    for launch in launches:
        Results(launch.results).require_writable()
        for item in trials:
            _run_unless_there(name, registry, item, launch, console)
    print_study(name, launches[0].results, format_=format_, console=console)


def _run_unless_there(name: str, registry: Registry, item: Resolved, launch: "Launch", console: Output) -> None:
    """Run one trial, unless it has a record. If it is skipped or diverges, say why."""
    from norml_cli.training.divergence import Diverged  # noqa: PLC0415 - torch

    path = Results(launch.results).trial_path(name, item, launch.seed)
    title = item.spec.title(dict.fromkeys([*item.changed, *item.varied]), launch.seed)
    try:
        with held(path):
            if path.exists() and not launch.force:
                Companions(path).tidy()
            else:
                _run(registry, name, item, launch, path=path, console=console)
    except Diverged as error:  # a result of the study; the other trials go on
        print_line(f"no trial of {title}: {error}", console)
    except Busy:
        print_line(f"{title}: skipped, another process is running it", console)


def _run(registry: Registry, name: str, item: Resolved, launch: "Launch", *, path: Path, console: Output) -> None:
    """Meta-train, and write the record of one trial to `path`."""
    from norml_cli.data.examples import Examples  # noqa: PLC0415 - torch
    from norml_cli.data.fixed_episodes import episode_requests  # noqa: PLC0415
    from norml_cli.data.preparing import ensure_ready  # noqa: PLC0415
    from norml_cli.training.launch import launched_run  # noqa: PLC0415

    cache = ensure_ready(registry, item.spec.dataset, [episode_requests(item.spec)[0]], console)
    examples = Examples.of(registry, item.spec, cache)
    with launched_run(item, examples, launch, Companions(path), console, "meta_val") as run:
        run.train()
        validation_hash, correct = run.episode_hashes["meta_val"], run.state.best_correct
        of_run = TrialRecord.of(
            run.origin, run.course(), run.parameters, study=name, validation_hash=validation_hash, correct=correct
        )
        write_record(path, of_run)
