"""A cell on a worker: what it sends back, and that it ends with the worker."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from norml_cli.sweeps import process
from norml_cli.sweeps.process import CellOnWorker, Files

LOG = "tiny/1-shot/norml/seed-0.log"
# Writes each stage's file as a training does, when it is told to go on.
CELL = """
import sys, time
from pathlib import Path
folder = Path(sys.argv[-1], "tiny/1-shot/norml")
stem = folder / "seed-0"
print("began with", sorted(path.name for path in folder.iterdir()), flush=True)
stem.with_suffix(".checkpoint").write_text("one")
while not Path("go").exists(): time.sleep(0.01)
(folder / ".seed-0.lock").touch()
(folder / "seed-00.json").touch()
stem.with_suffix(".weights").write_text("weights")
stem.with_suffix(".checkpoint").unlink()
stem.with_suffix(".json").write_text("record")
"""


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Commands are Python code in place of what `norml` is given."""
    monkeypatch.setattr(process, "PROGRAM", (sys.executable, "-c"))
    monkeypatch.setattr(process, "WAIT_S", 0.05)
    monkeypatch.chdir(tmp_path)


def looks(cell: CellOnWorker, wanted: str) -> tuple[int | None, Files]:
    """The code and all files that came back until `wanted` did."""
    came, late = Files(), time.monotonic() + 60
    while True:
        code, files = cell.look()
        came |= files
        if wanted in came or code is not None:
            return code, came
        assert time.monotonic() < late


def test_a_worker_that_sees_no_results_sends_back_what_changed(tmp_path: Path):
    cell = CellOnWorker([CELL, "{results}"], LOG, {}, {"seed-0.checkpoint": b"brought"})
    code, came = looks(cell, "seed-0.checkpoint")
    assert (code, came["seed-0.checkpoint"]) == (None, b"one")
    again, nothing = cell.look()
    assert (again, nothing) == (None, {})
    (tmp_path / "go").touch()
    code, came = looks(cell, "nothing")
    assert code == 0
    assert {name: content for name, content in came.items() if not name.endswith(".log")} == {
        "seed-0.weights": b"weights",
        "seed-0.json": b"record",
    }
    assert cell._folder is not None
    assert not cell._folder.parent.exists()


def test_files_arrive_before_a_task_starts_and_its_log_comes_back(tmp_path: Path):
    (tmp_path / "go").touch()
    cell = CellOnWorker([CELL, "{results}"], LOG, {}, {"seed-0.checkpoint": b"brought", "seed-0.log": b"before\n"})
    _, came = looks(cell, "nothing")
    assert came["seed-0.log"].decode() == "before\nbegan with ['seed-0.checkpoint', 'seed-0.log']\n"


def test_a_worker_that_sees_the_results_sends_nothing(tmp_path: Path):
    cell = CellOnWorker(["print('said')"], str(tmp_path / "place/seed-0.log"), {"NORML_HOME": "x"}, None)
    assert looks(cell, "nothing") == (0, {})
    assert (tmp_path / "place/seed-0.log").read_text() == "said\n"


def test_a_signal_is_handed_on(tmp_path: Path):
    code = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(130)); "
    code += "open('begun', 'w').close(); time.sleep(60)"
    cell = CellOnWorker([code], str(tmp_path / "seed-0.log"), {}, None)
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    cell.send(int(signal.SIGTERM))
    assert looks(cell, "nothing")[0] == 130


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv of util-linux")
def test_a_cell_ends_with_the_worker_that_started_it(tmp_path: Path):
    """Else the cell of a lost worker would go on beside its second start, or keep its lock."""
    root = Path(process.__file__).parents[2]
    worker = f"import sys; sys.path.insert(0, {str(root)!r})\n"
    worker += "import time\nfrom norml_cli.sweeps import process\nprocess.PROGRAM = (sys.executable, '-c')\n"
    worker += 'cell = process.CellOnWorker([\'import os, time; open("begun", "w").write(str(os.getpid())); '
    worker += f"time.sleep(60)'], {str(tmp_path / 'seed-0.log')!r}, {{}}, None)\ntime.sleep(60)"
    started = subprocess.Popen([sys.executable, "-c", worker], cwd=tmp_path)
    try:
        while not (tmp_path / "begun").exists() or not (tmp_path / "begun").read_text():
            time.sleep(0.01)
        cell = psutil.Process(int((tmp_path / "begun").read_text()))
    finally:
        os.kill(started.pid, signal.SIGKILL)
        started.wait()
    gone, _ = psutil.wait_procs([cell], timeout=10)
    assert gone == [cell]
