"""`norml list`: what the registry declares."""

from typing import Any

from rich.console import Console
from rich.table import Table

from norml_cli.registry.resolving import Registry


def list_entries(registry: Registry, console: Console, *, as_json: bool) -> None:
    """Every entry by kind, with its id, title and what a user needs to run it."""
    if as_json:
        console.print_json(data=_summary(registry))
        return
    for kind, entries in _summary(registry).items():
        table = Table(title=kind, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for key in entries[0]:
            table.add_column(key, overflow="fold", no_wrap=key == "id")
        for entry in entries:
            table.add_row(*(_text(value) for value in entry.values()))
        console.print(table)
        console.print()


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
