"""The Results panel: list and compare runs, and use trained weights."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from norml_cli.app.options import (
    METHOD_IDS,
    TABLE_IDS,
    AdaptationSetOption,
    BenchmarkOption,
    DeviceOption,
    FormatJsonOption,
    FormatOption,
    JsonOption,
    QuietOption,
    RecordArgument,
    RecordsArgument,
    RegistryOption,
    ResultJsonOption,
    ResultsOption,
    ShotsOption,
    TestSetOption,
)
from norml_cli.app.typer_app import app
from norml_cli.arguments import (
    entries_of,
    format_of,
    ids_of,
    methods_of,
    nameable,
    nameable_all,
    one_of,
    overrides_of,
    split_of,
)
from norml_cli.files.errors import UserError, plain
from norml_cli.terminal.output import Output
from norml_cli.terminal.usage import Command, ReportCommand


@app.command(
    "status",
    cls=Command,
    rich_help_panel="Results",
    epilog="norml status\nnorml status --results out --json",
)
def status_command(results: ResultsOption = Path("results"), json: JsonOption = False) -> None:
    """List the trainings that are running, paused or finished."""
    from norml_cli.commands.results.status import status

    status(results=results, console=Console(), as_json=json)


@app.command(
    "report",
    cls=ReportCommand,
    rich_help_panel="Results",
    epilog="norml report\nnorml report --table table-2\nnorml report --html report.html\n"
    "norml report --results here there\nnorml report --format csv --curves",
)
def report_command(
    methods: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="METHOD...",
            help="With --protocols: methods from `norml list`; the first is the reference. Default: all.",
            autocompletion=METHOD_IDS,
        ),
    ] = None,
    table: Annotated[
        str | None,
        typer.Option(
            "--table",
            metavar="[ID]",
            help="A table from `norml list`, such as table-2. Without ID: all tables with runs. Default: list runs.",
            autocompletion=TABLE_IDS,
        ),
    ] = None,
    protocols: Annotated[
        bool, typer.Option("--protocols", help="Compare methods by the results of `norml evaluate`. Default: off.")
    ] = False,
    curves: Annotated[
        bool, typer.Option("--curves", help="With --format csv or json: print learning curves. Default: off.")
    ] = False,
    episodes: Annotated[
        bool,
        typer.Option(
            "--episodes", help="With --format csv or json: print correct answers of each test episode. Default: off."
        ),
    ] = False,
    format_: FormatOption = "rich",
    json: FormatJsonOption = False,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            callback=nameable,
            help="Write one self-contained page: tables, pictures, cost, provenance. Default: print text.",
        ),
    ] = None,
    results: Annotated[
        list[Path],
        typer.Option(
            "--results",
            metavar="DIR",
            callback=nameable_all,
            help="One or several folders of records. Default: results.",
        ),
    ] = [Path("results")],  # noqa: B006 - typer copies it
    registry: RegistryOption = None,
) -> None:
    """Print your runs, or a table of the paper beside your results.

    Without --table it lists your runs.
    """
    from norml_cli.commands.results.report import report, report_html, report_protocols, report_series
    from norml_cli.results.gathered import Gathered

    if methods and not protocols:
        raise UserError(f"report {plain(methods[0])}: name a method only with --protocols, or a table with --table")
    if protocols and (table is not None or html is not None):
        raise UserError("--protocols: leave out --table and --html; the HTML page shows the protocols anyway")
    format_ = format_of(format_, as_json=json)
    if curves or episodes:
        if table is not None or html is not None or protocols or (curves and episodes):
            raise UserError(
                f"--{'curves' if curves else 'episodes'}: prints a list of its own; leave out the other options"
            )
        report_series("curves" if curves else "episodes", format_=format_, results=results, console=Console())
        return
    entries, console = entries_of(registry, methods or []), Console()
    folders = Gathered(results)
    if protocols:
        report_protocols(entries, methods or [], format_=format_, results=folders, console=console)
        return
    if html is None:
        report(entries, table_id=table, format_=format_, results=folders, console=console)
        return
    if format_ != "rich":
        raise UserError("--html: writes HTML only; leave out --format")
    report_html(entries, table_id=table, out=html, results=folders, console=console)


@app.command(
    "compare",
    cls=Command,
    rich_help_panel="Results",
    epilog="norml compare norml maml-constant-lr --benchmark glyphs-5way\nnorml compare --all table-2",
)
def compare_command(
    methods: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="METHOD...",
            help="Two or more methods with finished runs, as `norml report` lists them.",
            autocompletion=METHOD_IDS,
        ),
    ] = None,
    all_: Annotated[
        str | None,
        typer.Option(
            "--all",
            metavar="TABLE",
            help="Compare every pair of methods in this table from `norml list`. Default: only the METHODs named.",
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

    For every pair it prints the paired difference, its interval and a verdict. A run with a name is METHOD+NAME.
    """
    from norml_cli.commands.results.compare import Compared, compare_methods

    entries = entries_of(registry, methods or [])
    asked = Compared(methods_of(entries, methods or []), all_, benchmark, shots)
    format_name = format_of(format_, as_json=json)
    compare_methods(entries, asked, format_=format_name, results=results, console=Console())


