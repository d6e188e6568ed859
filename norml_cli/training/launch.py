"""Start a training for a command: device, compilation, progress, exit codes and cleaning up."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch
from rich.console import Console

from norml_cli.data.examples import Examples
from norml_cli.data.splits import SplitName
from norml_cli.files.companions import Companions
from norml_cli.files.errors import UserError
from norml_cli.files.machine import cpp_compiler
from norml_cli.registry.resolving import Resolved
from norml_cli.registry.specs import RunSpec
from norml_cli.terminal.progress import Follower, RunDisplay
from norml_cli.terminal.status_files import StatusFile
from norml_cli.terminal.tensorboard import EventFiles
from norml_cli.training.loop import Setting, Training
from norml_cli.training.ranks.sharing import LostRank, Ranks
from norml_cli.training.resources import is_out_of_memory, memory_remedies
from norml_cli.training.run import Compile, Run
from norml_cli.training.stopping import STOPPED_EXIT_CODE, Stopped, StoppedAtOnce, StopRequest

# Per inner step. Measured: compiling takes 10-20 s per inner step; an H100 gains less from it than two CPU cores.
COMPILE_FROM_OUTER_STEPS = {"cpu": 1000, "cuda": 4000}
LOST_EXIT_CODE = 1  # of a rank that lost another rank

T = TypeVar("T", bound=Training)


@dataclass(frozen=True)
class Launch:
    """Options of a training that are not part of the protocol.

    force: discard checkpoints and results, and start again. threads: CPU threads; None: as many as speed it up.
    compiled: whether to compile; None: if it saves time. tensorboard: folder for event files, if any. name: the run's
    name (--name). ranks: the processes that share each training.
    """

    seed: int
    device: torch.device
    results: Path
    force: bool = False
    threads: int | None = None
    compiled: bool | None = None
    tensorboard: Path | None = None
    name: str | None = None
    ranks: Ranks = field(default_factory=Ranks)

    @classmethod
    def of(
        cls, seed: int, device: str, results: Path, *, force: bool, threads: int | None, deterministic: bool
    ) -> "Launch":
        """A launch from the options that run, study and pretrain share. Raises UserError."""
        if deterministic:
            be_deterministic()
        return cls(seed, device_of(device), results, force, threads)

    def with_seeds(self, seeds: Sequence[int]) -> "list[Launch]":
        """The same launch for each seed."""
        return [replace(self, seed=seed) for seed in seeds]


@dataclass(frozen=True)
class TrainingNames:
    """Names and descriptions of a training.

    short: for lines of progress. full: identifies it among other trainings. changed: keys that the command line
    changed. remedies: changes that need less memory. shown: keys whose values are shown at the start.
    """

    short: str
    full: str
    changed: Sequence[str]
    remedies: str
    shown: Sequence[str] = ()


@contextmanager
def launched(
    launch: Launch,
    companions: Companions,
    names: TrainingNames,
    build: Callable[[Setting], T],
    *,
    console: Console,
    followers: Sequence[Follower] = (),
) -> Iterator[T]:
    """Start or resume the training that `build` makes; on leaving, remove its checkpoint if its record is there.

    Exits with 130 if the user stopped it; the same command then resumes it. Raises UserError.
    """
    ranks = launch.ranks
    if launch.force:
        ranks.of_first(companions.start_over)
    status = StatusFile(companions.status, names.full)
    all_followers = [status, *followers] if ranks.is_first else []
    with RunDisplay(console, names.short, all_followers) as display, _memory_errors_explained(names):
        stop = StopRequest(display.say)
        with stop.listening():
            setting = Setting(
                seed=launch.seed,
                device=launch.device,
                companions=companions,
                display=display,
                stop=stop,
                threads=launch.threads,
                changed=names.changed,
                shown=names.shown,
                ranks=ranks,
            )
            training = build(setting)
            if ranks.is_first:
                status.begin(training.phase, training.state.step, training.steps)
            display.say(training.begins())
            with _stops_explained(training, display):
                yield training
                ranks.of_first(companions.tidy)
                display.say("finished")
                training.obey()  # a stop request that came too late for this training


@contextmanager
def launched_run(
    item: Resolved, examples: Examples, launch: Launch, companions: Companions, console: Console, *splits: SplitName
) -> Iterator[Run]:
    """The meta-training of `item`, evaluated on `splits`; as `launched`."""
    spec, seed = item.spec, launch.seed
    short = f"{spec.label(launch.name)}, {spec.shots}-shot, seed {seed}"
    shown = tuple(dict.fromkeys([*item.changed, *item.varied]))
    full = spec.title(shown, seed, launch.name)
    names = TrainingNames(short, full, item.changed, memory_remedies(spec.protocol), shown)
    followers = []
    if launch.tensorboard is not None:
        followers.append(EventFiles(launch.tensorboard / _place(spec, item.changed, seed, launch.name)))

    def build(setting: Setting) -> Run:
        return Run(spec, examples, setting, compile_=_compile(launch, spec), splits=splits)

    with launched(launch, companions, names, build, console=console, followers=followers) as run:
        yield run


@contextmanager
def _memory_errors_explained(names: TrainingNames) -> Iterator[None]:
    """Turn out-of-memory errors into a UserError that says what needs less memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"{names.short}: out of memory; to need less, use {names.remedies}") from error


