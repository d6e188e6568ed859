"""`norml study` from the command line: a grid of trials, judged on meta-validation alone."""

import csv
import io
import json
from pathlib import Path

import pytest

from norml.statistics import paired_difference
from norml_cli.data.examples import Examples
from norml_cli.training.run import Run
from tests.helpers.command_line import Shell

TRIALS = ("study", "rates", "maml-constant-lr", "--benchmark", "tiny-5way", "--grid", "inner_lr=0.1,0.4")
STUDY = (*TRIALS, "--at-once", "1")


def trials(shell: Shell) -> list[Path]:
    return sorted((shell.folder / "results" / "studies").rglob("*.json"))


def test_every_combination_is_tried_and_told_best_first(shell: Shell):
    code, out, err = shell.norml(*STUDY, "--grid", "outer_lr=0.001,0.002", "--format", "csv")
    assert code == 0, err
    rows = list(csv.DictReader(io.StringIO(out[out.index("method,benchmark") :])))
    assert {row["values"] for row in rows} == {
        f"inner_lr={inner} | outer_lr={outer}" for inner in (0.1, 0.4) for outer in (0.001, 0.002)
    }
    accuracies = [float(row["validation_accuracy"]) for row in rows]
    assert accuracies == sorted(accuracies, reverse=True)
    assert len(trials(shell)) == 4
    assert "maml-constant-lr, 1-shot, seed 0: begins 9 outer steps with inner_lr 0.1, outer_lr 0.002" in out
    found = shell.norml("status")[1]
    for values in ("inner_lr 0.1", "inner_lr 0.1, outer_lr 0.002"):
        assert f"rates: maml-constant-lr, tiny-5way, 1-shot, seed 0, {values}: meta-val" in found


def test_a_trial_trains_as_the_run_of_the_same_values_does(shell: Shell):
    assert shell.norml(*STUDY)[0] == 0
    code, _, err = shell.norml("run", "maml-constant-lr", "--benchmark", "tiny-5way", "--set", "inner_lr=0.1")
    assert code == 0, err
    run = json.loads((shell.folder / "results/tiny-5way/1-shot/maml-constant-lr/seed-0.json").read_text())
    (same,) = [t for t in map(json.loads, map(Path.read_text, trials(shell))) if t["spec_hash"] == run["spec_hash"]]
    assert same["curve"] == run["curve"]
    assert same["best_step"] == run["best_step"]
    assert same["validation_hash"] == run["episodes"]["validation_hash"]
    assert len(same["correct"]) == 330
    assert sum(same["correct"]) / 330 / 5 == pytest.approx(max(point["validation_accuracy"] for point in same["curve"]))


def test_trials_side_by_side_are_those_of_one_after_the_other(shell: Shell):
    assert shell.norml(*STUDY)[0] == 0
    alone = {path.name: json.loads(path.read_text())["curve"] for path in trials(shell)}
    side_by_side = ("--at-once", "2", "--results", "apart", "--device", "cpu")
    code, out, err = shell.norml(*TRIALS, *side_by_side, "--format", "csv")
    assert (code, err) == (0, "")
    assert out.count("finished in") == 2
    assert len(list(csv.DictReader(io.StringIO(out[out.index("method,benchmark") :])))) == 2
    found = {path.name: json.loads(path.read_text())["curve"] for path in (shell.folder / "apart").rglob("*.json")}
    assert found == alone
    code, out, err = shell.norml(*TRIALS, *side_by_side, "--seeds", "0..1", "--dry-run", "--json")
    assert [each["title"].split(", ")[3] for each in json.loads(out)["missing"]] == ["seed 1"] * 2


