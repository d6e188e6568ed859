"""The array job that cells become. Scripts of bash play Slurm here; tests/scale/sweeps has a real one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from norml_cli.files.errors import UserError
from norml_cli.sweeps import on_slurm
from norml_cli.sweeps.cells import Asked, SweepCell, Where
from norml_cli.sweeps.on_slurm import SCRIPT, OnSlurm
from norml_cli.sweeps.sweep import TRY_AGAIN, Sweep
from norml_cli.terminal.output import Output

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")

# Every task of an array begins at once; `squeue` lists those whose process is alive.
SBATCH = """
[ -n "$REFUSES" ] && { echo "sbatch: error: $REFUSES" >&2; exit 1; }
shift; cd "$PLAYED"; job=$(( $(ls -d job-* 2>/dev/null | wc -l) + 1 )); mkdir job-$job
count=$(grep -oP "array=1-\\K[0-9]+" "$1")
for task in $(seq $count); do
    SLURM_ARRAY_TASK_ID=$task setsid bash "$1" > /dev/null 2>&1 < /dev/null & echo $! > job-$job/$task
done
cp "$1" script-$job; echo $job
"""
SQUEUE = """
cd "$PLAYED"; for file in job-*/*; do
    [ -e "$file" ] && kill -0 $(cat "$file") 2>/dev/null || continue
    echo "$(dirname $file | tail -c +5) $(basename $file) RUNNING"
done; exit 0
"""
SCANCEL = """
cd "$PLAYED"; name=KILL; for word in "$@"; do case "$word" in
    --state=PENDING) exit 0;; --signal=*) name=${word#--signal=};;
    --*) ;; *) for file in job-$word/*; do kill -$name $(cat $file) 2>/dev/null; done;;
esac; done; exit 0
"""
LEAVES = "open({path!r}, 'w').close()"


@pytest.fixture(autouse=True)
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, script in (("sbatch", SBATCH), ("squeue", SQUEUE), ("scancel", SCANCEL)):
        (folder / name).write_text(f"#!/bin/bash{script}")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PLAYED", str(folder))
    monkeypatch.setattr(on_slurm, "PROGRAM", (sys.executable, "-c"))
    monkeypatch.setattr(on_slurm, "ASK_EVERY_S", 0.1)
    monkeypatch.setattr(on_slurm, "GRACE_S", 0.5)
    monkeypatch.setattr(OnSlurm, "look_every_s", 0.05)
    return folder


def cell(folder: Path, name: str, code: str = LEAVES, **options: object) -> SweepCell:
    path = folder / "results" / "place" / f"{name}.json"
    line = f"exec({code.format(path=str(path))!r})"  # a command is a line
    return SweepCell(name, (line,), path, path, **options)


def swept(folder: Path, *plan: SweepCell, seconds: float = 60, retries: int = 0, **where: object) -> tuple[int, dict]:
    (folder / "results").mkdir(exist_ok=True)
    asked = Asked(folder / "results", threads=3, where=Where("slurm", **where))
    with OnSlurm(asked) as engine:
        made = Sweep("made", plan, engine, retries=retries, console=Output(as_json=True))
        code = made.run(time.monotonic() + seconds)
    return code, {each["title"]: each["state"] for each in made.states()}


def test_all_that_can_begin_is_one_array_and_what_had_to_wait_another(tmp_path: Path, played: Path):
    data = cell(tmp_path, "data")
    runs = [cell(tmp_path, f"run-{n}", f"assert open({str(data.path)!r}); {LEAVES}", needs=(data,)) for n in range(3)]
    code, states = swept(tmp_path, data, *runs, at_once=2, sbatch=("partition=gpu", "--time=1:00:00"), gpus=1.0)
    assert (code, set(states.values())) == (0, {"finished"})
    assert len(list(played.glob("job-*"))) == 2
    lines = (played / "script-2").read_text().splitlines()
    options = "--array=1-3%2 --cpus-per-task=3 --gres=gpu:1 --partition=gpu --time=1:00:00 --signal=B:TERM@90"
    assert {f"#SBATCH {option}" for option in options.split()} <= set(lines)
    assert sorted(path.name for path in (tmp_path / "results").rglob("*") if path.is_file()) == [
        "data.json",
        *(f"run-{n}.json" for n in range(3)),
    ]


def test_a_failed_task_starts_again_and_a_vanished_one_counts_as_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    second = "from pathlib import Path; begun = Path({path!r} + '.begun'); there = begun.exists(); begun.touch()\n"
    plan = (
        cell(tmp_path, "fails", f"{second}if not there: raise SystemExit('no luck')\n{LEAVES}"),
        cell(tmp_path, "lost", f"{second}import os, signal\nif not there: os.killpg(0, signal.SIGKILL)\n{LEAVES}"),
    )
    assert swept(tmp_path, *plan, retries=1) == (0, {"fails": "finished", "lost": "finished"})
    lines = [json.loads(line).get("line", "") for line in capsys.readouterr().err.splitlines()]
    assert "fails: failed (exit code 1); it is begun again later" in lines
    assert any(line.startswith("lost: failed (left the queue without an exit code") for line in lines)


def test_when_time_is_up_each_task_is_asked_to_stop_and_heard(tmp_path: Path):
    obeys = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))\n"
    obeys += "open({path!r} + '.begun', 'w').close(); time.sleep(60)"
    assert swept(tmp_path, cell(tmp_path, "obeys", obeys), seconds=3) == (TRY_AGAIN, {"obeys": "left"})
    assert (tmp_path / "results/place/obeys.json.begun").exists()


def test_what_sbatch_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REFUSES", "invalid partition specified: gpu")
    with pytest.raises(UserError, match=r"--on slurm: sbatch refuses the job \(.*invalid partition specified: gpu\)"):
        swept(tmp_path, cell(tmp_path, "one"), sbatch=("partition=gpu",))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 130), (signal.SIGUSR1, 130), (None, 3)])
def test_the_script_hands_signals_on_and_keeps_the_exit_code(tmp_path: Path, number: int | None, code: int):
    """SIGUSR1 and SIGTERM are what Slurm sends before a time limit."""
    script = SCRIPT.format(name="n", count=2, limit="", threads=1, options="", folder=tmp_path)
    (tmp_path / "script").write_text(script)
    obeys = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(130)); "
    obeys += "open('begun', 'w').close(); time.sleep(60)"
    line = f"{sys.executable} -c {obeys!r}" if number else f"{sys.executable} -c 'raise SystemExit(3)'"
    (tmp_path / "cells").write_text(f"false\n{line} >> log 2>&1\n")
    task = subprocess.Popen(
        [shutil.which("bash"), "script"], cwd=tmp_path, env=os.environ | {"SLURM_ARRAY_TASK_ID": "2"}
    )
    if number is not None:
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        task.send_signal(number)
    task.wait(30)
    assert (tmp_path / "2.code").read_text() == f"{code}\n"


def test_a_machine_without_slurm_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="--on slurm: there is no sbatch here"):
        swept(tmp_path, cell(tmp_path, "one"))