@contextmanager
def _stops_explained(training: Training, display: RunDisplay) -> Iterator[None]:
    """Where the training stops before its end: say how to go on, and exit with the code that says why."""
    try:
        yield
    except Stopped as stopped:
        display.say(_stopped(training, at_once=isinstance(stopped, StoppedAtOnce)))
        raise SystemExit(STOPPED_EXIT_CODE) from None
    except LostRank:
        display.say(f"another rank has ended; run the same command to {_next(training)}")
        raise SystemExit(LOST_EXIT_CODE) from None


def _stopped(training: Training, *, at_once: bool) -> str:
    if at_once:
        return f"stopped at once; run the same command to {_next(training)}"
    return f"stopped after {training.step_name} {training.state.step:,}; run the same command to continue"


def _next(training: Training) -> str:
    return f"continue from {training.step_name} {training.saved_step:,}" if training.saved_step else "start again"


def _place(spec: RunSpec, changed: Sequence[str], seed: int, label: str | None) -> Path:
    """A run's folder for TensorBoard's event files; the hash of its values distinguishes trials."""
    name = f"{spec.hash()[:12]}-seed-{seed}" if changed else f"seed-{seed}"
    return Path(spec.benchmark) / f"{spec.shots}-shot" / spec.label(label) / name


def be_deterministic() -> None:
    """Make torch use deterministic algorithms; an operation without one raises RuntimeError when it runs.

    On a CPU all algorithms are deterministic for a fixed number of threads. On a GPU, atomic additions and cuBLAS's
    choice of workspace are not, unless this is set.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(mode=True)
    torch.backends.cudnn.benchmark = False


def device_of(name: str) -> torch.device:
    """The device of --device; 'auto' is the first GPU, or the CPU without one. Raises UserError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: unknown; use auto, cpu, cuda or cuda:N") from None
    if device.type not in {"cpu", "cuda"}:
        raise UserError(f"--device {name}: not supported; use auto, cpu, cuda or cuda:N")
    if device.type == "cpu" and device.index is not None:
        raise UserError(f"--device {name}: torch has one CPU device; use cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: torch sees {torch.cuda.device_count()} CUDA devices; use --device cpu")
    return device


def _compile(launch: Launch, spec: RunSpec) -> Compile:
    if launch.compiled is not None:
        return "must" if launch.compiled else "never"
    return "try" if _compile_pays(spec, launch.device) else "never"


def _compile_pays(spec: RunSpec, device: torch.device) -> bool:
    """Whether compiling saves time: it needs a C++ compiler, and longer training the more inner steps there are."""
    protocol = spec.protocol
    long_enough = protocol.outer_steps >= COMPILE_FROM_OUTER_STEPS[device.type] * max(1, spec.steps_of_an_episode)
    return cpp_compiler() is not None and long_enough and not protocol.recompute
