import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import astuple
from pathlib import Path

import pytest
from rich.console import Console

from norml.statistics import interval_95, paired_difference
from norml_cli.commands.results.report import report
from norml_cli.files.errors import UserError
from norml_cli.files.suggestions import remember_places
from norml_cli.registry.reading import RegistryError, builtin_registry, read_registry
from norml_cli.reporting.formats import FORMATS
from norml_cli.reporting.latex import to_latex
from norml_cli.reporting.lists import RUN_KEYS, render_runs
from norml_cli.reporting.sheets import CellText, Grid, Sheet
from norml_cli.reporting.table_sheet import CELL_KEYS, render_table
from norml_cli.results.evaluated import Evaluations
from norml_cli.results.gathered import Gathered
from norml_cli.results.records import RunRecord
from norml_cli.results.store import Results, write_record
from norml_cli.results.tables import build_table
from norml_cli.terminal.output import print_line, print_text
from tests.helpers.made_records import (
    made_benchmark,
    made_content,
    made_record,
    made_registry,
    made_table,
    write_entry,
    write_evaluation,
    written_run,
)

REFERENCE = [5, 6, 4, 5]
OURS = [7, 7, 5, 6]

MARKDOWN = """\
**Table 9: 50% & more**

| method | 1-shot paper | 1-shot ours | 1-shot ours - paper | 1-shot vs reference | elsewhere paper |
| --- | ---: | ---: | ---: | ---: | ---: |
| Published_only | 50.5 ± 1.25 | - | - | - | 60.2 |
| MAML \\| const | 48.0 | 50.00 ± 12.99 | +2.00 | reference | - |
| NORML | 60.2 | **62.50 ± 15.23 (a)** | +2.30 | +12.50 ± 7.96* | - |
| NORML (zero cell) | - | - | - | - | - |

- bold: highest of its column, and all that do not differ from it significantly (paired test, Holm correction)
- paper: Nobody 2020, Table 9
- ours: accuracy in percent with its 95% interval over 4 test episodes, mean of 1 seed
- vs reference: paired difference from MAML (constant lr) on the same test episodes and seeds, with \
its 95% interval over episodes; *: the interval excludes zero (not corrected for the number of methods)
- (a) inner_lr 0.2 instead of 0.4; 500 of 2,000 outer steps
- missing: norml run norml-zero-cell --benchmark tiny --shots 1
"""

LATEX = (
    r"""% needs \usepackage{booktabs, graphicx, siunitx}
\begin{table}
\centering
\sisetup{detect-weight, retain-explicit-plus}
\caption{50\% \& more}
\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%
\begin{tabular}{lS[table-format=2.1]@{\,}c@{\,}S[table-format=1.2]"""
    r"""S[table-format=2.2]@{\,}c@{\,}S[table-format=2.2]@{}lS[table-format=+1.2]"""
    r"""S[table-format=+2.2]@{\,}c@{\,}S[table-format=1.2]@{}lS[table-format=2.1]}
\toprule
\multicolumn{1}{c}{} & \multicolumn{12}{c}{1-shot} & \multicolumn{1}{c}{elsewhere} \\
\cmidrule(lr){2-13}\cmidrule(lr){14-14}
method & \multicolumn{3}{c}{paper} & \multicolumn{4}{c}{ours} & \multicolumn{1}{c}{ours - paper} & """
    r"""\multicolumn{4}{c}{vs reference} & \multicolumn{1}{c}{paper} \\
\midrule
Published\_only & 50.5 & $\pm$ & 1.25 & \multicolumn{4}{c}{-} & \multicolumn{1}{c}{-} & \multicolumn{4}{c}{-} & 60.2 \\
MAML \textbar{} const & 48.0 &  &  & 50.00 & $\pm$ & 12.99 &  & +2.00 & """
    r"""\multicolumn{4}{c}{reference} & \multicolumn{1}{c}{-} \\
NORML & 60.2 &  &  & \bfseries 62.50 & $\pm$ & 15.23 & \textsuperscript{(a)} & +2.30 & """
    r"""+12.50 & $\pm$ & 7.96 & \textsuperscript{{*}} & \multicolumn{1}{c}{-} \\
NORML (zero cell) & \multicolumn{3}{c}{-} & \multicolumn{4}{c}{-} & \multicolumn{1}{c}{-} & """
    r"""\multicolumn{4}{c}{-} & \multicolumn{1}{c}{-} \\
\bottomrule
\end{tabular}}
\par\medskip{\raggedright\footnotesize
bold: highest of its column, and all that do not differ from it significantly (paired test, Holm correction)\par
paper: Nobody 2020, Table 9\par
ours: accuracy in percent with its 95\% interval over 4 test episodes, mean of 1 seed\par
vs reference: paired difference from MAML (constant lr) on the same test episodes and seeds, """
    r"""with its 95\% interval over episodes; {*}: the interval excludes zero """
    r"""(not corrected for the number of methods)\par
(a) inner\_lr 0.2 instead of 0.4; 500 of 2,000 outer steps\par
}
\end{table}
% missing: norml run norml-zero-cell --benchmark tiny --shots 1
"""
)

