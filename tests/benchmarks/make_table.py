"""Everything that a table needs on one machine, in order: data, backbones, features, every method, every seed.

    python tests/benchmarks/make_table.py table-1 --source PATH_TO_MINI_IMAGENET --seeds 0 1 2 [--minutes 9]

Each step is a `norml` command that finishes at once where its work is done already and goes on from its checkpoint
where it was stopped. So where a command may take ten minutes at most, give --minutes and start this one again until it
exits with 0; it exits with 75 (try again) when its time is up.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from norml_cli import datasets
from norml_cli.registry import Registry, load_registry
from norml_cli.spec import TableEntry

TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
STOPPED = 130  # what `norml` exits with after a stop request, its checkpoint written
TIME_TO_STOP_S = 60  # chosen: a checkpoint takes a second, the step or evaluation before it a few


def commands(
    registry: Registry, table: TableEntry, *, source: Path | None, seeds: Sequence[int], options: Sequence[str]
) -> Iterator[list[str]]:
    """What to type after `norml`, in order. `options` go to every pretraining and run."""
    places = _places(table)
    benchmarks = [registry.benchmark(id_) for id_ in dict.fromkeys(benchmark for benchmark, _ in places)]
    for dataset in dict.fromkeys(benchmark.dataset for benchmark in benchmarks):
        from_source = source is not None and datasets.needs_source(registry.dataset(dataset))
        yield ["prepare", dataset, *(["--source", str(source)] if from_source else [])]
    for benchmark in benchmarks:
        backbone = benchmark.protocol.backbone
        if backbone is not None:
            yield ["pretrain", benchmark.dataset, "--recipe", backbone.value, *options]
    for (id_, shots), methods in places.items():
        for seed in seeds:
            yield ["run", *methods, "--benchmark", id_, "--shots", str(shots), "--seed", str(seed), *options]
    yield ["report", "--table", table.id]


def _places(table: TableEntry) -> dict[tuple[str, int], list[str]]:
    """The methods that the table asks for, by benchmark and shots."""
    places: dict[tuple[str, int], list[str]] = {}
    for row in table.rows:
        for column in table.columns:
            benchmark = row.benchmark or column.benchmark
            if row.method is not None and benchmark is not None:
                places.setdefault((benchmark, column.shots), []).append(row.method)
    return places


def carry_out(plan: Iterable[list[str]], deadline: float) -> int:
    """Run the commands until the deadline (seconds of time.monotonic); an exit code."""
    for arguments in plan:
        say(f"norml {' '.join(arguments)}")
        code = _run_until(deadline, [sys.executable, "-m", "norml_cli", *arguments])
        if code == STOPPED:
            say("time is up; the same command goes on from here")
            return TRY_AGAIN
        if code != 0:
            return code
    return 0


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()  # before what the command says


def _run_until(deadline: float, command: list[str]) -> int:
    if deadline <= time.monotonic():
        return STOPPED
    with subprocess.Popen(command) as process:
        try:
            return process.wait(timeout=None if deadline == float("inf") else deadline - time.monotonic())
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(timeout=TIME_TO_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()  # its last checkpoint is at most half a minute old
            return STOPPED
        return STOPPED if code in {0, -signal.SIGTERM} else code  # it ended just then, or had not yet begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help="id of a table, such as table-1 or table-2")
    parser.add_argument("--source", type=Path, help="raw images, in any form that `norml prepare` reads")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop, to be started again, after so many")
    parser.add_argument("--device", default="auto")
    chosen = parser.parse_args()
    registry = load_registry()
    plan = commands(
        registry,
        registry.table(chosen.table),
        source=chosen.source,
        seeds=chosen.seeds,
        options=["--device", chosen.device],
    )
    os.environ.setdefault("COLUMNS", "160")  # the table's width where there is no terminal
    sys.exit(carry_out(plan, time.monotonic() + 60 * chosen.minutes))


if __name__ == "__main__":
    main()
