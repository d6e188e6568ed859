"""The typer application. The panels' files add their commands to it."""

from typing import Annotated

import typer

from norml_cli import __version__
from norml_cli.files.checkout import commit_of_checkout
from norml_cli.terminal.usage import Panels

app = typer.Typer(
    name="norml",
    cls=Panels,
    help="Few-shot learning with NORML, MAML and other meta-learners: prepare data, run methods, compare them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it so
    if wanted:
        commit, changed = commit_of_checkout()
        at = f" (commit {commit[:7]}{', changed since' if changed else ''})" if commit else ""
        typer.echo(f"norml {__version__}{at}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_version,
            is_eager=True,
            help="Print the version (and the commit of a checkout) and exit.",
        ),
    ] = False,
) -> None:
    pass
