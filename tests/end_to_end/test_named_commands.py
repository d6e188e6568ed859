"""Every command that the pages name is run by a test, or says here why it is not."""

import ast
import functools
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from norml_cli.app.main import app
from norml_cli.registry.reading import KINDS, builtin_registry, read_registry

ROOT = Path(__file__).parents[2]
FOUND = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "results").glob("*.md")]
# Without what was new, and what `nox -s docs` makes.
PAGES = sorted(page for page in FOUND if page.name != "CHANGELOG.md" and page.parent.name != "reference")
PROGRAMS = ("norml", "nox", "pytest", "python -m")

OWN_IMAGES = "test_own_images.py::test_a_folder_of_images_goes_the_whole_way"
TABLE_MADE = "test_features_run.py::test_a_whole_table_is_made_over_several_starts"

DEVICES = "tests/scale/test_ranks.py::test_two_devices_learn_what_one_does_and_one_rank_writes"

# The test, by its file (in this folder where none is named) and the start of its name. A command of norml stands for
# all with the same options; each of them must stand in that file, too.
COVERED = {
    "norml --version": "test_usage.py::test_the_version_names_the_commit_of_a_checkout",
    "norml --install-completion": "test_display.py::test_completion_can_be_shown_and_installed",
    "norml COMMAND --help": "test_usage.py::test_help_is_made_for_people",
    "norml classify": "test_classify.py::test_it_says_what_the_library_says_of_the_same_images",
    "norml classify --format --query --support": "test_classify.py::test_every_format_says_the_same",
    "norml classify --html --query --support": "test_classify.py::test_a_page_with_thumbnails_that_needs_nothing_else",
    "norml classify --query --registry --support": "test_own_images.py::test_a_folder_of_images_goes_the_whole_way",
    "norml classify --query --support": "test_classify.py::test_it_says_what_the_library_says_of_the_same_images",
    "norml compare": "test_commands.py::test_every_table_and_the_page_after_a_run",
    "norml compare --benchmark": "test_commands.py::test_every_table_and_the_page_after_a_run",
    "norml doctor": "test_verify_and_doctor.py::test_doctor_is_content_with_a_sound_place",
    "norml doctor --json": "test_verify_and_doctor.py::test_doctor_says_what_to_do_and_returns_1",
    "norml evaluate": "test_evaluate.py::test_a_record_of_its_own_beside_the_run_that_no_list_of_runs_shows",
    "norml evaluate --set": "test_evaluate.py::test_it_is_what_a_run_tested_by_those_values_finds",
    "norml evaluate --registry --set": OWN_IMAGES,
    "norml export": "test_evaluate.py::test_exported_weights_are_the_same_numbers_and_stand_in_for_the_run_s",
    "norml export --program": "test_export_program.py::test_a_program_gives_the_models_logits_without_norml",
    "norml inspect": "test_inspect.py::test_numbers_and_pictures_are_written",
    "norml inspect --episodes": "test_inspect.py::test_numbers_and_pictures_are_written",
    "norml inspect --episodes --out": "test_inspect.py::test_numbers_and_pictures_are_written",
    "norml list": "test_commands.py::test_list_names_every_entry_of_every_kind",
    "norml new": OWN_IMAGES,
    "norml new --benchmark --like --set": "test_own_images.py::test_a_method_of_ones_own_is_two_words",
    "norml new --dataset --like --set --shots": OWN_IMAGES,
    "norml new --source": OWN_IMAGES,
    "norml prepare --registry --source": OWN_IMAGES,
    "norml prepare": "test_prepare.py::test_a_user_prepares_verifies_and_mends",
    "norml prepare --verify": "test_prepare.py::test_a_user_prepares_verifies_and_mends",
    "norml prepare --source": "test_prepare.py::test_a_user_prepares_verifies_and_mends",
    "norml pretrain": "test_pretrain.py::test_a_pretraining_leaves_weights_and_a_record",
    "norml pretrain --recipe": "test_pretrain.py::test_a_pretraining_leaves_weights_and_a_record",
    "norml pretrain --devices --recipe": "tests/scale/test_ranks.py::test_a_pretraining_is_that_of_one_rank",
    "norml report": "test_commands.py::test_report_lists_the_runs_and_says_when_there_are_none",
    "norml report --format --table": "test_commands.py::test_every_table_and_the_page_after_a_run",
    "norml report --curves --format": "test_series.py::test_the_command_prints_the_same_rows",
    "norml report --episodes --format": "test_series.py::test_the_command_prints_the_same_rows",
    "norml report --html": "test_commands.py::test_every_table_and_the_page_after_a_run",
    "norml report --registry": OWN_IMAGES,
    "norml report --results": "test_commands.py::test_hints_name_the_places_that_the_command_named",
    "norml report --protocols": "test_evaluate.py::test_methods_beside_each_other_under_every_protocol",
    "norml report --table": "test_commands.py::test_every_table_and_the_page_after_a_run",
    "norml reproduce": TABLE_MADE,
    "norml reproduce --at-once --seeds": TABLE_MADE,
    "norml reproduce --at-once --seeds --source": TABLE_MADE,
    "norml reproduce --dry-run --seeds": TABLE_MADE,
    "norml reproduce --minutes --seeds --source": TABLE_MADE,
    "norml run": "test_run.py::test_all_methods_run_and_are_tabulated",
    "norml run --benchmark --shots": "test_run.py::test_all_methods_run_and_are_tabulated",
    "norml run --benchmark --outer-steps --registry": "test_own_images.py::test_the_commands_of_the_page_run",
    "norml run --benchmark --name --set": "test_series.py::test_the_command_prints_the_same_rows",
    "norml run --device": "test_convolutional_run.py::test_a_run_is_verified_inspected_reported_and_loaded",
    "norml run --devices --shots": DEVICES,
    "norml run --registry": "test_docs.py::test_a_benchmark_and_a_method_of_ones_own_run_as_the_page_says",
    "norml run --results --set": "test_run.py::test_all_methods_run_and_are_tabulated",
    "norml run --set": "test_run.py::test_a_record_of_another_protocol_is_kept_unless_forced",
    "norml run --shots": "test_run.py::test_all_methods_run_and_are_tabulated",
    "norml show": "test_commands.py::test_show_prints_every_kind_of_entry",
    "norml show --registry": "test_own_images.py::test_a_method_of_ones_own_is_two_words",
    "norml show --benchmark": "test_commands.py::test_show_gives_each_value_its_source_and_counts_parameters",
    "norml show --shots": "test_commands.py::test_show_gives_each_value_its_source_and_counts_parameters",
    "norml status": "test_pretrain.py::test_json_is_the_record_alone_and_status_lists_it",
    "norml study": "test_study.py::test_every_combination_is_tried_and_told_best_first",
    "norml study --benchmark --grid --outer-steps": "test_study.py::test_trials_are_as_short_as_asked",
    "norml sweep": "test_sweep.py::test_two_sweeps_of_one_folder_do_no_cell_twice",
    "norml sweep --address --fetch --on": "tests/scale/sweeps/test_on_ray.py::test_workers_that_see_nothing",
    "norml sweep --address --gpus --on": "tests/scale/sweeps/test_on_ray.py::test_more_devices_than_there_are",
    "norml sweep --at-once --seeds": "test_sweep.py::test_two_sweeps_of_one_folder_do_no_cell_twice",
    "norml sweep --benchmark --grid": "test_sweep.py::test_a_grid_is_a_run_for_each_value",
    "norml sweep --gpus --on --sbatch": "tests/scale/sweeps/test_on_slurm.py::test_one_array_job_stopped",
    "norml sweep --on": "test_sweep_on_ray.py::test_a_local_ray_makes_the_records_of_runs",
    "norml sweep --seeds --shots": "test_sweep.py::test_two_sweeps_of_one_folder_do_no_cell_twice",
    "norml validate": "test_commands.py::test_validate_builds_every_model_and_finds_every_fault",
    "norml verify": "test_verify_and_doctor.py::test_a_run_that_was_left_alone_is_equal",
    "nox": "tests/test_readme.py::test_ci_calls_the_test_command_of_the_readme",
    "nox -s audit": "by hand: asks a database on the network",
    "nox -s bench": "tests/benchmarks/test_speed.py::test_a_quick_bench_runs_every_section_and_writes_what_it_measured",
    "nox -s docs": "test_docs.py::test_a_page_that_drifted_is_named_and_made_again",
    "nox -s oldest": "tests/norml/test_compiled.py::",  # the tests that it runs, with the torch at hand
    "nox -s page": "tests/browser/test_page_in_a_browser.py::",  # skipped without Chromium
    "nox -s pictures": "tests/test_readme.py::test_the_picture_of_the_page_is_made_by_chromium_and_its_absence_told",
    "nox -s reproduction": "tests/test_readme.py::test_the_report_of_the_reproduction_is_what_the_records_give",
    "nox -s scale": "tests/scale/sweeps/test_on_ray.py::test_a_killed_worker_and_a_cell_that_fails_twice",
    "nox -s site": "tests/docs/test_pages.py::test_the_site_is_built_without_a_warning",
    "nox -s trust": "tests/trust/test_killed.py::test_a_killed_command_started_again_ends_like_one_left_alone",
    "python -m hatchling": "test_wheel.py::unpacked_wheel",
    "python -m tests.trust.flips": "tests/trust/test_damage.py::test_every_flip_is_refused",
    "python -m tests.trust.kills": "tests/trust/test_killed.py::test_a_killed_command_started_again",
    "python -m tests.trust.long_run": "tests/trust/test_figures.py::test_a_short_run_is_watched_as_the_long_one_is",
}


