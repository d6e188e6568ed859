"""The other commands."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from norml_cli.registry.protocol import RESERVED_IDS
from norml_cli.registry.reading import builtin_registry, load_registry
from norml_cli.results.store import Results, write_record
from tests.helpers.command_line import Shell
from tests.helpers.made_records import made_benchmark, made_record
from tests.helpers.tiny import write_entry

ROOT = Path(__file__).parents[2]
RUN = ("run", "norml", "--benchmark", "tiny-5way")


def test_list_keeps_every_id_whole_at_80_columns(shell: Shell):
    shell.monkeypatch.setenv("COLUMNS", "80")
    words = shell.norml("list")[1].split()
    entries = json.loads(shell.norml("list", "--json")[1])
    assert {entry["id"] for kind in entries.values() for entry in kind} <= set(words)


def test_list_names_every_entry_of_every_kind(shell: Shell):
    code, out, _ = shell.norml("list")
    assert code == 0
    for id_ in (
        "norml",
        "maml-layerwise-lr",
        "omniglot-20way",
        "tiny-5way",
        "glyphs",
        "mini-imagenet",
        "rfs-2020",
        "table-2",
    ):
        assert id_ in out
    assert {"methods", "benchmarks", "datasets", "recipes", "tables"} == set(
        json.loads(shell.norml("list", "--json")[1])
    )


def test_show_gives_each_value_its_source_and_counts_parameters(shell: Shell):
    code, out, _ = shell.norml("show", "norml", "--json")
    assert code == 0
    values = {row["key"]: row for row in json.loads(out)["values"]}
    assert values["n_way"]["value"] == 20
    assert values["hidden_sizes"]["source"] == "paper sec. 5.2"
    assert values["learner parameters"]["value"] == "247,572"
    assert all(
        row["source"] for key, row in values.items() if key not in {"benchmark", "dataset", "shots", "algorithm"}
    )


@pytest.mark.parametrize(
    "id_",
    ["norml-zero-cell", "omniglot-20way", "omniglot", "mini-imagenet", "glyphs", "mtl-2019", "table-2", "table-1"],
)
def test_show_prints_every_kind_of_entry(shell: Shell, id_: str):
    code, out, err = shell.norml("show", id_)
    assert code == 0, err
    assert id_ in out


def test_show_tells_what_set_would_change(shell: Shell):
    out = shell.norml("show", "norml", "--shots", "5", "--set", "inner_lr=0.25", "--json")[1]
    values = {row["key"]: row for row in json.loads(out)["values"]}
    assert values["inner_lr"]["value"] == 0.25
    assert values["inner_lr"]["source"] == "--set on the command line"
    assert values["queries_per_class"]["value"] == 5


def test_validate_builds_every_model_and_finds_every_fault(shell: Shell):
    code, out, _ = shell.norml("validate")
    assert code == 0
    assert "models built" in out
    benchmark = yaml.safe_load((shell.registry / "benchmarks/tiny-5way.yaml").read_text())
    benchmark["protocol"]["inner_rl"] = benchmark["protocol"].pop("inner_lr")
    benchmark["shots"] = [1, 15]
    path = write_entry(shell.registry, "benchmarks", benchmark)
    for target in (shell.registry, path):
        code, _, err = shell.norml("validate", str(target))
        assert code == 2
        assert "protocol.inner_rl: unknown key, did you mean 'inner_lr'?" in err


def test_show_counts_the_parameters_of_a_recipe(shell: Shell):
    values = {row["key"]: row for row in json.loads(shell.norml("show", "rfs-2020", "--json")[1])["values"]}
    assert values["backbone parameters"]["value"] == "12,424,320"
    assert values["recipe.learning_rate"]["source"] == "Tian et al. 2020, train_supervised.py learning_rate"


def test_validate_builds_every_recipe(shell: Shell):
    recipe = yaml.safe_load((builtin_registry() / "recipes/rfs-2020.yaml").read_text())
    recipe["id"], recipe["recipe"]["input_size_px"]["value"] = "too-small", 42
    path = write_entry(shell.registry, "recipes", recipe)
    code, _, err = shell.norml("validate")
    assert code == 2
    assert err == (f"error: {path}: squares of 5 pixels do not fit a map of 2 x 2; lower drop_block_size\n")


def test_a_method_variant_is_one_yaml_file(shell: Shell):
    variant = yaml.safe_load((builtin_registry() / "methods/norml.yaml").read_text())
    variant["id"], variant["title"] = "norml-shared", "NORML (shared gates)"
    variant["rule"]["gates"] = {"value": "batch-shared", "source": "chosen: to compare"}
    write_entry(shell.registry, "methods", variant)
    code, out, err = shell.norml("run", "norml-shared", "--benchmark", "tiny-5way")
    assert code == 0, err
    assert "norml-shared" in out


def test_report_lists_the_runs_and_says_when_there_are_none(shell: Shell):
    assert "norml run" in shell.norml("report")[1]
    assert shell.norml(*RUN)[0] == 0
    code, out, _ = shell.norml("report", "--format", "json")
    assert code == 0
    assert len(json.loads(out)["runs"]) == 1


def test_every_table_and_the_page_after_a_run(shell: Shell):
    assert shell.norml(*RUN)[0] == 0
    code, _, err = shell.norml("report", "--table")
    assert (code, "no table has a finished run" in err) == (2, True)  # that run is no table's
    short = ("--outer-steps", "2", "--set", "test_episodes=8", "--set", "validation_episodes=8")
    assert shell.norml("run", "norml", "--benchmark", "glyphs-5way", *short)[0] == 0
    code, out, _ = shell.norml("report", "--table")
    assert code == 0
    assert "Glyphs 5-way" in out
    assert "Table 2: ablation" not in out
    code, out, _ = shell.norml("report", "--html", "out/page.html")
    assert code == 0
    assert out.startswith("wrote out/page.html")
    assert "Glyphs 5-way" in (shell.folder / "out" / "page.html").read_text(encoding="utf-8")


def test_the_paper_s_table_is_printed_before_anything_was_run(shell: Shell):
    code, out, _ = shell.norml("report", "--table", "table-2")
    assert code == 0
    for number in ("86.3", "95.7", "90.3", "97.2"):
        assert number in out


def test_malformed_yaml_is_told_with_file_and_line(shell: Shell):
    (shell.registry / "methods").mkdir()
    (shell.registry / "methods/broken.yaml").write_text("id: broken\ntitle: [one, two\nrule: 3\n")
    code, _, err = shell.norml("validate")
    assert code == 2
    assert "broken.yaml: line " in err
    code, _, err = shell.norml("list")
    assert (code, "left out: " in err, "broken.yaml: line " in err) == (0, True, True)


def test_the_module_and_the_version_work():
    done = subprocess.run([sys.executable, "-m", "norml_cli", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("norml ")


def test_a_benchmark_may_not_be_named_like_another_folder_of_results(shell: Shell):
    """Its runs would be written and never found again. The folders are those of the table in results/README.md."""
    page = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    others = set(re.findall(r"^\| `([\w-]+)/", page, flags=re.MULTILINE))
    assert others == RESERVED_IDS
    for id_ in sorted(others):
        path = write_entry(shell.registry, "benchmarks", {**made_benchmark(), "id": id_})
        code, _, err = shell.norml("validate")
        path.unlink()
        assert code == 2
        assert f"{id_}.yaml: id: '{id_}' is reserved for a folder in results/; choose another id" in err


def test_one_damaged_record_does_not_hide_the_others(shell: Shell):
    registry = load_registry(None)
    settings = {"benchmark": "glyphs-5way", "test_episodes": 4}
    records = [made_record(registry, "maml-constant-lr", [4, 4, 3, 5], seed=seed, **settings) for seed in (0, 1)]
    good, bad = (Results(shell.results).run_path(record.spec, record.seed) for record in records)
    for path, record in zip((good, bad), records, strict=True):
        write_record(path, record)
    bad.write_text(bad.read_text(encoding="utf-8").replace("finished", "begun"), encoding="utf-8")
    told = "seed-1.json: digest: does not match the content"
    for command in ("report", "status"):
        code, out, err = shell.norml(command)
        assert (code, told in err, err.startswith("left out: ")) == (0, True, True)
        assert "seed 0" in out or "80.00 ± 25.98" in out
    code, _, err = shell.norml("compare", "maml-constant-lr", "norml", "--benchmark", "glyphs-5way", "--shots", "1")
    assert (code, told in err) == (2, True)


@pytest.mark.parametrize("command", ["report", "status", "report --table table-2", "compare norml maml-constant-lr"])
def test_a_mistyped_results_folder_is_told(shell: Shell, command: str):
    code, out, err = shell.norml(*command.split(), "--results", "typo")
    assert (code, out) == (2, "")
    assert err == "error: --results typo: no such folder; name the folder that `norml run` wrote to\n"


def test_hints_name_the_places_that_the_command_named(shell: Shell):
    (shell.folder / "elsewhere").mkdir()
    code, out, _ = shell.norml("report", "--table", "table-glyphs", "--results", "elsewhere")
    assert code == 0
    assert out.rstrip().endswith("--shots 5 --results elsewhere")
    err = shell.norml("compare", "norml", "maml-constant-lr", "--results", "elsewhere")[2]
    assert "--shots 1 --results elsewhere`" in err


@pytest.mark.parametrize(("command", "width"), [("list", 30), ("show omniglot", 30), ("list", 80), ("list", 0)])
def test_narrow_terminals_show_everything(shell: Shell, command: str, width: int):
    shell.monkeypatch.setenv("COLUMNS", str(width))
    out = shell.norml(*command.split())[1]
    assert max(map(len, out.splitlines())) <= (width or 80)
    words = "".join(out.split())
    for text in ("Omniglot", "https://github.com/brendenlake/omniglot", "MIT"):
        assert text in words


def test_what_is_piped_is_not_wrapped(shell: Shell):
    """`norml validate | cat` is one line."""
    assert len(shell.norml("validate")[1].splitlines()) == 1
