"""Comparisons of methods as sheets: every pair with its verdict, and the matrix of all pairs of one place."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from norml_cli.reporting.formats import percent
from norml_cli.reporting.sheets import Grid, Sheet
from norml_cli.results.comparisons import ENOUGH_SEEDS, LEVEL, Comparison, Difference
from norml_cli.results.groups import seeds_text

COMPARISON_KEYS = {
    "a": "registry id",
    "b": "registry id",
    "benchmark": "registry id",
    "shots": "K",
    "over": "episodes: about the trained weights on these classes; classes: on new ones; seeds: about the methods",
    "seeds": "the seeds of both",
    "difference": "mean of a - b, paired",
    "half_width": "half its 95% interval",
    "n": "episodes, classes or seeds",
    "p": "two-sided, Student's t-test",
    "p_holm": "p adjusted for the number of pairs compared at once (Holm 1979)",
    "effect_size": "Cohen's d_z; null where nothing scatters",
    "n_to_settle": "least n of this scatter and mean that would settle it; null for a mean of zero",
    "verdict": "in words; over fewer than three seeds there is none",
    "notes": "how the runs differ from the declared protocol, and what was left out",
}

Places = Mapping[tuple[str, int], Sequence[Comparison]]
_LEVELS = {"episodes": "weights", "classes": "new classes", "seeds": "methods"}
_NARROW = 5  # chosen: so many columns of a matrix fit 80 characters


def verdict(comparison: Comparison, difference: Difference) -> str:
    """'norml is ahead', or how many episodes or seeds would tell.

    Over episodes it is about the trained weights on the classes that were tested, over classes on new ones, over seeds
    about the methods.
    """
    if not difference.enough:
        return f"too few seeds; {max(ENOUGH_SEEDS, difference.values_to_settle or 0):,} would do"
    if difference.settled:
        return f"{comparison.a if difference.interval.mean > 0 else comparison.b} is ahead"
    if difference.values_to_settle is None:
        return "no difference"
    if difference.values_to_settle <= difference.interval.n:  # ahead alone, but not among so many comparisons
        return "not told apart, given the number of pairs"
    undecided = "inside seed scatter" if difference.over == "seeds" else "not told apart"
    return f"{undecided}; {difference.values_to_settle:,} {difference.over} would tell"


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


def comparison_sheet(comparisons: Sequence[Comparison]) -> Sheet:
    """Every pair, level by level, with its verdict."""
    headers = ["about", "difference", "p", "d_z", "verdict"]
    last = len(headers) - 1
    pieces, rows = [], []
    for comparison in comparisons:
        title = f"{comparison.a} - {comparison.b}"
        place = f"{comparison.benchmark}, {comparison.shots}-shot"
        lines = [_cells(comparison, difference) for difference in comparison.differences]
        pieces.append(Grid(headers, lines, title=f"{title}, {place}", words=[last]))
        rows += [[title, place, *line] for line in lines]
    places = by_place(comparisons)
    n_episodes = sorted({comparison.over_episodes.interval.n for comparison in comparisons})
    footer = [
        "difference: points of accuracy, paired by episode, with its 95% interval",
        f"weights: over {' or '.join(f'{n:,}' for n in n_episodes)} test episodes; says nothing about other seeds",
        *_of_classes(comparisons),
        *(
            [f"methods: between the means of seeds, which are the sample; a verdict needs {ENOUGH_SEEDS} seeds"]
            if any(comparison.over_seeds for comparison in comparisons)
            else []
        ),
        f"p: Student's t-test{_adjustment(places)}",
        "d_z: Cohen's effect size, the mean difference in standard deviations of an episode's (or seed's)",
    ]
    for (benchmark, shots), there in places.items():
        where = f"{benchmark}, {shots}-shot: " if len(places) > 1 else ""
        footer += dict.fromkeys(f"{where}{note}" for comparison in there for note in comparison.notes)
    return Sheet(Grid(["pair", "where", *headers], rows, n_left=3, words=[2 + last]), pieces, footer)


def _of_classes(comparisons: Sequence[Comparison]) -> list[str]:
    """What the legend says of new classes, where there are such lines."""
    numbers = sorted({each.over_classes.interval.n for each in comparisons if each.over_classes is not None})
    if not numbers:
        return []
    classes = " or ".join(f"{n:,}" for n in numbers)
    return [
        "weights says nothing about other classes than those tested, either",
        f"new classes: the {classes} test classes are the sample (jackknife, Arvesen 1969)",
    ]


def by_place(comparisons: Sequence[Comparison]) -> Places:
    """The comparisons of each benchmark and number of shots."""
    places: dict[tuple[str, int], list[Comparison]] = {}
    for comparison in comparisons:
        places.setdefault((comparison.benchmark, comparison.shots), []).append(comparison)
    return places


def matrix_sheets(comparisons: Sequence[Comparison]) -> list[Sheet]:
    """For each place, every method's lead over every other: mean difference over episodes, in points."""
    return [_matrix_sheet(place, pairs) for place, pairs in by_place(comparisons).items()]


def _matrix_sheet(place: tuple[str, int], pairs: Sequence[Comparison]) -> Sheet:
    methods = list(dict.fromkeys(name for pair in pairs for name in (pair.a, pair.b)))
    leads = {(pair.a, pair.b): _lead(pair, 1) for pair in pairs} | {(pair.b, pair.a): _lead(pair, -1) for pair in pairs}
    letters = {method: chr(ord("A") + number) for number, method in enumerate(methods)}
    title = f"{place[0]}, {place[1]}-shot: lead of the row's method over the column's"

    def grid(columns: Sequence[str], title: str) -> Grid:
        rows = [[f"{letters[row]} {row}", *(leads.get((row, column), "") for column in columns)] for row in methods]
        return Grid(["method", *(letters[column] for column in columns)], rows, title=title)

    level = "episodes and over classes" if any(pair.over_classes for pair in pairs) else "episodes"
    footer = [
        "points of accuracy, paired by test episode, mean over the seeds in common",
        f"*: p <= {LEVEL}, Student's t-test over {level}{_adjustment({place: pairs})}; about the trained weights",
    ]
    chunks = [methods[start : start + _NARROW] for start in range(0, len(methods), _NARROW)]
    pieces = [grid(chunk, f"over {letters[chunk[0]]} to {letters[chunk[-1]]}") for chunk in chunks]
    return Sheet(grid(methods, title), pieces, footer)


def _lead(pair: Comparison, sign: Literal[1, -1]) -> str:
    difference = pair.over_episodes
    return f"{100 * sign * difference.interval.mean:+.2f}{'*' * pair.for_new_classes.settled}"


def _adjustment(places: Places) -> str:
    """Each benchmark at each number of shots is a family of its own."""
    pairs = max(len(there) for there in places.values())
    if pairs == 1:
        return ""
    upto = "up to " if len(places) > 1 else ""
    return f", adjusted by Holm's method for {upto}{pairs} pairs of one benchmark at one number of shots"


def _cells(comparison: Comparison, difference: Difference) -> list[str]:
    interval, p = difference.interval, difference.adjusted_p
    level = _LEVELS[difference.over]
    p_text = "< 0.0001" if p < 0.0001 else f"{p:.4f}"  # noqa: PLR2004 - the last digit that is printed
    difference_text = percent(interval.mean, interval.half_width, sign="+")
    about = f"{level}, {seeds_text(difference.seeds)}"
    return [about, difference_text, p_text, f"{difference.effect_size:+.2f}", verdict(comparison, difference)]