CSV = """\
row,method,column,benchmark,shots,published,published_half_width,accuracy,half_width,\
half_width_over_classes,n_episodes,\
accuracy_over_first,half_width_over_first,seeds,seed_sd,\
outer_steps,minus_published,minus_reference,minus_reference_half_width,\
minus_reference_half_width_over_classes,second_accuracy,second_half_width,second_seeds,second_minus_reference,second_minus_reference_half_width,missing,notes
Published_only,,1-shot,tiny,1,0.505,0.0125,,,,,,,,,,,,,,,,,,,false,
Published_only,,elsewhere,,5,0.602,,,,,,,,,,,,,,,,,,,,false,
MAML | const,maml-constant-lr,1-shot,tiny,1,0.48,,0.5,0.1299228264,,4,,,0,,2000,0.02,,,,,,,,,false,
MAML | const,maml-constant-lr,elsewhere,,5,,,,,,,,,,,,,,,,,,,,,false,
NORML,norml,1-shot,tiny,1,0.602,,0.625,0.1523480181,,4,,,0,,500,0.023,0.125,\
0.0795611576,,,,,,,false,"inner_lr 0.2 instead of 0.4; 500 of 2,000 outer steps"
NORML,norml,elsewhere,,5,,,,,,,,,,,,,,,,,,,,,false,
NORML (zero cell),norml-zero-cell,1-shot,tiny,1,,,,,,,,,,,,,,,,,,,,,true,
NORML (zero cell),norml-zero-cell,elsewhere,,5,,,,,,,,,,,,,,,,,,,,,false,
"""


@pytest.fixture
def registry(tmp_path):
    return made_registry(tmp_path / "entries")


@pytest.fixture
def table(registry):
    return build_table(
        registry,
        registry.table("tiny-table"),
        [
            made_record(registry, "maml-constant-lr", REFERENCE),
            made_record(registry, "norml", OURS, outer_steps=500, inner_lr=0.2),
        ],
    )


def cell_of(registry, records, row=2, column=0):
    """The cell of NORML at 1 shot, unless told otherwise."""
    return build_table(registry, registry.table("tiny-table"), records).rows[row].cells[column]


def rounded(text):
    """Numbers of 12 digits at 10: the last may differ between machines."""
    return re.sub(r"\d\.\d{12,}", lambda match: f"{float(match[0]):.10f}", text)


def same(interval, expected):
    return astuple(interval) == pytest.approx(astuple(expected), rel=1e-12)


def put(results, record):
    path = Results(results).run_path(record.spec, record.seed)
    write_record(path, record)
    return path


# ------------------------------------------------------------------------------------------------------ golden texts
# The numbers of MAML's row by hand: counts 5, 6, 4, 5 of 10 have mean 0.5, sd sqrt(0.02 / 3), t(0.975, 3) = 3.18245,
# so the half-width is 3.18245 * 0.081650 / 2 = 0.12992. NORML's differences are 0.2, 0.1, 0.1, 0.1: mean 0.125,
# sd 0.05, half-width 3.18245 * 0.05 / 2 = 0.07956.


@pytest.mark.parametrize(("format_", "text"), [("markdown", MARKDOWN), ("latex", LATEX), ("csv", CSV)])
def test_golden_table(table, format_, text):
    assert rounded(render_table(table, format_, width=80)) == text


