"""Methods under several protocols: which are paired, in which order, and what the page shows of them."""

from pathlib import Path

from norml.statistics import interval_95, paired_difference
from norml_cli.reporting.html import render_html
from norml_cli.reporting.protocol_sheets import protocol_sheet
from norml_cli.reporting.sheets import to_rich
from norml_cli.results.protocols import protocol_tables
from norml_cli.results.store import Results
from tests.helpers.made_records import made_registry, write_evaluation, written_run

MAML, NORML = [5, 6, 7, 8], [6, 8, 7, 9]


def test_methods_are_paired_where_their_episodes_agree(tmp_path: Path):
    registry, results = made_registry(tmp_path / "registry"), Results(tmp_path / "results")
    maml, norml = (
        written_run(results.folder, registry, method, correct)
        for method, correct in (("maml-constant-lr", MAML), ("norml", NORML))
    )
    write_evaluation(registry, maml, [1, 2, 3, 4], queries_per_class=1)
    write_evaluation(registry, norml, [2, 2, 4, 5], queries_per_class=1)
    write_evaluation(registry, maml, [5, 5, 6, 7], "c", inner_steps_test=3, query_statistics="support")
    write_evaluation(registry, norml, [5, 5, 6, 8], "d", inner_steps_test=3, query_statistics="support")
    (table,) = protocol_tables(registry, results.runs(), results.scan_evaluations().sound())
    several = "inner_steps_test 3, query_statistics support"
    assert list(table.protocols) == ["as trained", "queries_per_class 1", several]
    assert (table.reference, table.methods) == ("maml-constant-lr", ("maml-constant-lr", "norml"))
    trained, one, other = (table.protocols[title]["norml"] for title in table.protocols)
    assert trained.minus_reference == paired_difference(NORML, MAML).divided_by(10)
    assert one.accuracy == interval_95([2, 2, 4, 5]).divided_by(5)
    assert one.minus_reference == paired_difference([2, 2, 4, 5], [1, 2, 3, 4]).divided_by(5)
    assert other.minus_reference is None  # on other episodes than MAML's
    assert table.protocols["as trained"]["maml-constant-lr"].minus_reference is None

    (turned,) = protocol_tables(registry, results.runs(), results.scan_evaluations().sound(), ["norml"])
    assert (turned.reference, turned.methods) == ("norml", ("norml",))


def test_seeds_are_averaged_first_and_paired_over_those_in_common(tmp_path: Path):
    registry, results = made_registry(tmp_path / "registry"), Results(tmp_path / "results")
    maml = written_run(results.folder, registry, "maml-constant-lr", MAML)
    first, second = (written_run(results.folder, registry, "norml", NORML, seed) for seed in (0, 1))
    write_evaluation(registry, maml, [1, 2, 3, 4], queries_per_class=1)
    write_evaluation(registry, first, [2, 2, 4, 5], queries_per_class=1)
    write_evaluation(registry, second, [4, 4, 4, 3], queries_per_class=1)
    (table,) = protocol_tables(registry, results.runs(), results.scan_evaluations().sound())
    norml = table.protocols["queries_per_class 1"]["norml"]
    assert norml.seeds == (0, 1)
    assert norml.accuracy == interval_95([3, 3, 4, 4]).divided_by(5)
    assert norml.minus_reference == paired_difference([2, 2, 4, 5], [1, 2, 3, 4]).divided_by(5)


def test_the_page_and_a_narrow_terminal_show_every_protocol(tmp_path: Path):
    registry, results = made_registry(tmp_path / "registry"), Results(tmp_path / "results")
    norml = written_run(results.folder, registry, "norml", NORML)
    write_evaluation(registry, norml, [2, 2, 4, 5], queries_per_class=1)
    runs = results.runs()
    tables = protocol_tables(registry, runs, results.scan_evaluations().sound())
    page = render_html(registry, [], runs, tables)
    assert '<h2 id="protocols">Trained weights under other protocols</h2>' in page
    assert "queries_per_class 1" in page
    assert 'id="protocols"' not in render_html(registry, [], runs)
    text = to_rich(protocol_sheet(tables[0]), 40)
    assert max(map(len, text.splitlines())) <= 40
    assert [line for line in text.splitlines() if line in {"as trained", "queries_per_class 1"}] == [
        "as trained",
        "queries_per_class 1",
    ]
