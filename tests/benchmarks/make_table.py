"""Everything that a table needs on one machine, in order: data, backbones, features, every method, every seed.

    python -m tests.benchmarks.make_table table-1 --source PATH_TO_MINI_IMAGENET --seeds 0 1 2 [--minutes 9]
    python -m tests.benchmarks.make_table table-2 --seeds 0 1 2 --at-once 14

Each step is a `norml` command that finishes at once where its work is done already and goes on from its checkpoint
where it was stopped. So where a command may take ten minutes at most, give --minutes and start this one again until it
exits with 0; it exits with 75 (try again) when its time is up. A learner of a few small layers leaves most of a GPU
idle: --at-once has several runs share it.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from norml_cli.data.sources import loading as datasets
from norml_cli.registry.entries import TableEntry
from norml_cli.registry.reading import load_registry
from norml_cli.registry.resolving import Registry

TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
STOPPED = 130  # what `norml` exits with after a stop request, its checkpoint written
TIME_TO_STOP_S = 60  # chosen: a checkpoint takes a second, the step or evaluation before it a few
LOOK_EVERY_S = 0.1  # chosen: nothing beside the seconds that a command takes to start

Stage = list[list[str]]  # commands, each what to type after `norml`, that do not need one another


def stages(
    registry: Registry, table: TableEntry, *, source: Path | None, seeds: Sequence[int], options: Sequence[str]
) -> Iterator[Stage]:
    """In order. `options` go to every pretraining and run. Every cell has one seed before any has two."""
    places = _places(table)
    benchmarks = [registry.benchmark(id_) for id_ in dict.fromkeys(benchmark for benchmark, _ in places)]
    prepared = []
    for dataset in dict.fromkeys(benchmark.dataset for benchmark in benchmarks):
        from_source = source is not None and datasets.needs_source(registry.dataset(dataset))
        prepared.append(["prepare", dataset, *(["--source", str(source)] if from_source else [])])
    yield prepared
    yield [
        ["pretrain", benchmark.dataset, "--recipe", benchmark.protocol.backbone.value, *options]
        for benchmark in benchmarks
        if benchmark.protocol.backbone is not None
    ]
    yield [
        ["run", method, "--benchmark", id_, "--shots", str(shots), "--seed", str(seed), *options]
        for seed in seeds
        for (id_, shots), methods in places.items()
        for method in methods
    ]
    yield [["report", "--table", table.id]]


def _places(table: TableEntry) -> dict[tuple[str, int], list[str]]:
    """The methods that the table asks for, by benchmark and shots."""
    places: dict[tuple[str, int], list[str]] = {}
    for row in table.rows:
        for column in table.columns:
            benchmark = row.benchmark or column.benchmark
            if row.method is not None and benchmark is not None:
                places.setdefault((benchmark, column.shots), []).append(row.method)
    return places


def carry_out(plan: Iterable[Stage], deadline: float, *, at_once: int = 1) -> int:
    """Run the stages until the deadline (seconds of time.monotonic), `at_once` commands at a time; an exit code."""
    for stage in plan:
        code = _run_stage(stage, deadline, at_once)
        if code == STOPPED:
            say("time is up; the same command goes on from here")
            return TRY_AGAIN
        if code != 0:
            return code
    return 0


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()  # before what the command says


def _run_stage(stage: Stage, deadline: float, at_once: int) -> int:
    """The first exit code that is not 0, after which no command is begun; those that run are let finish."""
    waiting, running, code = deque(stage), list[subprocess.Popen[bytes]](), 0
    while running or (waiting and code == 0):
        if time.monotonic() >= deadline:
            stopped = _stopped(running)
            return code or stopped
        while waiting and code == 0 and len(running) < at_once:
            arguments = waiting.popleft()
            say(f"norml {' '.join(arguments)}")
            running.append(subprocess.Popen(_command(arguments)))
        for process in [each for each in running if each.poll() is not None]:
            running.remove(process)
            code = code or process.returncode
        time.sleep(LOOK_EVERY_S)
    return code


def _command(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "norml_cli", *arguments]


def _stopped(running: "list[subprocess.Popen[bytes]]") -> int:
    """Ask them all to stop, wait until they have; an exit code of one that failed, or STOPPED."""
    for process in running:
        process.send_signal(signal.SIGTERM)
    too_late = time.monotonic() + TIME_TO_STOP_S
    for process in running:
        try:
            process.wait(timeout=max(0.0, too_late - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()  # its last checkpoint is at most half a minute old
            process.wait()
    as_asked = {0, STOPPED, -signal.SIGTERM, -signal.SIGKILL}  # it ended just then, or had not yet begun
    return next((process.returncode for process in running if process.returncode not in as_asked), STOPPED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help="id of a table, such as table-1 or table-2")
    parser.add_argument("--source", type=Path, help="raw images, in any form that `norml prepare` reads")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop, to be started again, after so many")
    parser.add_argument("--at-once", type=int, default=1, help="commands that run side by side (default: 1)")
    parser.add_argument("--device", default="auto")
    chosen = parser.parse_args()
    registry = load_registry()
    plan = stages(
        registry,
        registry.table(chosen.table),
        source=chosen.source,
        seeds=chosen.seeds,
        options=["--device", chosen.device],
    )
    os.environ.setdefault("COLUMNS", "160")  # the table's width where there is no terminal
    sys.exit(carry_out(plan, time.monotonic() + 60 * chosen.minutes, at_once=max(1, chosen.at_once)))


if __name__ == "__main__":
    main()
