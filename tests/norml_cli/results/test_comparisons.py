"""Paired comparisons of methods: values derived by hand, both levels of chance, and what is refused."""

import csv
import io
import json
import math
import statistics
from pathlib import Path

import pytest
from rich.console import Console

from norml.statistics import holm, t_975
from norml_cli.commands.results.compare import Compared, compare_methods
from norml_cli.files.errors import UserError
from norml_cli.reporting.comparison_sheets import COMPARISON_KEYS, verdict
from norml_cli.reporting.table_sheet import render_table
from norml_cli.results.comparisons import compare, compare_table
from norml_cli.results.groups import choose_runs
from norml_cli.results.records import RunRecord
from norml_cli.results.store import Results, write_record
from norml_cli.results.tables import build_table
from tests.helpers.made_records import made_content, made_record, made_registry

MAML, NORML, ZERO_CELL = "maml-constant-lr", "norml", "norml-zero-cell"


@pytest.fixture
def registry(tmp_path: Path):
    return made_registry(tmp_path / "registry")


def compared(registry, methods, records, shots=1):
    return compare(registry, methods, "tiny", shots, records)


def printed(registry, tmp_path, records, methods, **settings) -> str:
    for record in records:
        write_record(Results(tmp_path / "results").run_path(record.spec, record.seed), record)
    console = Console(file=io.StringIO(), width=settings.pop("width", 100))
    format_ = settings.pop("format_", "rich")
    asked = Compared(methods, **({"benchmark": "tiny", "shots": 1} | settings))
    compare_methods(registry, asked, format_=format_, results=tmp_path / "results", console=console)
    return console.file.getvalue()


def test_a_pair_of_one_seed_by_hand(registry):
    """Differences of 2, 1, 1, 1 in 10 queries: mean 1.25, sd 0.5, t = 1.25 / (0.5 / 2) = 5 with 3 degrees.

    The quantile at 3 degrees is 3.1824, the two-sided p-value of t = 5 is 0.01539 (tables of Student's t).
    """
    records = [made_record(registry, NORML, [7, 7, 5, 6]), made_record(registry, MAML, [5, 6, 4, 5])]
    (comparison,) = compared(registry, [NORML, MAML], records)
    (difference,) = comparison.differences
    assert difference.interval.mean == pytest.approx(0.125)
    assert difference.interval.half_width == pytest.approx(3.182446 * 0.05 / 2, rel=1e-6)
    assert difference.effect_size == pytest.approx(2.5)
    assert difference.p == difference.adjusted_p == pytest.approx(0.015392, abs=1e-6)
    assert difference.values_to_settle == 3  # t(0.975, 2) / sqrt(3) = 2.48
    assert (difference.over, difference.seeds) == ("episodes", (0,))
    assert verdict(comparison, difference) == "norml is ahead"


def test_the_one_behind_is_not_called_ahead(registry):
    records = [made_record(registry, NORML, [5, 6, 4, 5]), made_record(registry, MAML, [7, 7, 5, 6])]
    (comparison,) = compared(registry, [NORML, MAML], records)
    assert verdict(comparison, comparison.differences[0]) == "maml-constant-lr is ahead"


def test_how_many_episodes_would_settle_it(registry):
    """Differences 3, -1, 0, 2: mean 1, sd sqrt(10 / 3), d_z 0.5477; t(14) / sqrt(15) = 0.5538, t(15) / 4 = 0.5329."""
    records = [made_record(registry, NORML, [8, 5, 4, 7]), made_record(registry, MAML, [5, 6, 4, 5])]
    (comparison,) = compared(registry, [NORML, MAML], records)
    (difference,) = comparison.differences
    assert difference.values_to_settle == 16
    assert verdict(comparison, difference) == "not significant; 16 episodes needed"


def test_equal_answers_are_no_difference(registry):
    records = [made_record(registry, method, [5, 6, 4, 5]) for method in (NORML, MAML)]
    (comparison,) = compared(registry, [NORML, MAML], records)
    (difference,) = comparison.differences
    assert (difference.p, difference.effect_size, difference.values_to_settle) == (1.0, 0.0, None)
    assert verdict(comparison, difference) == "no difference"


