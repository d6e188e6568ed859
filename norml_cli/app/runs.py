"""Runs: one, several seeds, a grid, a table."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from norml_cli.app.options import (
    METHOD_IDS,
    TABLE_IDS,
    AtOnceOption,
    BenchmarkOption,
    CompileOption,
    DeterministicOption,
    DeviceOption,
    DryRunOption,
    ForceOption,
    FormatOption,
    MinutesOption,
    NameOption,
    OuterStepsOption,
    QuietOption,
    RegistryOption,
    ResultJsonOption,
    ResultsOption,
    RetriesOption,
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
    keys_of,
    methods_of,
    require_id,
    run_options_of,
    seeds_of,
    sweep_of,
    trials_of,
    with_outer_steps,
)
from norml_cli.terminal.output import Output
from norml_cli.terminal.usage import Command, SeveralCommand


@app.command(
    "run",
    cls=Command,
    rich_help_panel="Runs",
    epilog="norml run norml --benchmark glyphs-5way --outer-steps 200\n"
    "norml run maml-constant-lr --set first_order=true --name fomaml --seeds 0..2",
)
def run_command(
    methods: Annotated[
        list[str],
        typer.Argument(
            metavar="METHOD...",
            help="Methods, as in `norml list`, or .yaml files of your own.",
            autocompletion=METHOD_IDS,
        ),
    ],
    benchmark: BenchmarkOption = None,
    shots: ShotsOption = None,
    seeds: SeedsOption = ["0"],  # noqa: B006 - typer copies it
    name: NameOption = None,
    outer_steps: OuterStepsOption = None,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    deterministic: DeterministicOption = False,
    force: ForceOption = False,
    compile_: CompileOption = None,
    tensorboard: TensorboardOption = None,
    quiet: QuietOption = False,
    json: ResultJsonOption = False,
    results: ResultsOption = Path("results"),
    registry: RegistryOption = None,
) -> None:
    """Meta-train methods and test them.

    If you stop it, the same command goes on.
    """
    overrides, chosen = with_outer_steps(set_, outer_steps), seeds_of(seeds)
    require_id("--name", name)
    entries = entries_of(registry, methods)
    resolved = [entries.resolve(method, benchmark, shots, overrides) for method in methods_of(entries, methods)]
    from norml_cli.commands.runs.run import run  # after what needs no torch: fails fast
    from norml_cli.training.launch import Launch

    launch = Launch.of(chosen[0], device, results, force=force, threads=threads, deterministic=deterministic)
    launch = replace(launch, compiled=compile_, tensorboard=tensorboard, name=name)
    run(entries, resolved, launch.with_seeds(chosen), Output(quiet=quiet, as_json=json))


@app.command(
    "study",
    cls=Command,
    rich_help_panel="Runs",
    epilog="norml study rates norml --benchmark glyphs-5way --grid inner_lr=0.1,0.2\nnorml study rates",
)
def study_command(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A name that you choose: the folder below results/studies.")
    ],
    methods: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="METHOD...",
            help="Methods, as in `norml list`, or .yaml files. Default: print what the study holds.",
            autocompletion=METHOD_IDS,
        ),
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            "--grid",
            metavar="KEY=V1,V2",
            help="Values to try for a setting; repeat it to try all combinations. Default: none.",
            autocompletion=keys_of,
        ),
    ] = None,
    benchmark: BenchmarkOption = None,
    shots: ShotsOption = None,
    seeds: SeedsOption = ["0"],  # noqa: B006 - typer copies it
    outer_steps: OuterStepsOption = None,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
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
    """Try a grid of values on meta-validation alone.

    Without METHOD it prints what the study holds. If you stop it, the same command goes on. A second process takes the
    next free trial.
    """
    require_id("study", name)
    chosen, words = seeds_of(seeds), methods or []
    entries = entries_of(registry, words)
    known, overrides = methods_of(entries, words), with_outer_steps(set_, outer_steps)
    trials = trials_of(entries, known, benchmark, shots, grid_of(grid), overrides)
    output, format_ = Output(quiet=quiet, as_json=json), "json" if json else format_
    if not trials:
        from norml_cli.commands.runs.study import print_study

        print_study(name, results, format_=format_, console=output)
        return
    from norml_cli.commands.runs.study import study
    from norml_cli.training.launch import Launch

    launch = Launch.of(chosen[0], device, results, force=force, threads=threads, deterministic=deterministic)
    launch = replace(launch, compiled=compile_, tensorboard=tensorboard)
    study(name, entries, trials, launch.with_seeds(chosen), format_=format_, console=output)


@app.command(
    "sweep",
    cls=SeveralCommand,
    rich_help_panel="Runs",
    epilog="norml sweep norml maml-constant-lr --shots 1 5 --seeds 0 1 2\n"
    "norml sweep norml --set inner_lr=0.2 --dry-run",
)
def sweep_command(
    methods: Annotated[
        list[str], typer.Argument(metavar="METHOD...", help="Methods, as in `norml list`.", autocompletion=METHOD_IDS)
    ],
    benchmark: Annotated[
        list[str] | None,
        typer.Option(
            "--benchmark",
            metavar="ID",
            help="One or several benchmarks, as in `norml list`. Default: the method's own.",
            autocompletion=ids_of("benchmarks"),
        ),
    ] = None,
    shots: Annotated[
        list[int] | None,
        typer.Option(
            "--shots",
            metavar="K",
            help="Labelled examples of each class, one or several K. Default: the benchmark's first.",
        ),
    ] = None,
    seeds: SeedsOption = ["0"],  # noqa: B006 - typer copies it
    outer_steps: OuterStepsOption = None,
    set_: SetOption = None,
    at_once: AtOnceOption = "auto",
    minutes: MinutesOption = None,
    retries: RetriesOption = 1,
    dry_run: DryRunOption = False,
    source: SourceOption = None,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
    json: ResultJsonOption = False,
    results: ResultsOption = Path("results"),
    registry: RegistryOption = None,
) -> None:
    """Run methods on several benchmarks and seeds."""
    entries, overrides = entries_of(registry), with_outer_steps(set_, outer_steps)
    items = sweep_of(entries, methods, benchmark or [], shots or [], overrides)
    from norml_cli.commands.runs.reproduce import sweep
    from norml_cli.training.cells import Asked, at_once_of

    asked = Asked(results, seeds_of(seeds), registry, source, device, at_once_of(at_once), minutes, retries, dry_run)
    asked = replace(asked, run_options=run_options_of(set_, outer_steps))
    sys.exit(sweep(entries, items, asked, Output(quiet=quiet, as_json=json)))


@app.command(
    "reproduce",
    cls=SeveralCommand,
    rich_help_panel="Runs",
    epilog="norml reproduce table-glyphs --seeds 0..2\nnorml reproduce table-2 --at-once 2 --minutes 60",
)
def reproduce_command(
    table: Annotated[
        str, typer.Argument(metavar="TABLE", help="A table, as in `norml list`.", autocompletion=TABLE_IDS)
    ],
    seeds: SeedsOption = ["0"],  # noqa: B006 - typer copies it
    at_once: AtOnceOption = "auto",
    minutes: MinutesOption = None,
    retries: RetriesOption = 1,
    dry_run: DryRunOption = False,
    source: SourceOption = None,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
    json: ResultJsonOption = False,
    results: ResultsOption = Path("results"),
    registry: RegistryOption = None,
) -> None:
    """Make all runs of a table that are missing."""
    from norml_cli.commands.runs.reproduce import reproduce
    from norml_cli.training.cells import Asked, at_once_of

    asked = Asked(results, seeds_of(seeds), registry, source, device, at_once_of(at_once), minutes, retries, dry_run)
    output = Output(quiet=quiet, as_json=json)
    sys.exit(reproduce(entries_of(registry), table, asked, output))
