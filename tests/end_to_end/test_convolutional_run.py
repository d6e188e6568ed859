"""Convolutional learners by way of the command line: run, stopped, verified, inspected, reported and loaded again."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from norml_cli.training.trained import load_trained
from tests.helpers import photos, tiny
from tests.helpers.command_line import Shell
from tests.helpers.convolutional import CONVOLUTIONS, write_benchmark


@pytest.fixture
def shell(shell: Shell) -> Shell:
    """A shell with the benchmark `tiny-conv`."""
    write_benchmark(shell.registry)
    return shell


@pytest.mark.parametrize("method", ["maml-constant-lr", "meta-sgd", "norml"])
def test_a_run_is_verified_inspected_reported_and_loaded(shell: Shell, method: str):
    code, _, err = shell.norml("run", method, "--benchmark", "tiny-conv", "--device", "cpu", "--quiet")
    assert code == 0, err
    record = f"results/tiny-conv/1-shot/{method}/seed-0.json"
    assert "tiny-conv" in shell.norml("report")[1]
    code, out, err = shell.norml("verify", record)
    assert (code, "equal" in out + err) == (0, True)
    code, out, err = shell.norml("inspect", record, "--episodes", "4", "--json", "--quiet")
    assert code == 0, err
    trained = load_trained(shell.folder / record)
    assert trained.meta_learner.learner.n_features == 28**2
    evaluate = (
        "evaluate",
        record,
        "--shots",
        "2",
        "--set",
        "queries_per_class=3",
        "--device",
        "cpu",
        "--json",
        "--quiet",
    )
    code, out, err = shell.norml(*evaluate)
    assert code == 0, err
    found = json.loads(out)[0]["correct"]
    code, _, err = shell.norml("export", record)
    assert code == 0, err
    (shell.folder / record).with_suffix(".weights").unlink()
    code, out, err = shell.norml(*evaluate, "--force")
    assert (code, json.loads(out)[0]["correct"]) == (0, found)
    assert "equal" in shell.norml("verify", record, "--device", "cpu")[1]
    for number in range(10):
        place = Path("own") / str(number % 5) if number < 5 else Path("new")
        place.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((28, 28), 90).save(place / f"{number}.png")
    code, out, err = shell.norml("classify", record, "--support", "own", "--query", "new", "--device", "cpu", "--json")
    assert code == 0, err
    assert [len(image["probabilities"]) for image in json.loads(out)["images"]] == [5] * 5
    x, y = torch.rand(1, 5, 28**2), torch.arange(5).unsqueeze(0)
    assert trained.meta_learner.adapt(x, y, 2).logits(x).shape == (1, 5, 5)


def test_colour_images_are_learned_from(shell: Shell, tmp_path):
    photos.write_registry(shell.registry)
    values = photos.benchmark_values()
    values["like"] = "mini-imagenet-5way-conv"
    del values["protocol"]["backbone"]
    for key, value in (CONVOLUTIONS | {"stride": 2, "pooling": "none"}).items():
        values["protocol"][key] = {"value": value, "source": "chosen: for tests"}
    values["id"] = "made-conv"
    tiny.write_entry(shell.registry, "benchmarks", values)
    source = photos.write_files(tmp_path / "source", photos.with_images())
    assert shell.norml("prepare", "made-mini", "--source", str(source))[0] == 0
    run = ("run", "norml", "--benchmark", "made-conv", "--device", "cpu", "--quiet")
    code, _, err = shell.norml(*run, "--set", "map_end=flatten")
    assert code == 0, err
    learner = load_trained(shell.results / "made-conv/1-shot/norml/seed-0.json").meta_learner.learner
    assert [tuple(weight.shape) for weight in learner.weights] == [(4, 27), *[(4, 36)] * 3, (2, 4)]


def test_show_counts_the_multiplications_of_a_step(shell: Shell):
    """28 px: maps of 196, 49, 16 and 4 positions; 3 products a layer, but 2 in the first; 5 support examples."""
    first, others, head = 196 * 9 * 4, (49 + 16 + 4) * 36 * 4, 4 * 5
    expected = 5 * (2 * first + 3 * (others + head))
    code, out, _ = shell.norml("show", "maml-constant-lr", "--benchmark", "tiny-conv")
    assert code == 0
    assert f"{expected:,}" in out
