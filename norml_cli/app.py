"""The command line: parse, call one command, print its errors as one line. Nothing here computes."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from norml_cli import __version__
from norml_cli.arguments import (
    entries_of,
    format_of,
    grid_of,
    ids_of,
    keys_of,
    methods_of,
    nameable,
    nameable_all,
    one_of,
    one_seed_of,
    overrides_of,
    places_text,
    precision_of,
    require_id,
    run_options_of,
    seeds_of,
    split_of,
    sweep_of,
    trials_of,
    with_outer_steps,
)
from norml_cli.files.errors import LONGEST_LINE, UserError, plain
from norml_cli.registry.reading import KINDS, load_registry
from norml_cli.registry.resolving import Resolved
from norml_cli.terminal.output import Output
from norml_cli.terminal.standard_streams import guarded
from norml_cli.terminal.usage import Command, ReportCommand, SeveralCommand
from norml_cli.threads import spin_briefly

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
        "--registry",
        metavar="PATH",
        callback=nameable,
        help="Folder of your own entries, or one entry's .yaml file. Default: NORML_REGISTRY, if it is set.",
    ),
]
ResultsOption = Annotated[
    Path,
    typer.Option("--results", metavar="DIR", callback=nameable, help="Folder of the records. Default: results."),
]
BenchmarkOption = Annotated[
    str | None,
    typer.Option(
        "--benchmark",
        metavar="ID",
        help="Benchmark, as in `norml list`. Default: the method's own.",
        autocompletion=ids_of("benchmarks"),
    ),
]
ShotsOption = Annotated[
    int | None,
    typer.Option("--shots", metavar="K", help="Labelled examples a class. Default: the benchmark's first number."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a value of the run; may be repeated. Lists: hidden_sizes=[64,64]. Default: as declared.",
        autocompletion=keys_of,
    ),
]
SeedsOption = Annotated[
    list[str],
    typer.Option(
        "--seeds",
        "--seed",
        metavar="N",
        help="Seed of initial weights and training episodes, or several: 0,1,2 or 0..2. Default: 0.",
    ),
]
SeedOption = Annotated[
    str, typer.Option("--seed", metavar="N", help="Seed of initial weights and training batches. Default: 0.")
]
OuterStepsOption = Annotated[
    int | None,
    typer.Option(
        "--outer-steps", metavar="N", min=0, help="Length of meta-training, in outer steps. Default: as declared."
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME",
        help="auto, cpu, cuda or cuda:N. Default: auto, the first GPU if there is one.",
        autocompletion=one_of("auto", "cpu", "cuda"),
    ),
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Discard existing results and checkpoints and run again. Default: keep them.")
]
CompileOption = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile", help="Compile the outer step, a minute or more. Default: if the run is long."
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads", metavar="N", min=1, max=1024, help="CPU threads. Default: all where sizes are large, else 1."
    ),
]
PrecisionOption = Annotated[
    str | None,
    typer.Option(
        "--precision",
        metavar="NAME",
        help="auto, float32 or bfloat16; auto takes the faster one. Default: as declared.",
        autocompletion=one_of("auto", "float32", "bfloat16"),
    ),
]
DeterministicOption = Annotated[
    bool,
    typer.Option("--deterministic", help="Give the same bits on a GPU every time, more slowly. Default: off."),
]
FormatOption = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="NAME",
        help="rich, markdown, latex, csv or json. Default: rich.",
        autocompletion=one_of("rich", "markdown", "latex", "csv", "json"),
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts. Default: text for people.")]
FormatJsonOption = Annotated[bool, typer.Option("--json", help="The same as --format json.")]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print errors only (with --json: and the result). Default: off.")
]
RecordsArgument = Annotated[
    list[Path], typer.Argument(metavar="RECORD...", callback=nameable_all, help="Records: seed-N.json files.")
]
ResultJsonOption = Annotated[
    bool,
    typer.Option(
        "--json", help="Print the result as JSON, and progress to stderr, a JSON object a line. Default: off."
    ),
]
AtOnceOption = Annotated[
    str,
    typer.Option("--at-once", metavar="N", help="Runs side by side; auto: as many as there are CPU cores and memory."),
]
MinutesOption = Annotated[
    float | None,
    typer.Option("--minutes", metavar="M", min=0, help="Stop after so many; the same command goes on (exit code 75)."),
]
RetriesOption = Annotated[
    int, typer.Option("--retries", metavar="N", min=0, max=100, help="Begin a run that fails so many times again.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print what is missing and the time it may take; stop.")]
SourceOption = Annotated[
    Path | None,
    typer.Option(
        "--source", metavar="PATH", callback=nameable, help="Raw data, in any form that `norml prepare` reads."
    ),
]
TensorboardOption = Annotated[
    Path | None,
    typer.Option("--tensorboard", metavar="DIR", help="Also write TensorBoard's event files there. Default: none."),
]
NameOption = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="NAME",
        help="Keep the run as METHOD+NAME beside others of its method: fomaml. Default: as METHOD.",
    ),
]


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it so
    if wanted:
        typer.echo(f"norml {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command("list", cls=Command, epilog="norml list\nnorml list --json")
def list_command(registry: RegistryOption = None, json: JsonOption = False) -> None:
    """List methods, benchmarks, data sets, recipes and tables."""
    from norml_cli.commands.list_ import list_entries

    list_entries(entries_of(registry), Console(), as_json=json)


@app.command("show", cls=Command, epilog="norml show norml --shots 5\nnorml show omniglot-20way")
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
    """Show an entry, each value with its source."""
    from norml_cli.commands.show import show

    entries, overrides = entries_of(registry), overrides_of(set_)

    def resolve() -> Resolved:
        return entries.resolve(id_, benchmark, shots, overrides)

    show(entries, id_, Console(), resolve=resolve, as_json=json)


@app.command("validate", cls=Command, epilog=("norml validate mine\nnorml validate mine/methods/fomaml.yaml\n"))
def validate_command(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="PATH",
            callback=nameable,
            help="Folder of entries, or one entry's file. Default: the built-in ones.",
        ),
    ] = None,
    registry: RegistryOption = None,
) -> None:
    """Check every entry and build every model, without training."""
    from norml_cli.commands.validate import folder_to_validate, validate

    validate(load_registry(folder_to_validate(path) or registry), Console())


@app.command(
    "prepare", cls=Command, epilog="norml prepare omniglot\nnorml prepare mini-imagenet --source mini-imagenet.zip"
)
def prepare_command(
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET", help="Data set id, such as omniglot.", autocompletion=ids_of("datasets"))
    ],
    source: Annotated[
        Path | None,
        typer.Option(
            "--source",
            metavar="PATH",
            callback=nameable,
            help="Read the raw data from here. Default: download it, where that is allowed.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Build the cache again. Default: keep one that is up to date.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Recompute every checksum of the cache. Default: off.")
    ] = False,
    quiet: QuietOption = False,
    json: ResultJsonOption = False,
    registry: RegistryOption = None,
) -> None:
    """Turn a data set into its cache of images and episodes."""
    from norml_cli.commands.prepare import prepare

    output = Output(quiet=quiet, as_json=json)
    prepare(entries_of(registry), dataset, source=source, force=force, verify=verify, console=output)


@app.command(
    "pretrain",
    cls=Command,
    epilog="norml pretrain mini-imagenet --recipe resnet12-narrow\n"
    "norml pretrain mini-imagenet --recipe resnet12-narrow --epochs 1",
)
def pretrain_command(
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET", help="Data set id: mini-imagenet.", autocompletion=ids_of("datasets"))
    ],
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe", metavar="ID", help="Recipe, as in `norml list`. Required.", autocompletion=ids_of("recipes")
        ),
    ],
    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs", metavar="N", min=1, max=1_000_000, help="Passes over the training images. Default: as declared."
        ),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(
            "--width", metavar="W", min=1, max=8192, help="Channels of the first block. Default: as declared."
        ),
    ] = None,
    precision: PrecisionOption = None,
    seed: SeedOption = "0",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    deterministic: DeterministicOption = False,
    force: ForceOption = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Recompute every checksum of the features. Default: off.")
    ] = False,
    quiet: QuietOption = False,
    json: ResultJsonOption = False,
    results: ResultsOption = Path("results"),
    registry: RegistryOption = None,
) -> None:
    """Pretrain a backbone and keep its features.

    It learns the meta-training classes. If you stop it, the same command goes on. With --epochs or --width it is
    another pretraining; its end says how a run takes its features (--set backbone_epochs=N, backbone_width=W).
    """
    entries, seed_number = entries_of(registry), one_seed_of(seed)
    from norml_cli.registry.recipes import resolve_recipe  # before torch: fails fast

    of_recipe, of_dataset = entries.recipe(recipe), entries.dataset(dataset)
    resolved = resolve_recipe(of_recipe, of_dataset, epochs=epochs, width=width, precision=precision_of(precision))
    from norml_cli.commands.pretrain import pretrain, verify_features
    from norml_cli.training.launch import Launch

    output = Output(quiet=quiet, as_json=json)
    if verify:
        verify_features(entries, resolved, seed_number, output)
        return
    launch = Launch.of(seed_number, device, results, force=force, threads=threads, deterministic=deterministic)
    pretrain(entries, resolved, launch, output)


@app.command(
    "run",
    cls=Command,
    epilog="norml run norml --benchmark glyphs-5way --outer-steps 200\n"
    "norml run maml-constant-lr --set first_order=true --name fomaml --seeds 0..2",
)
def run_command(
    methods: Annotated[
        list[str],
        typer.Argument(metavar="METHOD...", help="Method ids, or .yaml files of your own.", autocompletion=METHOD_IDS),
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
    from norml_cli.commands.run import run  # after what needs no torch: fails fast
    from norml_cli.training.launch import Launch

    launch = Launch.of(chosen[0], device, results, force=force, threads=threads, deterministic=deterministic)
    launch = replace(launch, compiled=compile_, tensorboard=tensorboard, name=name)
    run(entries, resolved, launch.with_seeds(chosen), Output(quiet=quiet, as_json=json))


@app.command(
    "study",
    cls=Command,
    epilog="norml study rates norml --benchmark glyphs-5way --grid inner_lr=0.1,0.2\nnorml study rates",
)
def study_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the study: a folder of results/studies.")],
    methods: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="METHOD...",
            help="Method ids, or .yaml files. Default: print what the study holds.",
            autocompletion=METHOD_IDS,
        ),
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            "--grid",
            metavar="KEY=V1,V2",
            help="Values to try; repeated: all combinations. Default: none.",
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

    Without METHOD it prints what the study holds. If you stop it, the same command goes on; a second one takes the next
    free trial.
    """
    require_id("study", name)
    chosen, words = seeds_of(seeds), methods or []
    entries = entries_of(registry, words)
    known, overrides = methods_of(entries, words), with_outer_steps(set_, outer_steps)
    trials = trials_of(entries, known, benchmark, shots, grid_of(grid), overrides)
    output, format_ = Output(quiet=quiet, as_json=json), "json" if json else format_
    if not trials:
        from norml_cli.commands.study import print_study

        print_study(name, results, format_=format_, console=output)
        return
    from norml_cli.commands.study import study
    from norml_cli.training.launch import Launch

    launch = Launch.of(chosen[0], device, results, force=force, threads=threads, deterministic=deterministic)
    launch = replace(launch, compiled=compile_, tensorboard=tensorboard)
    study(name, entries, trials, launch.with_seeds(chosen), format_=format_, console=output)


