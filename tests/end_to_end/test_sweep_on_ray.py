"""`norml sweep --on ray` on this machine; a cluster whose nodes are killed is in tests/scale/sweeps."""

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.command_line import Shell

SWEEP = ("sweep", "no-adaptation", "--benchmark", "tiny-5way", "--device", "cpu", "--on", "ray")


def numbers(results: Path) -> dict[str, tuple[list[int], list[dict[str, Any]]]]:
    records = {path: json.loads(path.read_text()) for path in results.rglob("seed-*.json")}
    return {str(path.relative_to(results)): (each["correct"], each["curve"]) for path, each in records.items()}


def swept(shell: Shell, *options: str) -> tuple[int, str]:
    with shell.start(*SWEEP, *options) as process:  # of its own: Ray's threads and handlers stay there
        try:
            said, _ = process.communicate(timeout=240)
        finally:
            process.terminate()
    return process.returncode, said


def test_ray_that_is_not_installed_is_told_with_the_extra(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = shell.norml(*SWEEP)
    assert code == 2
    assert err == "error: --on ray: Ray is not installed; install it with: pip install 'norml[ray]'\n"


def test_an_address_that_does_not_answer_is_told_at_once(shell: Shell):
    pytest.importorskip("ray")
    with socket.socket() as nobody:  # bound and not listening: its port refuses
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        code, said = swept(shell, "--address", address)
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert (code, line) == (
        2,
        f"error: --address {address}: does not answer (Connection refused); see that the head runs: `ray start --head`",
    )
    code, said = swept(shell, "--address", "nowhere")
    assert (code, said.splitlines()[-1].split(";")[0]) == (
        2,
        "error: --address nowhere: expected HOST:PORT of a cluster's head, or ray://HOST:PORT",
    )


def test_a_local_ray_makes_the_records_of_runs(shell: Shell):
    pytest.importorskip("ray")
    assert shell.norml("run", *SWEEP[1:-2], "--seeds", "0..1", "--results", "apart")[0] == 0
    code, said = swept(shell, "--seeds", "0..1")
    assert code == 0, said
    assert said.count("finished in") == 2
    assert numbers(shell.results) == numbers(shell.folder / "apart")


def test_a_local_ray_sends_back_what_its_workers_make(shell: Shell):
    pytest.importorskip("ray")
    assert shell.norml("run", *SWEEP[1:-2], "--results", "apart")[0] == 0
    code, said = swept(shell, "--fetch", "--results", "fetched")
    assert code == 0, said
    assert numbers(shell.folder / "fetched") == numbers(shell.folder / "apart")
    files = [path.suffix for path in (shell.folder / "fetched").rglob("*") if path.is_file()]
    assert sorted(files) == [".json", ".weights"]
