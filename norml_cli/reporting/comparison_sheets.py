"""Comparisons of methods as sheets: every pair with its verdict, and a matrix of all pairs on one benchmark."""

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
    "over": "sample: episodes (these weights, these classes), classes (these weights, new classes) or seeds (methods)",
    "seeds": "seeds that both methods have",
    "difference": "mean paired difference a - b",
    "half_width": "half-width of its 95% interval",
    "n": "number of episodes, classes or seeds",
    "p": "two-sided p-value, Student's t-test",
    "p_holm": "p corrected for the number of pairs compared at once (Holm 1979)",
    "effect_size": "Cohen's d_z; null if all differences are equal",
    "n_to_settle": "n at which a difference of this mean and variance becomes significant; null for a mean of zero",
    "verdict": "result in words; none over fewer than three seeds",
    "notes": "differences from the declared protocol, and runs left out",
}

Places = Mapping[tuple[str, int], Sequence[Comparison]]
_LEVELS = {"episodes": "weights", "classes": "new classes", "seeds": "methods"}
_NARROW = 5  # chosen: this many columns of a matrix fit into 80 characters


def verdict(comparison: Comparison, difference: Difference) -> str:
    """'norml is ahead', or how many episodes, classes or seeds a significant result needs.

    Over episodes it describes the trained weights on the tested classes, over classes the trained weights on new
    classes, over seeds the methods.
    """
    if not difference.enough:
        return f"too few seeds; {max(ENOUGH_SEEDS, difference.values_to_settle or 0):,} needed"
    if difference.settled:
        return f"{comparison.a if difference.interval.mean > 0 else comparison.b} is ahead"
    if difference.values_to_settle is None:
        return "no difference"
    if difference.values_to_settle <= difference.interval.n:  # significant only without the correction
        return "not significant for this many pairs"
    undecided = "within seed variation" if difference.over == "seeds" else "not significant"
    return f"{undecided}; {difference.values_to_settle:,} {difference.over} needed"


def comparison_values(comparison: Comparison, difference: Difference) -> dict[str, Any]:
    """A comparison's values by COMPARISON_KEYS."""
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
    """Every pair with its difference and verdict at each level."""
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
    episodes = " or ".join(f"{n:,}" for n in n_episodes)
    footer = [
        "difference: points of accuracy, paired by episode, with its 95% interval",
        f"weights: over {episodes} test episodes; other seeds or classes may differ more",
        *_of_classes(comparisons),
        *(
            [f"methods: over the means of seeds; a verdict needs {ENOUGH_SEEDS} seeds"]
            if any(comparison.over_seeds for comparison in comparisons)
            else []
        ),
        f"p: Student's t-test{_adjustment(places)}",
        "d_z: Cohen's effect size, the mean difference divided by the standard deviation of the differences",
    ]
    for (benchmark, shots), there in places.items():
        where = f"{benchmark}, {shots}-shot: " if len(places) > 1 else ""
        footer += dict.fromkeys(f"{where}{note}" for comparison in there for note in comparison.notes)
    return Sheet(Grid(["pair", "where", *headers], rows, n_left=3, words=[2 + last]), pieces, footer)


def _of_classes(comparisons: Sequence[Comparison]) -> list[str]:
    """The legend's line on new classes, if there are such differences."""
    numbers = sorted({each.over_classes.interval.n for each in comparisons if each.over_classes is not None})
    if not numbers:
        return []
    classes = " or ".join(f"{n:,}" for n in numbers)
    return [f"new classes: the same weights, with the {classes} test classes as a sample (jackknife, Arvesen 1969)"]


def by_place(comparisons: Sequence[Comparison]) -> Places:
    """The comparisons by benchmark and number of shots."""
    places: dict[tuple[str, int], list[Comparison]] = {}
    for comparison in comparisons:
        places.setdefault((comparison.benchmark, comparison.shots), []).append(comparison)
    return places


def matrix_sheets(comparisons: Sequence[Comparison]) -> list[Sheet]:
    """For each benchmark and number of shots, a matrix of the mean differences between methods, in points."""
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
        "points of accuracy, paired by test episode, mean over common seeds",
        f"*: p <= {LEVEL}, Student's t-test over {level}{_adjustment({place: pairs})}; about the trained weights",
    ]
    chunks = [methods[start : start + _NARROW] for start in range(0, len(methods), _NARROW)]
    pieces = [grid(chunk, f"over {letters[chunk[0]]} to {letters[chunk[-1]]}") for chunk in chunks]
    return Sheet(grid(methods, title), pieces, footer)


def _lead(pair: Comparison, sign: Literal[1, -1]) -> str:
    difference = pair.over_episodes
    return f"{100 * sign * difference.interval.mean:+.2f}{'*' * pair.for_new_classes.settled}"


def _adjustment(places: Places) -> str:
    """The correction for multiple comparisons, which counts the pairs of one benchmark at one number of shots."""
    pairs = max(len(there) for there in places.values())
    if pairs == 1:
        return ""
    upto = "up to " if len(places) > 1 else ""
    return f", Holm correction for the {upto}{pairs} pairs of a benchmark at one number of shots"


def _cells(comparison: Comparison, difference: Difference) -> list[str]:
    interval, p = difference.interval, difference.adjusted_p
    level = _LEVELS[difference.over]
    p_text = "< 0.0001" if p < 0.0001 else f"{p:.4f}"  # noqa: PLR2004 - the last printed digit
    difference_text = percent(interval.mean, interval.half_width, sign="+")
    about = f"{level}, {seeds_text(difference.seeds)}"
    return [about, difference_text, p_text, f"{difference.effect_size:+.2f}", verdict(comparison, difference)]