def named(page: Path) -> Iterator[list[str]]:
    """The words of each command in indented blocks and inline code; `test_transcripts.py` runs the consoles."""
    text = re.sub(r"\\\n\s*", "", page.read_text(encoding="utf-8"))
    blocks = re.findall(r"^ {4}(.*)$", text, re.MULTILINE)
    for code in [*blocks, *re.findall(r"`([^`\n]+)`", text)]:
        for command in re.split(r"&&|;| > ", code.split("  #")[0]):
            bare = re.sub(r"^\s*(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?|[][]", "", command)
            if any(re.match(rf"{program}(?:$| (?![ \[<]))", bare) for program in PROGRAMS):
                yield shlex.split(bare)


def kind(words: list[str]) -> str:
    """What a command is found by in COVERED: programs without what they are given, norml with its options' names."""
    if words[0] == "norml":
        return " ".join(["norml", *words[1:2], *sorted({word for word in words[2:] if word.startswith("--")})])
    return " ".join(words[: 1 if words[0] == "nox" and len(words) == 1 else 3])


@functools.cache
def ids() -> set[str]:
    """Of every entry."""
    registry = read_registry([builtin_registry()])
    return {id_ for each in KINDS for id_ in getattr(registry, each)}


ALL = [(page.name, words) for page in PAGES for words in named(page)]
OF_NORML = [(page, words) for page, words in ALL if words[0] == "norml" and len(words) > 1 and words[1] != "COMMAND"]
OF_PYTEST = [(page, words) for page, words in ALL if words[0] == "pytest"]