def test_latex_puts_the_parts_of_a_number_into_columns_of_their_own():
    """siunitx aligns the mean and the half-width by their points; every row fills the same number of columns."""
    column = ["9.5", "12.25 ± 0.5", "+3.10 ± 10.25*", CellText("8.00 ± 0.50 (a)", best=True), "-", "2,000"]
    text = to_latex(Sheet(Grid(["name", "number"], [["x", cell] for cell in column])))
    assert r"\begin{tabular}{lS[table-format=+2.2]@{\,}c@{\,}S[table-format=2.2]@{}l}" in text
    assert r"name & \multicolumn{4}{c}{number} \\" in text
    cells = [line.removeprefix("x & ").removesuffix(r" \\") for line in text.splitlines() if line[:2] == "x "]
    assert cells == [
        "9.5 &  &  & ",
        r"12.25 & $\pm$ & 0.5 & ",
        r"+3.10 & $\pm$ & 10.25 & \textsuperscript{{*}}",
        r"\bfseries 8.00 & $\pm$ & 0.50 & \textsuperscript{(a)}",
        r"\multicolumn{4}{c}{-}",
        r"\multicolumn{4}{r}{2,000}",
    ]


@pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="needs LaTeX (pdflatex) with booktabs, graphicx and siunitx"
)
def test_latex_compiles(table, registry, tmp_path):
    runs = [(Path("x"), made_record(registry, "norml", OURS))]
    texts = [render_table(table, "latex", width=80), render_runs(registry, runs, "latex", width=80)]
    document = [
        r"\documentclass{article}\usepackage{booktabs, graphicx, siunitx}\begin{document}",
        *texts,
        r"\end{document}",
    ]
    (tmp_path / "page.tex").write_text("\n".join(document))
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "Overfull" not in done.stdout
    assert (tmp_path / "page.pdf").stat().st_size > 0


def test_json_holds_what_csv_holds(table):
    content = json.loads(render_table(table, "json", width=80))
    assert [content[key] for key in ("table", "reference")] == ["tiny-table", "maml-constant-lr"]
    rows = list(csv.DictReader(io.StringIO(render_table(table, "csv", width=80))))
    assert len(content["cells"]) == len(rows) == 8
    for cell, row in zip(content["cells"], rows, strict=True):
        assert list(cell) == list(row) == list(CELL_KEYS)
        assert row["accuracy"] == ("" if cell["accuracy"] is None else repr(cell["accuracy"]))


def test_width_changes_the_rich_table_only(table):
    for format_ in set(FORMATS) - {"rich"}:
        assert render_table(table, format_, width=20) == render_table(table, format_, width=200)


def test_wide_terminal_shows_columns_side_by_side(table):
    lines = render_table(table, "rich", width=200).splitlines()
    [row] = [line for line in lines if line.startswith("NORML  ")]
    assert " ".join(row.split()) == "NORML 60.2 62.50 ± 15.23 (a) +2.30 +12.50 ± 7.96* -"


def test_narrow_terminal_shows_columns_one_below_the_other(table):
    lines = render_table(table, "rich", width=80).splitlines()
    assert max(map(len, lines)) <= 80
    assert [" ".join(line.split()) for line in lines if line.startswith("NORML  ")] == [
        "NORML 60.2 62.50 ± 15.23 (a) +2.30 +12.50 ± 7.96*",
        "NORML -",
    ]
    assert lines.index("1-shot") < lines.index("elsewhere")
    assert "(a) inner_lr 0.2 instead of 0.4; 500 of 2,000 outer steps" in lines


def test_full_ablation_table_fits_a_narrow_terminal(registry):
    table = build_table(registry, registry.table("table-glyphs"), [])
    lines = render_table(table, "rich", width=80).splitlines()
    assert max(len(line) for line in lines if not line.startswith("missing: ")) <= 80
    assert any(line.startswith("NORML (zero hidden & zero cell) ") for line in lines)


def test_bold_marks_all_that_are_not_told_from_the_highest(registry):
    """Against NORML's 7, 7, 5, 6: 1, 0, 1, 0 fewer has p = 0.18, 2, 1, 1, 1 fewer p = 0.015, 0.03 as one of two."""
    records = [
        made_record(registry, "maml-constant-lr", REFERENCE),
        made_record(registry, "norml", OURS),
        made_record(registry, "norml-zero-cell", [6, 7, 4, 6]),
    ]
    table = build_table(registry, registry.table("tiny-table"), records)
    assert table.highest == (frozenset({2, 3}), frozenset())
    text = render_table(table, "markdown", width=80)
    assert "**62.50 ± 15.23**" in text
    assert "**57.50" in text
    assert "| 50.00 ± 12.99 |" in text
    elsewhere = made_record(registry, "norml-zero-cell", [1, 1, 2, 1], test_hash="episodes-b")  # intervals are apart
    apart = build_table(registry, registry.table("tiny-table"), [*records[:2], elsewhere])
    assert apart.highest[0] == {2}
    near = made_record(registry, "norml-zero-cell", [6, 7, 4, 6], test_hash="episodes-b")
    assert build_table(registry, registry.table("tiny-table"), [*records[:2], near]).highest[0] == {2, 3}