def test_the_same_lead_in_every_episode_is_settled(registry):
    records = [made_record(registry, NORML, [6, 7, 5, 6]), made_record(registry, MAML, [5, 6, 4, 5])]
    (comparison,) = compared(registry, [NORML, MAML], records)
    (difference,) = comparison.differences
    assert (difference.p, difference.effect_size) == (0.0, float("inf"))
    assert verdict(comparison, difference) == "norml is ahead"


def test_seeds_and_episodes_are_two_levels(registry):
    """Seed 0 leads by 1.25 queries, seed 1 by 0.25: over seeds mean 0.75, sd sqrt(0.5), t(1) = 12.706."""
    records = [
        made_record(registry, NORML, [7, 7, 5, 6], seed=0),
        made_record(registry, NORML, [6, 6, 4, 5], seed=1),
        made_record(registry, MAML, [5, 6, 4, 5], seed=0),
        made_record(registry, MAML, [5, 6, 4, 5], seed=1),
    ]
    (comparison,) = compared(registry, [NORML, MAML], records)
    assert [(d.over, d.seeds) for d in comparison.differences] == [
        ("episodes", (0,)),
        ("episodes", (1,)),
        ("episodes", (0, 1)),
        ("seeds", (0, 1)),
    ]
    first, second, both, over_seeds = (d.interval for d in comparison.differences)
    assert (first.mean, second.mean) == (pytest.approx(0.125), pytest.approx(0.025))
    # Episodes' means over seeds: 1.5, 0.5, 0.5, 0.5.
    assert (both.mean, both.n) == (pytest.approx(0.075), 4)
    assert both.half_width == pytest.approx(3.182446 * 0.05 / 2, rel=1e-6)
    assert (over_seeds.mean, over_seeds.n) == (pytest.approx(0.075), 2)
    assert over_seeds.half_width == pytest.approx(12.7062 * 0.1 / 2, rel=1e-4)
    # d_z of the seeds 0.75 / sqrt(0.5) = 1.06: t(5) / sqrt(6) = 1.049, t(4) / sqrt(5) = 1.242
    assert verdict(comparison, comparison.differences[3]) == "too few seeds; 6 needed"


def three_seeds(registry, leads):
    """NORML ahead of MAML by so many queries in each episode of each seed, and by one more in the first episode."""
    maml = [5, 5, 5, 4]
    records = [made_record(registry, MAML, maml, seed=seed) for seed in range(len(leads))]
    for seed, lead in enumerate(leads):
        counts = [correct + lead for correct in maml]
        records.append(made_record(registry, NORML, [counts[0] + 1, *counts[1:]], seed=seed))
    return records


def test_a_verdict_on_methods_needs_three_seeds(registry):
    """Leads of 1.25, 1.25, 2.25 and 3.25 queries have a sd of 0.957: t = 2 / 0.479 = 4.18, p = 0.025 at 3 degrees."""
    (comparison,) = compared(registry, [NORML, MAML], three_seeds(registry, [1, 1, 2, 3]))
    assert verdict(comparison, comparison.over_episodes) == "norml is ahead"
    assert comparison.over_seeds.p == pytest.approx(0.0249, abs=1e-4)
    assert verdict(comparison, comparison.over_seeds) == "norml is ahead"
    (two,) = compared(registry, [NORML, MAML], three_seeds(registry, [2, 2]))
    assert two.over_seeds.p == 0  # the same lead twice
    assert verdict(two, two.over_seeds) == "too few seeds; 3 needed"


def test_inside_seed_scatter_is_a_verdict(registry):
    """Leads of 0.25, 2.25 and -0.75 queries: the weights of all seeds together are ahead, the methods are not."""
    (comparison,) = compared(registry, [NORML, MAML], three_seeds(registry, [0, 2, -1]))
    assert comparison.over_seeds.interval.mean == pytest.approx(0.1 * (0.25 + 2.25 - 0.75) / 3)
    assert verdict(comparison, comparison.over_seeds).startswith("within seed variation; ")
    assert verdict(comparison, comparison.over_seeds).endswith(" seeds needed")


