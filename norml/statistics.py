"""Means with 95% intervals, paired differences, and several seeds.

Student's t comes from scipy, imported only to compute an interval, because `import scipy.special` takes longer than
everything else in `norml list` or `norml status`.
"""

import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

FORMULA = "t(0.975, n-1) * sd(ddof=1) / sqrt(n)"  # the half-width, as in records


@dataclass(frozen=True)
class Interval:
    """A mean with the half-width of its 95% interval, over `n` values."""

    mean: float
    half_width: float
    n: int

    def divided_by(self, number: float) -> "Interval":
        """Change the unit: counts out of `number` become fractions."""
        return Interval(self.mean / number, self.half_width / number, self.n)


@dataclass(frozen=True)
class OverSeeds:
    """Results of several seeds on the same episodes, with separate variation over episodes and over seeds."""

    interval: Interval  # over episodes, conditional on the seeds that were run
    n_seeds: int
    seed_sd: float | None  # sd (ddof=1) between the seeds' means; None for a single seed

    def divided_by(self, number: float) -> "OverSeeds":
        """Change the unit: counts out of `number` become fractions."""
        scatter = None if self.seed_sd is None else self.seed_sd / number
        return OverSeeds(self.interval.divided_by(number), self.n_seeds, scatter)


def interval_95(values: Iterable[float]) -> Interval:
    """Mean and 95% interval of `values` [n]: half-width = t(0.975, n-1) * sd(ddof=1) / sqrt(n).

    Integers, such as counts of correct queries, are summed exactly (and fast).
    Raises ValueError for fewer than two values and for values that are not finite.
    """
    numbers = _plain(values)
    n = len(numbers)
    if n < 2:  # noqa: PLR2004 - one value has no standard deviation
        raise ValueError(f"an interval needs at least 2 values, got {n}")
    mean, sd = _mean_and_sd(numbers)
    return Interval(mean, t_975(n - 1) * sd / math.sqrt(n), n)


def paired_difference(a: Iterable[float], b: Iterable[float]) -> Interval:
    """Interval of a - b [n], paired by position: both must be of the same episodes in the same order.

    Raises ValueError if the lengths differ, and as `interval_95`.
    """
    left, right = _plain(a), _plain(b)
    if len(left) != len(right):
        raise ValueError(f"paired values must be of the same episodes, got {len(left)} and {len(right)} values")
    return interval_95(map(operator.sub, left, right))


def over_classes(total: float, n_episodes: int, held: Iterable[tuple[int, float]]) -> Interval | None:
    """Mean over episodes with a 95% interval for new classes, which treats the classes as a sample.

    total: sum of the episodes' values. held [C]: for each class, its number of episodes and the sum of their values.
    An episode of N classes counts for each of them. The half-width is t(0.975, C-1) times the standard error of the
    delete-one jackknife for U-statistics (Arvesen 1969, Ann. Math. Statist. 40), where deleting a class deletes all its
    episodes. It tends to be too wide rather than too narrow (Efron & Stein 1981). `n` of the interval is C. None if
    there are fewer than two classes, or if a class is in every episode.
    """
    without = [(total - value) / (n_episodes - n) if n_episodes > n else None for n, value in held]
    means = [mean for mean in without if mean is not None]
    n_classes = len(without)
    if n_classes < 2 or len(means) < n_classes:  # noqa: PLR2004 - one class has no variance
        return None
    error = _mean_and_sd(means)[1] * (n_classes - 1) / math.sqrt(n_classes)
    return Interval(total / n_episodes, t_975(n_classes - 1) * error, n_classes)


def p_value(interval: Interval) -> float:
    """Two-sided p-value of Student's t-test that the mean is zero, from a mean with its 95% interval.

    For equal values it is 0, or 1 if they are zero.
    """
    if interval.half_width == 0:
        return 0.0 if interval.mean else 1.0
    from scipy.special import stdtr  # noqa: PLC0415 - see above

    t = abs(interval.mean) / interval.half_width * t_975(interval.n - 1)
    return 2 * float(stdtr(interval.n - 1, -t))  # the lower tail, because 1 - P(|T| < t) has no digits below 1e-16


def effect_size(interval: Interval) -> float:
    """Cohen's d_z (Cohen 1988, sec. 2.3.5): the mean of paired differences divided by their standard deviation.

    For equal differences it is infinite, with the mean's sign, or 0 if they are zero.
    """
    if interval.half_width == 0:
        return math.copysign(math.inf, interval.mean) if interval.mean else 0.0
    sd = interval.half_width / t_975(interval.n - 1) * math.sqrt(interval.n)
    return interval.mean / sd


