"""Run one command, and print its errors as one line."""

import os
import sys

import typer

from norml_cli.app import data, registry, results, runs, sweeps, upkeep  # noqa: F401 - each adds its commands
from norml_cli.app.typer_app import app
from norml_cli.files.errors import LONGEST_LINE, UserError, plain
from norml_cli.terminal.standard_streams import guarded
from norml_cli.threads import spin_briefly


def main() -> None:
    """Run the command line. A UserError prints its text on standard error and exits with code 2."""
    spin_briefly()
    os.environ["MPLBACKEND"] = "agg"  # writes files only; a notebook may export a backend that cannot be loaded here
    if os.environ.get("COLUMNS") == "0":  # means "unknown", but rich would print nothing
        del os.environ["COLUMNS"]
    with guarded():
        try:
            app()
        except UserError as error:
            for line in str(error).splitlines():
                typer.echo(f"error: {plain(line, LONGEST_LINE)}", err=True)
            sys.exit(2)