def test_hints_keep_the_places_that_were_named(registry):
    table = build_table(registry, registry.table("tiny-table"), [])
    remember_places({"results": Path("my results"), "registry": Path("mine")})
    try:
        text = render_table(table, "rich", width=80)
        nothing = render_runs(registry, [], "rich", width=80)
    finally:
        remember_places({})
    assert text.splitlines()[-1] == (
        "missing: norml run maml-constant-lr norml norml-zero-cell --benchmark tiny --shots 1 "
        "--results 'my results' --registry mine"
    )
    assert nothing == "no finished runs; `norml run METHOD --results 'my results' --registry mine` makes one\n"


@pytest.mark.parametrize("width", [0, 20, 33, 50, 64])
def test_no_terminal_is_too_narrow_for_a_cell(table, width):
    """0 is what a terminal says that does not know its width."""
    text = render_table(table, "rich", width=width)
    table_lines = [line for line in text.splitlines() if not line.startswith("missing: ")]
    assert max(map(len, table_lines)) <= (width or 80)
    words = " ".join(text.split())
    for part in ("NORML (zero cell)", "62.50 ± 15.23 (a)", "+12.50 ± 7.96*", "50.5 ± 1.25", "2,000 outer steps"):
        assert part in words


# ----------------------------------------------------------------------------------------------------- which runs


def test_our_number_is_the_records(registry):
    cell = cell_of(registry, [made_record(registry, "norml", OURS)])
    assert same(cell.ours.accuracy.interval, interval_95([0.7, 0.7, 0.5, 0.6]))
    assert cell.ours.minus_published == pytest.approx(0.625 - 0.602)
    assert cell.notes == ()


def test_missing_cell_is_told_with_its_command(registry):
    table = build_table(registry, registry.table("tiny-table"), [])
    assert [row.cells[0].missing for row in table.rows] == [False, True, True, True]
    text = render_table(table, "markdown", width=80)
    assert "- missing: norml run maml-constant-lr norml norml-zero-cell --benchmark tiny --shots 1\n" in text
    assert "nan" not in text.lower()


def test_published_row_and_column_without_benchmark_are_not_missing(registry):
    table = build_table(registry, registry.table("tiny-table"), [])
    assert [cell.missing for cell in table.rows[0].cells] == [False, False]
    assert [row.cells[1].missing for row in table.rows] == [False] * 4
    table = build_table(registry, registry.table("table-1"), [])
    text = render_table(table, "markdown", width=80)
    assert "| NORML | 60.2 ± 0.91 | - | - | - | - | 74.1 ± 0.71 | - | - | - | - |" in text
    assert "| LLAMA (Grant et al. (2018)) | 49.40 ± 1.83 | - | - | - | - | - | - | - | - | - |" in text


def test_runs_at_other_shots_do_not_count(registry):
    assert cell_of(registry, [made_record(registry, "norml", OURS, shots=5)]).missing


def test_seeds_are_averaged(registry):
    records = [made_record(registry, "norml", counts, seed=s) for s, counts in enumerate([[7, 7, 5, 6], [5, 7, 7, 4]])]
    ours = cell_of(registry, records).ours
    assert ours.runs.seeds == (0, 1)
    assert same(ours.accuracy.interval, interval_95([0.6, 0.7, 0.6, 0.5]))
    assert ours.accuracy.seed_sd == pytest.approx((0.625 - 0.575) / 2**0.5)
    text = render_table(build_table(registry, registry.table("tiny-table"), records), "markdown", width=80)
    assert "over 4 test episodes, mean of 2 seeds\n" in text
    assert "seeds: their means have a standard deviation of 3.54 points, not part of the intervals\n" in text


