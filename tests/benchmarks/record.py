"""The record of a benchmark run: every repeat beside its median, and everything they depend on."""

import json
import os
import platform
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator

from norml_cli.files.atomic import write_atomically
from norml_cli.registry.sourced import Model, Text
from norml_cli.results.records import GitState
from norml_cli.terminal.command_line import command_line
from norml_cli.training.provenance import cpu_model, git_state

ROOT = Path(__file__).parents[2]
FOLDER = "speed"  # below the results folder; `norml report` leaves it alone
TIMED = ("norml", "norml_cli", "registry", "tests/benchmarks", "pyproject.toml")  # what the figures depend on
PACKAGES = ("torch", "higher", "torchopt", "numpy")

Value = str | int | float | bool | None
Unit = Literal["s", "bytes", "requests"]
Number = Annotated[float, Field(ge=0)]


class Measurement(Model):
    """One thing measured."""

    labels: dict[Text, str | int] = Field(description="what was measured")
    unit: Unit
    repeats: list[Number] = Field(description="in the order they were taken; none: not measured, and the note says why")
    median: Number | None
    derived: dict[Text, Number] = Field(default={}, description="ratios and shares that follow from medians")
    note: Text | None = None

    @model_validator(mode="after")
    def _median_of_repeats(self) -> "Measurement":
        if self.median != (statistics.median(self.repeats) if self.repeats else None):
            raise ValueError("median is not the median of repeats")
        if not self.repeats and self.note is None:
            raise ValueError("nothing was measured, and no note says why")
        return self


class Section(Model):
    """One question and what was measured to answer it."""

    name: Text
    title: Text
    settings: dict[Text, Value | list[Value] | dict[str, Value]] = Field(default={})
    measurements: list[Measurement] = Field(min_length=1)
    others_busy_cores: Number | None = Field(default=None, description="that other processes kept busy meanwhile")


class Machine(Model):
    """Where it was measured; nothing that names the machine itself."""

    cpu: Text
    cores: int = Field(ge=1, description="that this process may use")
    threads: int = Field(ge=1, description="that torch uses")
    device: Text
    system: Text
    others_busy_cores: Number | None = Field(default=None, description="that other processes kept busy just before")


class SpeedRecord(Model):
    """One benchmark run."""

    schema_version: Literal[1] = 1
    created: Text = Field(description="UTC, ISO 8601")
    command: Text
    git: GitState = Field(description="dirty: whether what is timed differs from the commit")
    versions: dict[Text, Text]
    machine: Machine
    settings: dict[Text, Value | list[Value]]
    sections: list[Section] = Field(min_length=1)


def measured(labels: dict[str, str | int], repeats: list[float], *, unit: Unit = "s", **derived: float) -> Measurement:
    """A measurement with its median."""
    return Measurement(
        labels=labels, unit=unit, repeats=repeats, median=statistics.median(repeats), derived=_spaced(derived)
    )


def not_measured(labels: dict[str, str | int], why: str, *, unit: Unit = "s") -> Measurement:
    """A place left empty, with the reason."""
    return Measurement(labels=labels, unit=unit, repeats=[], median=None, note=why)


def speed_record(
    sections: list[Section],
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
    path = results / FOLDER / f"{name}.json"
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
