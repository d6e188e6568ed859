"""How much memory an outer step of NORML needs against inner steps, plain and recomputing."""

import json
import os
import subprocess
import sys
from typing import Any

import psutil
import torch

from norml_cli.files.errors import UserError
from norml_cli.results.speed import Measurement, SpeedSection
from tests.benchmarks.bench import Bench
from tests.benchmarks.record import measured, not_measured

INNER_STEPS = (1, 5, 20, 50, 100, 200)
QUICK_INNER_STEPS = (5,)
AVAILABLE_SHARE = 0.75  # of the memory that is free: the machine stays usable

METHODS = {
    "cpu": "resident memory's high-water mark in a fresh process, reset before the step, less what was resident then",
    "cuda": "the allocator's high-water mark in a fresh process, reset before the step, less what was allocated then",
}

EXCEEDED = 3  # exit code of the probe
_PROBE = ("-m", "tests.benchmarks.memory_probe")


def memory(bench: Bench) -> SpeedSection:
    """Peak memory of one outer step above the level before it, each in a process of its own."""
    limit = min(bench.memory_limit_bytes, _available_bytes(bench))
    inner_steps = QUICK_INNER_STEPS if bench.quick else INNER_STEPS
    ways = [("plain", False), ("recompute", True)]
    rows: list[Measurement] = []
    for way, recompute in ways:
        stopped = False
        for steps in inner_steps:
            bench.progress.at(f"memory, {way}, inner steps", steps, inner_steps[-1])
            labels = {"way": way, "inner steps": steps}
            peak = None if stopped else _peak_bytes(bench, steps, limit, recompute=recompute)
            stopped = peak is None
            why = f"above the limit of {limit / 2**30:.1f} GiB"
            rows.append(not_measured(labels, why, unit="bytes") if peak is None else _row(labels, peak, rows))
    return SpeedSection(
        name="memory",
        title="peak memory of one outer step of NORML (20-way, 1 shot, 1 query, meta-batch 16)",
        settings={"method": METHODS["cuda" if bench.device.type == "cuda" else "cpu"], "limit_gib": limit / 2**30},
        measurements=rows,
    )


def _row(labels: dict[str, Any], peak: int, before: list[Measurement]) -> Measurement:
    first = next((row.median for row in before if row.labels["way"] == labels["way"]), peak)
    return measured(labels, [float(peak)], unit="bytes", times_first=peak / (first or peak))


def _peak_bytes(bench: Bench, inner_steps: int, limit: int, *, recompute: bool) -> int | None:
    """The peak, or None if the step needs more than `limit`. Raises RuntimeError if the probe fails otherwise."""
    asked = {"inner_steps": inner_steps, "recompute": recompute, "limit": limit, "device": str(bench.device)}
    done = subprocess.run([sys.executable, *_PROBE, json.dumps(asked)], capture_output=True, text=True, check=False)
    if done.returncode in {EXCEEDED, -9}:  # -9: the system took it for the machine's sake
        return None
    if done.returncode != 0:
        raise RuntimeError(f"the memory probe failed:\n{done.stderr}")
    return int(done.stdout)


def _available_bytes(bench: Bench) -> int:
    """What the step may take of the memory that is free. Raises UserError where no peak can be read."""
    if bench.device.type == "cuda":
        return int(AVAILABLE_SHARE * torch.cuda.mem_get_info(bench.device)[0])
    if not os.access("/proc/self/clear_refs", os.W_OK):
        raise UserError("the memory section needs Linux's /proc/self/clear_refs; name other sections with --only")
    return int(AVAILABLE_SHARE * psutil.virtual_memory().available)
