"""What an outer step of MAML and NORML costs, and how that grows."""

from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

from bench import Bench
from record import Section, measured
from workloads import BENCHMARK, MAML, NORML, SHOTS_AND_QUERIES, Workload, adam, from_registry, made_episodes, registry

from norml.meta_training import compiled_meta_gradient, meta_gradient, outer_step

CELL_SIZES = (16, 32, 64)
META_BATCH_SIZES = (4, 8, 16, 32, 64, 128)
INNER_STEPS = (1, 2, 5, 10, 20, 50)
WIDTHS = (1, 2, 4, 8)


def step_of(
    bench: Bench, method: str, workload: Workload, *, compiled: bool = False, **overrides: Any
) -> Callable[[], object]:
    """One outer step of the registry's method, ready to be called."""
    gradient = compiled_meta_gradient(bench.device) if compiled else meta_gradient
    meta_learner = from_registry(method, workload, device=bench.device, **overrides)
    optimizer = adam(meta_learner.parameters())
    batch = made_episodes(workload, device=bench.device)
    settings = {"inner_steps": workload.inner_steps, "gradient": gradient}
    return lambda: outer_step(meta_learner, optimizer, batch, **settings)


def methods(bench: Bench) -> Section:
    """NORML against MAML at the three workloads."""
    own = registry().resolve(NORML, BENCHMARK, 1).spec.rule.cell_size
    cells = [*CELL_SIZES, *([own] if own not in CELL_SIZES else [])]
    named = {f"{NORML}, cell size {cell}{' (registry)' if cell == own else ''}": cell for cell in cells}
    rows = []
    for workload in SHOTS_AND_QUERIES[:1] if bench.quick else SHOTS_AND_QUERIES:
        calls = {MAML: step_of(bench, MAML, workload)}
        calls |= {name: step_of(bench, NORML, workload, cell_size=cell) for name, cell in named.items()}
        if bench.compiled:
            calls |= {f"{m}, compiled": step_of(bench, m, workload, compiled=True) for m in (MAML, NORML)}
            bench.progress.at(f"methods, {workload.title}, compiling, which takes minutes")
        seconds = bench.interleaved(
            f"methods, {workload.title}, turns", calls, rounds=bench.choose(3, 9), measured=bench.choose(1, 3)
        )
        for name, spent in seconds.items():
            base = median(seconds[f"{MAML}, compiled" if name.endswith("compiled") else MAML])
            labels = {"shots/queries": workload.title, "method": name}
            rows.append(measured(labels, spent, times_maml=median(spent) / base))
    return Section(name="methods", title="one outer step of NORML against MAML, meta-batch 16", measurements=rows)


def growth(bench: Bench) -> Section:
    """The cost of an outer step against one size at a time, the others as in the registry at 1 shot, 1 query."""
    base = Workload(1, 1)
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
            f"{method} {value}": step_of(bench, method, workload, **overrides)
            for method in (MAML, NORML)
            for value, (workload, overrides) in points.items()
        }
        seconds = bench.interleaved(f"growth, {axis}, turns", calls, rounds=bench.choose(3, 7))
        for method in (MAML, NORML):
            first = median(seconds[f"{method} {min(points)}"])
            for value in points:
                spent = seconds[f"{method} {value}"]
                labels = {"axis": axis, "method": method, "value": value}
                rows.append(measured(labels, spent, times_first=median(spent) / first))
    return Section(
        name="growth", title="one outer step against one size at a time (20-way, 1 shot, 1 query)", measurements=rows
    )
