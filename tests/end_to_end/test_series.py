"""Learning curves and episode counts as rows: `norml report --curves` and `--episodes`, and the library's readers."""

import csv
import io
import json
from pathlib import Path

import pytest

from norml_cli.files.errors import UserError
from norml_cli.results.series import CURVE_KEYS, EPISODE_KEYS, episode_counts, learning_curves
from norml_cli.results.store import read_record
from tests.helpers.command_line import Shell


@pytest.fixture
def runs(shell: Shell) -> list[Path]:
    """Two seeds, one of them under a name too."""
    run = ("run", "maml-constant-lr", "--benchmark", "tiny-5way", "--device", "cpu", "--quiet")
    assert shell.norml(*run, "--seeds", "0..1")[0] == 0
    assert shell.norml(*run, "--set", "first_order=true", "--name", "fomaml")[0] == 0
    return sorted(Path("results").rglob("seed-?.json"))


def test_rows_are_those_of_the_records(runs: list[Path]):
    records = [read_record(path) for path in runs]
    assert len(records) == 3
    curves, counts = learning_curves(), episode_counts("results")
    assert [tuple(row) for row in curves] == [CURVE_KEYS] * sum(len(record.curve) for record in records)
    assert [tuple(row) for row in counts] == [EPISODE_KEYS] * sum(len(record.correct) for record in records)
    for record in records:
        place = (record.spec.benchmark, record.spec.shots, record.label, record.seed)
        mine = [row for row in curves if tuple(row.values())[:4] == place]
        assert [row["validation_accuracy"] for row in mine] == [point.validation_accuracy for point in record.curve]
        assert [row["step"] for row in mine] == [point.step for point in record.curve]
        of_run = [row for row in counts if tuple(row.values())[:4] == place]
        assert [row["correct"] for row in of_run] == record.correct
        mean = sum(row["correct"] / row["queries"] for row in of_run) / len(of_run)
        assert mean == pytest.approx(record.accuracy.mean, rel=1e-12)
    assert {row["method"] for row in curves} == {"maml-constant-lr", "maml-constant-lr+fomaml"}


@pytest.mark.usefixtures("runs")
def test_the_command_prints_the_same_rows(shell: Shell):
    for option, rows in (("--curves", learning_curves()), ("--episodes", episode_counts())):
        code, out, err = shell.norml("report", option, "--format", "csv")
        assert (code, err) == (0, "")
        table = list(csv.DictReader(io.StringIO(out)))
        assert list(table[0]) == list(rows[0])
        assert [[row[key] for key in ("method", "seed")] for row in table] == [
            [row["method"], str(row["seed"])] for row in rows
        ]
        code, out, err = shell.norml("report", option, "--json")
        assert (code, err) == (0, "")
        (found,) = json.loads(out).values()
        assert found == [{key: rounded(value) for key, value in row.items()} for row in rows]


def rounded(value: object) -> object:
    """As CSV and JSON give numbers: to 12 digits."""
    return float(f"{value:.12g}") if isinstance(value, float) else value


@pytest.mark.usefixtures("runs")
def test_pandas_reads_them_in_two_lines(shell: Shell):
    pandas = pytest.importorskip("pandas")
    out = shell.norml("report", "--curves", "--format", "csv")[1]
    from_command, from_library = pandas.read_csv(io.StringIO(out)), pandas.DataFrame(learning_curves())
    pandas.testing.assert_frame_equal(from_command, from_library, rtol=1e-11)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--curves"], "--curves: has only data formats; add --format csv or --format json"),
        (["--episodes", "--format", "markdown"], "--episodes: has only data formats"),
        (["--curves", "--format", "yaml"], "--format yaml: unknown format"),
        (["--curves", "--table", "table-2"], "--curves: prints a list of its own; leave out the other options"),
        (["--curves", "--episodes", "--json"], "--curves: prints a list of its own"),
        (["--curves", "--json", "--results", "nowhere"], "--results nowhere: no such folder"),
    ],
)
def test_a_slip_is_one_line(shell: Shell, arguments: list[str], says: str):
    code, out, err = shell.norml("report", *arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert says in err


def test_damaged_records_and_missing_folders_are_told(runs: list[Path]):
    runs[0].write_text(runs[0].read_text().replace('"seed": 0', '"seed": 7'))
    with pytest.raises(UserError, match="digest"):
        learning_curves()
    with pytest.raises(UserError, match="no such folder"):
        episode_counts("nowhere")
