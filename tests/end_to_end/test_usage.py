"""How commands are asked for: help, seeds, names, files and faulty entries of one's own."""

import json
from pathlib import Path

import pytest
import typer
import yaml
from rich.text import Text

from norml_cli import __version__
from norml_cli.app.main import app
from norml_cli.arguments import seeds_of
from norml_cli.files.checkout import commit_of_checkout
from norml_cli.files.errors import UserError
from norml_cli.files.locks import held
from norml_cli.registry.reading import builtin_registry
from norml_cli.terminal.usage import PANELS, coloured
from tests.helpers.command_line import Shell
from tests.helpers.tiny import write_entry

GROUP = typer.main.get_command(app)
COMMANDS = sorted(GROUP.commands)
RUN = ("run", "maml-constant-lr", "--benchmark", "tiny-5way")
STUDY = ("study", "rates", "maml-constant-lr", "--benchmark", "tiny-5way", "--at-once", "1")


def own_method(**changes: object) -> dict[str, object]:
    entry = yaml.safe_load((builtin_registry() / "methods" / "maml-constant-lr.yaml").read_text())
    return {**entry, "id": "mine", "title": "Mine", "default_benchmark": "tiny-5way", **changes}


# --------------------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_made_for_people(shell: Shell, command: str):
    shell.monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = shell.norml(command, "--help")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    for inside in ("<", "{", "list[", "[default", "[required"):
        assert inside not in out
    options = [each for each in GROUP.commands[command].params if each.param_type_name == "option"]
    for option in options:
        assert "Default: " in option.help or "Required." in option.help or option.help.startswith("The same"), option


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_are_commands_that_norml_takes(command: str):
    examples = GROUP.commands[command].epilog.splitlines()
    assert len(examples) >= 2
    for example in examples:
        program, name, *words = example.split()
        assert (program, name) == ("norml", command)
        GROUP.commands[name].make_context(name, words)


def test_help_is_styled_in_a_terminal_and_plain_in_a_pipe(shell: Shell, monkeypatch):
    plain = shell.norml("run", "--help")[1]
    assert "\x1b" not in plain
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a terminal says to rich
    monkeypatch.setenv("TERM", "xterm-256color")
    styled = coloured(plain)
    assert "\x1b[1;36m--benchmark\x1b[0m" in styled
    assert "\x1b[1mOptions:\x1b[0m" in styled
    assert Text.from_ansi(styled).plain == plain


def test_no_summary_is_cut(shell: Shell):
    shell.monkeypatch.setenv("COLUMNS", "80")
    out = shell.norml("--help")[1]
    assert "..." not in out.split("Data:")[1]
    assert max(map(len, out.splitlines())) <= 80


def test_every_command_stands_in_a_panel(shell: Shell):
    listed = [line.split()[0] for line in shell.norml("--help")[1].split("Data:")[1].splitlines() if line[:2] == "  "]
    assert sorted(listed) == COMMANDS
    panels = {command.rich_help_panel for command in GROUP.commands.values()}
    assert panels == set(PANELS)


def test_the_version_names_the_commit_of_a_checkout(shell: Shell):
    commit, changed = commit_of_checkout()
    said = f"norml {__version__}" + (f" (commit {commit[:7]}{', changed since' * bool(changed)})" if commit else "")
    assert shell.norml("--version") == (0, f"{said}\n", "")


def test_the_version_outside_a_checkout_is_a_number_alone(shell: Shell, monkeypatch):
    monkeypatch.setattr("norml_cli.app.typer_app.commit_of_checkout", lambda: (None, None))
    assert shell.norml("--version")[1] == f"norml {__version__}\n"


# -------------------------------------------------------------------------------------------------------------- seeds


@pytest.mark.parametrize(
    ("texts", "seeds"),
    [(["0"], [0]), (["0,1,2"], [0, 1, 2]), (["0..2"], [0, 1, 2]), (["3", "0..1,7"], [3, 0, 1, 7])],
)
def test_seeds(texts: list[str], seeds: list[int]):
    assert seeds_of(texts) == seeds


@pytest.mark.parametrize("text", ["0.0", "1_0", "2..1", "0,0", "", "0,", "-1", "a", "0..9999", str(2**63), "1 2", "٣"])
def test_what_names_no_seeds(text: str):
    with pytest.raises(UserError, match=r"--seeds"):
        seeds_of([text])


