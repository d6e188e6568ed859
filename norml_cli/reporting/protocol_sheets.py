"""Tables of trained weights under several protocols as sheets: a row per method, columns per protocol."""

from collections.abc import Sequence
from typing import Any

from norml_cli.reporting.formats import percent
from norml_cli.reporting.sheets import Grid, Sheet
from norml_cli.results.evaluated import Reached
from norml_cli.results.protocols import ProtocolTable, cells

PROTOCOL_KEYS = {
    "benchmark": "registry id of the benchmark in training",
    "shots": "K in training",
    "method": "registry id",
    "protocol": "test protocol in words; 'as trained' is the run's own meta-test",
    "changed": "values that differ from the run's, by key",
    "split": "meta_val or meta_test",
    "seeds": "averaged seeds",
    "accuracy": "mean over episodes and seeds",
    "half_width": "half-width of its 95% interval over episodes",
    "n_episodes": "number of episodes",
    "reference": "the reference method",
    "minus_reference": "paired difference from it, same episodes and seeds; null if episodes differ",
    "minus_reference_half_width": "half-width of its 95% interval",
}


def protocol_values(tables: Sequence[ProtocolTable]) -> list[dict[str, Any]]:
    """The values of each method and protocol, by PROTOCOL_KEYS."""
    return [
        {
            "benchmark": table.benchmark,
            "shots": table.shots,
            "method": reached.method,
            "protocol": title,
            "changed": dict(reached.changed),
            "split": reached.split,
            "seeds": list(reached.seeds),
            "accuracy": reached.accuracy.mean,
            "half_width": reached.accuracy.half_width,
            "n_episodes": reached.accuracy.n,
            "reference": table.reference,
            "minus_reference": reached.minus_reference.mean if reached.minus_reference else None,
            "minus_reference_half_width": reached.minus_reference.half_width if reached.minus_reference else None,
        }
        for table, title, reached in cells(tables)
    ]


def protocol_sheet(table: ProtocolTable) -> Sheet:
    """Accuracies and differences from the reference; on a narrow terminal, a piece for each protocol."""
    columns = {title: _columns(table, title) for title in table.protocols}
    headers = ["accuracy", "difference"]
    title = f"{table.benchmark}, {table.shots}-shot: trained weights under other protocols"
    wide = Grid(
        ["method", *headers * len(columns)],
        [[method, *(text for column in columns.values() for text in column[method])] for method in table.methods],
        groups=[("", 1), *((title, len(headers)) for title in columns)],
        title=title,
    )
    pieces = [
        Grid(["method", *headers], [[method, *texts] for method, texts in column.items() if any(texts)], title=name)
        for name, column in columns.items()
    ]
    most = max(len(reached.seeds) for _, _, reached in cells([table]))
    footer = [
        f"accuracy: percent with its 95% interval over episodes{', averaged over seeds' if most > 1 else ''}",
        f"difference: points of accuracy from {table.reference}, paired by episode, with its 95% interval",
        "both describe these trained weights; other seeds may differ more",
    ]
    return Sheet(wide, pieces, footer)


def _columns(table: ProtocolTable, title: str) -> dict[str, list[str]]:
    reached = table.protocols[title]
    return {method: _texts(reached.get(method)) for method in table.methods}


def _texts(reached: Reached | None) -> list[str]:
    if reached is None:
        return ["", ""]
    accuracy, paired = reached.accuracy, reached.minus_reference
    return [
        percent(accuracy.mean, accuracy.half_width),
        percent(paired.mean, paired.half_width, sign="+") if paired else "",
    ]