@app.command(
    "reproduce",
    cls=SeveralCommand,
    epilog="norml reproduce table-glyphs --seeds 0..2\nnorml reproduce table-2 --at-once 2 --minutes 60",
)
def reproduce_command(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="A table's id.", autocompletion=TABLE_IDS)],
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
    from norml_cli.commands.reproduce import reproduce
    from norml_cli.training.cells import Asked, at_once_of

    asked = Asked(results, seeds_of(seeds), registry, source, device, at_once_of(at_once), minutes, retries, dry_run)
    output = Output(quiet=quiet, as_json=json)
    sys.exit(reproduce(entries_of(registry), table, asked, output))


@app.command(
    "sweep",
    cls=SeveralCommand,
    epilog="norml sweep norml maml-constant-lr --benchmark glyphs-5way --shots 1 5 --seeds 0 1 2\n"
    "norml sweep norml --set inner_lr=0.2 --dry-run",
)
def sweep_command(
    methods: Annotated[list[str], typer.Argument(metavar="METHOD...", help="Method ids.", autocompletion=METHOD_IDS)],
    benchmark: Annotated[
        list[str] | None,
        typer.Option(
            "--benchmark",
            metavar="ID",
            help="Benchmarks, one or several; default: the method's own.",
            autocompletion=ids_of("benchmarks"),
        ),
    ] = None,
    shots: Annotated[
        list[int] | None, typer.Option("--shots", metavar="K", help="One or several K; default: the benchmark's first.")
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
    from norml_cli.commands.sweep import sweep
    from norml_cli.training.cells import Asked, at_once_of

    asked = Asked(results, seeds_of(seeds), registry, source, device, at_once_of(at_once), minutes, retries, dry_run)
    asked = replace(asked, run_options=run_options_of(set_, outer_steps))
    sys.exit(sweep(entries, items, asked, Output(quiet=quiet, as_json=json)))


@app.command("status", cls=Command, epilog="norml status\nnorml status --results out --json")
def status_command(results: ResultsOption = Path("results"), json: JsonOption = False) -> None:
    """List what is running, paused and finished."""
    from norml_cli.commands.status import status

    status(results=results, console=Console(), as_json=json)


@app.command("inspect", cls=Command, epilog="norml inspect results/glyphs-5way/1-shot/norml/seed-0.json")
def inspect_command(
    record: Annotated[Path, typer.Argument(metavar="RECORD", help="A run's record, with its weights beside it.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder to write to. Default: one beside the record.")
    ] = None,
    episodes: Annotated[
        int, typer.Option("--episodes", metavar="N", min=2, help="Meta-validation episodes to use. Default: 100.")
    ] = 100,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
    json: ResultJsonOption = False,
    registry: RegistryOption = None,
) -> None:
    """Show what a trained meta-learner does while it adapts.

    Gates, effective rates, accuracy by inner step and the freeze test, as CSV, JSON, PNG and SVG.
    """
    entries = entries_of(registry)
    from norml_cli.commands.inspect_ import inspect

    output = Output(quiet=quiet, as_json=json)
    inspect(entries, record, out=out, episodes=episodes, device=device, console=output)


@app.command(
    "compare",
    cls=Command,
    epilog="norml compare norml maml-constant-lr --benchmark glyphs-5way\nnorml compare --all table-2",
)
def compare_command(
    methods: Annotated[
        list[str] | None,
        typer.Argument(metavar="METHOD...", help="Two or more methods, or METHOD+NAME.", autocompletion=METHOD_IDS),
    ] = None,
    all_: Annotated[
        str | None,
        typer.Option(
            "--all",
            metavar="TABLE",
            help="Every pair of the methods of this table. Default: METHOD...",
            autocompletion=TABLE_IDS,
        ),
    ] = None,
    benchmark: BenchmarkOption = None,
    shots: ShotsOption = None,
    format_: FormatOption = "rich",
    json: FormatJsonOption = False,
    results: ResultsOption = Path("results"),
    registry: RegistryOption = None,
) -> None:
    """Compare methods on the same test episodes.

    Paired differences with intervals and verdicts, for every pair of methods. A run with a name is METHOD+NAME.
    """
    from norml_cli.commands.compare import Compared, compare_methods

    entries = entries_of(registry, methods or [])
    asked = Compared(methods_of(entries, methods or []), all_, benchmark, shots)
    options, format_name = places_text(results, registry), format_of(format_, as_json=json)
    compare_methods(entries, asked, format_=format_name, results=results, console=Console(), options=options)


@app.command("verify", cls=Command, epilog="norml verify results/glyphs-5way/1-shot/norml/seed-0.json")
def verify_command(
    records: RecordsArgument,
    device: DeviceOption = "auto",
    registry: RegistryOption = None,
) -> None:
    """Test stored weights again and compare with the record.

    Each episode's correct answers must be those of the record.
    """
    from norml_cli.results.store import read_record  # before torch: fails fast

    entries, found = entries_of(registry), [(path, read_record(path)) for path in records]
    from norml_cli.commands.verify import verify

    verify(entries, found, device=device, console=Output())


@app.command(
    "evaluate",
    cls=Command,
    epilog="norml evaluate results/glyphs-5way/1-shot/norml/seed-0.json --set queries_per_class=15",
)
def evaluate_command(
    records: RecordsArgument,
    set_: SetOption = None,
    shots: Annotated[
        int | None,
        typer.Option("--shots", min=1, max=1000, metavar="K", help="Support examples a class. Default: the run's."),
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(
            "--benchmark",
            metavar="ID",
            help="Take the episodes of this benchmark. Default: the run's.",
            autocompletion=ids_of("benchmarks"),
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            "--split",
            metavar="NAME",
            help="meta-val or meta-test. Default: meta-test.",
            autocompletion=one_of("meta-val", "meta-test"),
        ),
    ] = "meta-test",
    device: DeviceOption = "auto",
    force: Annotated[bool, typer.Option("--force", help="Evaluate again what is finished. Default: off.")] = False,
    quiet: QuietOption = False,
    json: ResultJsonOption = False,
    registry: RegistryOption = None,
) -> None:
    """Evaluate trained weights under another protocol.

    Each result is a record of its own beside the run's; one that is finished is printed.
    """
    from norml_cli.registry.evaluating import evaluated
    from norml_cli.results.store import read_record

    entries, overrides, classes = entries_of(registry), overrides_of(set_), split_of(split)
    runs = [(path, read_record(path)) for path in records]
    place: dict[str, Any] = {"benchmark": benchmark, "shots": shots, "split": classes}
    specs = [evaluated(entries, run.spec, overrides, **place) for _, run in runs]
    from norml_cli.commands.evaluate import Wanted, evaluate  # after what fails fast: brings torch

    wanted = [Wanted(path, run, spec, classes) for (path, run), spec in zip(runs, specs, strict=True)]
    evaluate(entries, wanted, device=device, force=force, console=Output(quiet=quiet, as_json=json))


@app.command("export", cls=Command, epilog="norml export results/glyphs-5way/1-shot/norml/seed-0.json")
def export_command(
    records: RecordsArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", callback=nameable, help="A .safetensors file. Default: beside the record."
        ),
    ] = None,
    quiet: QuietOption = False,
    json: ResultJsonOption = False,
    registry: RegistryOption = None,
) -> None:
    """Write trained weights as safetensors, for others.

    A JSON card beside each file says whose weights they are.
    """
    from norml_cli.results.store import read_record

    entries, runs = entries_of(registry), [(path, read_record(path)) for path in records]
    from norml_cli.commands.export import export

    export(entries, runs, out=out, console=Output(quiet=quiet, as_json=json))


