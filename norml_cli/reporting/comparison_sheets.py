"""Comparisons of methods as pages: every pair with its verdict, and the matrix of all pairs of one place."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from norml_cli.reporting.formats import percent
from norml_cli.reporting.sheets import Grid, Page
from norml_cli.results.comparisons import LEVEL, Comparison, Difference

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

Places = Mapping[tuple[str, int], Sequence[Comparison]]
_NARROW = 5  # chosen: so many columns of a matrix fit 80 characters


def verdict(comparison: Comparison, difference: Difference) -> str:
    """'norml is ahead', or how many episodes or seeds would tell."""
    if difference.settled:
        return f"{comparison.a if difference.interval.mean > 0 else comparison.b} is ahead"
    if difference.values_to_settle is None:
        return "no difference"
    if difference.values_to_settle <= difference.interval.n:  # ahead alone, but not among so many comparisons
        return "not told apart, given the number of pairs"
    return f"not told apart; {difference.values_to_settle:,} {difference.over} would"


def comparison_values(comparison: Comparison, difference: Difference) -> dict[str, Any]:
    """One line for scripts, under COMPARISON_KEYS."""
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


def comparison_page(comparisons: Sequence[Comparison]) -> Page:
    """Every pair, level by level, with its verdict."""
    headers = ["over", "difference", "p", "d_z", "verdict"]
    pieces, rows = [], []
    for comparison in comparisons:
        title = f"{comparison.a} - {comparison.b}"
        place = f"{comparison.benchmark}, {comparison.shots}-shot"
        figures = [_figures(comparison, difference) for difference in comparison.differences]
        pieces.append(Grid(headers, figures, title=f"{title}, {place}"))
        rows += [[title, place, *row] for row in figures]
    places = by_place(comparisons)
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


def by_place(comparisons: Sequence[Comparison]) -> Places:
    """The comparisons of each benchmark and number of shots."""
    places: dict[tuple[str, int], list[Comparison]] = {}
    for comparison in comparisons:
        places.setdefault((comparison.benchmark, comparison.shots), []).append(comparison)
    return places


def matrix_pages(comparisons: Sequence[Comparison]) -> list[Page]:
    """For each place, every method's lead over every other: mean difference over episodes, in points."""
    return [_matrix_page(place, pairs) for place, pairs in by_place(comparisons).items()]


def _matrix_page(place: tuple[str, int], pairs: Sequence[Comparison]) -> Page:
    methods = list(dict.fromkeys(name for pair in pairs for name in (pair.a, pair.b)))
    leads = {(pair.a, pair.b): _lead(pair, 1) for pair in pairs} | {(pair.b, pair.a): _lead(pair, -1) for pair in pairs}
    letters = {method: chr(ord("A") + number) for number, method in enumerate(methods)}
    title = f"{place[0]}, {place[1]}-shot: lead of the row's method over the column's"

    def grid(columns: Sequence[str], title: str) -> Grid:
        rows = [[f"{letters[row]} {row}", *(leads.get((row, column), "") for column in columns)] for row in methods]
        return Grid(["", *(letters[column] for column in columns)], rows, title=title)

    footer = [
        "points of accuracy, paired by test episode, mean over the seeds in common",
        f"*: p <= {LEVEL}, Student's t-test over episodes{_adjustment({place: pairs})}",
    ]
    chunks = [methods[start : start + _NARROW] for start in range(0, len(methods), _NARROW)]
    pieces = [grid(chunk, f"over {letters[chunk[0]]} to {letters[chunk[-1]]}") for chunk in chunks]
    return Page(grid(methods, title), pieces, footer)


def _lead(pair: Comparison, sign: Literal[1, -1]) -> str:
    difference = [difference for difference in pair.differences if difference.over == "episodes"][-1]
    return f"{100 * sign * difference.interval.mean:+.2f}{'*' * difference.settled}"


def _adjustment(places: Places) -> str:
    """Each benchmark at each number of shots is a family of its own."""
    pairs = max(len(there) for there in places.values())
    if pairs == 1:
        return ""
    upto = "up to " if len(places) > 1 else ""
    return f", adjusted by Holm's method for {upto}{pairs} pairs of one benchmark at one number of shots"


def _figures(comparison: Comparison, difference: Difference) -> list[str]:
    interval = difference.interval
    seeds = f"seed{'s' * (len(difference.seeds) > 1)} {', '.join(map(str, difference.seeds))}"
    over = f"{interval.n:,} episodes, {seeds}" if difference.over == "episodes" else seeds
    p = difference.adjusted_p
    shown = "< 0.0001" if p < 0.0001 else f"{p:.4f}"  # noqa: PLR2004 - the last digit that is printed
    difference_text = percent(interval.mean, interval.half_width, sign="+")
    return [over, difference_text, shown, f"{difference.effect_size:+.2f}", verdict(comparison, difference)]
