"""`norml validate [PATH]`: read every entry, resolve every run, and build every model without its numbers."""

from pathlib import Path

from rich.console import Console

from norml_cli.errors import UserError
from norml_cli.registry import Registry, RegistryError


def validate(registry: Registry, console: Console) -> None:
    """Dry-build each method on each benchmark and shots. Raises RegistryError with every fault found.

    Reading and cross-checking the files happened when `registry` was loaded.
    """
    from norml_cli.build import parameter_counts  # noqa: PLC0415 - torch, which the reading half does without

    faults, n_built = [], 0
    for method in registry.methods.values():
        for bench in registry.benchmarks.values():
            for shots in bench.shots:
                spec = registry.resolve(method.id, bench.id, shots).spec
                try:
                    parameter_counts(spec, registry.datasets[spec.dataset])
                    n_built += 1
                except (RuntimeError, ValueError) as error:
                    path = registry.files["methods", method.id]
                    faults.append(f"{path}: on {bench.id}, {shots} shots: {str(error).splitlines()[0]}")
    if faults:
        raise RegistryError(faults)
    kinds = {kind: len(getattr(registry, kind)) for kind in ("methods", "benchmarks", "datasets", "tables")}
    counted = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
    console.print(f"valid: {counted}; {n_built} models built", highlight=False)


def folder_to_validate(path: Path | None) -> Path | None:
    """The registry folder that PATH means: itself, or the folder two above one entry file."""
    if path is None or path.is_dir():
        return path
    if path.is_file() and path.suffix == ".yaml":
        return path.resolve().parent.parent
    raise UserError(f"{path}: not a registry folder or an entry's .yaml file")
