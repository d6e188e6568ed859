"""The commands that start many runs (study, sweep, reproduce), on this machine, on Ray or on Slurm."""

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from norml_cli.app.options import (
    METHOD_IDS,
    TABLE_IDS,
    AddressOption,
    AtOnceOption,
    BenchmarkOption,
    CompileOption,
    DeterministicOption,
    DeviceOption,
    DryRunOption,
    FetchOption,
    ForceOption,
    FormatOption,
    GpusOption,
    GridOption,
    MinutesOption,
    OnOption,
    OuterStepsOption,
    QuietOption,
    RegistryOption,
    ResultJsonOption,
    ResultsOption,
    RetriesOption,
    SbatchOption,
    SeedsOption,
    SetOption,
    ShotsOption,
    SourceOption,
    TensorboardOption,
    ThreadsOption,
)
from norml_cli.app.typer_app import app
from norml_cli.arguments import (
    entries_of,
    grid_of,
    ids_of,
    items_of,
    methods_of,
    require_id,
    seeds_of,
    training_options_of,
    with_outer_steps,
    words_of,
)
from norml_cli.terminal.output import Output
from norml_cli.terminal.usage import Command, SeveralCommand

if TYPE_CHECKING:
    from norml_cli.sweeps.cells import Where


def _where(on: str, at_once: str, gpus: float | None, address: str | None, sbatch: str, *, fetch: bool) -> "Where":
    from norml_cli.sweeps.cells import Where, at_once_of

    return Where(on, at_once_of(at_once), gpus, address, fetch, tuple(shlex.split(sbatch)))


@app.command(
    "study",
    cls=Command,
    rich_help_panel="Runs",
    epilog="norml study rates norml --benchmark glyphs-5way --grid inner_lr=0.1,0.2\nnorml study rates",
)
def study_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name of your choice: the folder in results/studies.")],
    methods: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="METHOD...",
            help="Methods from `norml list`, or .yaml files of your own. Default: print the finished trials.",
            autocompletion=METHOD_IDS,
        ),
    ] = None,
    grid: GridOption = None,
    benchmark: BenchmarkOption = None,
    shots: ShotsOption = None,
    seeds: SeedsOption = ["0"],  # noqa: B006 - typer copies it
    outer_steps: OuterStepsOption = None,
    set_: SetOption = None,
    on: OnOption = "here",
    at_once: AtOnceOption = "auto",
    minutes: MinutesOption = None,
    retries: RetriesOption = 1,
    dry_run: DryRunOption = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    gpus: GpusOption = None,
    address: AddressOption = None,
    fetch: FetchOption = False,
    sbatch: SbatchOption = "",
    deterministic: DeterministicOption = False,
    force: ForceOption = False,
    compile_: CompileOption = None,
    tensorboard: TensorboardOption = None,
    quiet: QuietOption = False,
    json: ResultJsonOption = False,
    format_: FormatOption = "rich",
    results: ResultsOption = Path("results"),
    registry: RegistryOption = None,
) -> None:
    """Search a grid of settings, using meta-validation only.

    Without METHOD it prints the finished trials. You may stop it with Ctrl-C: the same command resumes it. If you start
    it twice, both processes share the trials.
    """
    require_id("study", name)
    chosen, words = seeds_of(seeds), methods or []
    entries = entries_of(registry, words)
    known, overrides = methods_of(entries, words), with_outer_steps(set_, outer_steps)
    places = [benchmark] if benchmark is not None else [], [shots] if shots is not None else []
    trials = items_of(entries, known, *places, grid_of(grid), overrides)
    output, format_ = Output(quiet=quiet, as_json=json), "json" if json else format_
    from norml_cli.commands.runs.study import is_one_by_one, print_study, study, sweep_trials
    from norml_cli.sweeps.cells import Asked

    if not trials:
        print_study(name, results, format_=format_, console=output)
        return
    asked = Asked(
        results,
        chosen,
        registry=registry,
        device=device,
        threads=threads,
        minutes=minutes,
        retries=retries,
        dry_run=dry_run,
        options=training_options_of(compile_, tensorboard, deterministic=deterministic),
        words=words_of(entries, words),
        where=_where(on, at_once, gpus, address, sbatch, fetch=fetch),
    )
    if not is_one_by_one(asked, len(trials) * len(chosen), force=force):
        sys.exit(sweep_trials(name, entries, trials, asked, format_=format_, console=output))
    from norml_cli.training.launch import Launch

    launch = Launch.of(chosen[0], device, results, force=force, threads=threads, deterministic=deterministic)
    launch = replace(launch, compiled=compile_, tensorboard=tensorboard)
    study(name, entries, trials, launch.with_seeds(chosen), format_=format_, console=output)


