"""What the README shows is what the tool prints."""

from pathlib import Path

from norml_cli.records import find_records
from norml_cli.registry import builtin_registry, read_registry
from norml_cli.report import render_table
from norml_cli.tables import build_table

ROOT = Path(__file__).parents[1]


def test_the_table_is_the_one_that_the_records_give():
    registry = read_registry([builtin_registry()])
    records = [record for _, record in find_records(ROOT / "results")]
    assert records
    table = render_table(build_table(registry, registry.table("table-2"), records), "markdown", width=80)
    assert table.strip() in (ROOT / "README.md").read_text(encoding="utf-8")


def test_ci_calls_the_test_command_of_the_readme():
    command = "pip install nox uv && .venv/bin/nox"
    assert command in (ROOT / "README.md").read_text(encoding="utf-8")
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "nox uv" in ci
    assert '/bin/nox"' in ci