def test_several_seeds_are_run_one_after_the_other_and_listed_together(shell: Shell):
    code, out, err = shell.norml(*RUN, "--seed", "0,1", "--seeds", "2", "--json")
    assert code == 0, err
    assert [run["seed"] for run in json.loads(out)["runs"]] == [0, 1, 2]
    assert (shell.results / "tiny-5way/1-shot/maml-constant-lr/seed-2.json").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("--shots", "1", "--shots", "5"),
        ("--benchmark", "tiny-5way"),
        ("--results", "a", "--results", "b"),
        ("--outer-steps", "1", "--outer-steps=2"),
    ],
)
def test_an_option_that_counts_once_may_not_be_given_twice(shell: Shell, words: tuple[str, ...]):
    code, _, err = shell.norml(*RUN, *words)
    assert code == 2
    assert err == f"error: {words[0]}: given twice; give it once\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*RUN, "--set", "seed=3"), "--set seed: not a setting of a method; use --seeds"),
        ((*STUDY, "--grid", "seed=0,1"), "--grid seed: not a setting of a method; use --seeds"),
        ((*RUN, "--set", "dataset=omniglot"), "use --benchmark"),
        ((*RUN, "--set", "cell_size=8"), "'maml-constant-lr' has no such key; it belongs to algorithm nodal-lstm"),
        ((*RUN, "--set", "hidden_sizes=64"), "written hidden_sizes=[64,64]"),
        ((*RUN, "--set", "first_order=True"), "in lower case: first_order=true"),
        ((*RUN, "--name", "a/b"), "--name 'a/b': use only a-z"),
        ((*RUN, "--set", "results=out"), "--set results: not a setting of a method; use --results"),
        ((*RUN, "--set", "compile=true"), "use --compile or --no-compile"),
        ((*RUN, "--seed", "0", "1", "2"), "error: 1: not a method; write several seeds as --seeds 0,1,2"),
        (("report", "--json", "--format", "csv"), "--json: contradicts --format csv"),
    ],
)
def test_wrong_words_say_what_to_write(shell: Shell, words: tuple[str, ...], said: str):
    code, _, err = shell.norml(*words)
    assert code == 2
    assert said in err


def test_a_method_named_twice_is_run_and_listed_once(shell: Shell):
    code, out, _ = shell.norml("run", "maml-constant-lr", "maml-constant-lr", "--benchmark", "tiny-5way", "--json")
    assert code == 0
    assert len(json.loads(out)["runs"]) == 1


def test_json_of_a_run_names_its_record_and_its_cost(shell: Shell):
    (run,) = json.loads(shell.norml(*RUN, "--json")[1])["runs"]
    record = json.loads((shell.folder / run["record"]).read_text(encoding="utf-8"))
    assert run["training_s"] == pytest.approx(record["cost"]["training_s"])
    assert run["accuracy"] == round(run["accuracy"], 12)  # and not 0.8813000000000001


# -------------------------------------------------------------------------------------------------------------- names


def test_a_variant_lies_beside_its_method_and_is_compared_with_it(shell: Shell):
    assert shell.norml(*RUN)[0] == 0
    code, _, err = shell.norml(*RUN, "--set", "first_order=true")
    assert code == 2
    assert "--name NAME" in err
    assert shell.norml(*RUN, "--set", "first_order=true", "--name", "fomaml")[0] == 0
    record = json.loads((shell.results / "tiny-5way/1-shot/maml-constant-lr+fomaml/seed-0.json").read_text())
    assert (record["name"], record["spec"]["method"]) == ("fomaml", "maml-constant-lr")
    runs = json.loads(shell.norml("report", "--json")[1])["runs"]
    assert [run["method"] for run in runs] == ["maml-constant-lr", "maml-constant-lr+fomaml"]
    assert [run["notes"] for run in runs] == [[], ["first_order true instead of false"]]
    words = ("compare", "maml-constant-lr", "maml-constant-lr+fomaml", "--benchmark", "tiny-5way", "--json")
    comparisons = json.loads(shell.norml(*words)[1])["comparisons"]
    assert {comparison["b"] for comparison in comparisons} == {"maml-constant-lr+fomaml"}
    assert [comparison["over"] for comparison in comparisons] == ["episodes", "classes"]


def test_a_variant_stands_in_no_table(shell: Shell):
    assert shell.norml(*RUN, "--name", "mine")[0] == 0
    code, _, err = shell.norml("compare", "maml-constant-lr", "norml", "--benchmark", "tiny-5way")
    assert code == 2
    assert "maml-constant-lr: no finished run" in err


# -------------------------------------------------------------------------------------------------------------- study