def test_every_command_is_covered_and_no_cover_is_for_nothing():
    assert len(ALL) > 60
    kinds = {kind(words): page for page, words in ALL if words[0] != "pytest" and words != ["norml"]}
    assert {each: page for each, page in kinds.items() if each not in COVERED} == {}
    assert {each for each in COVERED if each not in kinds} == set()


@pytest.mark.parametrize(("command", "test"), COVERED.items())
def test_the_test_that_covers_a_command_is_there_and_has_its_options(command: str, test: str):
    if test.startswith("by hand: "):
        return
    path, _, name = test.partition("::")
    text = (ROOT / path if "/" in path else Path(__file__).with_name(path)).read_text(encoding="utf-8")
    assert f"def {name}" in text
    for option in re.findall(r"--[\w-]+", command):
        assert option in text, f"{path} never uses {option}"


@pytest.mark.parametrize(
    ("page", "words"), OF_NORML, ids=lambda each: each if isinstance(each, str) else " ".join(each)
)
def test_a_command_is_one_that_norml_takes(page: str, words: list[str]):
    """Its options exist and take what they are given; what looks like an id is one of the registry."""
    if words[1].startswith("--"):
        return  # of norml itself
    group = typer.main.get_command(app)
    name, command, rest = group.resolve_command(group.make_context("norml", words[1:]), words[1:])
    if len(words) == 2 or "--help" in words or (words[1] == "new" and len(words) == 3):
        return  # the command's name alone, or with the kind of what is new
    given = command.make_context(name, ["1" if word == "K" else word for word in rest]).params
    values = [given.get(key) for key in ("methods", "benchmark", "table")]
    asked = [word for value in values if value for word in ([value] if isinstance(value, str) else value)]
    placeholders = {"every", "TABLE", "A", "B", "METHOD", "METHOD...", "ID", "meta-sgd-small-start", "birds-5way"}
    assert [word for word in asked if word not in ids() | placeholders] == [], page


@pytest.mark.parametrize(
    ("page", "words"), OF_PYTEST, ids=lambda each: each if isinstance(each, str) else " ".join(each)
)
def test_a_command_of_pytest_names_tests_of_the_default_suite(page: str, words: list[str]):
    paths = [ROOT / word for word in words if word.startswith("tests/")]
    assert paths, page
    assert all(path.exists() for path in paths), page
    files = [file for path in paths for file in (path.rglob("*.py") if path.is_dir() else [path])]
    texts = "".join(file.read_text(encoding="utf-8") for file in files)
    for chosen in (word for before, word in itertools.pairwise(words) if before == "-k"):
        assert any(re.search(rf"def test_\w*{part}", texts) for part in chosen.split(" or ")), page


def test_every_session_of_nox_that_is_named_is_one():
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    sessions = {each.name for each in tree.body if isinstance(each, ast.FunctionDef)}
    assert {words[2] for _, words in ALL if words[:2] == ["nox", "-s"]} <= sessions
