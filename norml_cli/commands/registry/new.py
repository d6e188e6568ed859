"""`norml new KIND NAME`: write a checked entry into the user's own folder, and print the next command to type."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from norml_cli.files.errors import UserError, plain
from norml_cli.registry.drafts import (
    SET,
    Changes,
    benchmark_draft,
    method_draft,
    place_of_new,
    sourced,
    text_of,
    write_new,
)
from norml_cli.registry.faults import did_you_mean
from norml_cli.registry.resolving import Registry
from norml_cli.terminal.output import print_line

OWN = ("title", "citation", "home", "licence")
SETTABLE = (*OWN, "image_size_px", "resize", "crop", "channels", "background", "invert", "rotations")


def new_dataset(
    folder: Path, id_: str, source: Path, values: Mapping[str, Any], console: Console, *, min_images: int | None = None
) -> None:
    """Write a data set entry for the images in `source`. `values` (--set) override what was found. Raises UserError."""
    from norml_cli.data.declaring import declared  # noqa: PLC0415 - loads numpy and Pillow, needed by this kind only
    from norml_cli.data.sources.survey import look_at  # noqa: PLC0415 - as above

    for key in (key for key in values if key not in SETTABLE):
        raise UserError(f"--set {plain(key)}: not a key of a data set{did_you_mean(key, SETTABLE)}; edit the file")
    place_of_new(folder, "datasets", id_)  # fails fast, before the images are read
    survey = look_at(source)
    entry = declared(id_, source, survey, min_images)
    entry |= {key: value if key in OWN else sourced(value, SET) for key, value in values.items()}
    path = write_new(folder, "datasets", id_, text_of(entry))
    left_out = len(survey.sizes) - entry["classes"]
    notes = [f"left out, with fewer than {min_images} images: {left_out:,} classes"] if left_out else []
    for line in (survey.text, *survey.remarks, *notes, f"wrote {path}; fill in the licence and citation there"):
        print_line(f"{id_}: {line}", console)
    _next(console, f"norml prepare {id_} --source {shlex.quote(str(source))}", folder)


def new_benchmark(registry: Registry, folder: Path, id_: str, changes: Changes, console: Console) -> None:
    """Write a benchmark that copies another one with `changes`. Raises UserError."""
    path = write_new(folder, "benchmarks", id_, benchmark_draft(registry, id_, changes))
    print_line(f"{id_}: wrote {path}", console)
    _next(console, f"norml run maml-constant-lr norml --benchmark {id_}", folder)


def new_method(registry: Registry, folder: Path, id_: str, changes: Changes, console: Console) -> None:
    """Write a method that copies another one with `changes`. Raises UserError."""
    path = write_new(folder, "methods", id_, method_draft(registry, id_, changes))
    print_line(f"{id_}: wrote {path}", console)
    _next(console, f"norml run {id_}", folder)


def _next(console: Console, command: str, folder: Path) -> None:
    print_line(f"next: {command} --registry {shlex.quote(str(folder))}", console)
