import itertools
import math
import statistics as standard_library

import numpy as np
import pytest
from scipy import stats

from norml.statistics import (
    Interval,
    effect_size,
    episode_means,
    holm,
    interval_95,
    least_difference,
    over_classes,
    over_seeds,
    p_value,
    paired_difference,
    t_975,
    values_to_settle,
)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 30, 199, 200, 201, 202, 600, 10_000])
def test_interval_agrees_with_scipy(n):
    values = np.random.default_rng(n).random(n)
    interval = interval_95(values)
    low, high = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert (interval.mean - interval.half_width, interval.mean + interval.half_width) == pytest.approx(
        (low, high), rel=1e-9
    )
    assert interval.n == n


def test_interval_of_hand_derived_values():
    # 1, 2, 3: mean 2, sd 1 (ddof=1), t(0.975, 2) = 4.30265; half-width 4.30265 / sqrt(3)
    interval = interval_95([1, 2, 3])
    assert interval.mean == 2
    assert interval.half_width == pytest.approx(4.302652729749 / math.sqrt(3), rel=1e-11)


def test_counts_give_what_their_fractions_give():
    counts = np.random.default_rng(3).integers(0, 21, 1000)
    exact, rounded = interval_95(counts.tolist()).divided_by(20), interval_95(counts / 20)
    assert (exact.mean, exact.half_width) == pytest.approx((rounded.mean, rounded.half_width), rel=1e-12)


def test_scatter_beside_a_large_mean_is_not_lost():
    # squares of 1e9 differ in the 18th digit: sum of squares minus square of sums would be lost in rounding
    assert interval_95([1e9, 1e9 + 1, 1e9 + 2]).half_width == pytest.approx(interval_95([0, 1, 2]).half_width)


def test_constant_values_have_no_scatter():
    assert interval_95([0.5] * 7).half_width == 0


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.7062047362), (3, 3.18244630528), (10, 2.22813885199), (120, 1.97993040508)]
)
def test_quantiles_of_printed_tables(degrees, quantile):
    assert t_975(degrees) == pytest.approx(quantile, rel=1e-11)


def test_quantile_at_600_episodes():
    assert round(t_975(599), 4) == 1.9639


def test_quantile_falls_to_the_normal_one():
    assert t_975(10**9) == pytest.approx(standard_library.NormalDist().inv_cdf(0.975), abs=1e-8)


def test_quantile_needs_a_degree_of_freedom():
    with pytest.raises(ValueError, match="at least 1 degree of freedom, got 0"):
        t_975(0)


@pytest.mark.parametrize("values", [[], [0.5]])
def test_too_few_values_are_refused(values):
    with pytest.raises(ValueError, match=f"at least 2 values, got {len(values)}"):
        interval_95(values)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="every value must be finite"):
        interval_95([0.5, bad, 0.5])
    with pytest.raises(ValueError, match="every value must be finite"):
        interval_95(np.array([0.5, bad, -bad]))


def test_paired_difference_is_the_interval_of_the_differences():
    a, b = np.array([0.5, 0.7, 0.9]), np.array([0.4, 0.7, 0.5])
    difference = paired_difference(a, b)
    # differences 0.1, 0, 0.4: mean 1/6, squared deviations 1/225 + 1/36 + 49/900 = 78/900, sd sqrt(39/900)
    assert difference.mean == pytest.approx(1 / 6)
    assert difference.half_width == pytest.approx(4.302652729749 * math.sqrt(39 / 900) / math.sqrt(3), rel=1e-11)


def test_pairing_removes_what_the_episodes_share():
    hardness = np.random.default_rng(0).random(500)
    assert paired_difference(hardness + 0.1, hardness).half_width < 1e-12
    assert interval_95(hardness).half_width > 0.02


def test_paired_values_of_other_episodes_are_refused():
    with pytest.raises(ValueError, match="same episodes, got 3 and 2 values"):
        paired_difference([1, 2, 3], [1, 2])


def test_seeds_are_averaged_per_episode_before_the_interval():
    matrix = np.random.default_rng(1).random((3, 40))
    result = over_seeds(matrix)
    per_episode = interval_95(matrix.mean(axis=0))
    assert result.interval.mean == pytest.approx(per_episode.mean, rel=1e-12)
    assert result.interval.half_width == pytest.approx(per_episode.half_width, rel=1e-9)
    assert result.interval.n == 40
    assert result.seed_sd == pytest.approx(matrix.mean(axis=1).std(ddof=1), rel=1e-9)


