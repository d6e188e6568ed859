"""A meta-training as the commands start it: where, compiled or not, what is said, and what its record tells of it."""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from norml_cli import __version__
from norml_cli.data.examples import Examples
from norml_cli.data.splits import SplitName
from norml_cli.files.errors import UserError
from norml_cli.registry.protocol import Protocol
from norml_cli.registry.resolving import Resolved
from norml_cli.registry.specs import PretrainSpec, RunSpec
from norml_cli.results.records import SCHEMA_VERSION, Cost, CurvePoint, Parameters
from norml_cli.terminal.command_line import command_line
from norml_cli.terminal.progress import Follower, RunDisplay
from norml_cli.terminal.status_files import SUFFIX, StatusFile
from norml_cli.terminal.tensorboard import EventFiles
from norml_cli.training.checkpoints import Stopped
from norml_cli.training.divergence import note_path
from norml_cli.training.provenance import device_name, git_state
from norml_cli.training.run import Compile, Run

# For each inner step; measured: compiling one takes 10-20 s, on two cores and beside an H100, which it saves less.
COMPILE_FROM_OUTER_STEPS = {"cpu": 1000, "cuda": 4000}
SEVERAL_DEVICES = "to rounding, which training enlarges: it was stopped and taken up on another device"
STOPPED_EXIT_CODE = 130  # as a shell reports a process that Ctrl-C ended


@dataclass(frozen=True)
class Launch:
    """What the user asked for besides the protocol.

    force: drop what is begun and run again what is finished. compiled: whether to compile; None: where it pays.
    tensorboard: the folder of event files, if any.
    """

    seed: int
    device: torch.device
    force: bool
    compiled: bool | None
    tensorboard: Path | None = None


@contextmanager
def launched(
    item: Resolved,
    examples: Examples,
    launch: Launch,
    *,
    checkpoint: Path,
    console: Console,
    splits: Sequence[SplitName],
) -> Iterator[tuple[Run, dict[str, Any]]]:
    """A run, begun or taken up again at `checkpoint`, and the fields of its record that are known from the start.

    On leaving, the checkpoint goes. Exits with 130 when the user stopped it: the same command goes on from there.
    """
    spec = item.spec
    if launch.force:
        checkpoint.unlink(missing_ok=True)
        note_path(checkpoint).unlink(missing_ok=True)
    known = known_fields(spec, item.changed, launch.seed, launch.device)
    title = f"{spec.method}, {spec.shots}-shot, seed {launch.seed}"  # short, for it begins every line of progress
    status = StatusFile(checkpoint.with_suffix(SUFFIX), spec.title(item.changed, launch.seed))
    followers: list[Follower] = [status]
    if launch.tensorboard is not None:
        followers.append(EventFiles(launch.tensorboard / _place(spec, item.changed, launch.seed)))
    with RunDisplay(console, title, followers) as display:
        run = Run(
            spec,
            examples,
            seed=launch.seed,
            device=launch.device,
            checkpoint=checkpoint,
            display=display,
            compile_=_compile(launch, spec.protocol),
            splits=splits,
        )
        if len(run.state.devices) > 1:
            known |= {"device": ", then ".join(run.state.devices), "repeatability": SEVERAL_DEVICES}
        status.begin("meta-training", run.state.step, spec.protocol.outer_steps)
        changes = spec.shown(key for key in item.changed if key != "outer_steps")  # these are said anyway
        display.say(_begun(run.state.step, spec.protocol.outer_steps, changes))
        try:
            yield run, known
        except Stopped:
            display.say(f"stopped after outer step {run.state.step:,}; the same command goes on from there")
            raise SystemExit(STOPPED_EXIT_CODE) from None
        checkpoint.unlink(missing_ok=True)
        status.remove()
        display.say("finished")


def _place(spec: RunSpec, changed: Sequence[str], seed: int) -> Path:
    """A run's own folder among event files, as TensorBoard names it: trials are told apart by their values."""
    name = f"{spec.hash()[:12]}-seed-{seed}" if changed else f"seed-{seed}"
    return Path(spec.benchmark) / f"{spec.shots}-shot" / spec.method / name


