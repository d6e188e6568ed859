"""The same seed gives the same training, whatever else is evaluated; the strict mode is told by the record."""

import json
from typing import Any

import pytest
import torch

from norml_cli.training.checkpoints import read_checkpoint, write_checkpoint
from norml_cli.training.provenance import SEVERAL_DEVICES, device_name, repeatability
from norml_cli.training.run import Run
from norml_cli.training.stopping import Stopped
from tests.helpers.command_line import Shell

RUN = ("run", "norml", "--benchmark", "tiny-5way")


def test_more_meta_validations_do_not_change_the_training(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    """The last checkpoint, kept for once, holds the last weights of either run."""

    def left(_: Run) -> None:
        raise SystemExit(3)

    monkeypatch.setattr(Run, "test", left)
    found: list[dict[str, Any]] = []
    for results, every in (("often", "1"), ("seldom", "9")):
        assert shell.norml(*RUN, "--results", results, "--set", f"validate_every={every}")[0] == 3
        path = shell.folder / results / "tiny-5way/1-shot/norml/seed-0.checkpoint"
        found.append(read_checkpoint(path, {})["meta_learner"])
    assert found[0]
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_strict_mode_is_asked_for_and_told(shell: Shell):
    path = shell.results / "tiny-5way/1-shot/norml/seed-0.json"
    try:
        assert shell.norml(*RUN, "--deterministic")[0] == 0
    finally:
        torch.use_deterministic_algorithms(mode=False)
    assert json.loads(path.read_text())["deterministic"] is True
    assert shell.norml(*RUN, "--force")[0] == 0
    record = json.loads(path.read_text())
    assert record["deterministic"] is None
    assert record["repeatability"].startswith("Bit-reproducible on this CPU model")


def test_a_record_from_a_gpu_says_what_may_differ(monkeypatch: pytest.MonkeyPatch):
    gpu = torch.device("cuda")
    assert "a GPU adds in varying order" in repeatability(gpu)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert repeatability(gpu).startswith("Bit-reproducible on this GPU model")


def test_a_run_can_resume_on_another_kind_of_device_and_its_record_says_so(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
):
    """A GPU's generator has another state than a CPU's, so a checkpoint is made as one would leave it."""
    steps_at_once = Run._take_steps

    def stopped_after_three(run: Run, count: int) -> float:
        if run.state.step == 3:
            raise Stopped
        return steps_at_once(run, count)

    with monkeypatch.context() as patched:
        patched.setattr(Run, "_take_steps", stopped_after_three)
        assert shell.norml(*RUN)[0] == 130
    path = shell.results / "tiny-5way/1-shot/norml/seed-0.checkpoint"
    left = read_checkpoint(path, {})
    here = left["state"]["devices"]
    assert here == [device_name(torch.device("cpu"), 20)]
    left["state"]["devices"] = ["Some GPU"]
    write_checkpoint(path, left | {"generator": torch.zeros(16, dtype=torch.uint8)})
    code, out, err = shell.norml(*RUN)
    assert code == 0, err
    assert "resumed on another kind of device, so the training episodes from here on are different ones" in out
    record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert record["device"] == f"Some GPU, then {here[0]}"
    assert record["repeatability"] == SEVERAL_DEVICES


def test_a_run_ends_alike_again_and_beside_other_runs(shell: Shell):
    """The others are of the same method and of another, in processes of their own, in the same folders."""

    def found(results: str) -> dict[str, Any]:
        path = shell.folder / results / "tiny-5way/1-shot/norml/seed-0.json"
        record = json.loads(path.read_text(encoding="utf-8"))
        return {key: record[key] for key in ("correct", "curve", "accuracy", "best_step")}

    assert shell.norml(*RUN, "--results", "alone")[0] == 0
    assert shell.norml(*RUN, "--results", "again")[0] == 0
    beside = [
        shell.start(*RUN, "--results", "beside"),
        shell.start(*RUN, "--results", "beside", "--seed", "1"),
        shell.start("run", "maml-layerwise-lr", "--benchmark", "tiny-5way", "--results", "beside"),
    ]
    for process in beside:
        out, _ = process.communicate(timeout=200)
        assert process.returncode == 0, out
    assert found("alone") == found("again") == found("beside")