def test_a_study_leaves_a_trial_that_is_being_done_and_takes_the_next(shell: Shell):
    place = shell.results / "studies/rates/1-shot/maml-constant-lr"
    with held(place / "inner_lr=0.1-seed-0.json"):
        code, out, err = shell.norml(*STUDY, "--grid", "inner_lr=0.1,0.2")
    assert code == 0, err
    assert "skipped, another process is running it" in out
    assert [path.name for path in place.glob("*.json")] == ["inner_lr=0.2-seed-0.json"]


def test_a_study_averages_over_seeds(shell: Shell):
    assert shell.norml(*STUDY, "--grid", "inner_lr=0.1,0.2", "--seeds", "0..1")[0] == 0
    trials = json.loads(shell.norml("study", "rates", "--json")[1])["trials"]
    by_rate: dict[float, list[float]] = {}
    for trial in trials:
        by_rate.setdefault(trial["values"]["inner_lr"], []).append(trial["validation_accuracy"])
    for trial in trials:
        pair = by_rate[trial["values"]["inner_lr"]]
        assert trial["n_seeds"] == len(pair) == 2
        assert trial["mean_over_seeds"] == pytest.approx(sum(pair) / 2, abs=1e-12)
    assert "mean: best meta-validation accuracy" in shell.norml("study", "rates")[1]


def test_a_value_of_the_grid_is_told_even_where_it_is_the_declared_one(shell: Shell):
    out = shell.norml(*STUDY, "--grid", "inner_lr=0.4")[1]
    assert "with inner_lr 0.4" in out


# ------------------------------------------------------------------------------------------------- entries of one's own


def test_a_file_is_taken_as_an_entry(shell: Shell):
    (shell.folder / "mine.yaml").write_text(yaml.safe_dump(own_method()))
    code, out, err = shell.norml("run", "./mine.yaml", "--json")
    assert code == 0, err
    assert json.loads(out)["runs"][0]["method"] == "mine"
    record = json.loads((shell.results / "tiny-5way/1-shot/mine/seed-0.json").read_text())
    assert record["command"] == "norml run mine.yaml --json"


def test_registry_may_be_one_file(shell: Shell):
    (shell.folder / "mine.yaml").write_text(yaml.safe_dump(own_method(default_benchmark="glyphs-5way")))
    assert "Mine (mine)" in shell.norml("show", "mine", "--registry", "mine.yaml")[1]
    shell.monkeypatch.setenv("NORML_REGISTRY", "mine.yaml")
    assert "Mine (mine)" in shell.norml("show", "mine")[1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("id: mine\n", "mine.yaml: is not a registry entry"),
        ("- a\n", "mine.yaml: not a mapping"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_entry(shell: Shell, content: str | None, said: str):
    if content is not None:
        (shell.folder / "mine.yaml").write_text(content)
    code, _, err = shell.norml("run", "mine.yaml")
    assert code == 2
    assert said in err


def test_a_faulty_entry_stops_only_who_asks_for_it(shell: Shell):
    write_entry(shell.registry, "tables", {"id": "broken", "title": "Broken"})
    write_entry(shell.registry, "methods", own_method(id="wrong", algorithm="sgd"))
    (shell.registry / "stray.yaml").write_text("id: stray\n")
    code, out, err = shell.norml(*RUN)
    assert code == 0, err
    assert "maml-constant-lr" in out
    warnings = [line for line in err.splitlines() if line.startswith("left out: ")]
    assert [Path(line.split(":")[1].strip()).name for line in warnings] == ["stray.yaml", "wrong.yaml", "broken.yaml"]
    for words, name in ((("run", "wrong"), "wrong.yaml"), (("report", "--table", "broken"), "broken.yaml")):
        code, _, err = shell.norml(*words)
        assert code == 2
        assert f"{name}: " in next(line for line in err.splitlines() if line.startswith("error: "))
    code, _, err = shell.norml("validate")
    assert code == 2
    assert {"stray.yaml", "wrong.yaml", "broken.yaml"} <= {Path(line.split(": ")[1]).name for line in err.splitlines()}


def test_what_names_a_faulty_entry_tells_its_faults(shell: Shell):
    """A sound benchmark on a faulty data set."""
    path = shell.registry / "datasets" / "tiny-glyphs.yaml"
    entry = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**entry, "classes": 0}))
    code, _, err = shell.norml(*RUN)
    assert code == 2
    assert "error: " in err
    assert "tiny-glyphs.yaml: classes: must be at least 1" in err
    assert shell.norml("show", "norml", "--benchmark", "glyphs-5way")[0] == 0