def test_holm_counts_all_pairs_that_stand_together_whatever_their_seeds(registry):
    """MAML and NORML have two seeds, the third method one: every p-value over episodes is one of three all the same."""
    records = [made_record(registry, method, [7, 7, 5, 6], seed=1) for method in (NORML, MAML)]
    records += [
        made_record(registry, NORML, [7, 7, 5, 6]),
        made_record(registry, MAML, [5, 6, 4, 5]),
        made_record(registry, ZERO_CELL, [6, 6, 5, 4]),
    ]
    comparisons = compared(registry, [NORML, MAML, ZERO_CELL], records)
    assert [c.over_episodes.seeds for c in comparisons] == [(0, 1), (0,), (0,)]
    ps = [c.over_episodes.p for c in comparisons]
    assert [c.over_episodes.adjusted_p for c in comparisons] == pytest.approx(holm(ps))
    first = comparisons[0].differences[0]
    assert (first.seeds, first.adjusted_p) == ((0,), pytest.approx(3 * 0.015392, abs=3e-6))
    assert comparisons[0].over_seeds.adjusted_p == comparisons[0].over_seeds.p  # alone at its level


def test_seeds_that_were_made_differently_are_averaged_with_a_note(registry):
    contents = [made_content(registry, NORML, [7, 7, 5, 6], seed=seed) for seed in (0, 1)]
    contents[1]["device"] = "NVIDIA P100"
    contents[1]["versions"] = {**contents[1]["versions"], "torch": "9.9"}
    contents[1]["git"] = {"commit": "0" * 40, "dirty": True}
    records = [RunRecord.model_validate(content) for content in contents]
    torch = contents[0]["versions"]["torch"]
    group, notes = choose_runs(registry, NORML, "tiny", 1, records)
    assert group.seeds == (0, 1)
    [note] = notes
    assert note == (
        f"seeds 0, 1 differ: device cpu (x86_64, 2 threads) and NVIDIA P100; torch {torch} and 9.9; "
        "seed 1 ran code with uncommitted changes"
    )
    assert choose_runs(registry, NORML, "tiny", 1, records[1:])[1] == []  # nothing is averaged


def test_many_pairs_make_each_harder_to_settle(registry):
    """NORML - MAML alone has p = 0.0154; as the smallest of three, Holm multiplies by 3."""
    records = [
        made_record(registry, NORML, [7, 7, 5, 6]),
        made_record(registry, MAML, [5, 6, 4, 5]),
        made_record(registry, ZERO_CELL, [6, 6, 5, 4]),
    ]
    comparisons = compared(registry, [NORML, MAML, ZERO_CELL], records)
    assert [(c.a, c.b) for c in comparisons] == [(NORML, MAML), (NORML, ZERO_CELL), (MAML, ZERO_CELL)]
    first = comparisons[0].differences[0]
    assert first.adjusted_p == pytest.approx(3 * 0.015392, abs=3e-6)
    assert first.settled
    assert not comparisons[1].differences[0].settled
    fewer = [7, 7, 4, 6]  # against MAML: 2, 1, 0, 1, which has p = 0.0917 alone
    (alone,) = compared(registry, [NORML, MAML], [made_record(registry, NORML, fewer), records[1]])
    assert not alone.differences[0].settled


def test_other_episodes_are_refused_with_the_reason(registry):
    maml = made_record(registry, MAML, [5, 6, 4, 5])
    drawn_anew = made_record(registry, NORML, [7, 7, 5, 6], test_hash="episodes-b")
    with pytest.raises(UserError, match=r"tested on different episodes.*drawn again"):
        compared(registry, [NORML, MAML], [maml, drawn_anew])
    more = made_record(registry, NORML, [7, 7, 5, 6, 5], test_hash="episodes-b", test_episodes=5)
    with pytest.raises(UserError, match="test_episodes 5 instead of 4"):
        compared(registry, [NORML, MAML], [maml, more])


def test_what_cannot_be_compared_is_refused(registry):
    maml = made_record(registry, MAML, [5, 6, 4, 5])
    with pytest.raises(UserError, match=r"norml: no finished run .* `norml run norml --benchmark tiny --shots 1`"):
        compared(registry, [NORML, MAML], [maml])
    with pytest.raises(UserError, match="no seed in common"):
        compared(registry, [NORML, MAML], [maml, made_record(registry, NORML, [7, 7, 5, 6], seed=1)])
    with pytest.raises(UserError, match="unknown method 'normal'"):
        compared(registry, ["normal", MAML], [maml])


