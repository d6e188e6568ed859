"""The Registry panel: list, show, add and check entries."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from norml_cli.app.options import BenchmarkOption, JsonOption, RegistryOption, SetOption, ShotsOption
from norml_cli.app.typer_app import app
from norml_cli.arguments import entries_of, ids_of, nameable, one_of, overrides_of, own_folder, require_options_of
from norml_cli.registry.reading import KINDS, load_registry
from norml_cli.registry.resolving import Resolved
from norml_cli.terminal.usage import Command, SeveralCommand


@app.command(
    "list",
    cls=Command,
    rich_help_panel="Registry",
    epilog="norml list\nnorml list --json",
)
def list_command(registry: RegistryOption = None, json: JsonOption = False) -> None:
    """List all methods, benchmarks, data sets, recipes and tables."""
    from norml_cli.commands.registry.show import list_entries

    list_entries(entries_of(registry), Console(), as_json=json)


@app.command(
    "show",
    cls=Command,
    rich_help_panel="Registry",
    epilog="norml show norml --shots 5\nnorml show omniglot-20way",
)
def show_command(
    id_: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="A method, benchmark, data set, recipe or table from `norml list`.",
            autocompletion=ids_of(*KINDS),
        ),
    ],
    benchmark: BenchmarkOption = None,
    shots: ShotsOption = None,
    set_: SetOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Show one entry: its values, and the source of each."""
    from norml_cli.commands.registry.show import show

    entries, overrides = entries_of(registry), overrides_of(set_)

    def resolve() -> Resolved:
        return entries.resolve(id_, benchmark, shots, overrides)

    show(entries, id_, Console(), resolve=resolve, as_json=json)


@app.command(
    "new",
    cls=SeveralCommand,
    rich_help_panel="Registry",
    epilog="norml new dataset my-birds --source birds\n"
    "norml new benchmark omniglot-10way --like omniglot-5way --set n_way=10\n"
    "norml new method norml-small --like norml --set cell_size=8",
)
def new_command(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="What to add: dataset, benchmark or method.",
            autocompletion=one_of("dataset", "benchmark", "method"),
        ),
    ],
    id_: Annotated[str, typer.Argument(metavar="NAME", help="Id of the new entry, such as my-birds.")],
    source: Annotated[
        Path | None,
        typer.Option(
            "--source",
            metavar="PATH",
            callback=nameable,
            help="Folder or archive of the images of a data set. Default: none; a dataset needs it.",
        ),
    ] = None,
    min_images: Annotated[
        int | None,
        typer.Option(
            "--min-images", metavar="N", min=1, help="Leave out classes with fewer images. Default: keep every class."
        ),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(
            "--like",
            metavar="ID",
            help="Entry from `norml list` to copy and change. Default: none; benchmarks and methods need it.",
            autocompletion=ids_of("benchmarks", "methods"),
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            metavar="ID",
            help="For a benchmark: its data set, from `norml list`. Default: as in --like.",
            autocompletion=ids_of("datasets"),
        ),
    ] = None,
    shots: Annotated[
        list[int] | None,
        typer.Option("--shots", metavar="K", help="For a benchmark: one or several shots. Default: as in --like."),
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(
            "--benchmark",
            metavar="ID",
            help="For a method: the benchmark that it runs on, from `norml list`. Default: as in --like.",
            autocompletion=ids_of("benchmarks"),
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set a value, such as image_size_px=28 or n_way=10; repeatable. Default: from --source or --like.",
        ),
    ] = None,
    registry: Annotated[
        Path | None,
        typer.Option(
            "--registry",
            metavar="DIR",
            callback=nameable,
            help="Folder of your own entries. Default: NORML_REGISTRY if set, else mine.",
        ),
    ] = None,
) -> None:
    """Add a data set, benchmark or method of your own."""
    options = {"--source": source, "--min-images": min_images, "--like": like, "--dataset": dataset}
    require_options_of(kind, {**options, "--shots": shots, "--benchmark": benchmark})
    from norml_cli.commands.registry.new import new_benchmark, new_dataset, new_method
    from norml_cli.registry.drafts import Changes

    folder, values, console = own_folder(registry), overrides_of(set_), Console()
    if source is not None:
        new_dataset(folder, id_, source, values, console, min_images=min_images)
        return
    assert like is not None  # noqa: S101 - required above
    changes = Changes(like, values, dataset, shots or (), benchmark)
    entries = entries_of(folder if folder.exists() else None)
    (new_benchmark if kind == "benchmark" else new_method)(entries, folder, id_, changes, console)


@app.command(
    "validate",
    cls=Command,
    rich_help_panel="Registry",
    epilog="norml validate mine\nnorml validate mine/methods/fomaml.yaml",
)
def validate_command(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="PATH",
            callback=nameable,
            help="Folder of entries, or one entry's file. Default: the built-in entries.",
        ),
    ] = None,
    registry: RegistryOption = None,
) -> None:
    """Check every entry and build every model, without training."""
    from norml_cli.commands.registry.validate import folder_to_validate, validate

    validate(load_registry(folder_to_validate(path) or registry), Console())
