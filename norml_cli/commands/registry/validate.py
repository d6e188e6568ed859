"""`norml validate [PATH]`: read every entry, resolve every run, and build every model without its numbers."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from rich.console import Console

from norml_cli.files.errors import UserError, counted
from norml_cli.registry.reading import KINDS, RegistryError
from norml_cli.registry.resolving import Registry


def validate(registry: Registry, console: Console) -> None:
    """Dry-build each method on each benchmark that it goes with, and each recipe.

    Raises RegistryError with every fault found. Models of one shape are built once. Reading and cross-checking the
    files happened when `registry` was loaded.
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
    console.print(f"valid: {kinds}; {counted(n_built, 'model')} built", highlight=False, soft_wrap=True)


def _builds(registry: Registry) -> Iterator[tuple[str, Callable[[], object]]]:
    """Where each model is declared, and what builds it."""
    from norml_cli.training.build import parameter_counts, shape_of, try_backbone  # noqa: PLC0415 - brings torch

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
    """The registry folder that PATH means: itself, or the folder two above one entry file."""
    if path is None or path.is_dir():
        return path
    if path.is_file() and path.suffix == ".yaml":
        return path.resolve().parent.parent
    raise UserError(f"{path}: not a registry folder or an entry's .yaml file")