@app.command("doctor", cls=Command, epilog="norml doctor\nnorml doctor --json")
def doctor_command(
    results: ResultsOption = Path("results"), registry: RegistryOption = None, json: JsonOption = False
) -> None:
    """Check the installation, the caches and the results.

    It says what to do, and exits with 1 if something must be done.
    """
    from norml_cli.commands.doctor import doctor

    sys.exit(doctor(registry, results, Console(), as_json=json))


@app.command(
    "report", cls=ReportCommand, epilog="norml report\nnorml report --table table-2\nnorml report --html report.html"
)
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
            help="Table of the paper: table-2. Without ID: every one with runs. Default: list the runs.",
            autocompletion=TABLE_IDS,
        ),
    ] = None,
    protocols: Annotated[
        bool, typer.Option("--protocols", help="Trained weights under the protocols of `norml evaluate`, paired.")
    ] = False,
    format_: FormatOption = "rich",
    json: FormatJsonOption = False,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            callback=nameable,
            help="Write one self-contained page: tables, pictures, cost, provenance. Default: print.",
        ),
    ] = None,
    results: ResultsOption = Path("results"),
    registry: RegistryOption = None,
) -> None:
    """Print the runs, or a table of the paper beside them.

    Without --table it lists the runs at hand.
    """
    from norml_cli.commands.report import report, report_html, report_protocols

    if methods and not protocols:
        raise UserError(f"report {plain(methods[0])}: methods are named with --protocols; a table with --table")
    if protocols and (table is not None or html is not None):
        raise UserError("--protocols: leave out --table and --html, whose page shows the protocols, too")
    format_ = format_of(format_, as_json=json)
    entries, console, options = entries_of(registry, methods or []), Console(), places_text(results, registry)
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
