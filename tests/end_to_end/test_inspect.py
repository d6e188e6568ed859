"""`norml inspect`: from a finished run to numbers and pictures."""

import csv
import json

import pytest

from norml_cli.files.errors import UserError
from norml_cli.reporting import inspection_files
from norml_cli.training.checkpoints import read_checkpoint, write_checkpoint
from tests.helpers.command_line import Shell

RUN = ("run", "--benchmark", "tiny-5way")


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch):
    """They take most of an inspection's time, and no part in its numbers."""
    monkeypatch.setattr(inspection_files, "_pictures", lambda _inspection: {})


def rows(shell: Shell, name: str) -> list[dict[str, str]]:
    with (shell.folder / "looked" / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def inspected(shell: Shell, method: str, *settings: str) -> tuple[str, str]:
    """Run a method and inspect it; the record's path and what was printed."""
    assert shell.norml(*RUN, method, *settings, "--quiet")[0] == 0
    record = f"results/tiny-5way/1-shot/{method}/seed-0.json"
    code, out, err = shell.norml("inspect", record, "--out", "looked", "--episodes", "20")
    assert code == 0, err
    return record, out


@pytest.mark.parametrize(("method", "pictures"), [("norml", 6), ("meta-sgd", 4)])
def test_numbers_and_pictures_are_written(shell: Shell, method: str, pictures: int):
    record, out = inspected(shell, method)
    folder = shell.folder / "looked"
    assert "the first 20 fixed meta-validation episodes" in out
    assert "head alone adapted: " in out
    assert len(list(folder.glob("*.png"))) == len(list(folder.glob("*.svg"))) == pictures
    for picture in folder.glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")
    assert [row["inner_steps"] for row in rows(shell, "accuracy-by-step.csv")] == ["0", "1", "2", "3", "4"]
    assert len(rows(shell, "layers.csv")) == 2 * 3
    by_step = rows(shell, "meta-gradient-by-step.csv")
    assert [(row["inner_steps"], row["layer"]) for row in by_step] == [(t, n) for t in "012" for n in "123"]
    assert all(0 <= float(row["q05"]) <= float(row["q50"]) <= float(row["q95"]) for row in by_step)
    assert {row["layer"] for row in rows(shell, "neurons.csv")} == {"1", "2", "3"}
    everything = json.loads((folder / "inspection.json").read_text())
    assert everything["about"]["method"] == method
    assert everything["about"]["run_digest"] == json.loads((shell.folder / record).read_text())["digest"]
    assert len(everything.get("gates", [])) == (2 * 3 * 2 if method == "norml" else 0)


@pytest.mark.usefixtures("without_pictures")
def test_layers_that_stay_still_have_no_rate_and_no_cosine(shell: Shell):
    _, out = inspected(shell, "anil")
    for row in rows(shell, "layers.csv"):
        still = row["layer"] != "3"
        assert (float(row["effective_rate"]) == 0, row["cosine_to_gradient"] == "") == (still, still)
    assert "nan" not in out.lower()
    assert "NaN" not in (shell.folder / "looked" / "inspection.json").read_text()


@pytest.mark.usefixtures("without_pictures")
def test_untrained_norml_has_open_gates_and_zero_steps_leave_accuracy_as_it_is(shell: Shell):
    inspected(shell, "norml", "--outer-steps", "0", "--set", "inner_lr=1e-30")
    for row in rows(shell, "gates.csv"):
        assert {float(row[key]) for key in ("q05", "q25", "q50", "q75", "q95", "mean")} == {1.0}
    assert len({row["accuracy"] for row in rows(shell, "accuracy-by-step.csv")}) == 1
    assert len({row["accuracy"] for row in rows(shell, "freezing.csv")}) == 1


@pytest.mark.usefixtures("without_pictures")
def test_accuracies_of_the_whole_are_those_of_the_step_and_of_the_curve(shell: Shell):
    """On all meta-validation episodes, what is found after T steps is what the run found then."""
    assert shell.norml(*RUN, "norml", "--quiet")[0] == 0
    record = "results/tiny-5way/1-shot/norml/seed-0.json"
    code, out, err = shell.norml("inspect", record, "--out", "looked", "--episodes", "330", "--json", "--quiet")
    assert (code, err) == (0, "")
    assert json.loads(out)["about"]["episodes"] == "the first 330 fixed meta-validation episodes"
    content = json.loads((shell.folder / record).read_text())
    best = next(point for point in content["curve"] if point["step"] == content["best_step"])
    by_step = {row["inner_steps"]: float(row["accuracy"]) for row in rows(shell, "accuracy-by-step.csv")}
    freezing = {row["case"]: float(row["accuracy"]) for row in rows(shell, "freezing.csv")}
    assert by_step["2"] == pytest.approx(best["validation_accuracy"], abs=1e-3)  # factored or not: rounding
    assert freezing["all layers adapted"] == pytest.approx(by_step["2"], abs=1e-3)
    assert freezing["nothing adapted"] == pytest.approx(by_step["0"], abs=1e-3)


def test_pictures_and_numbers_are_the_same_bytes_again(shell: Shell):
    record, _ = inspected(shell, "maml-layerwise-lr")
    first = {path.name: path.read_bytes() for path in (shell.folder / "looked").iterdir()}
    assert shell.norml("inspect", record, "--out", "looked", "--episodes", "20")[0] == 0
    assert {path.name: path.read_bytes() for path in (shell.folder / "looked").iterdir()} == first


def test_an_inspection_that_is_broken_off_leaves_none_of_its_files(shell: Shell):
    def broken_off(*_arguments: object) -> None:
        raise UserError("broken off")

    assert shell.norml(*RUN, "norml", "--quiet")[0] == 0
    record = "results/tiny-5way/1-shot/norml/seed-0.json"
    shell.monkeypatch.setattr("norml_cli.reporting.inspection_files._draw_gates", broken_off)
    assert shell.norml("inspect", record, "--out", "looked", "--episodes", "2")[0] == 2
    assert not (shell.folder / "looked").exists()


def test_what_cannot_be_inspected_is_one_clear_line(shell: Shell):
    settings = ("--set", "inner_lr=0.3", "--seed", "2")
    assert shell.norml(*RUN, "norml", *settings, "--quiet")[0] == 0
    record = "results/tiny-5way/1-shot/norml/seed-2.json"
    weights = shell.folder / record.replace(".json", ".weights")
    write_checkpoint(weights, read_checkpoint(weights, {}) | {"seed": 3})
    code, _, err = shell.norml("inspect", record)
    assert code == 2
    assert "seed-2.weights: belongs to another run (seed differs)" in err
    weights.unlink()
    code, out, err = shell.norml("inspect", record)
    assert (code, out) == (2, "")
    assert err.startswith("error: results/tiny-5way/1-shot/norml/seed-2.weights: no such file, and no published")
    again = "norml run norml --benchmark tiny-5way --shots 1 --seed 2 --set inner_lr=0.3 --results again"
    assert err.endswith(f"make them with: {again}\n")
    assert shell.norml("inspect", "nowhere.json")[0] == 2
    assert shell.norml(*RUN, "no-adaptation", "--quiet")[0] == 0
    code, _, err = shell.norml("inspect", "results/tiny-5way/1-shot/no-adaptation/seed-0.json")
    assert (code, "takes no inner steps" in err) == (2, True)
    assert not list(shell.results.rglob("*-inspection"))
