"""`norml validate [PATH]`: read every entry, resolve every run, and build every model without allocating weights."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from rich.console import Console

from norml_cli.files.errors import UserError, counted
from norml_cli.registry.reading import KINDS, RegistryError
from norml_cli.registry.resolving import Registry
from norml_cli.terminal.output import print_line


def validate(registry: Registry, console: Console) -> None:
    """Build each method on each benchmark that it supports, and each recipe, without allocating weights.

    Models of the same shape are built once. Loading `registry` has already read and cross-checked the files. Raises
    RegistryError with every fault found.
    """
    faults, n_built = [], 0
    for where, build in _builds(registry):
        try:
            build()
            n_built += 1
        except (RuntimeError, ValueError) as error:
            faults.append(f"{where}: {str(error).splitlines()[0]}")
    if faults:
        raise RegistryError(faults)
    kinds = ", ".join(f"{len(getattr(registry, kind))} {kind}" for kind in KINDS)
    print_line(f"valid: {kinds}; {counted(n_built, 'model')} built", console)


def _builds(registry: Registry) -> Iterator[tuple[str, Callable[[], object]]]:
    """For each model: where it is declared, and the function that builds it."""
    from norml_cli.training.build import parameter_counts, shape_of, try_backbone  # noqa: PLC0415 - loads torch

    shapes = set[object]()
    for bench in registry.benchmarks.values():
        for shots in bench.shots:
            for spec in registry.specs_on(bench.id, shots):
                where = f"{registry.files['methods', spec.method]}: on {bench.id}, {shots} shots"
                shape = shape_of(registry, spec)
                if shape not in shapes:
                    shapes.add(shape)
                    yield where, partial(parameter_counts, registry, spec)
    for recipe in registry.recipes.values():
        yield f"{registry.files['recipes', recipe.id]}", partial(try_backbone, recipe.values)


def folder_to_validate(path: Path | None) -> Path | None:
    """The registry folder of PATH: the folder itself, or for an entry file the folder two levels up."""
    if path is None or path.is_dir():
        return path
    if path.is_file() and path.suffix == ".yaml":
        return path.resolve().parent.parent
    raise UserError(f"{path}: not found, or not a .yaml file; name a folder of entries or one entry's .yaml file")
