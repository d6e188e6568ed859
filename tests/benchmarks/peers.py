"""Our outer step against the same MAML in other libraries."""

from contextlib import ExitStack
from statistics import median

import torch

from norml_cli.results.speed import Measurement, SpeedSection
from tests.benchmarks.agreement import TOLERANCE, errors_against_ours, require_agreement
from tests.benchmarks.bench import Bench
from tests.benchmarks.engines import COMPILED, Engine, Ours, OursCompiled, usable_engines
from tests.benchmarks.floor import outer_step_multiplications
from tests.benchmarks.measure import PEAK_FLOP, PEAK_SIZE, Call, matrix_product
from tests.benchmarks.record import measured
from tests.benchmarks.workloads import MAML, Workload, apart, from_registry, made_episodes

CHECKED = Workload(1, 1, meta_batch_size=3)
PEAK = "matrix product"


def peers(bench: Bench) -> SpeedSection:
    """Check that the engines agree, then time them.

    Raises UserError if a peer cannot run here, which a quick run leaves out instead, and DisagreementError if one
    computes something else.
    """
    engines, missing = usable_engines(compiled=bench.compiled, all_peers=not bench.quick)
    if missing:
        bench.progress.at(f"peers, left out as not installed: {', '.join(missing)}")
    compiles = ", which compiles two for minutes" if bench.compiled else ""
    bench.progress.at(f"peers, checking that all compute the same meta-gradient{compiles}")
    errors = _checked(bench, engines)
    sizes = from_registry(MAML, CHECKED).learner.sizes
    rows = [row for workload in bench.workloads for row in _timed(bench, engines, workload)]
    return SpeedSection(
        name="peers",
        title=f"one outer step of MAML, {bench.workloads[0].size}, float32",
        settings={
            "learner": f"{'-'.join(map(str, sizes))}, batch norm {_batch_norm_of(MAML)}",
            "peers not installed": ", ".join(missing) or "none",
            "outer optimiser": "torch.optim.Adam, fused, for every engine",
            "processes": "one for all"
            if bench.quick
            else "one an engine; a turn is one step unmeasured and two measured",
            "compile s": "a compiled engine's first step, nothing cached",
            "times norml": "against norml compiled, where compiled engines are timed",
            "relative error of the meta-gradient against norml's (float64)": errors,
            "tolerated error": TOLERANCE,
            "share of peak": f"2 x multiplications (floor.py) / time / speed of a {PEAK_SIZE}^3 float32 product",
            "multiplications": {w.title: outer_step_multiplications(sizes, w) for w in bench.workloads},
        },
        measurements=rows,
    )


def _batch_norm_of(method: str) -> str:
    return "without scale" if from_registry(method, CHECKED).learner.scales is None else "with scale and shift"


def _checked(bench: Bench, engines: list[type[Engine]]) -> dict[str, float]:
    meta_learner = from_registry(MAML, CHECKED, device=bench.device).double()
    errors = errors_against_ours(engines, meta_learner.learner, CHECKED, inner_lr=meta_learner.inner_loop.inner_lr)
    require_agreement(errors)
    return errors


def _timed(bench: Bench, engines: list[type[Engine]], workload: Workload) -> list[Measurement]:
    with ExitStack() as stack:
        made = {e: bench.candidate(stack, e.title, _step_of, e, workload) for e in engines}
        first_s = {}
        for place, (engine, process) in enumerate(made.items()):
            what = "compiling, which takes minutes" if engine in COMPILED else "first steps"
            bench.progress.at(f"peers, {workload.title}, {what}", place, len(made))
            first_s[engine.title] = bench.once(process)
        seconds = bench.interleaved(
            f"peers, {workload.title}, turns",
            {engine.title: process for engine, process in made.items()} | {PEAK: matrix_product(bench.device)},
            rounds=9,
            measured=2,
        )
    sizes = from_registry(MAML, workload).learner.sizes
    flop_per_s = PEAK_FLOP / median(seconds[PEAK])
    flop = 2 * outer_step_multiplications(sizes, workload)
    ours_s = median(seconds[(OursCompiled if bench.compiled else Ours).title])
    rows = []
    for engine in engines:
        spent = seconds[engine.title]
        derived = {"times_norml": median(spent) / ours_s, "share_of_peak": flop / median(spent) / flop_per_s}
        compile_s = {"compile_s": first_s[engine.title]} if engine in COMPILED else {}
        labels = {"shots/queries": workload.title, "engine": engine.title}
        rows.append(measured(labels, spent, **derived, **compile_s))
    labels = {"shots/queries": workload.title, "engine": f"({PEAK})"}
    return [*rows, measured(labels, seconds[PEAK], GFLOP_per_s=flop_per_s / 1e9)]


def _step_of(device: torch.device, engine: type[Engine], workload: Workload) -> Call:
    meta_learner, batch = from_registry(MAML, workload, device=device), made_episodes(workload, device=device)
    given = batch if issubclass(engine, Ours) else apart(batch)
    made = engine(meta_learner.learner, inner_lr=meta_learner.inner_loop.inner_lr, inner_steps=workload.inner_steps)
    return lambda: made.step(given)
