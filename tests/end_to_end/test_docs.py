"""The documentation's examples run, and say what they say."""

import doctest
import importlib
from pathlib import Path

import pytest
from command_line import Shell

import norml

DOCS = Path(__file__).parents[2] / "docs"


def test_the_examples_of_library_use_run(shell: Shell):
    assert shell.norml("run", "norml", "--benchmark", "tiny-5way", "--quiet")[0] == 0
    record = "results/tiny-5way/1-shot/norml/seed-0.json"
    text = (DOCS / "library.md").read_text(encoding="utf-8")
    test = doctest.DocTestParser().get_doctest(text, {"record": record}, "library.md", None, 0)
    said: list[str] = []
    result = doctest.DocTestRunner().run(test, out=said.append)
    assert result.failed == 0, "".join(said)
    assert result.attempted > 30


@pytest.mark.parametrize("name", norml.__all__)
def test_every_public_name_is_there(name: str):
    found = getattr(norml, name)
    home = importlib.import_module(norml._HOME_OF[name])
    assert found is getattr(home, name)
    assert name in dir(norml)


def test_a_name_that_is_not_there_is_no_attribute():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = norml.nothing
    assert set(norml._HOME_OF) == set(norml.__all__)
