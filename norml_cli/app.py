"""The command line: parse, call one command, print its errors as one line. Nothing here computes."""

import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperCommand

from norml_cli import __version__
from norml_cli.arguments import (
    grid_of,
    ids_of,
    nameable,
    nameable_all,
    overrides_of,
    places_text,
    split_of,
    trials_of,
    with_outer_steps,
)
from norml_cli.files.errors import LONGEST_LINE, UserError, plain
from norml_cli.registry.protocol import ID_PATTERN
from norml_cli.registry.reading import KINDS, load_registry
from norml_cli.registry.resolving import Resolved
from norml_cli.terminal.output import Output
from norml_cli.terminal.standard_streams import guarded
from norml_cli.training.threads import spin_briefly

app = typer.Typer(
    name="norml",
    help="Benchmarks of NORML and its MAML baselines: prepare data, run methods, report the paper's tables.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)

METHOD_IDS, TABLE_IDS = ids_of("methods"), ids_of("tables")  # what the shell completes


RegistryOption = Annotated[
    Path | None,
    typer.Option(
        "--registry", metavar="DIR", callback=nameable, help="Folder with entries of your own (or NORML_REGISTRY)."
    ),
]
ResultsOption = Annotated[
    Path, typer.Option("--results", metavar="DIR", callback=nameable, help="Folder of the run records.")
]
BenchmarkOption = Annotated[
    str | None,
    typer.Option(
        "--benchmark", metavar="ID", help="Benchmark; default: the method's own.", autocompletion=ids_of("benchmarks")
    ),
]
ShotsOption = Annotated[int | None, typer.Option("--shots", help="K; default: the benchmark's first.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a protocol value.")]
SeedOption = Annotated[
    int, typer.Option("--seed", min=0, max=2**63 - 1, help="Of initial weights and training episodes.")
]
OuterStepsOption = Annotated[int | None, typer.Option("--outer-steps", min=0, help="A shorter or longer run.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Run again what is finished; drop what is begun.")]
CompileOption = Annotated[
    bool | None,
    typer.Option("--compile/--no-compile", help="Compile the outer step (a minute or more); default: if it pays."),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", metavar="N", min=1, max=1024, help="CPU threads; default: all where sizes pay, else 1."),
]
DeterministicOption = Annotated[
    bool, typer.Option("--deterministic", help="Only algorithms that give the same bits on a GPU, too; slower.")
]
RecordsArgument = Annotated[
    list[Path], typer.Argument(metavar="RECORD...", callback=nameable_all, help="Records: seed-N.json files.")
]
FormatOption = Annotated[str, typer.Option("--format", help="rich, markdown, latex, csv or json.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only (with --json: and the result).")]
ResultJsonOption = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON; progress goes to stderr, a JSON object a line.")
]
TensorboardOption = Annotated[
    Path | None, typer.Option("--tensorboard", metavar="DIR", help="Write TensorBoard's event files there, too.")
]


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it so
    if wanted:
        typer.echo(f"norml {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command("list")
def list_command(registry: RegistryOption = None, json: JsonOption = False) -> None:
    """List methods, benchmarks, data sets, recipes and tables."""
    from norml_cli.commands.list_ import list_entries

    list_entries(load_registry(registry), Console(), as_json=json)


@app.command("show")
def show_command(
    id_: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="A method, benchmark, data set, recipe or table.", autocompletion=ids_of(*KINDS)
        ),
    ],
    benchmark: BenchmarkOption = None,
    shots: ShotsOption = None,
    set_: SetOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Show an entry with its values resolved and the source of each."""
    from norml_cli.commands.show import show

    entries, overrides = load_registry(registry), overrides_of(set_)

    def resolve() -> Resolved:
        return entries.resolve(id_, benchmark, shots, overrides)

    show(entries, id_, Console(), resolve=resolve, as_json=json)


@app.command("validate")
def validate_command(
    path: Annotated[
        Path | None,
        typer.Argument(callback=nameable, help="Folder of entries, or one entry; default: the built-in."),
    ] = None,
    registry: RegistryOption = None,
) -> None:
    """Check every entry and build every model without its numbers."""
    from norml_cli.commands.validate import folder_to_validate, validate

    validate(load_registry(folder_to_validate(path) or registry), Console())


@app.command("prepare")
def prepare_command(
    dataset: Annotated[str, typer.Argument(help="Data set id, such as omniglot.", autocompletion=ids_of("datasets"))],
    source: Annotated[
        Path | None,
        typer.Option("--source", metavar="PATH", callback=nameable, help="Take the raw data from here; no download."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build the cache anew.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Recompute every checksum of the cache.")] = False,
    quiet: QuietOption = False,
    json: ResultJsonOption = False,
    registry: RegistryOption = None,
) -> None:
    """Turn a data set into its episode cache."""
    from norml_cli.commands.prepare import prepare

    output = Output(quiet=quiet, as_json=json)
    prepare(load_registry(registry), dataset, source=source, force=force, verify=verify, console=output)


@app.command("pretrain")
def pretrain_command(
    dataset: Annotated[str, typer.Argument(help="Data set id: mini-imagenet.", autocompletion=ids_of("datasets"))],
    recipe: Annotated[
        str,
        typer.Option("--recipe", metavar="ID", help="How: a recipe of the registry.", autocompletion=ids_of("recipes")),
    ],
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, max=1_000_000, help="A shorter or longer pretraining.")
    ] = None,
    width: Annotated[int | None, typer.Option("--width", min=1, max=8192, help="Channels of the first block.")] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    deterministic: DeterministicOption = False,
    force: ForceOption = False,
    verify: Annotated[bool, typer.Option("--verify", help="Recompute every checksum of the features.")] = False,
    quiet: QuietOption = False,
    json: ResultJsonOption = False,
    results: ResultsOption = Path("results"),
    registry: RegistryOption = None,
) -> None:
    """Pretrain a backbone on the meta-training classes; start again what was stopped and it goes on."""
    entries = load_registry(registry)
    from norml_cli.registry.recipes import resolve_recipe  # before torch: fails fast

    resolved = resolve_recipe(entries.recipe(recipe), entries.dataset(dataset), epochs=epochs, width=width)
    from norml_cli.commands.pretrain import pretrain, verify_features
    from norml_cli.training.launch import Launch

    output = Output(quiet=quiet, as_json=json)
    if verify:
        verify_features(entries, resolved, seed, output)
        return
    launch = Launch.of(seed, device, results, force=force, threads=threads, deterministic=deterministic)
    pretrain(entries, resolved, launch, output)


@app.command("run")
def run_command(
    methods: Annotated[list[str], typer.Argument(metavar="METHOD...", help="Method ids.", autocompletion=METHOD_IDS)],
    benchmark: BenchmarkOption = None,
    shots: ShotsOption = None,
    seed: SeedOption = 0,
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
    """Meta-train methods and test them; start again what was stopped and it goes on."""
    overrides = with_outer_steps(set_, outer_steps)
    entries = load_registry(registry)
    resolved = [entries.resolve(method, benchmark, shots, overrides) for method in methods]  # before torch: fails fast
    from norml_cli.commands.run import run
    from norml_cli.training.launch import Launch

    launch = Launch.of(seed, device, results, force=force, threads=threads, deterministic=deterministic)
    launch = replace(launch, compiled=compile_, tensorboard=tensorboard)
    run(entries, resolved, launch, Output(quiet=quiet, as_json=json))


@app.command("study")
def study_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The study: a folder under RESULTS/studies.")],
    methods: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="METHOD...", help="Method ids; none: print what the study holds.", autocompletion=METHOD_IDS
        ),
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option("--grid", metavar="KEY=V1,V2", help="Values to try; given several times, all combinations."),
    ] = None,
    benchmark: BenchmarkOption = None,
    shots: ShotsOption = None,
    seed: SeedOption = 0,
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
    """Try a grid of values, judged on meta-validation alone; start again what was stopped and it goes on."""
    if not re.fullmatch(ID_PATTERN, name):
        raise UserError(f"study {name!r}: must be made of a-z, 0-9 and single hyphens, such as inner-lr")
    entries = load_registry(registry)
    trials = trials_of(entries, methods or [], benchmark, shots, grid_of(grid), with_outer_steps(set_, outer_steps))
    from norml_cli.commands.study import study
    from norml_cli.training.launch import Launch

    launch = Launch.of(seed, device, results, force=force, threads=threads, deterministic=deterministic)
    launch = replace(launch, compiled=compile_, tensorboard=tensorboard)
    output = Output(quiet=quiet, as_json=json)
    study(entries, name, trials, launch, format_="json" if json else format_, console=output)


@app.command("status")
def status_command(results: ResultsOption = Path("results"), json: JsonOption = False) -> None:
    """List what is running, paused and finished, with progress and time left."""
    from norml_cli.commands.status import status

    status(results=results, console=Console(), as_json=json)


@app.command("inspect")
def inspect_command(
    record: Annotated[Path, typer.Argument(metavar="RECORD", help="A run's record, with its weights beside it.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where to write; default: a folder beside the record.")
    ] = None,
    episodes: Annotated[int, typer.Option("--episodes", min=2, help="Meta-validation episodes to look at.")] = 100,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
    json: ResultJsonOption = False,
    registry: RegistryOption = None,
) -> None:
    """Show what a trained meta-learner does: gates, effective rates, accuracy by inner step, the freeze test."""
    entries = load_registry(registry)
    from norml_cli.commands.inspect_ import inspect

    output = Output(quiet=quiet, as_json=json)
    inspect(entries, record, out=out, episodes=episodes, device=device, console=output)


@app.command("compare")
def compare_command(
    methods: Annotated[
        list[str] | None, typer.Argument(metavar="METHOD...", help="Two or more method ids.", autocompletion=METHOD_IDS)
    ] = None,
    all_: Annotated[
        str | None,
        typer.Option(
            "--all", metavar="TABLE", help="Every pair of a table's methods: table-2.", autocompletion=TABLE_IDS
        ),
    ] = None,
    benchmark: BenchmarkOption = None,
    shots: ShotsOption = None,
    format_: FormatOption = "rich",
    results: ResultsOption = Path("results"),
    registry: RegistryOption = None,
) -> None:
    """Compare methods on the same test episodes: paired differences, intervals and verdicts."""
    from norml_cli.commands.compare import Compared, compare_methods

    asked = Compared(methods or [], all_, benchmark, shots)
    options = places_text(results, registry)
    compare_methods(
        load_registry(registry), asked, format_=format_, results=results, console=Console(), options=options
    )


@app.command("verify")
def verify_command(
    records: RecordsArgument,
    device: DeviceOption = "auto",
    registry: RegistryOption = None,
) -> None:
    """Test the stored weights of runs again and hold each episode's correct answers against the record."""
    from norml_cli.results.store import read_record  # before torch: fails fast

    entries, found = load_registry(registry), [(path, read_record(path)) for path in records]
    from norml_cli.commands.verify import verify

    verify(entries, found, device=device, console=Output())


