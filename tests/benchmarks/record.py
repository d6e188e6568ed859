"""The record of a benchmark run: every repeat beside its median, and everything they depend on."""

import json
import os
import platform
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from norml_cli.files.atomic import write_atomically
from norml_cli.results.speed import Machine, Measurement, SpeedRecord, SpeedSection, Unit, Value
from norml_cli.results.store import Results
from norml_cli.terminal.command_line import command_line
from norml_cli.training.provenance import cpu_model, git_state

ROOT = Path(__file__).parents[2]
TIMED = ("norml", "norml_cli", "registry", "tests/benchmarks", "pyproject.toml")  # what the figures depend on
PACKAGES = ("torch", "higher", "torchopt", "numpy")


def measured(labels: dict[str, str | int], repeats: list[float], *, unit: Unit = "s", **derived: float) -> Measurement:
    """A measurement with its median."""
    return Measurement(
        labels=labels, unit=unit, repeats=repeats, median=statistics.median(repeats), derived=_spaced(derived)
    )


def not_measured(labels: dict[str, str | int], why: str, *, unit: Unit = "s") -> Measurement:
    """A place left empty, with the reason."""
    return Measurement(labels=labels, unit=unit, repeats=[], median=None, note=why)


def speed_record(
    sections: list[SpeedSection],
    *,
    device: torch.device,
    others_busy_cores: float | None,
    settings: dict[str, Value | list[Value]],
    arguments: Sequence[str],
) -> SpeedRecord:
    """The record of these sections, made now and here."""
    return SpeedRecord(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command_line(arguments, ("python", "-m", "tests.benchmarks.speed")),
        git=git_state(TIMED),
        versions={"python": platform.python_version()} | _installed("norml", *PACKAGES),
        machine=machine(device, others_busy_cores),
        settings=settings,
        sections=sections,
    )


def write_speed_record(results: Path, name: str, record: SpeedRecord) -> Path:
    """Write <results>/speed/<name>.json, whole or not at all."""
    path = Results(results).speed_path(name)
    text = json.dumps(record.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(path, lambda file: file.write(f"{text}\n".encode()))
    return path


def machine(device: torch.device, others_busy_cores: float | None) -> Machine:
    return Machine(
        cpu=cpu_model(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        system=f"{platform.system()} {platform.machine()}",
        others_busy_cores=others_busy_cores,
    )


def _installed(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _spaced(derived: dict[str, float]) -> dict[str, float]:
    return {name.replace("_", " "): value for name, value in derived.items()}
