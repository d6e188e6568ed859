"""`norml list`: what the registry declares."""

from typing import Any

from rich.console import Console

from norml_cli.registry.resolving import Registry
from norml_cli.reporting.sheets import Grid, Sheet, to_rich
from norml_cli.terminal.output import print_text


def list_entries(registry: Registry, console: Console, *, as_json: bool) -> None:
    """Every entry by kind, with its id, title and what a user needs to run it."""
    if as_json:
        console.print_json(data=_summary(registry))
        return
    for kind, entries in _summary(registry).items():
        rows = [[_text(value) for value in entry.values()] for entry in entries]
        grid = Grid(list(entries[0]), rows, n_left=len(entries[0]), title=kind)
        print_text(f"{to_rich(Sheet(grid), console.width)}\n", console)


def _summary(registry: Registry) -> dict[str, list[dict[str, Any]]]:
    return {
        "methods": [
            {"id": m.id, "title": m.title, "default benchmark": m.default_benchmark} for m in registry.methods.values()
        ],
        "benchmarks": [
            {"id": b.id, "title": b.title, "dataset": b.dataset, "shots": b.shots} for b in registry.benchmarks.values()
        ],
        "datasets": [
            {"id": d.id, "title": d.title, "licence": d.licence, "home": d.home} for d in registry.datasets.values()
        ],
        "recipes": [
            {
                "id": r.id,
                "title": r.title,
                "widths": r.values.widths,
                "input": f"{r.values.input_size_px} px",
                "steps": f"{r.values.steps:,}",
            }
            for r in registry.recipes.values()
        ],
        "tables": [{"id": t.id, "title": t.title} for t in registry.tables.values()],
    }


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