@app.command("evaluate")
def evaluate_command(
    records: RecordsArgument,
    set_: SetOption = None,
    shots: Annotated[int | None, typer.Option("--shots", min=1, max=1000, help="K; default: the run's.")] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(
            "--benchmark",
            metavar="ID",
            help="Take the episodes of another benchmark; default: the run's.",
            autocompletion=ids_of("benchmarks"),
        ),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="meta-val or meta-test.")] = "meta-test",
    device: DeviceOption = "auto",
    force: Annotated[bool, typer.Option("--force", help="Evaluate again what is finished.")] = False,
    quiet: QuietOption = False,
    json: ResultJsonOption = False,
    registry: RegistryOption = None,
) -> None:
    """Evaluate the trained weights of runs under another protocol: --set queries_per_class=15 --set rotations=none."""
    from norml_cli.registry.evaluating import evaluated
    from norml_cli.results.store import read_record

    entries, overrides, classes = load_registry(registry), overrides_of(set_), split_of(split)
    runs = [(path, read_record(path)) for path in records]
    place: dict[str, Any] = {"benchmark": benchmark, "shots": shots, "split": classes}
    specs = [evaluated(entries, run.spec, overrides, **place) for _, run in runs]
    from norml_cli.commands.evaluate import Wanted, evaluate  # after what fails fast: brings torch

    wanted = [Wanted(path, run, spec, classes) for (path, run), spec in zip(runs, specs, strict=True)]
    evaluate(entries, wanted, device=device, force=force, console=Output(quiet=quiet, as_json=json))