def test_seeds_that_only_one_has_are_told(registry):
    records = [made_record(registry, NORML, [7, 7, 5, 6], seed=seed) for seed in (0, 1)]
    (comparison,) = compared(registry, [NORML, MAML], [*records, made_record(registry, MAML, [5, 6, 4, 5])])
    assert [d.seeds for d in comparison.differences] == [(0,)]
    assert "compared over the common seeds: 0" in comparison.notes


@pytest.mark.parametrize("width", [70, 80, 200])
def test_it_is_printed_within_the_width(registry, tmp_path, width):
    records = [made_record(registry, NORML, [7, 7, 5, 6], inner_lr=0.2), made_record(registry, MAML, [5, 6, 4, 5])]
    text = printed(registry, tmp_path, records, [NORML, MAML], width=width)
    assert "+12.50 ± 7.96" in text
    assert "0.0154" in text
    assert "norml is ahead" in text
    assert "norml: inner_lr 0.2 instead of 0.4" in text
    assert max(map(len, text.splitlines())) <= width
    assert any("weights, seed 0" in line for line in text.splitlines())  # in one piece


@pytest.mark.parametrize("width", [20, 30, 40, 60])
def test_a_narrow_terminal_shows_every_cell_whole(registry, tmp_path, width):
    records = [made_record(registry, ZERO_CELL, [7, 7, 5, 6]), made_record(registry, MAML, [5, 6, 4, 5])]
    text = printed(registry, tmp_path, records, [ZERO_CELL, MAML], width=width)
    assert max(map(len, text.splitlines())) <= width
    words = " ".join(text.split())
    for part in ("+12.50 ± 7.96", "0.0154", "+2.50", "norml-zero-cell", "is ahead", "weights,", "seed 0"):
        assert part in words


def test_scripts_get_every_figure(registry, tmp_path):
    records = [made_record(registry, NORML, [7, 7, 5, 6]), made_record(registry, MAML, [5, 6, 4, 5])]
    (row,) = json.loads(printed(registry, tmp_path, records, [NORML, MAML], format_="json"))["comparisons"]
    assert list(row) == list(COMPARISON_KEYS)
    assert (row["a"], row["b"], row["n"], row["effect_size"]) == (NORML, MAML, 4, pytest.approx(2.5))
    (line,) = csv.DictReader(io.StringIO(printed(registry, tmp_path, records, [NORML, MAML], format_="csv")))
    assert float(line["difference"]) == row["difference"]


def test_all_pairs_of_a_table(registry, tmp_path):
    records = [made_record(registry, method, [7, 7, 5, 6]) for method in (NORML, MAML, ZERO_CELL)]
    settings = {"table": "tiny-table", "benchmark": None, "shots": None, "format_": "json"}
    found = json.loads(printed(registry, tmp_path, records, [], **settings))["comparisons"]
    assert [(row["a"], row["b"]) for row in found] == [(MAML, NORML), (MAML, ZERO_CELL), (NORML, ZERO_CELL)]
    assert "Holm correction for the 3 pairs" in printed(registry, tmp_path, [], [], **settings | {"format_": "rich"})


def test_the_matrix_shows_leads_both_ways_and_stars_what_is_settled(registry, tmp_path):
    """NORML leads MAML by 12.5 points, p 0.0154 by hand above, 0.046 after Holm's factor of 3; the rest is tied."""
    counts = {NORML: [7, 7, 5, 6], MAML: [5, 6, 4, 5], ZERO_CELL: [5, 6, 6, 4]}
    records = [made_record(registry, method, correct) for method, correct in counts.items()]
    settings = {"table": "tiny-table", "benchmark": None, "shots": None}
    text = printed(registry, tmp_path, records, [], **settings, width=200)
    rows = {line.split()[1]: line.split()[2:] for line in text.splitlines()[1:6] if line[:2] in {"A ", "B ", "C "}}
    assert rows == {MAML: ["-12.50*", "-2.50"], NORML: ["+12.50*", "+10.00"], ZERO_CELL: ["+2.50", "-10.00"]}
    assert max(map(len, printed(registry, tmp_path, [], [], width=80, **settings).splitlines())) <= 80


