"""The engines compute the same thing, and one that does not is found out."""

import importlib.util
from dataclasses import replace

import pytest
import torch

from norml.layers import Convolutions
from norml.learner import Learner
from tests.benchmarks.agreement import (
    TOLERANCE,
    DisagreementError,
    errors_against_ours,
    relative_error,
    require_agreement,
)
from tests.benchmarks.engines import Autograd, Engine, Higher, Ours, TorchFunc, TorchOptMetaSgd
from tests.benchmarks.tiny_problem import TINY, tiny_learner
from tests.benchmarks.workloads import made_episodes


def needs(package: str) -> pytest.MarkDecorator:
    """A peer that only `nox -s bench` installs."""
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


@pytest.mark.parametrize("batch_norm_scale", [False, True], ids=["shift alone", "scale and shift"])
@pytest.mark.parametrize(
    "engine",
    [
        TorchFunc,
        pytest.param(Higher, marks=needs("higher")),
        pytest.param(TorchOptMetaSgd, marks=needs("torchopt")),
    ],
)
def test_peers_compute_our_meta_gradient(engine: type[Engine], batch_norm_scale: bool):
    learner = tiny_learner(batch_norm_scale=batch_norm_scale)
    errors = errors_against_ours([Ours, engine], learner, TINY, inner_lr=0.4)
    assert set(errors) == {engine.title}
    assert errors[engine.title] < 1e-11


@pytest.mark.parametrize("batch_norm_scale", [False, True], ids=["shift alone", "scale and shift"])
def test_every_engine_names_every_parameter_of_the_learner(batch_norm_scale: bool):
    learner = tiny_learner(batch_norm_scale=batch_norm_scale)
    batch = made_episodes(TINY, dtype=torch.float64)
    for engine in (Ours, TorchFunc):
        gradient = engine(learner, inner_lr=0.4, inner_steps=2).meta_gradient(batch)
        assert set(gradient) == {name for name, _ in learner.named_parameters()}


def test_a_wrong_gradient_is_an_error_of_its_own_parameter():
    whole = {"large": torch.tensor([3.0, 4.0]), "small": torch.tensor([0.5])}
    assert relative_error(whole, whole) == 0
    assert relative_error({**whole, "small": torch.tensor([0.25])}, whole) == pytest.approx(0.5)
    with pytest.raises(DisagreementError, match="small"):
        relative_error({"large": whole["large"]}, whole)


@pytest.mark.parametrize("error", [2 * TOLERANCE, float("nan")])
def test_engines_that_disagree_are_named(error: float):
    require_agreement({"fine": TOLERANCE})
    with pytest.raises(DisagreementError, match=r"^meta-gradients differ .* wrong \(") as raised:
        require_agreement({"fine": 0.0, "wrong": error})
    assert "fine" not in str(raised.value)


def test_engines_take_the_same_outer_step():
    batch = made_episodes(TINY, dtype=torch.float64)
    steps = {}
    for engine in (Ours, TorchFunc):
        made = engine(tiny_learner(), inner_lr=0.4, inner_steps=2)
        made.optimizer.param_groups[0]["lr"] = 0.1
        made.step(batch)
        steps[engine] = made.parameters
    for name, parameter in steps[Ours].items():
        if not name.startswith("biases") or name == "biases.2":  # a bias before batch norm has no gradient to follow
            torch.testing.assert_close(parameter, steps[TorchFunc][name], atol=1e-9, rtol=0)


@pytest.mark.parametrize("engine", [TorchFunc, Autograd])
@pytest.mark.parametrize(
    "convolutions",
    [Convolutions(7), Convolutions(6, 2, kernel=2, stride=1, max_pool=True, end="flatten")],
    ids=["strided", "pooled"],
)
def test_peers_compute_our_meta_gradient_of_convolutions(convolutions: Convolutions, engine: type[Engine]):
    generator = torch.Generator().manual_seed(0)
    settings = {"initial_weight_std": 0.5, "convolutions": convolutions, "generator": generator}
    learner = Learner(convolutions.n_features, [3, 4], TINY.n_way, **settings).double()
    workload = replace(TINY, n_features=convolutions.n_features)
    assert errors_against_ours([engine], learner, workload, inner_lr=0.4)[engine.title] < 1e-11