def test_scatter_between_seeds_leaves_the_interval_alone():
    episodes = [0.2, 0.4, 0.6, 0.8]
    near = over_seeds([episodes, episodes])
    far = over_seeds([[x + 0.2 for x in episodes], [x - 0.2 for x in episodes]])
    assert far.interval.half_width == pytest.approx(near.interval.half_width)
    assert near.seed_sd == 0
    assert far.seed_sd == pytest.approx(0.4 / math.sqrt(2))


def test_one_seed_has_no_scatter_between_seeds():
    result = over_seeds([[0.2, 0.4, 0.9]])
    assert result.interval == interval_95([0.2, 0.4, 0.9])
    assert result.seed_sd is None
    assert result.divided_by(2).interval.mean == pytest.approx(0.25)
    assert result.n_seeds == 1


@pytest.mark.parametrize(("matrix", "rows"), [([], "no"), ([[1.0, 2.0], [1.0]], r"\[1, 2\]")])
def test_seeds_with_other_episodes_are_refused(matrix, rows):
    with pytest.raises(ValueError, match=f"same episodes, got rows of {rows} values"):
        episode_means(matrix)


@pytest.mark.parametrize("n", [2, 3, 10, 11, 600])
def test_p_values_agree_with_scipy(n):
    rng = np.random.default_rng(n)
    values = rng.normal(0.1, 1, n)
    expected = stats.ttest_1samp(values, 0).pvalue
    assert p_value(interval_95(values)) == pytest.approx(expected, rel=1e-8)


def test_p_values_without_scatter():
    assert p_value(Interval(0.0, 0.0, 4)) == 1
    assert p_value(Interval(0.1, 0.0, 4)) == 0


def test_effect_size_is_the_mean_in_standard_deviations():
    values = [2, 1, 1, 1]
    assert effect_size(interval_95(values)) == pytest.approx(1.25 / standard_library.stdev(values), rel=1e-10)
    assert effect_size(Interval(-1.0, 0.0, 4)) == -math.inf


@pytest.mark.parametrize(
    ("t", "n", "p"),
    [
        (10, 10_000, 1.963330150649400e-23),  # mpmath: betainc(df / 2, 1 / 2, 0, df / (df + t ** 2)), 40 digits
        (31, 10_000, 1.513707609418117e-201),
        (60, 200, 2.100479097075568e-129),
        (1, 2, 0.5),  # Cauchy's distribution
    ],
)
def test_p_values_are_right_far_into_the_tail(t, n, p):
    assert p_value(Interval(float(t), t_975(n - 1), n)) == pytest.approx(p, rel=1e-11, abs=0)
    assert p_value(Interval(-float(t), t_975(n - 1), n)) == pytest.approx(p, rel=1e-11, abs=0)


@pytest.mark.parametrize(
    ("d_z", "number"),  # t(0.975, n-1) / sqrt(n): 8.985 at 2, 2.484 at 3, 1.591 at 4, 0.925 at 7, 0.836 at 8
    [(9.0, 2), (3.1, 3), (1.6, 4), (1.59, 5), (0.93, 7), (0.86, 8)],
)
def test_the_number_that_settles_it_by_hand(d_z, number):
    assert values_to_settle(Interval(d_z, t_975(1) / math.sqrt(2), 2)) == number
    assert values_to_settle(Interval(-d_z, t_975(1) / math.sqrt(2), 2)) == number


@pytest.mark.parametrize("n", [2, 5, 400])
def test_the_number_that_settles_it_is_the_least(n):
    """An interval of as many values with this scatter excludes zero, and one of a value fewer does not."""
    interval = Interval(0.083, 2.0 * t_975(n - 1) / math.sqrt(n), n)  # sd 2
    number = values_to_settle(interval)
    assert t_975(number - 1) * 2.0 / math.sqrt(number) <= 0.083 < t_975(number - 2) * 2.0 / math.sqrt(number - 1)


def test_nothing_settles_a_mean_of_zero():
    assert values_to_settle(Interval(0.0, 0.1, 4)) is None
    assert values_to_settle(Interval(0.1, 0.0, 4)) == 2
    assert values_to_settle(Interval(1e-17, 0.1, 4)) > 10**30  # what rounding leaves of a zero