def test_declared_protocol_wins_over_a_longer_run(registry):
    records = [
        made_record(registry, "norml", OURS, seed=0, outer_steps=4000),
        made_record(registry, "norml", [9, 9, 9, 8], seed=1),
    ]
    cell = cell_of(registry, records)
    assert cell.ours.runs.seeds == (1,)
    assert cell.notes == ("left out: seed 0 (outer_steps 4,000 instead of 2,000)",)


def test_without_the_declared_protocol_the_longest_wins(registry):
    records = [
        made_record(registry, "norml", OURS, seed=0, outer_steps=400),
        made_record(registry, "norml", OURS, seed=1, outer_steps=400),
        made_record(registry, "norml", [9, 9, 9, 8], seed=2, outer_steps=500),
    ]
    cell = cell_of(registry, records)
    assert cell.ours.runs.seeds == (2,)
    assert cell.notes == ("500 of 2,000 outer steps", "left out: seeds 0, 1 (400 of 2,000 outer steps)")


def test_same_protocol_on_other_episodes_is_not_averaged(registry):
    records = [
        made_record(registry, "norml", OURS, seed=0),
        made_record(registry, "norml", [9, 9, 9, 8], seed=1, test_hash="episodes-b"),
    ]
    cell = cell_of(registry, records)
    assert cell.ours.runs.seeds == (0,)
    assert cell.notes == ("left out: seed 1 (other test episodes)",)


def test_other_features_are_not_averaged(registry):
    contents = [made_content(registry, "norml", counts, seed=seed) for seed, counts in enumerate([OURS, [9, 9, 9, 8]])]
    for seed, content in enumerate(contents):
        content["dataset"]["features"] = f"features of seed {seed}"
    cell = cell_of(registry, [RunRecord.model_validate(content) for content in contents])
    assert cell.ours.runs.seeds == (0,)
    assert cell.notes == ("left out: seed 1 (other features)",)


def test_a_row_may_have_a_benchmark_of_its_own(tmp_path):
    """Its run, its reference and its missing command are those of that benchmark."""
    other = made_benchmark() | {"id": "tiny-other"}
    table = made_table()
    table["rows"][3]["benchmark"] = "tiny-other"
    table["rows"].append({"title": "again", "method": "norml", "benchmark": "tiny-other", "citation": "Nobody 2020"})
    write_entry(tmp_path, "benchmarks", made_benchmark())
    write_entry(tmp_path, "benchmarks", other)
    write_entry(tmp_path, "tables", table)
    registry = read_registry([builtin_registry(), tmp_path])
    records = [
        made_record(registry, "maml-constant-lr", REFERENCE),
        made_record(registry, "maml-constant-lr", [1, 2, 3, 4], benchmark="tiny-other"),
        made_record(registry, "norml-zero-cell", OURS, benchmark="tiny-other"),
        made_record(registry, "norml", [9, 9, 9, 8]),
    ]
    built = build_table(registry, registry.table("tiny-table"), records)
    cells = [row.cells[0] for row in built.rows]
    assert [cell.benchmark for cell in cells] == ["tiny", "tiny", "tiny", "tiny-other", "tiny-other"]
    assert same(cells[3].ours.minus_reference, paired_difference([0.7, 0.7, 0.5, 0.6], [0.1, 0.2, 0.3, 0.4]))
    assert cells[4].missing
    text = render_table(built, "markdown", width=80)
    assert "missing: norml run norml --benchmark tiny-other --shots 1\n" in text


def test_the_first_episodes_alone_stand_beside_all(tmp_path):
    """As many as a paper's: here the first two of four, 0.7 and 0.7, whose interval is 0."""
    write_entry(tmp_path, "benchmarks", made_benchmark())
    write_entry(tmp_path, "tables", made_table() | {"first_episodes": 2})
    registry = read_registry([builtin_registry(), tmp_path])
    built = build_table(registry, registry.table("tiny-table"), [made_record(registry, "norml", OURS)])
    text = render_table(built, "markdown", width=80)
    assert "| 1-shot first 2 | 1-shot ours |" in text
    assert "| 70.00 ± 0.00 | 62.50 ± 15.23 |" in text
    values = json.loads(render_table(built, "json", width=80))["cells"][4]
    assert (values["accuracy_over_first"], values["half_width_over_first"]) == (0.7, 0.0)
    write_entry(tmp_path, "tables", made_table() | {"first_episodes": 5})
    registry = read_registry([builtin_registry(), tmp_path])
    built = build_table(registry, registry.table("tiny-table"), [made_record(registry, "norml", OURS)])
    assert built.rows[2].cells[0].ours.over_first is None  # there are but four


