"""`norml run METHOD...`: each method's run to its record."""

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.console import Console

from norml.statistics import FORMULA, interval_95
from norml_cli import __version__
from norml_cli.cache import Cache, EpisodeRequest, episode_requests
from norml_cli.commands.prepare import ensure_ready
from norml_cli.commands.report import print_text
from norml_cli.display import RunDisplay
from norml_cli.errors import UserError
from norml_cli.provenance import device_name, git_state
from norml_cli.records import (
    SCHEMA_VERSION,
    Accuracy,
    Cost,
    CurvePoint,
    EpisodesIdentity,
    GitState,
    Parameters,
    RunRecord,
    command_line,
    read_record,
    record_path,
    write_record,
)
from norml_cli.registry import Registry, Resolved
from norml_cli.report import render_runs
from norml_cli.spec import Protocol
from norml_cli.training import Outcome, Run, Stopped

COMPILE_FROM_OUTER_STEPS = 1000  # an inner step, measured: compiling takes about 10-20 s an inner step on two cores
STOPPED_EXIT_CODE = 130  # as a shell reports a process that Ctrl-C ended


@dataclass(frozen=True)
class RunSettings:
    """What the user asked for besides the protocol.

    force: drop what is begun and run again what is finished. compiled: whether to compile; None: where it pays.
    """

    seed: int
    device: torch.device
    force: bool
    compiled: bool | None


def run(
    registry: Registry,
    resolved: list[Resolved],
    *,
    seed: int,
    device: str,
    force: bool,
    compiled: bool | None,
    results: Path,
    console: Console,
) -> None:
    """Run each resolved method that has no finished record yet, and print what they reached.

    Everything that can be refused is refused before the first run starts. Raises UserError; exits with 130 when the
    user stopped it (its checkpoint is written, the same command goes on).
    """
    settings = RunSettings(seed, _device(device), force, compiled)
    places = [(record_path(results, item.spec, seed), item) for item in resolved]
    if not force:
        for path, item in places:
            _refuse_other_protocol(path, item)
    _require_writable(results)
    caches = _caches(registry, resolved, console)
    for path, item in places:
        if path.exists() and not force:
            console.print(f"{item.spec.method}: finished already; --force runs it again", highlight=False)
        else:
            _run_one(registry, item, caches[item.spec.dataset], settings, path, console=console)
    finished = [(path, read_record(path)) for path, _ in places]
    print_text(render_runs(registry, finished, "rich", width=console.width), console)


def _caches(registry: Registry, resolved: list[Resolved], console: Console) -> dict[str, Cache]:
    """Open caches by data set, holding every evaluation episode that the runs ask for."""
    requests: dict[str, list[EpisodeRequest]] = {}
    for item in resolved:
        requests.setdefault(item.spec.dataset, []).extend(episode_requests(item.spec))
    return {dataset: ensure_ready(registry, dataset, wanted, console) for dataset, wanted in requests.items()}


def _run_one(
    registry: Registry, item: Resolved, cache: Cache, settings: RunSettings, path: Path, *, console: Console
) -> None:
    """Meta-train, test and write the record of one method to `path`."""
    spec = item.spec
    checkpoint, weights = path.with_suffix(".checkpoint"), path.with_suffix(".weights")
    if settings.force:
        checkpoint.unlink(missing_ok=True)
    git = git_state()  # of the code that is about to run, not of what stands there hours later
    with RunDisplay(console, f"{spec.method}, {spec.shots}-shot, seed {settings.seed}") as display:
        started = Run(
            spec,
            registry.datasets[spec.dataset],
            cache,
            seed=settings.seed,
            device=settings.device,
            checkpoint=checkpoint,
            display=display,
            compiled=_compile_pays(spec.protocol) if settings.compiled is None else settings.compiled,
        )
        begun = f"goes on from {started.state.step:,} of" if started.state.step else "begins"
        display.say(f"{begun} {spec.protocol.outer_steps:,} outer steps")
        try:
            outcome = started.finish()
        except Stopped:
            display.say(f"stopped after outer step {started.state.step:,}; the same command goes on from there")
            raise SystemExit(STOPPED_EXIT_CODE) from None
        started.keep_weights(weights)  # before the record: a record without its weights could not be verified
        write_record(path, _record(started, outcome, item.changed, git))
        checkpoint.unlink(missing_ok=True)
        display.say("finished")


def _record(run: Run, outcome: Outcome, changed: tuple[str, ...], git: GitState) -> RunRecord:
    state = outcome.state
    interval = interval_95(outcome.correct).divided_by(run.queries_per_episode)
    return RunRecord(
        schema_version=SCHEMA_VERSION,
        status="finished",
        spec=run.spec,
        spec_hash=run.spec.hash(),
        changed=list(changed),
        seed=run.seed,
        dataset=run.dataset,
        episodes=EpisodesIdentity(
            validation_hash=run.episode_hashes["meta_val"],
            test_hash=run.episode_hashes["meta_test"],
            n_test=len(outcome.correct),
            queries_per_episode=run.queries_per_episode,
        ),
        correct=outcome.correct,
        accuracy=Accuracy(mean=interval.mean, half_width=interval.half_width, n=interval.n, formula=FORMULA),
        curve=[CurvePoint(**point) for point in state.curve],
        best_step=state.best_step,
        parameters=Parameters(**outcome.parameters),
        cost=Cost(
            wall_s=state.wall_s,
            training_s=state.training_s,
            compile_s=state.compile_s if run.compiled else None,
            evaluation_s=outcome.evaluation_s,
            steps_per_s=state.step / state.training_s,
            peak_memory_bytes=state.peak_memory_bytes,
        ),
        device=device_name(run.device),
        versions={"norml": __version__, "python": platform.python_version(), "torch": torch.__version__},
        git=git,
        command=command_line(sys.argv[1:]),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _compile_pays(protocol: Protocol) -> bool:
    """Whether the time that compiling takes is won back: it takes longer with each inner step, and needs a compiler."""
    compiler = any(shutil.which(name) for name in (os.environ.get("CXX"), "c++", "g++", "clang++") if name)
    long_enough = protocol.outer_steps >= COMPILE_FROM_OUTER_STEPS * max(1, protocol.inner_steps)
    return compiler and long_enough and not protocol.recompute


def _refuse_other_protocol(path: Path, item: Resolved) -> None:
    """A record of another protocol in this place is neither taken for this run nor overwritten unasked."""
    if path.exists() and read_record(path).spec_hash != item.spec.hash():
        raise UserError(
            f"{path}: holds a finished run under other values; replace it with --force, "
            f"or keep both with another --results folder"
        )


def _require_writable(results: Path) -> None:
    """Found out before hours of training, not after."""
    try:
        results.mkdir(parents=True, exist_ok=True)
        probe = results / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"--results {results}: cannot be written ({error.strerror}); choose another folder") from None


def _device(name: str) -> torch.device:
    """The device that --device names; 'auto' is the first GPU, or the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: unknown; use auto, cpu, cuda or cuda:N") from None
    if device.type not in {"cpu", "cuda"}:
        raise UserError(f"--device {name}: not supported; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: torch sees {torch.cuda.device_count()} CUDA devices; use --device cpu")
    return device
