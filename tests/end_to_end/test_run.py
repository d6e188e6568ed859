"""`norml run` from the command line: records, resuming, refusing."""

import getpass
import json
import signal
import socket
import time
from pathlib import Path

import pytest
import torch
from command_line import Shell

from norml_cli import training
from norml_cli.app import main

METHODS = [
    "maml-constant-lr",
    "maml-global-lr",
    "maml-layerwise-lr",
    "norml",
    "norml-zero-hidden",
    "norml-zero-cell",
    "norml-zero-hidden-zero-cell",
]
NORML = ("run", "norml", "--benchmark", "tiny-5way")


def read(shell: Shell, method: str = "norml", shots: int = 1, seed: int = 0, results: str = "results") -> dict:
    path = shell.folder / results / "tiny-5way" / f"{shots}-shot" / method / f"seed-{seed}.json"
    return json.loads(path.read_text())


def figures(record: dict) -> dict:
    """A record without what may differ between two equal runs: time, memory and date."""
    return {key: value for key, value in record.items() if key not in {"cost", "created", "command", "git"}}


@pytest.mark.parametrize("shots", [1, 5])
def test_all_methods_run_and_are_tabulated(shell: Shell, shots: int):
    code, out, err = shell.norml("run", *METHODS, "--benchmark", "tiny-5way", "--shots", str(shots))
    assert code == 0, err
    for method in METHODS:
        record = read(shell, method, shots)
        assert record["spec"]["protocol"]["queries_per_class"] == shots
        assert [point["step"] for point in record["curve"]] == [4, 8, 9]
        assert len(record["correct"]) == 350
        assert method in out
    assert len({read(shell, method, shots)["episodes"]["test_hash"] for method in METHODS}) == 1


def test_a_record_names_no_place_and_no_person(shell: Shell):
    absolute = str(shell.folder / "elsewhere")
    code, _, err = shell.norml(*NORML, "--results", absolute)
    assert code == 0, err
    text = json.dumps(read(shell, results="elsewhere"))
    for private in (str(shell.folder), str(shell.home), str(Path.home()), socket.gethostname()):
        assert private not in text
    assert f"/{getpass.getuser()}" not in text


def test_equal_seeds_give_equal_records_and_other_seeds_do_not(shell: Shell):
    for results, seed in [("a", "0"), ("b", "0"), ("a", "1")]:
        assert shell.norml(*NORML, "--results", results, "--seed", seed)[0] == 0
    assert figures(read(shell, results="a")) == figures(read(shell, results="b"))
    assert read(shell, results="a")["correct"] != read(shell, results="a", seed=1)["correct"]


def test_a_finished_run_is_run_again_only_by_force(shell: Shell):
    assert shell.norml(*NORML)[0] == 0
    first = read(shell)
    assert "finished already" in shell.norml(*NORML)[1]
    assert read(shell) == first
    assert shell.norml(*NORML, "--force")[0] == 0
    assert read(shell)["cost"] != first["cost"]
    assert figures(read(shell)) == figures(first)