def test_every_differing_value_is_named(registry):
    record = made_record(
        registry, "norml", OURS, gates="batch-shared", first_order=True, gradient_clip=10.0, hidden_sizes=[8, 8]
    )
    assert cell_of(registry, [record]).notes == (
        (
            "hidden_sizes [8, 8] instead of [8]; first_order true instead of false; "
            "gradient_clip 10.0 instead of null; gates batch-shared instead of per-example"
        ),
    )


# -------------------------------------------------------------------------------------------------------- pairing


def test_paired_difference_over_the_seeds_in_common(registry):
    records = [
        made_record(registry, "maml-constant-lr", REFERENCE, seed=0),
        made_record(registry, "maml-constant-lr", [1, 2, 3, 4], seed=1),
        made_record(registry, "norml", OURS, seed=0),
        made_record(registry, "norml", [9, 9, 9, 8], seed=2),
    ]
    cell = cell_of(registry, records)
    expected = paired_difference([0.7, 0.7, 0.5, 0.6], [0.5, 0.6, 0.4, 0.5])
    assert same(cell.ours.minus_reference, expected)
    assert cell.notes == ("paired with MAML (constant lr) over seed 0",)


def test_no_paired_difference_without_a_seed_in_common(registry):
    records = [
        made_record(registry, "maml-constant-lr", REFERENCE, seed=0),
        made_record(registry, "norml", OURS, seed=1),
    ]
    cell = cell_of(registry, records)
    assert cell.ours.minus_reference is None
    assert cell.notes == ("no paired difference: no common seed with MAML (constant lr)",)


def test_no_paired_difference_on_other_episodes(registry):
    records = [
        made_record(registry, "maml-constant-lr", REFERENCE),
        made_record(registry, "norml", OURS, test_hash="episodes-b"),
    ]
    cell = cell_of(registry, records)
    assert cell.ours.minus_reference is None
    assert cell.notes == ("no paired difference: test episodes differ from those of MAML (constant lr)",)


def test_no_paired_difference_without_the_reference(registry):
    cell = cell_of(registry, [made_record(registry, "norml", OURS)])
    assert cell.ours.minus_reference is None
    assert cell.notes == ()


# ------------------------------------------------------------------------------------------------------ list of runs


def test_list_of_runs_in_markdown(registry, tmp_path):
    runs = [
        (tmp_path, made_record(registry, "maml-constant-lr", REFERENCE)),
        (tmp_path, made_record(registry, "norml", OURS, outer_steps=500, inner_lr=0.2, seed=3)),
    ]
    assert render_runs(registry, runs, "markdown", width=80) == (
        "| benchmark | shots | method | device | seed | accuracy | outer steps | date |\n"
        "| --- | --- | --- | --- | ---: | ---: | ---: | ---: |\n"
        "| tiny | 1 | maml-constant-lr | cpu (x86_64, 2 threads) | 0 | 50.00 ± 12.99 | 2,000 | 2026-01-31 |\n"
        "| tiny | 1 | norml | cpu (x86_64, 2 threads) | 3 | 62.50 ± 15.23 (a) | 500 of 2,000 | 2026-01-31 |\n"
        "\n"
        "- accuracy: meta-test, in percent, with its 95% interval over test episodes\n"
        "- (a) inner_lr 0.2 instead of 0.4\n"
    )


@pytest.mark.parametrize("width", [80, 200])
def test_list_of_runs_fits_the_terminal(registry, tmp_path, width):
    runs = [(tmp_path, made_record(registry, "norml-zero-hidden-zero-cell", OURS, outer_steps=500))]
    lines = render_runs(registry, runs, "rich", width=width).splitlines()
    assert max(map(len, lines)) <= width
    [row] = [line for line in lines if line.startswith(("norml-zero-hidden-zero-cell ", "tiny "))]
    assert row.endswith("0   62.50 ± 15.23   500 of 2,000   2026-01-31")
    assert any("cpu (x86_64, 2 threads)" in line for line in lines)