@app.command(
    "inspect",
    cls=Command,
    rich_help_panel="Results",
    epilog="norml inspect results/glyphs-5way/1-shot/norml/seed-0.json\n"
    "norml inspect results/glyphs-5way/1-shot/norml/seed-0.json --episodes 500",
)
def inspect_command(
    record: RecordArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder to write to. Default: seed-N-inspection, beside the record."),
    ] = None,
    episodes: Annotated[
        int,
        typer.Option("--episodes", metavar="N", min=2, help="Number of meta-validation episodes to use. Default: 100."),
    ] = 100,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
    json: ResultJsonOption = False,
    registry: RegistryOption = None,
) -> None:
    """Show what a trained meta-learner does while it adapts.

    It writes gates, effective rates, accuracy by inner step and the freeze test as CSV, JSON, PNG and SVG.
    """
    entries = entries_of(registry)
    from norml_cli.commands.results.inspect_ import inspect

    output = Output(quiet=quiet, as_json=json)
    inspect(entries, record, out=out, episodes=episodes, device=device, console=output)


@app.command(
    "verify",
    cls=Command,
    rich_help_panel="Results",
    epilog="norml verify results/glyphs-5way/1-shot/norml/seed-0.json\n"
    "norml verify results/glyphs-5way/1-shot/norml/seed-0.json --device cpu",
)
def verify_command(
    records: RecordsArgument,
    device: DeviceOption = "auto",
    registry: RegistryOption = None,
) -> None:
    """Test stored weights again and compare with their record.

    On the same device, each episode must have as many correct answers as the record says. On another device, up to
    0.1% of all answers may differ.
    """
    from norml_cli.results.store import read_record  # before torch: fails fast

    entries, found = entries_of(registry), [(path, read_record(path)) for path in records]
    from norml_cli.commands.results.verify import verify

    verify(entries, found, device=device, console=Output())