def test_meta_test_is_left_alone(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    evaluated, read = [], []
    evaluate, classes = Run._evaluate, Examples._classes
    monkeypatch.setattr(Run, "_evaluate", lambda run, split, on: evaluated.append(split) or evaluate(run, split, on))
    monkeypatch.setattr(
        Examples, "_classes", lambda examples, split, **how: read.append(split) or classes(examples, split, **how)
    )
    assert shell.norml(*STUDY)[0] == 0
    assert set(evaluated) == {"meta_val"}
    assert set(read) == {"meta_train", "meta_val"}


def test_finished_trials_are_kept_and_told_again_without_methods(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    assert shell.norml(*STUDY)[0] == 0
    before = [path.stat().st_mtime_ns for path in trials(shell)]
    assert shell.norml(*STUDY)[0] == 0
    assert [path.stat().st_mtime_ns for path in trials(shell)] == before
    code, out, err = shell.norml("study", "rates", "--format", "json")
    assert code == 0, err
    told = json.loads(out)["trials"]
    assert {trial["values"]["inner_lr"] for trial in told} == {0.1, 0.4}
    monkeypatch.setenv("COLUMNS", "64")
    narrow = shell.norml("study", "rates")[1].splitlines()
    best, other = told
    assert narrow[0] == f"maml-constant-lr, 1-shot: inner_lr {best['values']['inner_lr']}"
    for trial, changed in ((best, "-"), (other, f"inner_lr {other['values']['inner_lr']}")):
        accuracy, half_width = 100 * trial["validation_accuracy"], 100 * trial["validation_half_width"]
        assert any(line.startswith(changed) and f"{accuracy:.2f} ± {half_width:.2f}" in line for line in narrow)
    assert max(map(len, narrow)) <= 64
    counts = [json.loads(path.read_text())["correct"] for path in trials(shell)]
    paired = paired_difference(*sorted(counts, key=sum)).divided_by(5)
    assert best["minus_best"] is None
    assert (other["minus_best"], other["minus_best_half_width"]) == pytest.approx((paired.mean, paired.half_width))
    assert any(f"{100 * paired.mean:+.2f} ± {100 * paired.half_width:.2f}" in line for line in narrow)
    assert shell.norml("report")[1] == "no finished runs; `norml run METHOD` makes one\n"


def test_a_stopped_study_goes_on_where_it_was(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    assert shell.norml(*STUDY)[0] == 0
    whole = {path.name: json.loads(path.read_text())["curve"] for path in trials(shell)}
    for path in trials(shell):
        path.unlink()
    taken = Run._take_steps

    def stopping(run: Run, count: int) -> float:
        run._stop.made = run.state.step == 5
        return taken(run, count)

    monkeypatch.setattr(Run, "_take_steps", stopping)
    assert shell.norml(*STUDY)[0] == 130
    monkeypatch.setattr(Run, "_take_steps", taken)
    code, out, _ = shell.norml(*STUDY)
    assert code == 0
    assert "continues from 6 of" in out
    assert {path.name: json.loads(path.read_text())["curve"] for path in trials(shell)} == whole
    assert not list((shell.folder / "results").rglob("*.checkpoint"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("study", "No Name"), "study 'No Name': use only a-z, 0-9 and single hyphens"),
        (("study", "none"), "no trials yet; name methods"),
        ((*STUDY, "--grid", "inner_lr=0.3"), "--grid inner_lr: given twice"),
        ((*STUDY, "--set", "inner_lr=0.3"), "--grid inner_lr: also set by --set"),
        ((*STUDY, "--grid", "outer_lr="), "--grid outer_lr: no values"),
        ((*STUDY, "--grid", "outer_lr=fast"), "outer_lr=fast"),
        ((*STUDY, "--grid", "outer"), "--grid outer: expected KEY=V1,V2"),
        ((*STUDY, "--format", "html"), "--format html: unknown format"),
        (
            (*TRIALS, "--at-once", "2", "--force"),
            "--force: runs trials one after the other on this machine; leave out --at-once",
        ),
        (
            (*TRIALS, "--on", "ray", "--force"),
            "--force: runs trials one after the other on this machine; leave out --at-once",
        ),
    ],
)
def test_wrong_use_is_one_line_and_leaves_nothing(shell: Shell, arguments: tuple[str, ...], expected: str):
    code, _, err = shell.norml(*arguments)
    assert code == 2
    assert expected in err
    assert err.count("\n") == 1
    assert trials(shell) == []


def test_a_study_whose_trials_are_all_paused_says_so(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    taken = Run._take_steps

    def stopping(run: Run, count: int) -> float:
        run._stop.made = run.state.step == 5
        return taken(run, count)

    monkeypatch.setattr(Run, "_take_steps", stopping)
    assert shell.norml(*STUDY)[0] == 130
    assert trials(shell) == []
    code, out, err = shell.norml("study", "rates")
    assert (code, out, err) == (0, "rates: 1 unfinished trial; `norml status` shows their progress\n", "")
    assert json.loads(shell.norml("study", "rates", "--json")[1])["trials"] == []
    assert "inner_lr 0.1" in shell.norml("status")[1]


def test_damaged_trials_are_named_and_the_others_shown(shell: Shell):
    assert shell.norml(*STUDY)[0] == 0
    paths = trials(shell)
    for n_damaged, path in enumerate(paths, start=1):
        path.write_text(path.read_text().replace('"best_step"', '"worst_step"'))
        code, out, err = shell.norml("study", "rates", "--json")
        assert str(path.relative_to(shell.folder)) in err
        shown = len(json.loads(out)["trials"]) if code == 0 else 0
        assert (code, shown) == ((0, len(paths) - n_damaged) if n_damaged < len(paths) else (2, 0))


def test_trials_are_as_short_as_asked(shell: Shell):
    code, _, err = shell.norml(*STUDY, "--outer-steps", "2")
    assert code == 0, err
    specs = [json.loads(path.read_text(encoding="utf-8"))["spec"] for path in trials(shell)]
    assert [spec["protocol"]["outer_steps"] for spec in specs] == [2, 2]
