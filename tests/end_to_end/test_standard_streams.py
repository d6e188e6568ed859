"""Standard output that cannot be written, a closed pipe, Ctrl-C, a notebook's backend: as a user meets them."""

import json
import os
import shlex
import subprocess
import sys

import pytest

from tests.helpers.command_line import Shell

NORML = f"{shlex.quote(sys.executable)} -m norml_cli"
FULL = "error: standard output cannot be written (No space left on device); free space or redirect it\n"
needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux alone has one")  # noqa: PTH110


def bash(shell: Shell, line: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],  # noqa: S607 - the user's own
        cwd=shell.folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


@needs_full
@pytest.mark.parametrize("command", ["list", "list --json", "report", "status", "validate --help", "--version"])
def test_output_that_cannot_be_written_is_one_line(shell: Shell, command: str):
    done = bash(shell, f"{NORML} {command} > /dev/full")
    assert (done.returncode, done.stderr) == (2, FULL)


@needs_full
def test_a_training_goes_on_without_its_output(shell: Shell):
    done = bash(shell, f"{NORML} run norml maml-constant-lr --benchmark tiny-5way > /dev/full")
    assert (done.returncode, done.stderr) == (2, FULL)
    found = [json.loads(path.read_text())["spec"]["method"] for path in shell.results.rglob("seed-0.json")]
    assert sorted(found) == ["maml-constant-lr", "norml"]


@needs_full
def test_errors_that_cannot_be_written_keep_their_exit_code(shell: Shell):
    assert bash(shell, f"{NORML} run nrml 2> /dev/full").returncode == 2


def test_a_closed_pipe_ends_quietly(shell: Shell):
    done = bash(shell, f"{NORML} list | true")
    assert (done.returncode, done.stderr) == (141, "")


def test_any_backend_of_matplotlib_will_do(shell: Shell):
    assert shell.norml("run", "norml", "maml-constant-lr", "--benchmark", "tiny-5way", "--quiet")[0] == 0
    record = "results/tiny-5way/1-shot/norml/seed-0.json"
    done = bash(shell, f"{NORML} inspect {record} --episodes 2 --quiet", MPLBACKEND="module://no.such.backend")
    assert (done.returncode, done.stderr) == (0, "")


def test_an_interrupt_of_the_imports_is_silent():
    program = (
        "import sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'typer': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "from norml_cli.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize(
    "words",
    [
        ("report", "--html"),
        ("export", "seed-0.json", "--out"),
        ("inspect", "seed-0.json", "--out"),
        ("run", "norml", "--tensorboard"),
        ("run", "norml", "--results"),
        ("prepare", "omniglot", "--source"),
    ],
)
@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("-", " -: standard input and output are not supported here; name a file"),
        ("", ": is empty; give it a value, or leave it out"),
    ],
)
def test_no_file_is_named_by_a_dash_or_nothing(shell: Shell, words: tuple[str, ...], word: str, said: str):
    code, out, err = shell.norml(*words, word)
    assert (code, out, err) == (2, "", f"error: {words[-1]}{said}\n")
    assert [path.name for path in shell.folder.iterdir()] == ["registry"]


def test_empty_words_are_told_by_what_they_stand_for(shell: Shell):
    for words, name in ((("run", ""), "METHOD..."), (("validate", ""), "PATH"), (("report", "--table", ""), "--table")):
        assert shell.norml(*words)[2] == f"error: {name}: is empty; give it a value, or leave it out\n"
