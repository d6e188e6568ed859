"""Which cells a sweep has to do, and the command of each."""

import json
from pathlib import Path

import pytest

from norml_cli.files.errors import UserError
from norml_cli.registry.reading import builtin_registry, read_registry
from norml_cli.results.missing import plan_runs, plan_trials, runs_of
from norml_cli.results.store import Results
from norml_cli.sweeps.cells import Asked, SweepCell, Where, at_once_of, cells_of, changes, environment


def planned(table: str, monkeypatch: pytest.MonkeyPatch, home: Path, source: Path | None = None) -> list[SweepCell]:
    monkeypatch.setenv("NORML_HOME", str(home))
    registry = read_registry([builtin_registry()])
    asked = Asked(home / "out", (0, 1), source=source, device="cpu")
    missing = plan_runs(Results(asked.results), runs_of(registry, registry.table(table)), asked.seeds).missing
    return cells_of(registry, missing, asked)


def test_table_1_needs_images_its_backbones_and_their_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    options = f"--device cpu --results {tmp_path / 'out'}"
    plan = planned("table-1", monkeypatch, tmp_path, Path("raw"))
    texts = [" ".join(cell.arguments) for cell in plan]
    (prepare, *others) = plan
    assert texts[0] == "prepare mini-imagenet --source raw"
    recipes = {cell.arguments[3]: cell for cell in others if cell.arguments[0] == "pretrain"}
    assert list(recipes)[:2] == ["mtl-2019", "rfs-2020"]
    assert all(cell.needs == (prepare,) for cell in recipes.values())
    assert texts[1] == f"pretrain mini-imagenet --recipe mtl-2019 --seed 0 {options}"
    runs = [cell for cell in others if cell.arguments[0] == "run"]
    assert texts[1 + len(recipes) :][:2] == [
        f"run norml --benchmark mini-imagenet-5way --shots 1 --seed 0 {options}",
        f"run maml-constant-lr --benchmark mini-imagenet-5way --shots 1 --seed 0 {options}",
    ]
    assert runs[0].needs == (prepare, recipes["mtl-2019"])
    registry = read_registry([builtin_registry()])
    table = registry.table("table-1")
    assert set(recipes) == {item.spec.protocol.backbone for item in runs_of(registry, table)}
    shown = {
        (row.method, row.benchmark or column.benchmark, column.shots)
        for row in table.rows
        for column in table.columns
        if row.method is not None
    }
    assert len(runs) == len(set(runs)) == 2 * len(shown)  # seeds


def test_table_2_needs_its_data_set_and_runs_all_seven_methods_with_one_seed_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    prepare, *runs = planned("table-2", monkeypatch, tmp_path)
    assert prepare.arguments == ("prepare", "omniglot")
    assert len(runs) == len(set(runs)) == 2 * 2 * 7
    assert ["seed 0" in run.title for run in runs] == [True] * 14 + [False] * 14


def test_images_without_a_download_are_asked_for_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    with pytest.raises(UserError, match=r"'mini-imagenet' is not prepared; .*--source PATH"):
        planned("table-1", monkeypatch, tmp_path)


@pytest.mark.parametrize(("text", "number"), [("auto", None), ("1", 1), ("14", 14)])
def test_at_once_is_a_number_or_auto(text: str, number: int | None):
    assert at_once_of(text) == number


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "", "²", "99999"])
def test_other_numbers_at_once_are_refused(text: str):
    with pytest.raises(UserError, match="--at-once"):
        at_once_of(text)


def test_a_trial_is_the_study_command_with_its_values_in_one_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("NORML_HOME", str(tmp_path))
    registry = read_registry([builtin_registry()])
    item = registry.resolve("norml", "glyphs-5way", 5, {"inner_lr": 0.2, "initial_weight_std": "he"})
    (missing,) = plan_trials(Results(tmp_path / "out"), "rates", [item], [3]).missing
    asked = Asked(tmp_path / "out", device="cpu", options=("--no-compile",), words={"norml": "my/norml.yaml"})
    prepare, trial = cells_of(registry, [missing], asked)
    assert prepare.arguments == ("prepare", "glyphs")
    assert trial.is_trial
    assert " ".join(trial.arguments) == (
        "study rates my/norml.yaml --benchmark glyphs-5way --shots 5 --seed 3 "
        '--set inner_lr=0.2 --set initial_weight_std="he" --at-once 1 --no-compile '
        f"--device cpu --results {tmp_path / 'out'}"
    )


def test_a_worker_elsewhere_gets_absolute_paths_or_keeps_results_to_be_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NORML_HOME", "home")
    registry = read_registry([builtin_registry()])
    item = registry.resolve("norml", "glyphs-5way", 1)
    for where, said in ((Where("slurm"), str(tmp_path / "out")), (Where("ray", fetch=True), "{results}")):
        missing = plan_runs(Results(Path("out")), [item], [0]).missing
        *needs, run = cells_of(registry, missing, Asked(Path("out"), registry=Path("mine"), where=where))
        assert run.arguments[-4:] == ("--results", said, "--registry", str(tmp_path / "mine"))
        assert run.path == Path("out/glyphs-5way/1-shot/norml/seed-0.json")
        assert len(needs) == (where.on == "slurm")  # each worker makes glyphs for itself
    assert environment()["NORML_HOME"] == str(tmp_path / "home")


def test_data_that_workers_lack_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("NORML_HOME", str(tmp_path))
    registry = read_registry([builtin_registry()])
    missing = plan_runs(Results(tmp_path), [registry.resolve("norml", "omniglot-5way", 1)], [0]).missing
    with pytest.raises(UserError, match="'omniglot' is not prepared; run `norml prepare omniglot`"):
        cells_of(registry, missing, Asked(tmp_path, where=Where("ray", fetch=True)))


def test_the_changes_of_a_run_give_it_again():
    registry = read_registry([builtin_registry()])
    values = {"inner_lr": 1e-05, "hidden_sizes": [64, 32], "first_order": True, "gradient_clip": None, "gate_scale": 8}
    item = registry.resolve("norml", "glyphs-5way", 1, values)
    words = changes(item)
    assert set(words[::2]) == {"--set"}
    said = dict(word.split("=", 1) for word in words[1::2])
    again = registry.resolve("norml", "glyphs-5way", 1, {key: json.loads(value) for key, value in said.items()})
    assert again.spec == item.spec
    assert again.changed == item.changed


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"on": "cloud"}, "--on cloud: unknown; use here, ray, slurm"),
        ({"address": "10.0.0.1:6379"}, "--address: is for --on ray"),
        ({"on": "slurm", "fetch": True}, "--fetch: is for --on ray"),
        ({"on": "ray", "sbatch": ("--partition=gpu",)}, "--sbatch: is for --on slurm"),
        ({"gpus": 0.5}, "--gpus: is for --on ray"),
        ({"on": "slurm", "gpus": 0.5}, "--gpus 0.5: Slurm gives whole GPUs"),
    ],
)
def test_options_of_another_engine_are_refused(options: dict, fault: str):
    with pytest.raises(UserError, match=fault):
        Where(**options)
