"""Runs whose numbers go wrong: told apart, stopped, never tabulated, not begun again blindly."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from norml_cli.registry import resolving
from norml_cli.registry.specs import RunSpec
from norml_cli.training import loop
from norml_cli.training.checkpoints import read_checkpoint
from norml_cli.training.run import Run
from tests.helpers.command_line import Shell

RUN = ("run", "maml-constant-lr", "--benchmark", "tiny-5way")


@pytest.fixture
def absurd(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs with values far beyond the registry's bounds, within which every number stays finite."""
    run_spec = resolving._run_spec

    def run_with(**values: float) -> None:
        def made(*arguments: Any) -> RunSpec:
            spec = run_spec(*arguments)
            return spec.model_copy(update={"protocol": spec.protocol.model_copy(update=values)})

        monkeypatch.setattr(resolving, "_run_spec", made)

    return run_with


def places(shell: Shell, pattern: str) -> list[Path]:
    return sorted(shell.folder.rglob(pattern))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"inner_lr": 3e38, "inner_steps": 8}, ["the inner loop diverges", "support loss goes from", "lower inner_lr"]),
        ({"outer_lr": 1e30}, ["the outer loop diverges", "lower outer_lr"]),
    ],
)
def test_the_loop_that_diverges_is_named(
    shell: Shell, absurd: Callable[..., None], values: dict[str, float], words: list[str]
):
    absurd(**values)
    code, out, err = shell.norml(*RUN)
    assert code == 2
    assert "Traceback" not in out + err
    assert len(err.splitlines()) == 1
    for word in ["maml-constant-lr: the ", "outer step ", "no checkpoint yet", *words]:
        assert word in err
    assert not places(shell, "*.json")
    assert "norml run" in shell.norml("report")[1]  # nothing to tabulate


def test_starting_again_says_what_happened_and_does_not_compute(
    shell: Shell, absurd: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    absurd(inner_lr=3e38, inner_steps=8)
    first = shell.norml(*RUN)[2]
    assert shell.norml(*RUN)[2] == first.replace("\n", "") + (
        "; the same values would diverge again: change them, or try again with --force\n"
    )

    def reached(*_: object) -> None:
        raise SystemExit(7)

    monkeypatch.setattr(Run, "_take_steps", reached)
    assert shell.norml(*RUN, "--force")[0] == 7
    absurd(inner_lr=0.4)
    assert shell.norml(*RUN)[0] == 7  # with other values it runs


def test_a_checkpoint_is_never_overwritten_by_bad_weights(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    """The weights go wrong after a good checkpoint, while every loss is still finite."""
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", -1.0)
    original = Run._take_step

    def poisoned(self: Run, step: int) -> torch.Tensor:
        found = original(self, step)
        if step == 5:
            with torch.no_grad():
                next(iter(self.model.parameters())).fill_(math.nan)
        return found

    monkeypatch.setattr(Run, "_take_step", poisoned)
    code, _, err = shell.norml(*RUN)
    assert code == 2
    assert "are not finite after outer step 6" in err
    assert "the checkpoint of outer step 5 keeps" in err
    (checkpoint,) = places(shell, "*.checkpoint")
    content = read_checkpoint(checkpoint, {})
    assert content["state"]["step"] == 5
    assert all(value.isfinite().all() for value in content["meta_learner"].values())
    monkeypatch.undo()


def test_a_study_goes_on_past_a_trial_that_diverges(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    run_spec = resolving._run_spec

    def made(*arguments: Any) -> RunSpec:
        spec = run_spec(*arguments)
        if spec.protocol.inner_lr != 1000:
            return spec
        return spec.model_copy(
            update={"protocol": spec.protocol.model_copy(update={"inner_lr": 3e38, "inner_steps": 8})}
        )

    monkeypatch.setattr(resolving, "_run_spec", made)
    code, out, err = shell.norml(
        *("study", "rates", "maml-constant-lr", "--benchmark", "tiny-5way"),
        *("--grid", "inner_lr=1000,0.4", "--at-once", "1"),
    )
    assert code == 0, err
    assert "no trial of maml-constant-lr, tiny-5way, 1-shot, seed 0, inner_lr " in out
    assert "the inner loop diverges" in out
    (record,) = places(shell, "results/studies/**/*.json")
    assert json.loads(record.read_text())["spec"]["protocol"]["inner_lr"] == 0.4


def test_a_damaged_note_is_told(shell: Shell, absurd: Callable[..., None]):
    absurd(inner_lr=3e38, inner_steps=8)
    shell.norml(*RUN)
    (note,) = places(shell, "*.diverged")
    note.write_text("{")
    code, _, err = shell.norml(*RUN)
    assert code == 2
    assert "is not a readable note" in err


def test_an_inner_loop_that_only_raises_its_loss_is_warned_of(shell: Shell):
    code, out, _ = shell.norml(*RUN, "--set", "inner_lr=1000")
    assert code == 0
    assert "warning: 2 inner steps raise the support loss" in out
    assert "lower inner_lr" in out
    assert "warning" not in shell.norml(*RUN, "--results", "sound")[1]