def test_list_of_runs_for_scripts(registry, tmp_path):
    runs = [(tmp_path, made_record(registry, "norml", OURS))]
    [run] = json.loads(render_runs(registry, runs, "json", width=80))["runs"]
    assert list(run) == list(RUN_KEYS)
    assert run["accuracy"] == 0.625
    [row] = csv.DictReader(io.StringIO(render_runs(registry, runs, "csv", width=80)))
    assert row["spec_hash"] == run["spec_hash"]


def test_run_that_the_registry_does_not_declare(registry, tmp_path):
    from norml_cli.registry.reading import builtin_registry, read_registry  # noqa: PLC0415 - this test's other registry

    runs = [(tmp_path, made_record(registry, "norml", OURS))]
    text = render_runs(read_registry([builtin_registry()]), runs, "markdown", width=80)
    assert "| 62.50 ± 15.23 (a) | 2,000 |" in text
    assert "- (a) not declared by this registry\n" in text


@pytest.mark.parametrize("format_", FORMATS)
def test_no_runs_at_all(registry, format_):
    text = render_runs(registry, [], format_, width=80)
    assert text.endswith("\n")
    assert len(text) > 10


# ------------------------------------------------------------------------------------------------------- the command


def printed(registry, results, *, encoding="utf-8", **settings):
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding=encoding, newline=""), width=80)
    report(registry, results=Gathered([results]), console=console, **settings)
    console.file.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("table_id", [None, "tiny-table"])
@pytest.mark.parametrize("format_", FORMATS)
def test_command_prints_the_text_unchanged(registry, tmp_path, table_id, format_):
    results = tmp_path / "results"
    record = made_record(registry, "norml", OURS)
    put(results, record)
    if table_id is None:
        expected = render_runs(registry, [(put(results, record), record)], format_, width=80)
    else:
        expected = render_table(build_table(registry, registry.table(table_id), [record]), format_, width=80)
    assert printed(registry, results, table_id=table_id, format_=format_) == expected


def test_command_on_a_terminal_without_unicode(registry, tmp_path):
    put(tmp_path, made_record(registry, "norml", OURS))
    text = printed(registry, tmp_path, table_id="tiny-table", format_="rich", encoding="ascii")
    assert "62.50 +- 15.23" in text
    assert "-----" in text


@pytest.mark.parametrize("prints", [lambda line, to: print_text(f"{line}\n", to), print_line], ids=["text", "line"])
def test_titles_and_paths_are_not_read_as_markup(prints):
    console = Console(file=io.StringIO(), width=20)
    prints("[bold]a[/bold] :smile: \\[x], longer than the console is wide", console)
    assert console.file.getvalue() == "[bold]a[/bold] :smile: \\[x], longer than the console is wide\n"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"table_id": None, "format_": "markdwn"},
            "--format markdwn: unknown format, did you mean 'markdown'? use one of rich, markdown, latex, csv, json",
        ),
        (
            {"table_id": None, "format_": "yaml7"},
            "--format yaml7: unknown format; use one of rich, markdown, latex, csv, json",
        ),
        ({"table_id": "tiny-tabel", "format_": "rich"}, "unknown table 'tiny-tabel', did you mean 'tiny-table'"),
    ],
)
def test_command_refuses(registry, tmp_path, settings, message):
    with pytest.raises(UserError) as caught:
        printed(registry, tmp_path, **settings)
    assert str(caught.value).startswith(message)


def test_a_table_reads_the_records_of_its_own_benchmarks_alone(registry, tmp_path):
    put(tmp_path / "results", made_record(registry, "norml", OURS))
    elsewhere = tmp_path / "results" / "glyphs-5way" / "1-shot" / "norml" / "seed-0.json"
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_text("broken")
    console = Console(file=io.StringIO(), width=200)
    settings = {"format_": "markdown", "results": Gathered([tmp_path / "results"]), "console": console}
    report(registry, table_id="tiny-table", **settings)
    assert "62.50" in console.file.getvalue()


def test_the_list_names_a_broken_record_and_goes_on(registry, tmp_path, capfd):
    good = put(tmp_path, made_record(registry, "norml", OURS))
    copied = good.with_name("seed-0 (copy).json")
    copied.write_bytes(good.read_bytes())
    text = printed(registry, tmp_path, table_id=None, format_="csv")
    assert len(text.splitlines()) == 2
    assert (
        capfd.readouterr().err
        == f"left out: {copied}: holds the run that belongs at {good}; move it there or delete it\n"
    )