@app.command(
    "evaluate",
    cls=Command,
    rich_help_panel="Results",
    epilog="norml evaluate results/glyphs-5way/1-shot/norml/seed-0.json --shots 5\n"
    "norml evaluate results/glyphs-5way/1-shot/*/seed-0.json --set rotations=none",
)
def evaluate_command(
    records: RecordsArgument,
    set_: TestSetOption = None,
    shots: Annotated[
        int | None,
        typer.Option(
            "--shots", min=1, max=1000, metavar="K", help="Labelled examples of each class. Default: as in the run."
        ),
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(
            "--benchmark",
            metavar="ID",
            help="Test on this benchmark from `norml list`. Default: the run's.",
            autocompletion=ids_of("benchmarks"),
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            "--split",
            metavar="NAME",
            help="Split to test on: meta-val or meta-test. Default: meta-test.",
            autocompletion=one_of("meta-val", "meta-test"),
        ),
    ] = "meta-test",
    device: DeviceOption = "auto",
    force: Annotated[
        bool, typer.Option("--force", help="Evaluate again even if a result exists. Default: off.")
    ] = False,
    quiet: QuietOption = False,
    json: ResultJsonOption = False,
    registry: RegistryOption = None,
) -> None:
    """Test trained weights under another protocol.

    Each result is stored beside the run's record. If a result exists, it is only printed.
    """
    from norml_cli.registry.evaluating import evaluated
    from norml_cli.results.store import read_record, stored_digest

    entries, overrides, classes = entries_of(registry), overrides_of(set_), split_of(split)
    # The digest before the weights: should a run be replaced meanwhile, its evaluation is not taken for the new run's.
    runs = [(path, read_record(path), stored_digest(path)) for path in records]
    place: dict[str, Any] = {"benchmark": benchmark, "shots": shots, "split": classes}
    specs = [evaluated(entries, run.spec, overrides, **place) for _, run, _ in runs]
    from norml_cli.commands.results.evaluate import Wanted, evaluate  # after what fails fast: brings torch

    wanted = [Wanted(*run, spec, classes) for run, spec in zip(runs, specs, strict=True)]
    evaluate(entries, wanted, device=device, force=force, console=Output(quiet=quiet, as_json=json))


@app.command(
    "classify",
    cls=Command,
    rich_help_panel="Results",
    epilog="norml classify RECORD --support labelled --query new\n"
    "norml classify RECORD --support labelled --query new --html answers.html",
)
def classify_command(
    record: RecordArgument,
    support: Annotated[
        Path,
        typer.Option(
            "--support",
            metavar="DIR",
            callback=nameable,
            help="Labelled images: a folder with one subfolder for each class. Required.",
        ),
    ],
    query: Annotated[
        Path,
        typer.Option(
            "--query", metavar="DIR", callback=nameable, help="Images to classify: a folder or one file. Required."
        ),
    ],
    set_: AdaptationSetOption = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="FILE", callback=nameable, help="Also write an HTML page with thumbnails. Default: none."
        ),
    ] = None,
    format_: FormatOption = "rich",
    json: FormatJsonOption = False,
    device: DeviceOption = "auto",
    registry: RegistryOption = None,
) -> None:
    """Classify your own images with a trained learner.

    The learner adapts to a few labelled images of each class. It classifies each image independently of the others,
    unless you add --set query_statistics=query.
    """
    format_, overrides = format_of(format_, as_json=json), overrides_of(set_)
    entries = entries_of(registry)
    from norml_cli.commands.results.classify import ToClassify, classify

    asked = ToClassify(record, support, query, overrides, device, format_, html)
    classify(entries, asked, Console())


@app.command(
    "export",
    cls=Command,
    rich_help_panel="Results",
    epilog=(
        "norml export results/glyphs-5way/1-shot/norml/seed-0.json\n"
        "norml export RECORD --program learner.pt2 --set query_statistics=support"
    ),
)
def export_command(
    records: RecordsArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", callback=nameable, help="The .safetensors file. Default: beside the record."
        ),
    ] = None,
    program: Annotated[
        Path | None,
        typer.Option(
            "--program",
            metavar="FILE",
            callback=nameable,
            help="Also write a .pt2 program (support set and queries to logits) for plain torch. Default: none.",
        ),
    ] = None,
    set_: AdaptationSetOption = None,
    quiet: QuietOption = False,
    json: ResultJsonOption = False,
    registry: RegistryOption = None,
) -> None:
    """Export trained weights as safetensors files.

    A JSON card beside each file says which run the weights come from, and their accuracy.
    """
    from norml_cli.results.store import read_record

    if set_ and program is None:
        raise UserError("--set: applies to --program only; add --program FILE")
    entries, runs = entries_of(registry), [(path, read_record(path)) for path in records]
    overrides, output = overrides_of(set_), Output(quiet=quiet, as_json=json)
    from norml_cli.commands.results.export import ProgramFile, export

    wanted = ProgramFile(program, overrides) if program is not None else None
    export(entries, runs, out=out, program=wanted, console=output)
