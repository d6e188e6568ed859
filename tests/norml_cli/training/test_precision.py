"""In which precision a backbone is computed, and how that is found out and told."""

import time
from pathlib import Path

import pytest
import torch

from norml_cli.files.errors import UserError
from norml_cli.registry.reading import load_registry
from norml_cli.registry.recipes import resolve_recipe
from norml_cli.results.store import Results
from norml_cli.training.precision import computed_in, precision_on

RESULTS = Path(__file__).parents[3] / "results"
CPU = torch.device("cpu")


def step_that_takes(seconds: dict[bool, float]):
    """A step whose time depends on whether autocast is on."""

    def step() -> torch.Tensor:
        time.sleep(seconds[torch.is_autocast_enabled("cpu")])
        return torch.zeros(())

    return step


@pytest.fixture(autouse=True)
def a_cpu_that_has_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)


@pytest.mark.parametrize(
    ("float32_s", "bfloat16_s", "expected"),
    [(0.03, 0.01, torch.bfloat16), (0.01, 0.03, torch.float32), (0.01, 0.01, torch.float32)],
)
def test_auto_takes_the_faster_one(float32_s, bfloat16_s, expected):
    assert precision_on("auto", CPU, step_that_takes({False: float32_s, True: bfloat16_s})) is expected


def test_what_is_declared_is_taken_without_a_trial():
    def step() -> torch.Tensor:
        raise AssertionError("tried")

    assert precision_on("float32", CPU, step) is torch.float32
    assert precision_on("bfloat16", CPU, step) is torch.bfloat16
    assert precision_on("auto", torch.device("cuda"), step) is torch.bfloat16


def test_without_fast_bfloat16_auto_is_float32_and_bfloat16_is_refused(monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert precision_on("auto", CPU, lambda: torch.zeros(())) is torch.float32
    with pytest.raises(UserError, match="--precision bfloat16: this CPU has no bfloat16 arithmetic"):
        precision_on("bfloat16", CPU, lambda: torch.zeros(()))


def test_a_trial_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    precision_on("auto", CPU, lambda: torch.rand(3).sum())
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_computed_in_it(dtype):
    with computed_in(dtype, CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is dtype


def test_the_default_leaves_the_hash_of_earlier_pretrainings_alone():
    registry = load_registry()
    entry, dataset = registry.recipe("resnet12-narrow"), registry.dataset("mini-imagenet")
    records = [record for _, record in Results(RESULTS).scan_pretrainings().records]
    (kept,) = (record for record in records if record.spec.recipe == entry.id)  # made before there was the key
    assert resolve_recipe(entry, dataset).spec.hash() == kept.spec_hash
    assert resolve_recipe(entry, dataset, precision="bfloat16").spec.hash() != kept.spec_hash