def test_a_record_of_another_protocol_is_kept_unless_forced(shell: Shell):
    assert shell.norml(*NORML)[0] == 0
    code, _, err = shell.norml(*NORML, "--set", "inner_lr=0.1")
    assert code == 2
    assert "other values" in err
    assert "--force" in err
    assert read(shell)["spec"]["protocol"]["inner_lr"] == 0.4
    assert shell.norml(*NORML, "--set", "inner_lr=0.1", "--force")[0] == 0
    assert read(shell)["changed"] == ["inner_lr"]


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the run may tidy up."""


def dying(monkeypatch: pytest.MonkeyPatch, name: str, calls: int) -> None:
    """The method `name` of a run dies before its call number `calls` + 1."""
    original = getattr(training.Run, name)
    left = [calls]

    def dies(self: training.Run, *arguments: object) -> object:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        return original(self, *arguments)

    monkeypatch.setattr(training.Run, name, dies)


@pytest.fixture(scope="module")
def whole() -> dict:
    """The figures of an uninterrupted run, filled by the first test that needs them."""
    return {}


@pytest.mark.parametrize(
    ("where", "calls", "saves_every_step"),
    [("_outer_step", n, True) for n in range(9)]
    + [("_validate", n, True) for n in range(3)]
    + [("_evaluate", n, True) for n in range(4)]
    + [("_outer_step", 5, False), ("_evaluate", 3, False)],
)
def test_a_killed_run_ends_like_an_uninterrupted_one(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, whole: dict, where: str, calls: int, saves_every_step: bool
):
    if not whole:
        assert shell.norml(*NORML, "--results", "whole")[0] == 0
        whole.update(figures(read(shell, results="whole")))
    with monkeypatch.context() as patch:
        patch.setattr(training, "CHECKPOINT_EVERY_S", 0.0 if saves_every_step else 3600.0)
        dying(patch, where, calls)
        patch.setattr("sys.argv", ["norml", *NORML])
        with pytest.raises(Killed):
            main()
    assert not (shell.results / "tiny-5way/1-shot/norml/seed-0.json").exists()
    assert shell.norml(*NORML)[0] == 0
    assert figures(read(shell)) == whole
    assert not list(shell.results.rglob("*.checkpoint"))
    assert not list(shell.results.rglob(".*"))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGKILL"])
def test_a_signalled_process_goes_on_where_it_was(shell: Shell, name: str):
    long = (*NORML, "--set", "validation_episodes=32", "--set", "test_episodes=64", "--outer-steps", "400")
    assert shell.norml(*long, "--results", "whole")[0] == 0
    checkpoint = shell.results / "tiny-5way/1-shot/norml/seed-0.checkpoint"
    process = shell.start(*long)
    assert process.stdout is not None
    started = process.stdout.readline()  # said when the model is built and training begins
    assert "400 outer steps" in started
    time.sleep(0.3)
    process.send_signal(getattr(signal, name))
    out, _ = process.communicate(timeout=60)
    if name != "SIGKILL":
        assert process.returncode == 130, out
        assert "the same command goes on from there" in out
        assert checkpoint.exists()
    code, out, err = shell.norml(*long)
    assert code == 0, err
    assert figures(read(shell)) == figures(read(shell, results="whole"))


def test_a_run_under_other_values_does_not_take_up_a_checkpoint(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr(training, "CHECKPOINT_EVERY_S", 0.0)
        dying(patch, "_outer_step", 5)
        patch.setattr("sys.argv", ["norml", *NORML])
        with pytest.raises(Killed):
            main()
    code, _, err = shell.norml(*NORML, "--set", "inner_lr=0.1")
    assert code == 2
    assert "belongs to another run" in err
    checkpoint = next(shell.results.rglob("*.checkpoint"))
    for damaged in (checkpoint.read_bytes()[:100], b"no checkpoint at all", b""):
        checkpoint.write_bytes(damaged)
        code, _, err = shell.norml(*NORML)
        assert code == 2
        assert "not a readable checkpoint" in err
    assert shell.norml(*NORML, "--force")[0] == 0


def test_a_loss_that_is_no_number_stops_the_run_with_advice(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    steps_taken = []
    original = training.outer_step

    def diverges(*arguments: object, **settings: object) -> tuple[torch.Tensor, torch.Tensor]:
        loss, accuracy = original(*arguments, **settings)
        steps_taken.append(loss)
        return (loss * float("nan") if len(steps_taken) == 3 else loss), accuracy

    monkeypatch.setattr(training, "outer_step", diverges)
    code, _, err = shell.norml(*NORML)
    assert code == 2
    assert "the query loss is nan at outer step 3" in err
    assert "inner_lr" in err
    assert not list(shell.results.rglob("*.json"))


def test_a_results_folder_that_cannot_be_written_is_told_before_training(shell: Shell):
    (shell.folder / "taken").write_text("a file")
    code, _, err = shell.norml(*NORML, "--results", "taken")
    assert code == 2
    assert "--results taken: cannot be written" in err
