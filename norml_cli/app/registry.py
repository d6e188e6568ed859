"""Registry: what is declared."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from norml_cli.app.options import BenchmarkOption, JsonOption, RegistryOption, SetOption, ShotsOption
from norml_cli.app.typer_app import app
from norml_cli.arguments import entries_of, ids_of, nameable, overrides_of
from norml_cli.registry.reading import KINDS, load_registry
from norml_cli.registry.resolving import Resolved
from norml_cli.terminal.usage import Command


@app.command(
    "list",
    cls=Command,
    rich_help_panel="Registry",
    epilog="norml list\nnorml list --json",
)
def list_command(registry: RegistryOption = None, json: JsonOption = False) -> None:
    """List methods, benchmarks, data sets, recipes and tables."""
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
    from norml_cli.commands.registry.show import show

    entries, overrides = entries_of(registry), overrides_of(set_)

    def resolve() -> Resolved:
        return entries.resolve(id_, benchmark, shots, overrides)

    show(entries, id_, Console(), resolve=resolve, as_json=json)


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
            help="Folder of entries, or one entry's file. Default: the built-in ones.",
        ),
    ] = None,
    registry: RegistryOption = None,
) -> None:
    """Check every entry and build every model, without training."""
    from norml_cli.commands.registry.validate import folder_to_validate, validate

    validate(load_registry(folder_to_validate(path) or registry), Console())
