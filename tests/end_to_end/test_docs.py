"""The documentation's examples run, and say what they say."""

import doctest
import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import norml
from tests.helpers.command_line import Shell

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def test_the_examples_of_library_use_run(shell: Shell):
    assert shell.norml("run", "norml", "--benchmark", "tiny-5way", "--quiet")[0] == 0
    record = "results/tiny-5way/1-shot/norml/seed-0.json"
    text = (DOCS / "how-to" / "library.md").read_text(encoding="utf-8")
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


def test_generated_pages_are_what_the_code_says():
    check = [sys.executable, str(DOCS / "generate.py"), "--check"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_page_that_drifted_is_named_and_made_again(tmp_path: Path):
    copy = tmp_path / "docs"
    shutil.copytree(DOCS, copy, ignore=shutil.ignore_patterns("pictures", "__pycache__"))
    shutil.copytree(ROOT / "results", tmp_path / "results", ignore=shutil.ignore_patterns("*.safetensors", "studies"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    drifted = readme.replace("<!-- made: table-2 -->\n", "<!-- made: table-2 -->\n\n| 0 ms |\n")
    (tmp_path / "README.md").write_text(drifted, encoding="utf-8")
    with (copy / "reference" / "keys.md").open("a", encoding="utf-8") as file:
        file.write("drift")

    def generate(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, str(copy / "generate.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = generate("--check")
    assert done.returncode == 1
    assert done.stderr.startswith("keys.md, README.md: out of date")
    assert generate().returncode == 0
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == readme
    assert (copy / "reference/keys.md").read_bytes() == (DOCS / "reference/keys.md").read_bytes()


def test_pages_name_every_command_and_option(shell: Shell):
    page = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    commands = re.findall(r"^## norml ([\w-]+)$", page, re.MULTILINE)
    assert {"run", "study", "status", "inspect", "prepare"} <= set(commands)
    for command, section in zip(commands, page.split("\n## norml ")[1:], strict=True):
        said = shell.norml(command, "--help")[1]
        for option in set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", said)) - {"--help"}:
            if f" {option} " in f"{said} ":
                assert f"`{option}`" in section, (command, option)


def blocks(language: str) -> dict[str, str]:
    """The blocks of extend.md by the file that the text before each names."""
    text = (DOCS / "how-to" / "extend.md").read_text(encoding="utf-8")
    return dict(re.findall(rf"`mine/(\S+\.yaml)`[^`]*```{language}\n(.*?)```", text, re.DOTALL))


def test_a_benchmark_and_a_method_of_ones_own_run_as_the_page_says(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NORML_REGISTRY")
    entries = blocks("yaml")
    like = "benchmarks/omniglot-10way-3shot.yaml"
    assert set(entries) == {like, "benchmarks/glyphs-3way.yaml", "methods/meta-sgd-small-start.yaml"}
    for name, text in entries.items():
        path = shell.folder / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for command in (
        ("validate", "mine"),
        ("run", "meta-sgd-small-start", "--registry", "mine"),
        ("report", "--registry", "mine"),
    ):
        code, out, err = shell.norml(*command)
        assert code == 0, err
    assert "meta-sgd-small-start" in out
    assert (shell.results / "glyphs-3way/1-shot/meta-sgd-small-start/seed-0.json").exists()


def test_meta_sgd_is_named_by_its_own_files_alone():
    """As extend.md says of adding a rule."""
    own = {"norml/update_rules/meta_sgd.py", "norml_cli/registry/rules/meta_sgd.py", "norml/__init__.py"}
    code = [*ROOT.glob("norml/**/*.py"), *ROOT.glob("norml_cli/**/*.py")]
    naming = {
        path.relative_to(ROOT).as_posix()
        for path in code
        if re.search(r"meta.?sgd", path.read_text(encoding="utf-8"), re.IGNORECASE)
    }
    assert naming - {"norml_cli/registry/rules/base.py"} == own  # whose docstring takes it as an example
