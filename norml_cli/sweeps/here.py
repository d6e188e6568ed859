"""Run cells as processes on this machine. Torch-free."""

import os
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import psutil
from typing_extensions import override

from norml_cli.files.companions import Companions
from norml_cli.files.machine import usable_cores
from norml_cli.sweeps.cells import Asked, SweepCell
from norml_cli.sweeps.engine import MOST_ON_A_GPU, Ended, Engine, fault_of
from norml_cli.sweeps.process import CellProcess

MEMORY_EACH = 2**30  # chosen: a run of a fully connected learner takes half of it to all of it


class Here(Engine):
    """Runs cells as processes. With several GPUs, each cell gets the GPU with the fewest cells."""

    def __init__(self, at_once: int, gpus: Sequence[str] = ()) -> None:
        self._at_once, self._gpus = at_once, gpus
        self._running: dict[SweepCell, CellProcess] = {}
        self._gpu_of: dict[SweepCell, str] = {}

    @override
    def room(self) -> int:
        return self._at_once - len(self._running)

    @override
    def start(self, cells: Sequence[SweepCell]) -> None:
        for cell in cells:
            environment = {}
            if self._gpus:
                busy = Counter(self._gpu_of.values())
                self._gpu_of[cell] = environment["CUDA_VISIBLE_DEVICES"] = min(self._gpus, key=lambda gpu: busy[gpu])
            self._running[cell] = CellProcess(cell.arguments, Companions(cell.path).log, environment)

    @override
    def ended(self) -> list[Ended]:
        codes = [(cell, process.code()) for cell, process in self._running.items()]
        ended = [Ended(cell, code, fault_of(code)) for cell, code in codes if code is not None]
        for each in ended:
            del self._running[each.cell]
            self._gpu_of.pop(each.cell, None)
        return ended

    @override
    def signal(self, number: signal.Signals) -> None:
        for process in self._running.values():
            process.send(number)

    @override
    def kill(self) -> None:
        for process in self._running.values():
            process.kill()


def as_many_as_pay(asked: Asked) -> int:
    """The number of cells to run at once: the user's, or what cores, memory and GPUs allow.

    Loads torch only where the device decides. Raises UserError for a device that does not exist.
    """
    at_once, device = asked.where.at_once, asked.device
    decides = device == "auto" and at_once is None and not asked.dry_run
    on_gpu = (decides or device not in {"auto", "cpu"}) and _is_gpu(device)
    if at_once is not None:
        return at_once
    cores = usable_cores()
    by_memory = psutil.virtual_memory().available // MEMORY_EACH
    by_gpus = MOST_ON_A_GPU * max(1, len(gpus_for(device))) if on_gpu else cores
    return max(1, min(cores // (asked.threads or 1), by_memory, by_gpus))


def gpus_for(device: str) -> list[str]:
    """The GPUs to share out, as CUDA_VISIBLE_DEVICES names them. Empty if there is one or none, or if one was named."""
    if device not in {"auto", "cuda"}:
        return []
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = len(list(Path("/dev").glob("nvidia[0-9]*")))
    gpus = [str(index) for index in range(count)] if chosen is None else chosen.split(",")
    return gpus if len(gpus) > 1 else []


def _is_gpu(device: str) -> bool:
    from norml_cli.training.launch import device_of  # noqa: PLC0415 - brings torch

    return device_of(device).type == "cuda"
