"""By what a paper's numbers are reached, and how far frozen features get alone."""

import pytest

from norml_cli.registry.reading import builtin_registry, read_registry
from norml_cli.reporting.table_sheet import goal_lines, render_table
from norml_cli.results.tables import build_table
from tests.helpers.made_records import made_record

NARROW, PAPER = "mini-imagenet-5way-narrow", "mini-imagenet-5way"


@pytest.fixture(scope="module")
def registry():
    return read_registry([builtin_registry()])


def lines(registry, *runs):
    """The lines of the 1-shot column of table-1, for (method, correct of 75 an episode, benchmark)."""
    records = [
        made_record(registry, method, [correct] * 4, benchmark=benchmark, test_episodes=4)
        for method, correct, benchmark in runs
    ]
    table = build_table(registry, registry.table("table-1"), records)
    assert all(line in render_table(table, "markdown", width=80) for goal in table.goals for line in goal_lines(goal))
    return [line for goal in table.goals for line in goal_lines(goal) if line.startswith("1-shot")]


def test_without_records_it_says_so(registry):
    number, heads = lines(registry)
    assert number == "1-shot, paper: 60.2 ± 0.91 (NORML); we have no record"
    assert heads.endswith(
        "mtl-2019: no record; rfs-2020: no record; resnet12-42px: no record; resnet12-narrow: no record"
    )


def test_a_lower_result_does_not_reach_a_published_number_and_the_best_head_is_shown(registry):
    number, heads = lines(
        registry,
        ("norml", 45, PAPER),  # 60.0
        ("maml-constant-lr", 42, NARROW),
        ("logistic-regression", 41, PAPER),
        ("nearest-centroid", 46, PAPER),
    )
    assert number.endswith("(NORML); none of ours reaches it, the highest is NORML, 60.00 ± 0.00")
    assert "mtl-2019: nearest centroid, mtl-2019 features, 61.33 ± 0.00; rfs-2020: no record" in heads


def test_every_method_that_reaches_a_number_is_named_and_heads_are_not(registry):
    number, _ = lines(registry, ("norml", 46, NARROW), ("maml-constant-lr", 48, PAPER), ("nearest-centroid", 60, PAPER))
    reached = "MAML (constant lr), mtl-2019 features, 64.00 ± 0.00; NORML, resnet12-narrow features, 61.33 ± 0.00"
    assert number.endswith(f"(NORML); reached by {reached}")


def test_a_table_whose_rows_share_one_benchmark_has_no_such_lines(registry):
    assert build_table(registry, registry.table("table-2"), []).goals == ()
