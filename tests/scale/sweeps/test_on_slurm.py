"""`norml sweep --on slurm` on a Slurm of one node: the records of runs one after the other."""

import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.scale.sweeps.conftest import SWEEP, Numbers, leftovers, numbers, program
from tests.scale.sweeps.slurm import Slurm, can_be_had

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not can_be_had(), reason="needs root, slurmctld, slurmd and munge"),
]

ENDS_WITHIN_S = 1200


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with Slurm(tmp_path_factory.mktemp("slurm")) as made:
        yield made


@pytest.fixture(autouse=True)
def _its_configuration(slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in slurm.environment.items():
        monkeypatch.setenv(key, value)


def started(results: Path, *options: str) -> "subprocess.Popen[str]":
    words = program(*SWEEP, "--on", "slurm", *options, "--results", str(results))
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def until(what: Callable[[], object], process: "subprocess.Popen[str]", within_s: float = 300) -> None:
    late = time.monotonic() + within_s
    while not what():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < late
        time.sleep(0.1)


def test_one_array_job_stopped_and_taken_up_again(slurm: Slurm, tmp_path: Path, one_after_the_other: Numbers):
    results = tmp_path / "results"
    first = started(results, "--sbatch", "time=1:00:00 comment=norml")
    try:
        until(lambda: len(list(results.rglob("seed-*.json"))) >= 3 and list(results.rglob("*.status")), first)
        jobs = set(slurm.said("squeue", "--noheader", "--array", "--format=%F").split())
        assert len(jobs) == 1  # one array
        first.send_signal(signal.SIGINT)
        said, _ = first.communicate(timeout=120)
    finally:
        first.kill()
    assert first.returncode == 130, said
    assert re.search(r"stopped: \d+ of 12 finished, \d+ left; run the same command to continue", said)
    assert slurm.said("squeue", "--noheader") == ""  # nobody is left
    finished = len(numbers(results))
    process = started(results)
    said, _ = process.communicate(timeout=ENDS_WITHIN_S)
    assert process.returncode == 0, said
    assert f"sweep: {12 - finished} to do, {finished} finished already" in said
    assert numbers(results) == one_after_the_other
    assert leftovers(results) == []
    assert not list(results.glob(".slurm-*"))


def test_a_task_that_is_killed_and_one_that_fails_twice(slurm: Slurm, tmp_path: Path, one_after_the_other: Numbers):
    results = tmp_path / "results"
    damaged = results / "glyphs-5way/5-shot/norml/seed-1.checkpoint"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("damaged")
    log = damaged.with_suffix(".log")
    process = started(results, "--retries", "2")
    try:
        until(lambda: slurm.said("squeue", "--noheader", "--array", "--states=RUNNING", "--format=%i"), process)
        task = slurm.said("squeue", "--noheader", "--array", "--states=RUNNING", "--format=%i").split()[0]
        subprocess.run(["scancel", "--signal=KILL", "--full", task], check=True)
        until(lambda: log.exists() and log.read_text().count("error: ") == 2, process)
        damaged.unlink()
        said, _ = process.communicate(timeout=ENDS_WITHIN_S)
    finally:
        process.kill()
    assert process.returncode == 0, said
    assert numbers(results) == one_after_the_other
    assert leftovers(results) == []
    assert "it is begun again later" in said


def test_more_gpus_than_there_are_is_one_line(tmp_path: Path):
    process = started(tmp_path / "results", "--gpus", "2")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 2, said
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: --on slurm: sbatch refuses the job")
    assert "Invalid generic resource" in line
