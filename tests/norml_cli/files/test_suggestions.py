"""Suggested commands find what the user's own command found."""

from pathlib import Path

import pytest
import typer

from norml_cli.app.main import app
from norml_cli.files.suggestions import _DEFAULTS, _TAKES, remember_places, suggested

PLACES = {"results": Path("my results"), "registry": Path("mine"), "source": Path("raw"), "device": "cpu"}


@pytest.fixture(autouse=True)
def named():
    remember_places(PLACES)
    yield
    remember_places({})


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("norml prepare omni --force", "norml prepare omni --force --registry mine --source raw"),
        ("norml prepare omni --source FOLDER", "norml prepare omni --source FOLDER --registry mine"),
        ("norml run norml --results again", "norml run norml --results again --registry mine"),
        ("norml report", "norml report --results 'my results' --registry mine"),
        ("norml list", "norml list --registry mine"),
    ],
)
def test_a_suggested_command_names_the_places_that_it_takes(command: str, expected: str):
    assert suggested(command) == expected


def test_defaults_are_not_named():
    remember_places({"results": Path("results"), "registry": None})
    assert suggested("norml run METHOD") == "norml run METHOD"


def test_every_command_is_suggested_with_the_places_that_it_has():
    commands = typer.main.get_command(app).commands
    places = {name: {each.name for each in command.params} & set(_DEFAULTS) for name, command in commands.items()}
    places["new"].remove("source")  # of a data set alone
    assert {name: set(options) for name, options in _TAKES.items()} == places
