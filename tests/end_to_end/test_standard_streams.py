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


def test_a_page_is_not_written_to_a_dash(shell: Shell):
    code, _, err = shell.norml("report", "--html", "-")
    assert (code, err) == (2, "error: --html -: a page is written to a file; name one, such as --html report.html\n")
    assert not list(shell.folder.glob("-"))
