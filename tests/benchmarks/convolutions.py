"""Our outer step on convolutional learners against torch.func and plain autograd, after a check that all agree."""

from contextlib import ExitStack
from statistics import median

import torch

from norml_cli.results.speed import Measurement, SpeedSection
from tests.benchmarks.agreement import TOLERANCE, errors_against_ours, require_agreement
from tests.benchmarks.bench import Bench
from tests.benchmarks.engines import COMPILED, Autograd, CompiledTorchFunc, Engine, Ours, OursCompiled, TorchFunc
from tests.benchmarks.measure import Call
from tests.benchmarks.record import measured
from tests.benchmarks.workloads import MAML, Workload, apart, from_registry, made_episodes

ENGINES: tuple[type[Engine], ...] = (Ours, OursCompiled, CompiledTorchFunc, TorchFunc, Autograd)
WORKLOADS = {
    "omniglot-20way-conv": Workload(1, 1),
    "omniglot-5way-conv": Workload(1, 1, meta_batch_size=32, inner_steps=1, n_way=5),
}
COMPILES_TOO_LONG = {"omniglot-20way-conv": CompiledTorchFunc}  # five steps: not done after 10 minutes
QUICK = {"omniglot-5way-conv": Workload(1, 1, meta_batch_size=2, inner_steps=1, n_way=5)}
CHECKED = Workload(1, 1, meta_batch_size=2, inner_steps=2, n_way=5)
INNER_LR = 0.1  # of the check alone: small enough that an inner step amplifies no rounding


def convolutions(bench: Bench) -> SpeedSection:
    """Time one outer step of MAML on Finn et al.'s strided net. Raises DisagreementError."""
    engines = [engine for engine in ENGINES if bench.compiled or engine not in COMPILED]
    bench.progress.at("convolutions, checking that all compute the same meta-gradient")
    learner = from_registry(MAML, CHECKED, benchmark="omniglot-5way-conv", device=bench.device).double().learner
    errors = errors_against_ours(engines, learner, CHECKED, inner_lr=INNER_LR)
    require_agreement(errors)
    workloads = QUICK if bench.quick else WORKLOADS
    return SpeedSection(
        name="convolutions",
        title="one outer step of MAML on four strided convolutions of 64 channels, 28 px, 1 shot, float32",
        settings={
            "relative error of the meta-gradient against norml's (float64)": errors,
            "tolerated error": TOLERANCE,
            "compile s": "a compiled engine's first step, nothing cached",
            "times norml": "against norml compiled, where compiled engines are timed",
            "left out": [f"{e.title}, {name}: too long to compile" for name, e in COMPILES_TOO_LONG.items()],
        },
        measurements=[row for name, workload in workloads.items() for row in _timed(bench, engines, name, workload)],
    )


def _timed(bench: Bench, engines: list[type[Engine]], benchmark: str, workload: Workload) -> list[Measurement]:
    engines = [engine for engine in engines if engine is not COMPILES_TOO_LONG.get(benchmark)]
    with ExitStack() as stack:
        made = {e.title: bench.candidate(stack, e.title, _step_of, e, benchmark, workload) for e in engines}
        first_s = {title: bench.once(process) for title, process in made.items()}
        seconds = bench.interleaved(f"convolutions, {benchmark}, turns", made, rounds=5)
    ours_s = median(seconds[(OursCompiled if bench.compiled else Ours).title])
    rows = []
    for engine in engines:
        spent = seconds[engine.title]
        compile_s = {"compile_s": first_s[engine.title]} if engine in COMPILED else {}
        labels = {"size": workload.size, "engine": engine.title}
        rows.append(measured(labels, spent, times_norml=median(spent) / ours_s, **compile_s))
    return rows


def _step_of(device: torch.device, engine: type[Engine], benchmark: str, workload: Workload) -> Call:
    learner = from_registry(MAML, workload, benchmark=benchmark, device=device).learner
    batch = made_episodes(workload, device=device)
    given = batch if issubclass(engine, Ours) else apart(batch)
    made = engine(learner, inner_lr=INNER_LR, inner_steps=workload.inner_steps)
    return lambda: made.step(given)