def test_broken_record_stops_a_table(registry, tmp_path):
    path = Results(tmp_path).run_path(registry.resolve("norml", "tiny", 1).spec, 0)
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        printed(registry, tmp_path, table_id="tiny-table", format_="csv")


# --------------------------------------------------------------------------------------------------------- second test

STRICT = {"title": "one query", "changed": {"queries_per_class": 1}}


@pytest.fixture
def tested_twice(tmp_path):
    """MAML and NORML with two seeds; NORML's seed 0 was not evaluated with one query a class."""
    registry, results = made_registry(tmp_path / "entries", second_test=STRICT), Results(tmp_path / "results")
    maml = [written_run(results.folder, registry, "maml-constant-lr", REFERENCE, seed) for seed in (0, 1)]
    norml = [written_run(results.folder, registry, "norml", OURS, seed) for seed in (0, 1)]
    write_evaluation(registry, maml[0], [1, 2, 3, 2], queries_per_class=1)
    write_evaluation(registry, maml[1], [1, 3, 3, 2], queries_per_class=1)
    write_evaluation(registry, norml[1], [4, 5, 5, 5], queries_per_class=1)
    return registry, results


def built(registry, results):
    runs = results.runs()
    evaluations = Evaluations(runs, results.scan_evaluations().sound())
    return build_table(registry, registry.table("tiny-table"), [record for _, record in runs], evaluations)


def test_the_second_test_covers_the_seeds_that_were_evaluated(tested_twice):
    table = built(*tested_twice)
    maml, norml = (table.rows[row].cells[0].ours.second for row in (1, 2))
    assert maml.accuracy == interval_95([1, 2.5, 3, 2]).divided_by(5)
    assert (norml.seeds, norml.accuracy) == ((1,), interval_95([4, 5, 5, 5]).divided_by(5))
    assert norml.minus_reference == paired_difference([4, 5, 5, 5], [1, 3, 3, 2]).divided_by(5)
    text = render_table(table, "markdown", width=80)
    header = "| method | 1-shot paper | 1-shot ours | 1-shot one query | 1-shot ours - paper | 1-shot vs reference "
    assert f"{header}| 1-shot one query vs reference | elsewhere paper |" in text
    assert "| MAML \\| const | 48.0 | 50.00 ± 12.99 | 42.50 ± 27.18 | +2.00 | reference | reference | - |" in text
    assert "95.00 ± 15.91 | +2.30 | +12.50 ± 7.96* | +50.00 ± 18.37* | - |" in text
    assert "| NORML (zero cell) | - | - | - | - | - | - | - |" in text
    assert "- one query: the same weights, tested with queries_per_class 1, mean of 1 to 2 seeds" in text
    assert "one query: seed 1 only" in text


def test_a_narrow_terminal_has_the_second_test_in_a_piece_of_its_own(tested_twice):
    text = render_table(built(*tested_twice), "rich", width=60)
    assert [line for line in text.splitlines() if line in {"1-shot", "1-shot, one query", "elsewhere"}] == [
        "1-shot",
        "1-shot, one query",
        "elsewhere",
    ]
    assert max(map(len, text.splitlines()[:25])) <= 60


def test_scripts_and_the_command_have_the_second_test_too(tested_twice, capsys):
    registry, results = tested_twice
    console = Console(width=200)
    report(registry, table_id="tiny-table", format_="json", results=Gathered([results.folder]), console=console)
    said = json.loads(capsys.readouterr().out)
    assert said["second_test"] == {"queries_per_class": 1}
    norml = next(cell for cell in said["cells"] if cell["method"] == "norml" and cell["benchmark"])
    assert (norml["second_accuracy"], norml["second_seeds"]) == (0.95, [1])
    assert norml["second_minus_reference"] == 0.5


def test_without_evaluations_there_is_no_such_column(tmp_path):
    registry = made_registry(tmp_path / "entries", second_test=STRICT)
    table = build_table(registry, registry.table("tiny-table"), [made_record(registry, "norml", OURS)])
    assert "one query" not in render_table(table, "markdown", width=80)


def test_a_second_test_that_evaluate_cannot_make_is_refused(tmp_path):
    with pytest.raises(RegistryError, match=r"second_test\.changed: `norml evaluate` cannot change 'inner_lr'"):
        made_registry(tmp_path / "entries", second_test={"title": "other rate", "changed": {"inner_lr": 1}})