def _begun(step: int, outer_steps: int, changes: Sequence[str]) -> str:
    having = f" with {', '.join(changes)}" if changes else ""
    if not outer_steps:
        return f"begins{having}; nothing is meta-trained"
    return f"{f'goes on from {step:,} of' if step else 'begins'} {outer_steps:,} outer steps{having}"


def known_fields(
    spec: RunSpec | PretrainSpec, changed: Sequence[str], seed: int, device: torch.device
) -> dict[str, Any]:
    """The fields of any record that are known before its training starts."""
    return {
        "schema_version": SCHEMA_VERSION,
        "status": "finished",
        "spec": spec,
        "spec_hash": spec.hash(),
        "changed": list(changed),
        "seed": seed,
        "device": device_name(device, spec.examples_of_an_outer_step if isinstance(spec, RunSpec) else 0),
        "versions": {"norml": __version__, "python": platform.python_version(), "torch": torch.__version__},
        "git": git_state(),  # of the code that is about to run, not of what stands there hours later
        "deterministic": torch.are_deterministic_algorithms_enabled() or None,
        "repeatability": repeatability(device),
        "command": command_line(sys.argv[1:]),
    }


def repeatability(device: torch.device) -> str:
    """What a repetition on `device` may be expected to give again, for a record's reader."""
    if device.type == "cpu":
        return "to the bit on the same kind of CPU, with as many threads and the same versions"
    if torch.are_deterministic_algorithms_enabled():
        return "to the bit on the same kind of GPU, with the same versions"
    return (
        "what is drawn (initial weights, episodes) to the bit; what a GPU sums, by atomic additions or in cuBLAS's "
        "workspace, to rounding, which training enlarges"
    )


def now() -> str:
    """UTC, as records write it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def found_fields(run: Run, *, evaluation_s: float) -> dict[str, Any]:
    """The fields of a record that a trained run gives."""
    state = run.state
    return {
        "dataset": run.dataset,
        "curve": [CurvePoint(**point) for point in state.curve],
        "best_step": state.best_step,
        "parameters": Parameters(**run.method.parameter_counts()),
        "cost": Cost(
            wall_s=state.wall_s,
            training_s=state.training_s,
            compile_s=state.compile_s or None,
            evaluation_s=evaluation_s,
            steps_per_s=state.step / state.training_s if state.step else 0.0,
            peak_memory_bytes=state.peak_memory_bytes,
        ),
        "created": now(),
    }


def be_deterministic() -> None:
    """Hold torch to algorithms that give the same bits every time; what has none raises RuntimeError when it is used.

    On the CPU they all do, given as many threads. On a GPU sums by atomic additions and cuBLAS's choice of workspace
    do not, unless this is asked for.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(mode=True)
    torch.backends.cudnn.benchmark = False


def require_writable(results: Path) -> None:
    """Found out before hours of training, not after. Raises UserError."""
    try:
        results.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=results):  # gone with the process, however it ends
            pass
    except OSError as error:
        raise UserError(f"--results {results}: cannot be written ({error.strerror}); choose another folder") from None


def device_of(name: str) -> torch.device:
    """The device that --device names; 'auto' is the first GPU, or the CPU. Raises UserError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: unknown; use auto, cpu, cuda or cuda:N") from None
    if device.type not in {"cpu", "cuda"}:
        raise UserError(f"--device {name}: not supported; use auto, cpu, cuda or cuda:N")
    if device.type == "cpu" and device.index is not None:
        raise UserError(f"--device {name}: torch knows one CPU; use cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: torch sees {torch.cuda.device_count()} CUDA devices; use --device cpu")
    return device


def _compile(launch: Launch, protocol: Protocol) -> Compile:
    if launch.compiled is not None:
        return "must" if launch.compiled else "never"
    return "try" if _compile_pays(protocol, launch.device) else "never"


def _compile_pays(protocol: Protocol, device: torch.device) -> bool:
    """Whether the time that compiling takes is won back: it takes longer with each inner step, and needs a compiler."""
    compiler = any(shutil.which(name) for name in (os.environ.get("CXX"), "c++", "g++", "clang++") if name)
    long_enough = protocol.outer_steps >= COMPILE_FROM_OUTER_STEPS[device.type] * max(1, protocol.inner_steps)
    return compiler and long_enough and not protocol.recompute
