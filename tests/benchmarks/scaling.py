"""One run on several CPU ranks, and what a run asks of the file system: what scaling.md reckons with."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch

from norml.episodes import EpisodeBatch
from norml.meta_training import MetaLearner, outer_step
from norml_cli.results.speed import Measurement, SpeedSection
from norml_cli.terminal.status_files import WRITE_EVERY_S
from norml_cli.training.build import generator_for
from norml_cli.training.loop import CHECKPOINT_EVERY_S
from norml_cli.training.ranks.gradient import Found, of_whole_batch
from norml_cli.training.ranks.sharing import Ranks
from tests.benchmarks.bench import Bench
from tests.benchmarks.cost import MADE
from tests.benchmarks.episodes_cost import POOL, drawn_episodes
from tests.benchmarks.measure import Call
from tests.benchmarks.own_ranks import OwnRanks
from tests.benchmarks.record import ROOT, measured, not_measured
from tests.benchmarks.workloads import MAML, NORML, SMALL, Workload, adam, from_registry, made_pool

CPU = torch.device("cpu")
CORES = 2  # chosen: every machine that this is measured on has so many
FIVE_SHOT = Workload(5, 5)
MESSAGE_VALUES = (1, 2**18, 2**22)  # float32: 4 bytes, 1 MiB, 16 MiB
MESSAGES_TOGETHER = 20  # of one measurement: one takes less than a clock's step
FILE_CALLS = "trace=%file,fsync"  # of strace: whatever names a path, and what waits for the disk


@dataclass(frozen=True)
class Layout:
    """How many ranks with how many threads each, on how large a meta-batch in all."""

    title: str
    ranks: int
    threads: int
    times_batch: int = 1


ONE = Layout("1 process, 1 thread", 1, 1)
LAYOUTS = (
    ONE,
    Layout("1 process, 2 threads", 1, CORES),
    Layout("2 ranks, 1 thread each", CORES, 1),
    Layout("2 ranks, 1 thread each, twice the meta-batch", CORES, 1, times_batch=CORES),
)


def scaling(bench: Bench) -> SpeedSection:
    """An outer step on one process and on two ranks; messages between two; requests to the file system."""
    rows = [*_steps(bench), *_messages(bench), *_requests(bench)]
    return SpeedSection(
        name="scaling",
        title=f"one outer step shared by ranks, 5 shots, 5 queries, {FIVE_SHOT.size}; messages; requests of a run",
        settings={
            "times as fast": "episodes a second against 1 process, 1 thread",
            "status file every s": WRITE_EVERY_S,
            "checkpoint every s": CHECKPOINT_EVERY_S,
            "requests": f"system calls by strace -e {FILE_CALLS} of `norml run` on glyphs-5way",
        },
        measurements=rows,
    )


# ------------------------------------------------------------------------------------------------------------- steps


def _steps(bench: Bench) -> Iterator[Measurement]:
    ways = ["plain", *(["compiled"] if bench.compiled else [])]
    for method in (MAML, NORML):
        for way in ways:
            yield from _steps_of(bench, method, way)


def _steps_of(bench: Bench, method: str, way: str) -> list[Measurement]:
    workload = SMALL if bench.quick else FIVE_SHOT
    layouts = LAYOUTS[:1] if bench.quick else LAYOUTS
    with ExitStack() as stack:
        calls: dict[str, Call] = {}
        for layout in layouts:
            bench.progress.at(f"scaling, {method}, {way}, {layout.title}, first steps")
            calls[layout.title] = _on_ranks(bench, stack, layout, method, workload, way)
            calls[layout.title]()
        seconds = bench.interleaved(f"scaling, {method}, {way}, turns", calls, rounds=9, measured=3)
    base = median(seconds[ONE.title])
    return [
        measured(
            {"what": "outer step", "method": f"{method}, {way}", "layout": layout.title},
            seconds[layout.title],
            times_as_fast=layout.times_batch * base / median(seconds[layout.title]),
        )
        for layout in layouts
    ]


def _on_ranks(bench: Bench, stack: ExitStack, layout: Layout, method: str, workload: Workload, way: str) -> Call:
    """In processes of their own; in this one where the bench is to be quick."""
    workload = replace(workload, meta_batch_size=layout.times_batch * workload.meta_batch_size)
    if bench.quick:
        return step_of_rank(Ranks(), method, workload, way)
    title = f"{method}, {way}, {layout.title}"
    return stack.enter_context(OwnRanks(title, layout.ranks, layout.threads, step_of_rank, method, workload, way))


def step_of_rank(ranks: Ranks, method: str, workload: Workload, way: str) -> Call:
    """An outer step as `norml run` takes it on one of `ranks`: all draw every episode, and each adapts to its share."""
    pool, gradient = made_pool(**POOL, device=CPU), MADE[way](CPU)
    meta_learner = from_registry(method, workload)
    optimizer, generator = adam(meta_learner.parameters()), generator_for("training episodes", 0)
    n_episodes = workload.meta_batch_size

    def shared(meta_learner: MetaLearner, batch: EpisodeBatch, inner_steps: int) -> Found:
        weight = len(batch) / n_episodes
        return of_whole_batch(gradient(meta_learner, batch, inner_steps), ranks, weight)

    def step() -> None:
        indices = drawn_episodes(pool, workload, n_episodes, generator)
        batch = pool.gather(indices, k_shot=workload.k_shot)[ranks.share(n_episodes)]
        outer_step(meta_learner, optimizer, batch, inner_steps=workload.inner_steps, gradient=shared)

    return step


# ---------------------------------------------------------------------------------------------------------- messages


def _messages(bench: Bench) -> Iterator[Measurement]:
    for n_values in MESSAGE_VALUES:
        labels = {"what": "sum over 2 ranks", "bytes": 4 * n_values}
        if bench.quick:
            yield not_measured(labels, "a quick run starts no ranks")
            continue
        with OwnRanks("messages", 2, 1, sums_of_rank, n_values) as call:
            [seconds] = bench.interleaved("scaling, messages, turns", {"sum": call}, rounds=15).values()
        yield measured(labels, [spent / MESSAGES_TOGETHER for spent in seconds])


def sums_of_rank(ranks: Ranks, n_values: int) -> Call:
    """Sums over ranks of so many float32 values, one after the other."""
    values = torch.ones(n_values)

    def call() -> None:
        for _ in range(MESSAGES_TOGETHER):
            ranks.sum(values)

    return call


# ---------------------------------------------------------------------------------------------------------- requests


def _requests(bench: Bench) -> Iterator[Measurement]:
    """Of one short run: what it opens to start, and what each file that it writes asks for."""
    what: dict[str, str | int] = {"what": "requests to the file system"}
    why = "a quick run counts none" if bench.quick else None if shutil.which("strace") else "strace is not installed"
    if why is not None:
        yield not_measured(what, why, unit="requests")
        return
    bench.progress.at("scaling, requests of a run")
    with tempfile.TemporaryDirectory() as folder:
        _traced(Path(folder), "first")  # makes the cache
        lines = _traced(Path(folder), "counted")
    for part, count in requests_by_part(lines).items():
        yield measured(what | {"part": part}, [count], unit="requests")


def _traced(folder: Path, name: str) -> list[str]:
    """The calls of one `norml run` that name a path or wait for the disk, a line each."""
    trace = folder / f"{name}.trace"
    run = ["-m", "norml_cli", "run", MAML, "--benchmark", "glyphs-5way", "--outer-steps", "20", "--no-compile"]
    run += ["--set", "validation_episodes=100", "--set", "test_episodes=100", "--results", str(folder / name)]
    command = ["strace", "-f", "-qq", "-y", "-e", FILE_CALLS, "-o", str(trace), sys.executable, *run]
    environment = os.environ | {"NORML_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
    return trace.read_text(errors="replace").splitlines()


PARTS = {  # what a call's path tells of its purpose; the first that fits
    "one status file": ".status",
    "one checkpoint": ".checkpoint",
    "record, weights and lock": "/counted/",
    "caches": "/home/",
}
REPEATED = ("one status file", "one checkpoint")  # written again and again
START = "start: Python, torch and norml"


def requests_by_part(lines: Sequence[str]) -> dict[str, float]:
    """How many calls each part takes; of what is written again and again, one writing."""
    calls: Counter[str] = Counter()
    moves: Counter[str] = Counter()
    for line in lines:
        part = next((part for part, word in PARTS.items() if word in line), START)
        calls[part] += 1
        moves[part] += "rename" in line
    return {part: calls[part] / (moves[part] if part in REPEATED else 1) for part in [START, *PARTS] if calls[part]}
