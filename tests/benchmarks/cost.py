"""What an outer step of MAML and NORML costs, how that grows, and what it gains by who multiplies."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from statistics import median
from typing import Any

import torch

from norml.matrix_products import multiplying, onednn_is_exact_and_faster
from norml.meta_training import CapturedMetaGradient, MetaGradient, compiled_meta_gradient, meta_gradient, outer_step
from norml_cli.results.speed import SpeedSection
from tests.benchmarks.bench import Bench
from tests.benchmarks.floor import outer_step_multiplications
from tests.benchmarks.measure import Call
from tests.benchmarks.record import measured
from tests.benchmarks.workloads import (
    BENCHMARK,
    MAML,
    NORML,
    SHOTS_AND_QUERIES,
    Workload,
    adam,
    from_registry,
    made_episodes,
    registry,
)

CELL_SIZES = (16, 64)
META_BATCH_SIZES = (4, 8, 16, 32, 64, 128)
INNER_STEPS = (1, 2, 5, 10, 20, 50)
WIDTHS = (1, 2, 4, 8)
THREADS = 1  # of the products: as runs of the tables are made


# How a meta-gradient is computed: operation by operation; as a CUDA graph of these; compiled.
MADE: dict[str, Callable[[torch.device], MetaGradient]] = {
    "plain": lambda _device: meta_gradient,
    "captured": lambda _device: CapturedMetaGradient(),
    "compiled": compiled_meta_gradient,
}


def step_of(device: torch.device, method: str, workload: Workload, *, made: str = "plain", **overrides: Any) -> Call:
    """One outer step of the registry's method, ready to be called; `made`: of MADE."""
    gradient = MADE[made](device)
    meta_learner = from_registry(method, workload, device=device, **overrides)
    optimizer = adam(meta_learner.parameters())
    batch = made_episodes(workload, device=device)
    settings = {"inner_steps": workload.inner_steps, "gradient": gradient}
    return lambda: outer_step(meta_learner, optimizer, batch, **settings)


def methods(bench: Bench) -> SpeedSection:
    """NORML against MAML at the three workloads, plain, captured (on a GPU) and compiled."""
    spec = registry().resolve(NORML, BENCHMARK, 1).spec
    own, sizes = spec.rule.cell_size, from_registry(MAML, SHOTS_AND_QUERIES[0]).learner.sizes
    cells = {f"{NORML}, cell size {cell}{' (registry)' * (cell == own)}": cell for cell in sorted({*CELL_SIZES, own})}
    ways = ["plain", *(["captured"] if bench.device.type == "cuda" else []), *(["compiled"] if bench.compiled else [])]
    candidates = {_named(name, way): (cell, way) for way in ways for name, cell in ({MAML: None} | cells).items()}
    rows = []
    for workload in bench.workloads:
        seconds = _side_by_side(bench, workload, candidates)
        for name, spent in seconds.items():
            base = median(seconds[_named(MAML, candidates[name][1])])
            labels = {"shots/queries": workload.title, "method": name}
            needed = outer_step_multiplications(sizes, workload, cell_size=candidates[name][0])
            floor = needed / outer_step_multiplications(sizes, workload)
            rows.append(measured(labels, spent, times_maml=median(spent) / base, times_multiplications=floor))
    return SpeedSection(
        name="methods",
        title=f"one outer step of NORML against MAML, {bench.workloads[0].size}",
        settings={"times multiplications": "NORML's counted multiplications against MAML's (floor.py)"},
        measurements=rows,
    )


def _named(method: str, way: str) -> str:
    return method if way == "plain" else f"{method}, {way}"


def _side_by_side(
    bench: Bench, workload: Workload, candidates: dict[str, tuple[int | None, str]]
) -> dict[str, list[float]]:
    """Seconds of an outer step by candidate: (cell size, or None for MAML; how it is made)."""
    with ExitStack() as stack:
        steps = {}
        for place, (name, (cell, made)) in enumerate(candidates.items()):
            what = "compiling, which takes minutes" if made == "compiled" else "first steps"
            bench.progress.at(f"methods, {workload.title}, {what}", place, len(candidates))
            steps[name] = bench.candidate(stack, name, _step_by_cell, workload, cell, made)
            steps[name]()
        return bench.interleaved(f"methods, {workload.title}, turns", steps, rounds=9, measured=3)


def _step_by_cell(device: torch.device, workload: Workload, cell: int | None, made: str) -> Call:
    overrides = {} if cell is None else {"cell_size": cell}
    return step_of(device, MAML if cell is None else NORML, workload, made=made, **overrides)


def growth(bench: Bench) -> SpeedSection:
    """The cost of an outer step against one size at a time, the others as in the registry at 1 shot, 1 query."""
    base = bench.workloads[0]
    hidden = registry().resolve(MAML, BENCHMARK, 1).spec.protocol.hidden_sizes
    few = slice(0, 2) if bench.quick else slice(None)
    axes: dict[str, dict[int, tuple[Workload, dict[str, Any]]]] = {
        "meta-batch": {e: (replace(base, meta_batch_size=e), {}) for e in META_BATCH_SIZES[few]},
        "inner steps": {t: (replace(base, inner_steps=t), {}) for t in INNER_STEPS[few]},
        "width x": {w: (base, {"hidden_sizes": [w * size for size in hidden]}) for w in WIDTHS[few]},
    }
    rows = []
    for axis, points in axes.items():
        calls = {
            f"{method} {value}": step_of(bench.device, method, workload, **overrides)
            for method in (MAML, NORML)
            for value, (workload, overrides) in points.items()
        }
        seconds = bench.interleaved(f"growth, {axis}, turns", calls, rounds=7)
        for method in (MAML, NORML):
            first = median(seconds[f"{method} {min(points)}"])
            for value in points:
                spent = seconds[f"{method} {value}"]
                labels = {"axis": axis, "method": method, "value": value}
                rows.append(measured(labels, spent, times_first=median(spent) / first))
    return SpeedSection(
        name="growth",
        title=f"one outer step against one size at a time, the others 1 shot, 1 query, {base.size}",
        measurements=rows,
    )


def products(bench: Bench) -> SpeedSection:
    """An outer step with the products of torch's own choice and with those of `norml run`, in turns, on one thread."""
    rows = []
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    for workload in bench.workloads:
        examples = workload.meta_batch_size * workload.n_way * workload.k_shot
        for method in (MAML, NORML):
            step = step_of(bench.device, method, workload)
            candidates = {"torch's choice": step, "norml run's": _multiplying_as_a_run(step, bench.device, examples)}
            title = f"products, {workload.title}, {method}"
            seconds = bench.interleaved(title, candidates, rounds=15)
            base = median(seconds["torch's choice"])
            for name, spent in seconds.items():
                labels = {"shots/queries": workload.title, "method": method, "products": name}
                rows.append(measured(labels, spent, times_as_fast=base / median(spent)))
    torch.set_num_threads(threads)
    return SpeedSection(
        name="products",
        title=f"one outer step by who multiplies, {bench.workloads[0].size}",
        settings={
            "threads": THREADS,
            "norml run's": "oneDNN"
            if bench.device.type == "cpu" and onednn_is_exact_and_faster()
            else "torch's choice",
        },
        measurements=rows,
    )


def _multiplying_as_a_run(step: Call, device: torch.device, examples: int) -> Call:
    def call() -> None:
        with multiplying("float32", device, examples=examples):
            step()

    return call
