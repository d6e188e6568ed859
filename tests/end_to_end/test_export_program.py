"""`norml export --program`: a trained learner as a file that torch runs without norml."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from norml_cli.results.store import read_record
from norml_cli.training.trained import load_trained
from tests.helpers.command_line import Shell
from tests.helpers.convolutional import write_benchmark

ALONE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"norml", "norml_cli"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import torch
given = torch.load("given.pt")
program = torch.export.load("learner.pt2").module()
torch.save([program(*inputs) for inputs in given], "found.pt")
"""


def trained(shell: Shell, method: str, *options: str, benchmark: str = "tiny-5way") -> Path:
    code, _, err = shell.norml("run", method, "--benchmark", benchmark, "--device", "cpu", "--quiet", *options)
    assert code == 0, err
    return Path("results") / benchmark / "1-shot" / method / "seed-0.json"


def exported(shell: Shell, record: Path, *options: str) -> torch.export.ExportedProgram:
    code, _, err = shell.norml("export", str(record), "--program", "learner.pt2", *options)
    assert code == 0, err
    return torch.export.load("learner.pt2")


def episode(shots: int, n_query: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Support images, labels and queries of an episode with noise for images."""
    generator = torch.Generator().manual_seed(shots)
    x = torch.rand(5 * shots + n_query, 784, generator=generator)
    return x[: 5 * shots], torch.arange(5).repeat(shots), x[5 * shots :]


def by_norml(record: Path, inputs: tuple[torch.Tensor, ...], **query: str) -> torch.Tensor:
    support_x, support_y, query_x = inputs
    model = load_trained(record).meta_learner
    steps = read_record(record).spec.protocol.inner_steps_test
    return model.adapt(support_x[None], support_y[None], steps).logits(query_x[None], **query)[0]


def test_a_program_gives_the_models_logits_without_norml(shell: Shell):
    """In an interpreter that has no norml at all, for support and query sets of several sizes."""
    record = trained(shell, "norml")
    exported(shell, record)
    given = [episode(1, 7), episode(1, 30), episode(3, 5)]
    torch.save(given, "given.pt")
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for inputs, found in zip(given, torch.load("found.pt"), strict=True):
        torch.testing.assert_close(found, by_norml(record, inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["alfa", "prototypical-network", "matching-network"])
def test_rivals_are_programs_too(shell: Shell, method: str):
    record = trained(shell, method)
    program = exported(shell, record).module()
    for inputs in (episode(1, 6), episode(3, 8)):
        torch.testing.assert_close(program(*inputs), by_norml(record, inputs), rtol=1e-4, atol=1e-5)


def test_it_carries_its_card_and_how_it_adapts(shell: Shell):
    record = trained(shell, "maml-constant-lr")
    change = ("--set", "query_statistics=support", "--set", "inner_steps_test=2")
    extra = {"card.json": "", "spec.json": ""}
    program = exported(shell, record, *change)
    torch.export.load("learner.pt2", extra_files=extra)
    card, spec = json.loads(extra["card.json"]), json.loads(extra["spec.json"])
    said = read_record(record)
    assert (card["licence"], card["accuracy"]["mean"]) == ("MIT", said.accuracy.mean)
    assert card["dataset"]["content_hash"] == said.dataset.content_hash
    assert spec["protocol"]["query_statistics"] == "support"
    support_x, support_y, query_x = episode(2, 6)
    together = program.module()(support_x, support_y, query_x)
    alone = torch.cat([program.module()(support_x, support_y, query_x[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)
    expected = by_norml(record, (support_x, support_y, query_x), query_statistics="support")
    torch.testing.assert_close(together, expected, rtol=1e-4, atol=1e-5)


def test_convolutions_and_heads_that_start_at_zero_are_programs_too(shell: Shell):
    write_benchmark(shell.registry)
    record = trained(shell, "maml-constant-lr", "--set", "head_init=zero", benchmark="tiny-conv")
    program = exported(shell, record).module()
    for inputs in (episode(1, 5), episode(2, 9)):
        torch.testing.assert_close(program(*inputs), by_norml(record, inputs), rtol=1e-4, atol=1e-5)


def test_what_looks_at_all_examples_at_once_keeps_their_number(shell: Shell):
    record = trained(shell, "norml", "--set", "gates=flattened")
    code, out, err = shell.norml("export", str(record), "--program", "learner.pt2")
    assert code == 0, err
    assert "learner.pt2" in out
    assert "images [5, 784], labels [5], [M, 784] -> [M, 5]" in out
    program = torch.export.load("learner.pt2").module()
    inputs = episode(1, 12)
    torch.testing.assert_close(program(*inputs), by_norml(record, inputs), rtol=1e-4, atol=1e-5)
    with pytest.raises((RuntimeError, AssertionError)):
        program(*episode(2, 12))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--program", "learner.bin"], "--program learner.bin: takes one RECORD and a file that ends in .pt2"),
        (["--set", "inner_steps_test=2"], "--set: applies to --program only; add --program FILE"),
        (
            ["--program", "x.pt2", "--set", "inner_lr=1"],
            "--set inner_lr: cannot be changed here; this command can change",
        ),
        (["--program", "x.pt2", "--set", "head_init=zero"], "norml has parameters for each class; train with it"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(shell: Shell, arguments: list[str], says: str):
    record = trained(shell, "norml")
    before = sorted(shell.folder.rglob("*"))
    code, out, err = shell.norml("export", str(record), *arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert says in err
    assert sorted(shell.folder.rglob("*")) == before


def test_what_torch_cannot_export_and_what_learns_nothing_is_one_line(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    record = trained(shell, "norml")
    fitted = trained(shell, "logistic-regression")
    code, _, err = shell.norml("export", str(fitted), "--program", "x.pt2")
    assert (code, "logistic-regression has no trained weights" in err) == (2, True)

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no such operation. And much more\nthat nobody reads")

    monkeypatch.setattr(torch.export, "export", fails)
    code, out, err = shell.norml("export", str(record), "--program", "x.pt2")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "--program: torch cannot export norml (no such operation)" in err
    assert not record.with_suffix(".safetensors").exists()
