"""`norml compare`: paired differences between methods on the same test episodes, with plain verdicts."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from norml_cli.commands.report import print_text
from norml_cli.comparisons import Comparison, Difference, compare
from norml_cli.errors import UserError
from norml_cli.grids import Grid, Page
from norml_cli.records import find_records
from norml_cli.registry import Registry
from norml_cli.report import percent, render_page, require_format

COMPARISON_KEYS = {
    "a": "registry id",
    "b": "registry id",
    "benchmark": "registry id",
    "shots": "K",
    "over": "what the interval is over: test episodes, or seeds",
    "seeds": "the seeds of both",
    "difference": "mean of a - b, paired",
    "half_width": "half its 95% interval",
    "n": "episodes or seeds",
    "p": "two-sided, Student's t-test",
    "p_holm": "p adjusted for the number of pairs compared at once (Holm 1979)",
    "effect_size": "Cohen's d_z; null where nothing scatters",
    "n_to_settle": "episodes or seeds of this scatter and mean that would just settle it; null for a mean of zero",
    "verdict": "in words",
    "notes": "how the runs differ from the declared protocol, and what was left out",
}


Places = dict[tuple[str, int], list[Comparison]]


def compare_methods(
    registry: Registry,
    methods: list[str],
    *,
    table: str | None,
    benchmark: str | None,
    shots: int | None,
    format_: str,
    results: Path,
    console: Console,
) -> None:
    """Print the comparison of every pair of `methods`, or of the methods of a table that have runs.

    Raises UserError for fewer than two methods, and as `compare`.
    """
    require_format(format_)
    records = [record for _, record in find_records(results)]
    comparisons: list[Comparison] = []
    if table is not None:
        if methods or benchmark is not None or shots is not None:
            raise UserError("--all: takes the methods and columns of its table; leave out METHOD, --benchmark, --shots")
        entry = registry.table(table)
        named = [row.method for row in entry.rows if row.method is not None]
        for column in entry.columns:
            place = (column.benchmark, column.shots)
            ran = {r.spec.method for r in records if (r.spec.benchmark, r.spec.shots) == place}
            if column.benchmark is not None:
                there = [method for method in named if method in ran]
                comparisons += compare(registry, there, column.benchmark, column.shots, records)
        if not comparisons:
            raise UserError(f"--all {table}: no column has finished runs of two methods; `norml report` lists the runs")
    else:
        if len(set(methods)) != len(methods) or len(methods) < 2:  # noqa: PLR2004 - a pair
            raise UserError("compare: name two or more different methods, or a table with --all")
        spec = registry.resolve(methods[0], benchmark, shots).spec
        comparisons = compare(registry, methods, spec.benchmark, spec.shots, records)
    values = [_values(comparison, difference) for comparison in comparisons for difference in comparison.differences]
    text = render_page(_page(comparisons), COMPARISON_KEYS, values, "comparisons", format_, width=console.width)
    print_text(text, console)


def verdict(comparison: Comparison, difference: Difference) -> str:
    """'norml is ahead', or how many episodes or seeds would tell."""
    if difference.settled:
        return f"{comparison.a if difference.interval.mean > 0 else comparison.b} is ahead"
    if difference.values_to_settle is None:
        return "no difference"
    if difference.values_to_settle <= difference.interval.n:  # ahead alone, but not among so many comparisons
        return "not told apart, given the number of pairs"
    return f"not told apart; {difference.values_to_settle:,} {difference.over} would"


def _values(comparison: Comparison, difference: Difference) -> dict[str, Any]:
    size = difference.effect_size
    return {
        "a": comparison.a,
        "b": comparison.b,
        "benchmark": comparison.benchmark,
        "shots": comparison.shots,
        "over": difference.over,
        "seeds": list(difference.seeds),
        "difference": difference.interval.mean,
        "half_width": difference.interval.half_width,
        "n": difference.interval.n,
        "p": difference.p,
        "p_holm": difference.adjusted_p,
        "effect_size": size if math.isfinite(size) else None,
        "n_to_settle": difference.values_to_settle,
        "verdict": verdict(comparison, difference),
        "notes": list(comparison.notes),
    }


def _page(comparisons: Sequence[Comparison]) -> Page:
    headers = ["over", "difference", "p", "d_z", "verdict"]
    pieces, rows = [], []
    for comparison in comparisons:
        title = f"{comparison.a} - {comparison.b}"
        place = f"{comparison.benchmark}, {comparison.shots}-shot"
        figures = [_figures(comparison, difference) for difference in comparison.differences]
        pieces.append(Grid(headers, figures, title=f"{title}, {place}"))
        rows += [[title, place, *row] for row in figures]
    places: Places = {}
    for comparison in comparisons:
        places.setdefault((comparison.benchmark, comparison.shots), []).append(comparison)
    several = max(len(comparison.differences) for comparison in comparisons) > 1
    footer = [
        "difference: points of accuracy, paired by episode, with its 95% interval",
        "over episodes: of these trained weights; nothing is said about other seeds",
        *(["over seeds: between the means of the seeds that were run"] if several else []),
        f"p: Student's t-test{_adjustment(places)}",
        "d_z: Cohen's effect size, the mean difference in standard deviations of an episode's",
    ]
    for (benchmark, shots), there in places.items():
        where = f"{benchmark}, {shots}-shot: " if len(places) > 1 else ""
        footer += dict.fromkeys(f"{where}{note}" for comparison in there for note in comparison.notes)
    return Page(Grid(["pair", "where", *headers], rows, n_left=3), pieces, footer)


def _adjustment(places: Places) -> str:
    """Each benchmark at each number of shots is a family of its own."""
    pairs = max(len(there) for there in places.values())
    return f", adjusted by Holm's method for up to {pairs} pairs of one benchmark and K" if pairs > 1 else ""


def _figures(comparison: Comparison, difference: Difference) -> list[str]:
    interval = difference.interval
    seeds = f"seed{'s' * (len(difference.seeds) > 1)} {', '.join(map(str, difference.seeds))}"
    over = f"{interval.n:,} episodes, {seeds}" if difference.over == "episodes" else seeds
    p = difference.adjusted_p
    shown = "< 0.0001" if p < 0.0001 else f"{p:.4f}"  # noqa: PLR2004 - the last digit that is printed
    difference_text = percent(interval.mean, interval.half_width, sign="+")
    return [over, difference_text, shown, f"{difference.effect_size:+.2f}", verdict(comparison, difference)]
