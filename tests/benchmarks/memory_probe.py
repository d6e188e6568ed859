"""One outer step of NORML in a process of its own; prints the bytes that its peak lies above the level before it."""

import contextlib
import json
import resource
import sys
from pathlib import Path
from typing import Any

import torch

from norml.meta_training import outer_step
from tests.benchmarks.memory import EXCEEDED
from tests.benchmarks.workloads import NORML, Workload, adam, from_registry, made_episodes


def main() -> None:
    asked: dict[str, Any] = json.loads(sys.argv[1])
    device = torch.device(asked["device"])
    workload = Workload(1, 1, inner_steps=asked["inner_steps"])
    meta_learner = from_registry(NORML, workload, device=device, recompute=asked["recompute"])
    optimizer = adam(meta_learner.parameters())
    batch = made_episodes(workload, device=device)
    # One small step first: threads, libraries and Adam's state are there for good, and not what a step needs.
    small = made_episodes(Workload(1, 1, meta_batch_size=2), device=device)
    outer_step(meta_learner, optimizer, small, inner_steps=1)
    optimizer.zero_grad(set_to_none=True)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")  # if memory ends, end this process
    level = _limited(device, asked["limit"])
    try:
        outer_step(meta_learner, optimizer, batch, inner_steps=workload.inner_steps)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or "memory" in str(error):
            sys.exit(EXCEEDED)
        raise
    peak = _peak(device) - level
    print(peak) if peak <= asked["limit"] else sys.exit(EXCEEDED)  # noqa: T201 - the answer


def _limited(device: torch.device, limit: int) -> int:
    """Allow `limit` bytes more than now, forget earlier peaks, and return the level now."""
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(
            min(1.0, (limit + torch.cuda.memory_reserved(device)) / torch.cuda.mem_get_info(device)[1]), device
        )
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    allowed = _status_bytes("VmData") + limit
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM starts again from VmRSS
    return _status_bytes("VmRSS")


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status_bytes("VmHWM")


def _status_bytes(key: str) -> int:
    """Read by hand: psutil has neither a high-water mark nor VmData alone on Linux."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


if __name__ == "__main__":
    main()
