"""A long meta-training watched from inside: resident memory, open files, step time and what the display costs.

    python -m tests.trust.long_run results/trust/long-run.json      # minutes; Linux only: `other_threads_s`

The run is NORML on the embedded glyphs with a learner of a few neurons, so that a step takes milliseconds and what
leaks by the step would show. Its bar is drawn as on a terminal. Judged over the last two thirds, when caches are warm:
memory and open files by the slope through the medians of equal windows with its 95% interval, step time by the ratio of
the last window's median to the first's.
"""

import argparse
import io
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from rich.console import Console
from scipy import stats

from norml_cli import __version__
from norml_cli.data.examples import Examples
from norml_cli.data.fixed_episodes import episode_requests
from norml_cli.data.preparing import ensure_ready
from norml_cli.files.clock import now
from norml_cli.files.companions import Companions
from norml_cli.registry.reading import load_registry
from norml_cli.terminal.progress import RunDisplay
from norml_cli.training.loop import Setting
from norml_cli.training.provenance import git_state
from norml_cli.training.run import Run

OUTER_STEPS = 30_000
MOST_SAMPLES = 100_000  # five a second: over five hours
WINDOWS = 20  # of the last two thirds; medians of a thousand steps each are near independent
VALUES = {
    "hidden_sizes": [12, 8],
    "inner_steps": 2,
    "inner_steps_test": 2,
    "meta_batch_size": 2,
    "validate_every": 1000,
    "validation_episodes": 64,
    "test_episodes": 64,
}
LARGEST_GROWTH_BYTES = 2 << 20  # chosen: over 20,000 steps; a leak of one small tensor a step (100 bytes) would show
LARGEST_DISPLAY_SHARE = 0.01
THIS_PROCESS = psutil.Process()


class WatchedDisplay(RunDisplay):
    """The real display, timed: CPU seconds of its calls, and a sample of the process at each."""

    def __init__(self, console: Console, title: str) -> None:
        super().__init__(console, title)
        self.samples, self.n_samples = np.full((MOST_SAMPLES, 3), -1.0), 0  # whole from the start: it must not grow
        self.own_s = 0.0

    def training(self, step: int, outer_steps: int, loss: float, validation: float | None) -> None:
        """As the real one, timed; then a sample, which is not."""
        started_at = time.thread_time()
        super().training(step, outer_steps, loss, validation)
        self.own_s += time.thread_time() - started_at
        self.samples[self.n_samples] = step, resident_bytes(), open_files()
        self.n_samples += 1


def resident_bytes() -> int:
    """Memory that the process holds now."""
    return int(THIS_PROCESS.memory_info().rss)


def open_files() -> int:
    """Files, pipes and sockets that the process holds now, the listing itself left out."""
    return int(THIS_PROCESS.num_fds()) - 1


def other_threads_s() -> float:
    """CPU seconds of all threads but the main one: the display's refreshing, where torch computes on one thread."""
    # On Linux, the main thread has the number of the process.
    others = (thread for thread in THIS_PROCESS.threads() if thread.id != THIS_PROCESS.pid)
    return float(sum(thread.user_time + thread.system_time for thread in others))


def watched_run(outer_steps: int, home: Path) -> dict[str, Any]:
    """Train, and return every sample and the CPU seconds."""
    os.environ["NORML_HOME"] = str(home)
    registry = load_registry()
    item = registry.resolve("norml", "glyphs-5way", 1, VALUES | {"outer_steps": outer_steps})
    cache = ensure_ready(registry, "glyphs", episode_requests(item.spec), Console(file=io.StringIO()))
    examples = Examples.of(registry, item.spec, cache)
    step_s = np.full(outer_steps, -1.0)  # as the display's samples
    original = Run._take_steps

    def timed(self: Run, count: int) -> float:
        started_at = time.perf_counter()
        loss = original(self, count)
        step_s[self.state.step - 1] = (time.perf_counter() - started_at) / count
        return loss

    Run._take_steps = timed  # type: ignore[method-assign]
    with WatchedDisplay(Console(file=io.StringIO(), force_terminal=True, width=120), "norml") as display:
        run = Run(item.spec, examples, Setting(0, torch.device("cpu"), Companions(home / "run.json"), display))
        cpu_before, others_before = time.process_time(), other_threads_s()
        run.train()
        cpu_s, others_s = time.process_time() - cpu_before, other_threads_s() - others_before
    samples = display.samples[: display.n_samples]
    return {"samples": samples, "step_s": step_s, "cpu_s": cpu_s, "display_s": display.own_s + others_s}


def trend(steps: NDArray[Any], values: NDArray[Any]) -> dict[str, Any]:
    """Growth over the last two thirds of the run: slope through the medians of WINDOWS windows, times their span."""
    chosen = np.stack([steps, values], axis=1)[steps > steps[-1] / 3]
    windows = [window for window in np.array_split(chosen, WINDOWS) if len(window)]
    at, medians = np.array([np.median(window, axis=0) for window in windows]).T
    if len(set(medians)) == 1:  # exactly flat: no residuals to take an interval from
        return {"medians": medians.tolist(), "growth": 0.0, "growth_half_width": 0.0}
    fit = stats.linregress(at, medians)
    span = float(at[-1] - at[0])
    half_width = float(stats.t.ppf(0.975, len(at) - 2) * fit.stderr) * span
    return {"medians": medians.tolist(), "growth": float(fit.slope) * span, "growth_half_width": half_width}


def judged(found: dict[str, Any], outer_steps: int) -> dict[str, Any]:
    """The figures that are kept, and whether each holds."""
    samples, step_s = found["samples"], found["step_s"]
    memory, files = trend(samples[:, 0], samples[:, 1]), trend(samples[:, 0], samples[:, 2])
    step_time = trend(np.arange(1.0, len(step_s) + 1), step_s)
    share = found["display_s"] / found["cpu_s"]
    return {
        "outer_steps": outer_steps,
        "windows": WINDOWS,
        "memory_bytes": memory,
        "open_files": files,
        "step_s": step_time | {"last_over_first": step_time["medians"][-1] / step_time["medians"][0]},
        "display": {"cpu_s": found["display_s"], "of_cpu_s": found["cpu_s"], "share": share},
        "holds": {
            "memory": memory["growth"] + memory["growth_half_width"] < LARGEST_GROWTH_BYTES,
            "open_files": files["growth"] == 0 and files["growth_half_width"] == 0,
            "display": share < LARGEST_DISPLAY_SHARE,
        },
    }


def main() -> None:
    """Run, judge, write the figures; exit code 1 if one does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    parser.add_argument("--outer-steps", type=int, default=OUTER_STEPS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # so that any other thread is the display's
    with tempfile.TemporaryDirectory(prefix="norml-long-run-") as home:
        started_at = time.perf_counter()
        figures = judged(watched_run(arguments.outer_steps, Path(home)), arguments.outer_steps)
    git = git_state(("norml", "norml_cli", "registry", "tests/trust"))
    record = {
        "command": f"python -m tests.trust.long_run {arguments.target.name}",
        "wall_s": time.perf_counter() - started_at,
        **figures,
        "versions": {"norml": __version__, "python": platform.python_version(), "torch": torch.__version__},
        "git": git.model_dump(),
        "created": now(),
    }
    arguments.target.parent.mkdir(parents=True, exist_ok=True)
    arguments.target.write_text(json.dumps(record, indent=2) + "\n")
    sys.exit(0 if all(figures["holds"].values()) else 1)


if __name__ == "__main__":
    main()