def test_holm_by_hand():
    """Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.04, of which none may fall below the last."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.3]) == [0.3]
    assert holm([]) == []


def of_classes(classes, values, n_classes):
    """Of each class, how many episodes hold it and the sum of their values."""
    held = [[value for row, value in zip(classes, values, strict=True) if c in row] for c in range(n_classes)]
    return [(len(each), sum(each)) for each in held]


def test_with_one_class_an_episode_classes_are_the_values():
    """0.2, 0.4, 0.9: mean 0.5, sd^2 = (0.09 + 0.01 + 0.16) / 2 = 0.13, t(0.975, 2) = 4.302653."""
    interval = over_classes(1.5, 3, [(1, 0.2), (1, 0.4), (1, 0.9)])
    assert interval.mean == pytest.approx(0.5)
    assert interval.half_width == pytest.approx(4.302652729911275 * math.sqrt(0.13 / 3))
    assert interval.n == 3


def test_of_all_pairs_of_four_classes_by_hand():
    """An episode's value is the mean of its two classes' u = 0, 1, 2, 5: without one, the mean of the others.

    So it is the interval of the four values of u: mean 2, sd^2 = (4 + 1 + 0 + 9) / 3, t(0.975, 3) = 3.182446.
    """
    u = (0, 1, 2, 5)
    pairs = list(itertools.combinations(range(4), 2))
    values = [(u[a] + u[b]) / 2 for a, b in pairs]
    interval = over_classes(sum(values), 6, of_classes(pairs, values, 4))
    assert interval.mean == pytest.approx(2)
    assert interval.half_width == pytest.approx(3.182446305284263 * math.sqrt(14 / 3 / 4))


@pytest.mark.parametrize("held", [[(2, 1.0)], [(3, 2.0), (1, 1.0)], []])
def test_classes_that_are_no_sample_give_no_interval(held):
    assert over_classes(2.0, 3, held) is None


def test_coverage_for_new_classes_of_both_intervals():
    """Classes that are hard and classes that draw answers from others: 400 test sets of 20 classes, 5 an episode.

    The interval over episodes holds for the classes drawn and misses the mean over all classes nearly always; that over
    classes holds it in 95 of 100, or a little more often. 400 tries scatter by 1.1 points.
    """
    generator = np.random.default_rng(0)
    n_tries, n_episodes, n_classes = 400, 1000, 20
    covered = {"episodes": 0, "classes": 0}
    for _ in range(n_tries):
        u = generator.normal(0, 0.1, n_classes)
        classes = generator.random((n_episodes, n_classes)).argsort(axis=1)[:, :5]
        values = 0.6 + u[classes].mean(axis=1) + generator.normal(0, 0.1, n_episodes)
        sums = np.zeros(n_classes)
        np.add.at(sums, classes, values[:, None])
        held = list(zip(np.bincount(classes.ravel()).tolist(), sums.tolist(), strict=True))
        for name, interval in (
            ("episodes", interval_95(values.tolist())),
            ("classes", over_classes(values.sum(), n_episodes, held)),
        ):
            covered[name] += abs(interval.mean - 0.6) <= interval.half_width
    assert covered["episodes"] < 0.5 * n_tries
    assert 0.93 * n_tries <= covered["classes"] <= 0.99 * n_tries


def test_the_least_difference_of_two_rows_is_that_of_a_pooled_t_test():
    """Squares about the rows' means: 2 with one degree of freedom and 6 with two; t(0.975, 3) = 3.1824."""
    rows = [[1.0, 3.0], [2.0, 2.0, 5.0], [7.0]]
    assert least_difference(rows, 1) == pytest.approx(3.182446 * math.sqrt(8 / 3 * 2), rel=1e-6)
    assert least_difference(rows, 4) == pytest.approx(least_difference(rows, 1) / 2)
    assert least_difference([[1.0], []], 1) is None


@pytest.mark.parametrize(
    ("rows", "points"),
    [  # MAML's first two seeds on Omniglot 20-way, at 1 and at 5 shots
        ([[0.90804, 0.908605], [0.91005, 0.909875], [0.910835, 0.90888]], 0.38),
        ([[0.965253, 0.965306], [0.966525, 0.965393], [0.96484, 0.964768]], 0.21),
    ],
)
def test_the_least_difference_of_table_2_s_first_seeds(rows, points):
    assert round(100 * least_difference(rows, 1), 2) == points
