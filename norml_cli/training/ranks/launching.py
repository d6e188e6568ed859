"""Run a command on several devices: `--devices N` starts it N times, as `torchrun --nproc-per-node N` does.

Imports torch only for several devices.
"""

import logging
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

import psutil

from norml_cli.files.errors import UserError, counted
from norml_cli.files.machine import usable_cores
from norml_cli.training.ranks.sharing import Ranks
from norml_cli.training.stopping import STOPPED_EXIT_CODE

OF_TORCHRUN = "TORCHELASTIC_RUN_ID"  # environment variable that torchrun sets
SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGUSR1"  # passed on to the ranks; training.stopping handles them
TIME_TO_STOP_S = "60"  # chosen: as for the cells of a sweep


@contextmanager
def on_devices(count: int | None, device: str) -> Iterator[Ranks]:
    """Join `count` ranks (--devices), or the ranks that torchrun started.

    A process that is not a rank starts the ranks, waits for them and exits with their exit code. Raises UserError.
    """
    started = int(os.environ["WORLD_SIZE"]) if OF_TORCHRUN in os.environ else None
    if started is None and (count or 1) > 1:
        sys.exit(_start(count or 1, device))
    with _joined(device) if (started or 1) > 1 else nullcontext(Ranks()) as ranks:
        if started is not None and count not in {None, started}:
            raise UserError(f"--devices {count}: torchrun started {counted(started, 'rank')}; leave --devices out")
        yield ranks


def _joined(device: str) -> AbstractContextManager[Ranks]:
    from norml_cli.training.ranks.joining import joined_by  # noqa: PLC0415 - torch

    return joined_by(device)


def _start(count: int, device: str) -> int:
    """Run this command line in each of `count` ranks; returns the exit code. Raises UserError."""
    _require_devices(count, device)
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException  # noqa: PLC0415
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError  # noqa: PLC0415
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch  # noqa: PLC0415

    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", TIME_TO_STOP_S)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
        signals_to_handle=SIGNALS,
    )
    logging.disable()  # the ranks print their own messages
    try:
        elastic_launch(config, sys.executable)("-m", "norml_cli", *sys.argv[1:])
    except SignalException:
        _stop_at_once()
        return STOPPED_EXIT_CODE
    except ChildFailedError as error:
        return _exit_code({rank: failure.exitcode for rank, failure in error.failures.items()})
    return 0


def _stop_at_once() -> None:
    """After a second signal, interrupt ranks that are still saving. After one signal, all have ended already."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    left = psutil.Process().children()
    for rank in left:
        with suppress(psutil.NoSuchProcess):
            rank.send_signal(signal.SIGINT)
    psutil.wait_procs(left)


def _exit_code(codes: dict[int, int]) -> int:
    """The command's exit code, from the exit codes of ranks that failed. torch ends the others with SIGTERM."""
    killed = {rank: -code for rank, code in codes.items() if code < 0 and code != -signal.SIGTERM}
    for rank, number in killed.items():
        name = signal.Signals(number).name
        sys.stderr.write(
            f"error: rank {rank} was ended by {name}; run the same command to continue from the last checkpoint\n"
        )
    left = {code for code in codes.values() if code > 0}
    return 1 if killed or not left else max(left - {STOPPED_EXIT_CODE}, default=STOPPED_EXIT_CODE)


def _require_devices(count: int, device: str) -> None:
    """Raises UserError if the machine has fewer than `count` devices of the kind of --device."""
    import torch  # noqa: PLC0415

    from norml_cli.training.launch import device_of  # noqa: PLC0415

    found = device_of(device)
    if found.index is not None and device != "auto":
        raise UserError(f"--devices {count}: --device {device} is a single device; use --device {found.type}")
    there = torch.cuda.device_count() if found.type == "cuda" else usable_cores()
    if count > there:
        kind = "CUDA devices" if found.type == "cuda" else "CPU cores"
        raise UserError(f"--devices {count}: this machine has {there} {kind}; use at most {there}")
