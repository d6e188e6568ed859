"""Records of `nox -s bench`: every repeat beside its median, and everything they depend on. Torch-free."""

import statistics
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from norml_cli.files.errors import UserError, reason
from norml_cli.files.json_files import read_json
from norml_cli.registry.faults import fault_lines
from norml_cli.registry.sourced import Model, Text
from norml_cli.results.records import GitState

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


class SpeedSection(Model):
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
    sections: list[SpeedSection] = Field(min_length=1)


def read_speed(path: Path) -> SpeedRecord:
    """The benchmark's record at `path`. Raises UserError with `file: key: message` lines for anything else."""
    try:
        data = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); measure again with `nox -s bench`") from None
    try:
        return SpeedRecord.model_validate(data)
    except ValidationError as error:
        raise UserError("\n".join(f"{path}: {line}" for line in fault_lines(error, data))) from None
