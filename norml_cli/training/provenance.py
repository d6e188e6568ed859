"""Provenance of a training's numbers: device, memory and the code's commit."""

import platform
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import psutil
import torch

from norml.matrix_products import onednn_multiplies
from norml_cli import __version__
from norml_cli.files.checkout import CODE, commit_of_checkout, output_of
from norml_cli.registry.specs import PretrainSpec, RunSpec
from norml_cli.results.records import GitState, Origin
from norml_cli.terminal.command_line import command_line

SEVERAL_DEVICES = "Not bit-reproducible: resumed on another device, or with another number of threads or ranks."


def device_name(device: torch.device, examples: int = 0) -> str:
    """The GPU's model, or the CPU's threads, model and matrix library for `examples` examples, unless it is MKL."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    products = ", oneDNN" if onednn_multiplies(examples) else ""
    threads = torch.get_num_threads()
    return f"cpu ({threads} thread{'s' * (threads != 1)}, {cpu_model()}{products})"


def among(ranks: int, name: str) -> str:
    """The devices of all ranks, given that of the first: '2 x cpu (1 thread, ...)'."""
    return name if ranks == 1 else f"{ranks} x {name}"


@cache
def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU's name, or its architecture if the system does not say.

    On Linux with the family and model numbers, because virtual machines hide the last part of the name.
    """
    if sys.platform == "darwin":
        return output_of("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    facts = _first_processor(cpuinfo)
    numbers = [f"{key.split()[-1]} {facts[key]}" for key in ("cpu family", "model") if key in facts]
    return ", ".join([facts.get("model name") or platform.processor() or platform.machine(), *numbers])


def _first_processor(cpuinfo: Path) -> dict[str, str]:
    """Facts that Linux gives about the first processor, by name; empty on other systems."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").split("\n\n", maxsplit=1)[0].splitlines()
    except OSError:
        return {}
    parts = (line.partition(":") for line in lines)
    return {key.strip(): " ".join(value.split()) for key, _, value in parts}


def origin_of(
    spec: RunSpec | PretrainSpec,
    changed: Sequence[str],
    seed: int,
    device: torch.device,
    devices: Sequence[str],
    *,
    ranks: int = 1,
) -> Origin:
    """The part of the record that is known before training on `device`, whose name is the last of `devices`."""
    return Origin(
        spec=spec,
        changed=list(changed),
        seed=seed,
        device=", then ".join(devices),
        versions={"norml": __version__, "python": platform.python_version(), "torch": torch.__version__},
        git=git_state(),  # now, because the checkout may change during training
        command=command_line(sys.argv[1:]),
        deterministic=torch.are_deterministic_algorithms_enabled() or None,
        repeatability=repeatability(device, ranks) if len(devices) == 1 else SEVERAL_DEVICES,
        ranks=None if ranks == 1 else ranks,
    )


def repeatability(device: torch.device, ranks: int = 1) -> str:
    """How closely a repetition on `device` should match, for the record."""
    shared = "" if ranks == 1 else f" These bits are those of {ranks} ranks; another number of them rounds differently."
    if device.type == "cpu":
        return f"Bit-reproducible on this CPU model with the same number of threads and the same versions.{shared}"
    if torch.are_deterministic_algorithms_enabled():
        return f"Bit-reproducible on this GPU model with the same versions.{shared}"
    return (
        "Initial weights and episodes are bit-reproducible; the numbers are not: a GPU adds in varying order, and "
        "training enlarges the rounding differences."
    )


def git_state(parts: Sequence[str] = CODE) -> GitState:
    """The checkout's commit, and whether `parts` of it have changed since; None outside a checkout."""
    commit, dirty = commit_of_checkout(parts)
    return GitState(commit=commit, dirty=dirty)


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory so far: of the GPU's allocator, or of the process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # noqa: PLC0415 - POSIX only, where psutil has no peak

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes on Linux