def values_to_settle(interval: Interval) -> int | None:
    """The smallest number of values with this mean and variance whose interval excludes zero; None for a mean of zero.

    It is the smallest n with t(0.975, n-1) / sqrt(n) <= |d_z|; the left side falls with n.
    """
    if interval.mean == 0:
        return None
    target = abs(effect_size(interval))

    def settles(n: int) -> bool:
        return t_975(n - 1) <= target * math.sqrt(n)

    low, high = 1, 2
    while not settles(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if settles(middle) else (middle, high)
    return high


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for multiple comparisons (Holm 1979); the family-wise error rate of those below 0.05 is 5%."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def episode_means(matrix: Sequence[Sequence[float]]) -> list[float]:
    """Mean over seeds for each episode: [seeds, episodes] -> [episodes].

    Raises ValueError without seeds, and for seeds with different numbers of episodes.
    """
    lengths = {len(row) for row in matrix}
    if len(lengths) != 1:
        raise ValueError(f"every seed needs the same episodes, got rows of {sorted(lengths) or 'no'} values")
    if len(matrix) == 1:
        return list(matrix[0])
    return [sum(values) / len(matrix) for values in zip(*matrix, strict=True)]


def over_seeds(matrix: Sequence[Sequence[float]]) -> OverSeeds:
    """Accuracies [seeds, episodes] of one method -> interval over episodes and standard deviation between seeds.

    The interval is over the episodes' means over seeds. It says how far the mean of *these* seeds may be from their
    mean over all possible episodes, and nothing about other seeds; `seed_sd` describes those. The two levels are never
    pooled: seeds x episodes values are not independent and would give a far too narrow interval.
    Raises ValueError as `episode_means` and `interval_95`.
    """
    interval = interval_95(episode_means(matrix))
    means = [sum(row) / len(row) for row in matrix]
    return OverSeeds(interval, len(means), _mean_and_sd(means)[1] if len(means) > 1 else None)


def least_difference(rows: Sequence[Sequence[float]], n_seeds: int) -> float | None:
    """The difference of two methods' means over `n_seeds` seeds each that is significant at 5%.

    rows: means of each seed, a row per method. Assumes that all methods vary equally over seeds: t(0.975, d) * s *
    sqrt(2 / n_seeds), with s the pooled standard deviation and d the sum of (seeds - 1). None if no row has two seeds.
    """
    several = [row for row in rows if len(row) > 1]
    degrees = sum(len(row) - 1 for row in several)
    if not degrees:
        return None
    squares = sum((len(row) - 1) * _mean_and_sd(_plain(row))[1] ** 2 for row in several)
    return t_975(degrees) * math.sqrt(squares / degrees * 2 / n_seeds)


@lru_cache
def t_975(degrees: int) -> float:
    """0.975 quantile of Student's t with `degrees` >= 1 degrees of freedom. Raises ValueError for degrees below 1."""
    from scipy.special import stdtrit  # noqa: PLC0415 - see above

    if degrees < 1:
        raise ValueError(f"Student's t needs at least 1 degree of freedom, got {degrees}")
    return float(stdtrit(degrees, 0.975))


def _plain(values: Iterable[float]) -> list[float]:
    """Values as Python ints if all are ints, otherwise as floats; numpy scalars are slow and warn before our checks."""
    numbers = list(values)
    return numbers if set(map(type, numbers)) == {int} else list(map(float, numbers))


def _mean_and_sd(numbers: list[float]) -> tuple[float, float]:
    """Mean and standard deviation (ddof=1) of at least two values. Raises ValueError if one is not finite."""
    n = len(numbers)
    if isinstance(numbers[0], int):  # `_plain` returns only ints or only floats
        total, squares = sum(numbers), sum(map(operator.mul, numbers, numbers))
        return total / n, math.sqrt((n * squares - total * total) / (n * (n - 1)))
    if not math.isfinite(sum(numbers)):  # fsum below would raise another error
        raise ValueError("every value must be finite")
    mean = math.fsum(numbers) / n
    deviations = [x - mean for x in numbers]
    return mean, math.sqrt(math.fsum(map(operator.mul, deviations, deviations)) / (n - 1))