def test_a_table_pairs_the_methods_of_each_row_s_own_benchmark(tmp_path):
    rows = [{"title": "a", "method": MAML, "benchmark": "glyphs-5way", "citation": "x"}]
    rows += [{"title": method, "method": method, "citation": "x"} for method in (NORML, ZERO_CELL)]
    registry = made_registry(tmp_path / "registry", rows=rows, reference=None)
    records = [made_record(registry, method, [7, 7, 5, 6]) for method in (NORML, ZERO_CELL)]
    records.append(made_record(registry, MAML, [4, 4, 3, 5], benchmark="glyphs-5way", test_episodes=4))
    found = compare_table(registry, registry.table("tiny-table"), records)
    assert [(pair.a, pair.b, pair.benchmark) for pair in found] == [(NORML, ZERO_CELL, "tiny")]


@pytest.mark.parametrize(
    ("methods", "settings", "words"),
    [
        ([NORML], {}, "name two or more different methods"),
        ([NORML, NORML], {}, "name two or more different methods"),
        ([NORML, MAML], {"table": "tiny-table"}, "leave out METHOD"),
        ([], {"table": "tiny-table", "benchmark": None, "shots": None}, "no column has finished runs of two methods"),
        ([NORML, MAML], {"format_": "html"}, "unknown format"),
    ],
)
def test_wrong_use_is_refused(registry, tmp_path, methods, settings, words):
    (tmp_path / "results").mkdir()
    with pytest.raises(UserError, match=words):
        printed(registry, tmp_path, [], methods, **settings)


def with_classes(content, held):
    correct = content["correct"]
    by_class = {name: {"episodes": len(at), "correct": sum(correct[e] for e in at)} for name, at in held.items()}
    return RunRecord.model_validate(content | {"by_class": by_class})


@pytest.fixture
def eight_classes():
    """Of eight classes five an episode: class n is in episode e unless (n + e) % 8 is 5, 6 or 7; eight episodes."""
    return {f"class-{n}": [e for e in range(8) if (n + e) % 8 < 5] for n in range(8)}


def made_pair(registry, held, left, right):
    return [
        with_classes(made_content(registry, method, correct, test_episodes=8), held)
        for method, correct in ((NORML, left), (MAML, right))
    ]


def test_new_classes_are_a_level_of_their_own_by_hand(registry, eight_classes):
    """Without a class three episodes are left, so eight means of three differences each."""
    left, right = [9, 8, 9, 7, 8, 9, 6, 9], [8, 8, 7, 7, 6, 8, 6, 7]
    (pair,) = compared(registry, [NORML, MAML], made_pair(registry, eight_classes, left, right))
    assert [each.over for each in pair.differences] == ["episodes", "classes"]
    differences = [a - b for a, b in zip(left, right, strict=True)]
    without = [statistics.mean(d for e, d in enumerate(differences) if e not in at) for at in eight_classes.values()]
    error = statistics.stdev(without) * 7 / math.sqrt(8)
    interval = pair.over_classes.interval
    assert (interval.mean, interval.n) == (pytest.approx(sum(differences) / 80), 8)
    assert interval.half_width == pytest.approx(t_975(7) * error / 10)
    assert pair.for_new_classes is max(pair.differences, key=lambda each: each.adjusted_p)


def test_records_without_classes_are_compared_as_before(registry, eight_classes):
    records = made_pair(registry, eight_classes, [9] * 8, [8, 8, 7, 7, 6, 8, 6, 7])
    old = records[1].model_copy(update={"by_class": None})
    (pair,) = compared(registry, [NORML, MAML], [records[0], old])
    assert pair.over_classes is None
    assert pair.for_new_classes is pair.over_episodes


def test_what_the_sheets_say_of_new_classes(registry, eight_classes, tmp_path):
    records = made_pair(registry, eight_classes, [9, 8, 9, 7, 8, 9, 6, 9], [8, 8, 7, 7, 6, 8, 6, 7])
    text = " ".join(printed(registry, tmp_path, records, [NORML, MAML]).split())
    assert "new classes, seed 0" in text
    assert "new classes: the same weights, with the 8 test classes as a sample (jackknife, Arvesen 1969)" in text
    table = render_table(build_table(registry, registry.table("tiny-table"), records), "rich", width=200)
    assert "new classes: half-widths over 8 test classes are" in table
    assert "over classes exclude zero" in table
