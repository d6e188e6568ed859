"""`norml sweep --on ray` on a cluster of several nodes that are killed: the records of runs one after the other."""

import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from norml_cli.files.companions import LOG
from tests.scale.sweeps.cluster import ENVIRONMENT, Cluster, can_be_had
from tests.scale.sweeps.conftest import SWEEP, Numbers, leftovers, numbers, program

pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not can_be_had(), reason="needs root and network namespaces"),
]

KILLS = 20
ENDS_WITHIN_S = 1200


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as made:
        yield made


def started(cluster: Cluster, results: Path, *options: str) -> "subprocess.Popen[str]":
    words = cluster.on_head(*program(*SWEEP), "--on", "ray", "--address", cluster.address, *options)
    return subprocess.Popen(
        [*words, "--results", str(results)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | ENVIRONMENT,
    )


def until(what: Callable[[], object], process: "subprocess.Popen[str]", within_s: float = 300) -> None:
    late = time.monotonic() + within_s
    while not what():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < late
        time.sleep(0.1)


def norml_processes(cluster: Cluster, number: int) -> list[int]:
    """Of cells on a node."""
    found = []
    for pid in cluster.processes(number):
        with suppress(psutil.Error):
            if "norml_cli" in psutil.Process(pid).cmdline():
                found.append(pid)
    return found


def test_a_killed_worker_and_a_cell_that_fails_twice(
    cluster: Cluster, tmp_path: Path, one_after_the_other: Numbers, record_property: Callable[[str, object], None]
):
    """The cell's checkpoint is damaged until it was refused twice; a worker is unplugged in the middle of a cell."""
    for number in (2, 3):
        cluster.plug_in(number)
    results = tmp_path / "results"
    damaged = results / "glyphs-5way/5-shot/norml/seed-1.checkpoint"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("damaged")
    log = damaged.with_suffix(LOG)
    process = started(cluster, results, "--retries", "3")
    try:
        until(lambda: len(list(results.rglob("seed-*.json"))) >= 3 and norml_processes(cluster, 3), process)
        cluster.unplug(3)
        lost_at = time.monotonic()
        until(lambda: log.exists() and log.read_text().count("error: ") == 2, process)
        damaged.unlink()
        said, _ = process.communicate(timeout=ENDS_WITHIN_S)
    finally:
        process.kill()
    assert process.returncode == 0, said
    assert numbers(results) == one_after_the_other
    assert leftovers(results) == []
    assert "its worker was lost" in said
    assert len(re.findall(r"norml, glyphs-5way, 5-shot, seed 1.*: failed \(exit code 2\)", said)) == 2
    record_property("seconds after the loss", round(time.monotonic() - lost_at))


def test_a_worker_killed_at_random_moments_loses_nothing(
    cluster: Cluster, tmp_path: Path, one_after_the_other: Numbers
):
    """A worker of Ray, with the cell that it has, a second to ten after the one before."""
    draw = random.Random(0)
    for number in (2, 3):
        cluster.plug_in(number)
    results, kills = tmp_path / "results", 0
    process = started(cluster, results, "--retries", "100")
    try:
        while kills < KILLS and process.poll() is None:
            time.sleep(draw.uniform(1, 10))
            cells = [pid for number in (2, 3) for pid in norml_processes(cluster, number)]
            if cells:
                worker = psutil.Process(draw.choice(cells)).parent()
                if worker is not None and "ray::" in " ".join(worker.cmdline()):
                    os.kill(worker.pid, signal.SIGKILL)
                    kills += 1
        said, _ = process.communicate(timeout=ENDS_WITHIN_S)
    finally:
        process.kill()
    assert process.returncode == 0, said
    assert kills == KILLS
    assert numbers(results) == one_after_the_other
    assert leftovers(results) == []


def test_workers_that_see_nothing_send_back_what_they_make(tmp_path: Path, one_after_the_other: Numbers):
    """A worker is unplugged while it has a checkpoint; the other goes on from what had come back."""
    results = tmp_path / "results"
    results.mkdir()
    with Cluster(tmp_path, hidden=results) as cluster:
        for number in (2, 3):
            cluster.plug_in(number)
        refused = started(cluster, results)
        said, _ = refused.communicate(timeout=300)
        assert refused.returncode == 2, said
        (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
        assert re.fullmatch(rf"error: --results {results}: the worker on 10\.77\.0\.\d does not see it; .*", line)
        process = started(cluster, results, "--fetch", "--retries", "2")
        try:
            until(lambda: len(list(results.rglob("seed-*.json"))) >= 3 and norml_processes(cluster, 3), process)
            cluster.unplug(3)
            said, _ = process.communicate(timeout=ENDS_WITHIN_S)
        finally:
            process.kill()
        assert process.returncode == 0, said
        assert numbers(results) == one_after_the_other
        assert leftovers(results) == []


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (
            ("--gpus", "2"),
            r"--threads 1 and --gpus 2: no node of the Ray cluster has that many",
        ),
        (("--threads", "64"), r"--threads 64: no node of the Ray cluster has that many; the largest have 1 CPUs"),
    ],
)
def test_more_devices_than_there_are(cluster: Cluster, tmp_path: Path, options: tuple[str, ...], fault: str):
    cluster.plug_in(2)
    process = started(cluster, tmp_path / "results", *options)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 2
    assert len([line for line in said.splitlines() if re.match(f"error: {fault}", line)]) == 1, said
