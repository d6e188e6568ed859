"""Reptile, MAML++, ALFA, Prototypical and Matching Networks, as a user runs, stops, tests and exports them."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from norml.meta_training import meta_gradient
from norml.objectives.multi_step import multi_step_gradient
from norml.objectives.reptile import reptile_gradient
from norml_cli.app.main import main
from norml_cli.training import loop
from norml_cli.training import run as training
from norml_cli.training.trained import load_trained
from tests.end_to_end.test_convolutional_run import CONVOLUTIONS
from tests.end_to_end.test_run import Killed, figures
from tests.helpers import tiny
from tests.helpers.command_line import Shell

ADAPTING = ["reptile", "maml-multi-step", "maml-plus-plus", "alfa"]
COMPARING = ["prototypical-network", "matching-network"]
METHODS = ADAPTING + COMPARING
HALF = ("--set", "multi_step_share=0.5")  # of 9 outer steps: 0 to 4


def path_of(method: str, results: str = "results", benchmark: str = "tiny-5way") -> str:
    return f"{results}/{benchmark}/1-shot/{method}/seed-0.json"


def read(shell: Shell, method: str, results: str = "results") -> dict:
    return json.loads((shell.folder / path_of(method, results)).read_text())


def test_they_run_are_verified_evaluated_exported_and_reported(shell: Shell):
    code, out, err = shell.norml("run", *METHODS, "--benchmark", "tiny-5way", "--device", "cpu")
    assert code == 0, err
    code, out, err = shell.norml("verify", *map(path_of, METHODS))
    assert (code, out.count("equal")) == (0, len(METHODS)), err
    code, _, err = shell.norml("evaluate", *map(path_of, METHODS), "--set", "queries_per_class=2", "--device", "cpu")
    assert code == 0, err
    code, _, err = shell.norml("export", *map(path_of, METHODS))
    assert code == 0, err
    assert all(method in shell.norml("report")[1] for method in METHODS)
    for method in METHODS:
        assert shell.norml("show", method, "--benchmark", "tiny-5way")[0] == 0
        (shell.folder / path_of(method)).with_suffix(".weights").unlink()
        trained = load_trained(shell.folder / path_of(method))  # from what was exported
        x, y = torch.rand(1, 5, 28**2), torch.arange(5).unsqueeze(0)
        assert trained.meta_learner.adapt(x, y, 2).logits(x).shape == (1, 5, 5)


def test_what_learns_alike_is_counted_and_said_alike(shell: Shell):
    assert shell.norml("run", *METHODS, "--benchmark", "tiny-5way", "--quiet")[0] == 0
    body, head = 28**2 * 12 + 12 + 12 * 8 + 8, 8 * 5 + 5
    found = {method: read(shell, method)["parameters"] for method in METHODS}
    assert found == {
        "reptile": {"learner": body + head, "meta_learner": 0},
        "maml-multi-step": {"learner": body + head, "meta_learner": 0},
        "maml-plus-plus": {"learner": body + head, "meta_learner": 3 * 2},
        "alfa": {"learner": body + head, "meta_learner": 2 * (6 * 6 + 6) + 2 * 3 * 2},
        "prototypical-network": {"learner": body, "meta_learner": 0},
        "matching-network": {"learner": body, "meta_learner": 0},
    }
    protocols = {method: read(shell, method)["spec"]["protocol"] for method in METHODS}
    assert {protocols[method]["inner_steps_test"] for method in COMPARING} == {0}
    assert protocols["reptile"]["outer_gradient"] == "reptile"


@pytest.mark.parametrize("method", [*ADAPTING, "prototypical-network"])
def test_they_run_on_convolutions(shell: Shell, method: str):
    benchmark = tiny.read("benchmarks/glyphs-5way.yaml")
    benchmark.update(id="tiny-conv", dataset="tiny-glyphs")
    for key, value in (tiny.PROTOCOL | CONVOLUTIONS).items():
        benchmark["protocol"][key] = {"value": value, "source": "chosen: for tests"}
    tiny.write_entry(shell.registry, "benchmarks", benchmark)
    code, _, err = shell.norml("run", method, "--benchmark", "tiny-conv", "--device", "cpu", "--quiet")
    assert code == 0, err
    code, out, err = shell.norml("verify", path_of(method, benchmark="tiny-conv"))
    assert (code, "equal" in out) == (0, True), err
    assert shell.norml("show", method, "--benchmark", "tiny-conv")[0] == 0


def followed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[float]]]:
    """What each outer step follows, and the step weights where it has them."""
    seen, original = [], training.outer_step

    def watched(*arguments: object, gradient: object, **settings: object) -> object:
        run = gradient.__self__
        weights = run._step_weights.tolist() if isinstance(run._followed, partial) else []
        seen.append((getattr(run._followed, "func", run._followed).__name__, weights))
        return original(*arguments, gradient=gradient, **settings)

    monkeypatch.setattr(training, "outer_step", watched)
    return seen


def test_multi_step_losses_are_weighed_for_their_share_of_training(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    seen = followed(monkeypatch)
    assert (
        shell.norml("run", "maml-multi-step", "--benchmark", "tiny-5way", *HALF, "--quiet", "--device", "cpu")[0] == 0
    )
    names, weights = zip(*seen, strict=True)
    assert names == (multi_step_gradient.__name__,) * 5 + (meta_gradient.__name__,) * 4
    for step, (early, last) in enumerate(weights[:5]):
        assert early == pytest.approx((1 - step / 4.5) / 2)
        assert early + last == pytest.approx(1)


def test_reptile_follows_the_way_of_its_inner_steps(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    seen = followed(monkeypatch)
    assert shell.norml("run", "reptile", "--benchmark", "tiny-5way", "--quiet", "--device", "cpu")[0] == 0
    assert seen == [(reptile_gradient.__name__, [])] * 9


@pytest.mark.parametrize("calls", [3, 5, 7])
@pytest.mark.parametrize("method", ["maml-plus-plus", "reptile", "matching-network"])
def test_a_killed_run_ends_like_an_uninterrupted_one(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, method: str, calls: int
):
    share = HALF if method == "maml-plus-plus" else ()
    run = ("run", method, "--benchmark", "tiny-5way", "--device", "cpu", "--quiet", *share)
    assert shell.norml(*run, "--results", "whole")[0] == 0
    original, left = training.Run._take_step, [calls]

    def dies(self: training.Run, step: int) -> object:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        return original(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)
        patch.setattr(training.Run, "_take_step", dies)
        patch.setattr("sys.argv", ["norml", *run])
        with pytest.raises(Killed):
            main()
    assert shell.norml(*run)[0] == 0
    assert figures(read(shell, method)) == figures(read(shell, method, "whole"))


def test_the_two_gradients_of_a_run_are_compiled_one_after_the_other(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    compiled = []

    def as_it_is(_device: object, gradient: object) -> object:
        compiled.append(getattr(gradient, "func", gradient).__name__)
        return gradient

    monkeypatch.setattr(training, "compiled_meta_gradient", as_it_is)
    run = ("run", "maml-multi-step", "--benchmark", "tiny-5way", "--device", "cpu", *HALF)
    code, _, err = shell.norml(*run, "--compile")
    assert code == 0, err
    assert compiled == ["multi_step_gradient", "meta_gradient"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ("maml-layerwise-lr", "--set", "outer_gradient=reptile"),
            "outer_gradient: is reptile, which cannot train this method's update rule; use query-loss",
        ),
        (
            ("reptile", "--set", "adapted_layers=head"),
            "adapted_layers: is head, but reptile trains only adapted layers; use all",
        ),
        (("reptile", "--set", "inner_steps=0"), "outer_gradient: is reptile, but inner_steps is 0; use query-loss"),
        (
            ("maml-constant-lr", "--set", "multi_step_share=0.5"),
            "multi_step_share: is 0.5, but outer_gradient is query-loss; leave it out",
        ),
        (
            ("prototypical-network", "--set", "hidden_sizes=[]"),
            "hidden_sizes: is [], so there is nothing to meta-train; use nearest-centroid",
        ),
        (
            ("matching-network", "--set", "adapted_layers=body"),
            "adapted_layers: is body, but there are no inner steps; leave it out",
        ),
        (
            ("matching-network", "--set", "head_init=zero"),
            "head_init: is zero, but a comparison has no head; leave it out",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_does_not_go_together_is_refused_in_one_line(shell: Shell, arguments: tuple[str, ...], line: str):
    code, out, err = shell.norml("run", *arguments, "--benchmark", "tiny-5way")
    assert (code, out) == (2, "")
    assert err == f"error: {arguments[0]} on tiny-5way, 1-shot: {line}\n"
    assert not shell.results.exists()


def test_a_comparison_is_neither_inspected_nor_given_inner_steps(shell: Shell):
    assert shell.norml("run", "prototypical-network", "--benchmark", "tiny-5way", "--quiet")[0] == 0
    record = path_of("prototypical-network")
    code, _, err = shell.norml("inspect", record)
    assert (code, err) == (
        2,
        f"error: {record}: prototypical-network takes no inner steps; name the record of a method that does\n",
    )
    code, _, err = shell.norml("evaluate", record, "--set", "inner_steps_test=3")
    assert (code, err) == (2, "error: --set inner_steps_test: comparison takes no inner steps\n")


def test_alfa_is_inspected(shell: Shell):
    assert shell.norml("run", "alfa", "--benchmark", "tiny-5way", "--quiet")[0] == 0
    code, _, err = shell.norml("inspect", path_of("alfa"), "--episodes", "4", "--quiet")
    assert code == 0, err
    assert Path(path_of("alfa")).with_suffix("").exists() or list(shell.results.rglob("*.csv"))


def test_validate_leaves_out_what_does_not_go_together(shell: Shell):
    """Comparing needs a hidden layer, which the benchmarks on frozen features have not."""
    code, _, err = shell.norml("validate")
    assert (code, err) == (0, "")
    code, _, err = shell.norml("show", "prototypical-network", "--benchmark", "mini-imagenet-5way")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "hidden_sizes: is [], so there is nothing to meta-train; use nearest-centroid" in err
