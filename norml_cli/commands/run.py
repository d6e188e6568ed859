"""`norml run METHOD...`: each method's run to its record."""

import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.console import Console

from norml.statistics import FORMULA, interval_95
from norml_cli import __version__
from norml_cli.cache import Cache, EpisodeRequest, episode_requests
from norml_cli.commands.prepare import ensure_ready
from norml_cli.commands.report import print_text
from norml_cli.datasets.splits import SplitName
from norml_cli.display import RunDisplay
from norml_cli.errors import UserError
from norml_cli.records import (
    SCHEMA_VERSION,
    Accuracy,
    Cost,
    CurvePoint,
    DatasetIdentity,
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
from norml_cli.training import Outcome, Run, Stopped


def run(
    registry: Registry,
    resolved: list[Resolved],
    *,
    seed: int,
    device: str,
    force: bool,
    results: Path,
    console: Console,
) -> None:
    """Run each resolved method that has no finished record yet, and print what they reached.

    Everything that can be refused is refused before the first run starts. Raises UserError; exits with 130 when the
    user stopped it (its checkpoint is written, the same command goes on).
    """
    chosen = _device(device)
    paths = [record_path(results, item.spec, seed) for item in resolved]
    if not force:
        for path, item in zip(paths, resolved, strict=True):
            _refuse_other_protocol(path, item)
    _require_writable(results)
    caches = _caches(registry, resolved, console)
    finished = []
    for path, item in zip(paths, resolved, strict=True):
        if path.exists() and not force:
            console.print(f"{item.spec.method}: finished already; --force runs it again", highlight=False)
        else:
            _run_one(
                registry,
                item,
                caches[item.spec.dataset],
                seed=seed,
                device=chosen,
                path=path,
                force=force,
                console=console,
            )
        finished.append((path, read_record(path)))
    print_text(render_runs(registry, finished, "rich", width=console.width), console)


def _caches(registry: Registry, resolved: list[Resolved], console: Console) -> dict[str, Cache]:
    """Open caches by data set, holding every evaluation episode that the runs ask for."""
    requests: dict[str, list[EpisodeRequest]] = {}
    for item in resolved:
        requests.setdefault(item.spec.dataset, []).extend(episode_requests(item.spec))
    return {dataset: ensure_ready(registry, dataset, wanted, console) for dataset, wanted in requests.items()}


def _run_one(
    registry: Registry,
    item: Resolved,
    cache: Cache,
    *,
    seed: int,
    device: torch.device,
    path: Path,
    force: bool,
    console: Console,
) -> None:
    """Meta-train, test and write the record of one method."""
    spec = item.spec
    checkpoint, weights = path.with_suffix(".checkpoint"), path.with_suffix(".weights")
    if force:
        checkpoint.unlink(missing_ok=True)
    hashes = {request.split: cache.episodes(request).hash() for request in episode_requests(spec)}
    git = _git_state()  # of the code that is about to run, not of what stands there hours later
    with RunDisplay(console, f"{spec.method}, {spec.shots}-shot, seed {seed}") as display:
        started = Run(
            spec,
            registry.datasets[spec.dataset],
            cache,
            seed=seed,
            device=device,
            checkpoint=checkpoint,
            display=display,
        )
        begun = f"goes on from {started.state.step:,} of" if started.state.step else "begins"
        display.say(f"{begun} {spec.protocol.outer_steps:,} outer steps")
        try:
            outcome = started.finish()
        except Stopped:
            display.say(f"stopped after outer step {started.state.step:,}; the same command goes on from there")
            raise SystemExit(130) from None
        started.keep_weights(weights)  # before the record: a record without its weights could not be verified
        write_record(
            path,
            _record(
                item,
                cache,
                outcome,
                seed=seed,
                device=device,
                queries_per_episode=started.queries_per_episode,
                hashes=hashes,
                git=git,
            ),
        )
        checkpoint.unlink(missing_ok=True)
        display.say("finished")


def _record(
    item: Resolved,
    cache: Cache,
    outcome: Outcome,
    *,
    seed: int,
    device: torch.device,
    queries_per_episode: int,
    hashes: Mapping[SplitName, str],
    git: GitState,
) -> RunRecord:
    spec, state = item.spec, outcome.state
    interval = interval_95(torch.tensor(outcome.correct).double().numpy() / queries_per_episode)
    return RunRecord(
        schema_version=SCHEMA_VERSION,
        status="finished",
        spec=spec,
        spec_hash=spec.hash(),
        changed=list(item.changed),
        seed=seed,
        dataset=DatasetIdentity(id=spec.dataset, fingerprint=cache.fingerprint, content_hash=cache.content_hash),
        episodes=EpisodesIdentity(
            validation_hash=hashes["meta_val"],
            test_hash=hashes["meta_test"],
            n_test=len(outcome.correct),
            queries_per_episode=queries_per_episode,
        ),
        correct=outcome.correct,
        accuracy=Accuracy(mean=interval.mean, half_width=interval.half_width, n=interval.n, formula=FORMULA),
        curve=[CurvePoint(**point) for point in state.curve],
        best_step=state.best_step,
        parameters=Parameters(**outcome.parameters),
        cost=Cost(
            wall_s=state.wall_s,
            training_s=state.training_s,
            evaluation_s=outcome.evaluation_s,
            steps_per_s=state.step / state.training_s,
            peak_memory_bytes=state.peak_memory_bytes,
        ),
        device=_device_name(device),
        versions={"norml": __version__, "python": platform.python_version(), "torch": torch.__version__},
        git=git,
        command=command_line(sys.argv[1:]),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


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


def _device_name(device: torch.device) -> str:
    """The GPU's model, or the CPU's architecture and the number of threads torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"


def _git_state() -> GitState:
    """Commit of the code that runs and whether it was changed since; unknown outside a checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return GitState(commit=None, dirty=None)

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)  # noqa: S603, S607 - fixed words, the user's own git
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--", "norml", "norml_cli", "registry")
    return GitState(commit=commit, dirty=None if changes is None else changes != "")