@app.command(
    "sweep",
    cls=SeveralCommand,
    rich_help_panel="Runs",
    epilog="norml sweep norml maml-constant-lr --shots 1 5 --seeds 0 1 2\n"
    "norml sweep norml --grid inner_lr=0.1,0.2 --on ray --dry-run",
)
def sweep_command(
    methods: Annotated[
        list[str],
        typer.Argument(
            metavar="METHOD...",
            help="Methods from `norml list`, or .yaml files of your own.",
            autocompletion=METHOD_IDS,
        ),
    ],
    benchmark: Annotated[
        list[str] | None,
        typer.Option(
            "--benchmark",
            metavar="ID",
            help="One or several benchmarks from `norml list`. Default: the method's.",
            autocompletion=ids_of("benchmarks"),
        ),
    ] = None,
    shots: Annotated[
        list[int] | None,
        typer.Option(
            "--shots",
            metavar="K",
            help="Labelled examples of each class; one or several numbers. Default: the benchmark's first value.",
        ),
    ] = None,
    seeds: SeedsOption = ["0"],  # noqa: B006 - typer copies it
    grid: GridOption = None,
    outer_steps: OuterStepsOption = None,
    set_: SetOption = None,
    on: OnOption = "here",
    at_once: AtOnceOption = "auto",
    minutes: MinutesOption = None,
    retries: RetriesOption = 1,
    dry_run: DryRunOption = False,
    source: SourceOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    gpus: GpusOption = None,
    address: AddressOption = None,
    fetch: FetchOption = False,
    sbatch: SbatchOption = "",
    quiet: QuietOption = False,
    json: ResultJsonOption = False,
    results: ResultsOption = Path("results"),
    registry: RegistryOption = None,
) -> None:
    """Run methods on several benchmarks, shots, seeds and settings.

    Runs of a --grid are stored as METHOD+VALUES. You may stop it with Ctrl-C: the same command resumes it.
    """
    entries = entries_of(registry, methods)
    overrides, known = with_outer_steps(set_, outer_steps), methods_of(entries, methods)
    items = items_of(entries, known, benchmark or [], shots or [], grid_of(grid), overrides)
    from norml_cli.commands.runs.sweep import sweep
    from norml_cli.sweeps.cells import Asked

    asked = Asked(
        results,
        seeds_of(seeds),
        registry=registry,
        source=source,
        device=device,
        threads=threads,
        minutes=minutes,
        retries=retries,
        dry_run=dry_run,
        words=words_of(entries, methods),
        where=_where(on, at_once, gpus, address, sbatch, fetch=fetch),
    )
    sys.exit(sweep(entries, items, asked, Output(quiet=quiet, as_json=json)))


@app.command(
    "reproduce",
    cls=SeveralCommand,
    rich_help_panel="Runs",
    epilog="norml reproduce table-glyphs --seeds 0..2\nnorml reproduce table-2 --at-once 2 --minutes 60",
)
def reproduce_command(
    table: Annotated[
        str,
        typer.Argument(metavar="TABLE", help="A table from `norml list`, such as table-2.", autocompletion=TABLE_IDS),
    ],
    seeds: SeedsOption = ["0"],  # noqa: B006 - typer copies it
    on: OnOption = "here",
    at_once: AtOnceOption = "auto",
    minutes: MinutesOption = None,
    retries: RetriesOption = 1,
    dry_run: DryRunOption = False,
    source: SourceOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    gpus: GpusOption = None,
    address: AddressOption = None,
    fetch: FetchOption = False,
    sbatch: SbatchOption = "",
    quiet: QuietOption = False,
    json: ResultJsonOption = False,
    results: ResultsOption = Path("results"),
    registry: RegistryOption = None,
) -> None:
    """Run everything that is missing from a table."""
    from norml_cli.commands.runs.reproduce import reproduce
    from norml_cli.sweeps.cells import Asked

    asked = Asked(
        results,
        seeds_of(seeds),
        registry=registry,
        source=source,
        device=device,
        threads=threads,
        minutes=minutes,
        retries=retries,
        dry_run=dry_run,
        where=_where(on, at_once, gpus, address, sbatch, fetch=fetch),
    )
    sys.exit(reproduce(entries_of(registry), table, asked, Output(quiet=quiet, as_json=json)))
