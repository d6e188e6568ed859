"""The command `norml run`: train and test one or several methods, one after the other."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from norml_cli.app.options import (
    METHOD_IDS,
    BenchmarkOption,
    CompileOption,
    DeterministicOption,
    DeviceOption,
    DevicesOption,
    ForceOption,
    NameOption,
    OuterStepsOption,
    QuietOption,
    RegistryOption,
    ResultJsonOption,
    ResultsOption,
    SeedsOption,
    SetOption,
    ShotsOption,
    TensorboardOption,
    ThreadsOption,
)
from norml_cli.app.typer_app import app
from norml_cli.arguments import entries_of, methods_of, require_id, seeds_of, with_outer_steps
from norml_cli.terminal.output import Output
from norml_cli.terminal.usage import Command


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
            help="Methods from `norml list`, or .yaml files of your own.",
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
    devices: DevicesOption = None,
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

    You may stop it with Ctrl-C: the same command resumes it.
    """
    from norml_cli.training.ranks.launching import on_devices

    with on_devices(devices, device) as ranks:
        overrides, chosen = with_outer_steps(set_, outer_steps), seeds_of(seeds)
        require_id("--name", name)
        entries = entries_of(registry, methods)
        resolved = [entries.resolve(method, benchmark, shots, overrides) for method in methods_of(entries, methods)]
        from norml_cli.commands.runs.run import run  # loads torch, so only after the checks above
        from norml_cli.training.launch import Launch

        own = ranks.device(device)
        launch = Launch.of(chosen[0], own, results, force=force, threads=threads, deterministic=deterministic)
        launch = replace(launch, compiled=compile_, tensorboard=tensorboard, name=name, ranks=ranks)
        run(entries, resolved, launch.with_seeds(chosen), Output(quiet=quiet, as_json=json))