@app.command("export")
def export_command(
    records: RecordsArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", callback=nameable, help="A .safetensors file; default: beside the record."
        ),
    ] = None,
    quiet: QuietOption = False,
    json: ResultJsonOption = False,
    registry: RegistryOption = None,
) -> None:
    """Write the trained weights of runs for others: a safetensors file and a JSON card that says whose they are."""
    from norml_cli.results.store import read_record

    entries, runs = load_registry(registry), [(path, read_record(path)) for path in records]
    from norml_cli.commands.export import export

    export(entries, runs, out=out, console=Output(quiet=quiet, as_json=json))


@app.command("doctor")
def doctor_command(
    results: ResultsOption = Path("results"), registry: RegistryOption = None, json: JsonOption = False
) -> None:
    """Look at the installation, caches and results, and say what to do; exit code 1 if something must be done."""
    from norml_cli.commands.doctor import doctor

    sys.exit(doctor(registry, results, Console(), as_json=json))


class _ReportCommand(TyperCommand):
    """`--table` alone means every table; that an option's value may be left out is more than typer can say."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        pairs = zip(args, [*args, "--"][1:], strict=True)
        return super().parse_args(ctx, ["--table=every" if a == "--table" and b[:1] == "-" else a for a, b in pairs])


@app.command("report", cls=_ReportCommand)
def report_command(
    methods: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="METHOD...",
            help="With --protocols: these methods, the first as the reference.",
            autocompletion=METHOD_IDS,
        ),
    ] = None,
    table: Annotated[
        str | None,
        typer.Option(
            "--table",
            metavar="[ID]",
            help="A table of the paper, as table-2; without ID, every one that has runs.",
            autocompletion=TABLE_IDS,
        ),
    ] = None,
    protocols: Annotated[
        bool, typer.Option("--protocols", help="Trained weights under the protocols of `norml evaluate`, paired.")
    ] = False,
    format_: FormatOption = "rich",
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            callback=nameable,
            help="Write one self-contained page instead: tables, pictures, cost, where each cell is from.",
        ),
    ] = None,
    results: ResultsOption = Path("results"),
    registry: RegistryOption = None,
) -> None:
    """Print a table of the paper beside our numbers; without --table, the runs at hand."""
    from norml_cli.commands.report import report, report_html, report_protocols

    if methods and not protocols:
        raise UserError(f"report {plain(methods[0])}: methods are named with --protocols; a table with --table")
    if protocols and (table is not None or html is not None):
        raise UserError("--protocols: leave out --table and --html, whose page shows the protocols, too")
    entries, console, options = load_registry(registry), Console(), places_text(results, registry)
    if protocols:
        report_protocols(entries, methods or [], format_=format_, results=results, console=console)
        return
    if html is None:
        report(entries, table_id=table, format_=format_, results=results, console=console, options=options)
        return
    if format_ != "rich":
        raise UserError("--html: is a format of its own; leave out --format")
    report_html(entries, table_id=table, out=html, results=results, console=console, options=options)


def main() -> None:
    """Run the command line; a UserError becomes its line on stderr and exit code 2."""
    spin_briefly()
    os.environ["MPLBACKEND"] = "agg"  # pictures are only written; a notebook exports a backend that only it can load
    if os.environ.get("COLUMNS") == "0":  # says "unknown"; rich would print nothing
        del os.environ["COLUMNS"]
    with guarded():
        try:
            app()
        except UserError as error:
            for line in str(error).splitlines():
                typer.echo(f"error: {plain(line, LONGEST_LINE)}", err=True)
            sys.exit(2)
