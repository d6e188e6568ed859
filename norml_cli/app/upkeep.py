"""The Upkeep panel: check the installation."""

import sys
from pathlib import Path

from rich.console import Console

from norml_cli.app.options import JsonOption, RegistryOption, ResultsOption
from norml_cli.app.typer_app import app
from norml_cli.terminal.usage import Command


@app.command(
    "doctor",
    cls=Command,
    rich_help_panel="Upkeep",
    epilog="norml doctor\nnorml doctor --json",
)
def doctor_command(
    results: ResultsOption = Path("results"), registry: RegistryOption = None, json: JsonOption = False
) -> None:
    """Check the installation, the caches and the results.

    It says how to fix what is wrong, and exits with 1 if something needs fixing.
    """
    from norml_cli.commands.upkeep.doctor import doctor

    sys.exit(doctor(registry, results, Console(), as_json=json))
