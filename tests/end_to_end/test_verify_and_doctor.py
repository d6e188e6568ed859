"""`norml verify` and `norml doctor`: what holds, what does not, and what they say to do."""

import json
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from PIL import Image

from norml_cli.commands.upkeep import doctor
from norml_cli.data.examples import Examples
from norml_cli.results.store import digest_of, read_record
from norml_cli.training import trained
from norml_cli.training.checkpoints import read_checkpoint, write_checkpoint
from tests.helpers.command_line import Shell

RUN = ("run", "norml", "--benchmark", "tiny-5way")


def change(path: Path, **values: object) -> None:
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps(content | {"digest": digest_of(content)}))


def test_a_run_that_was_left_alone_is_equal(shell: Shell, record: Path):
    code, out, err = shell.norml("verify", str(record), "--device", "cpu")
    assert code == 0, err
    assert f"{record}: equal, all 350 episodes" in out


def test_a_record_without_its_registry_is_one_line_that_names_the_option(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, record: Path
):
    monkeypatch.delenv("NORML_REGISTRY")
    for name in "abcde":
        (shell.folder / "images" / name).mkdir(parents=True)
        Image.new("L", (28, 28)).save(shell.folder / "images" / name / "image.png")
    before = sorted(shell.folder.rglob("*"))
    own = ("--support", "images", "--query", "images/a")
    for command in (("export",), ("verify",), ("inspect",), ("evaluate", "--set", "n_way=5"), ("classify", *own)):
        code, out, err = shell.norml(command[0], str(record), *command[1:])
        assert (code, out) == (2, "")
        assert "data set 'tiny-glyphs' is not declared; pass the folder of its entry with --registry" in err, command
    assert sorted(shell.folder.rglob("*")) == before


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_verify_at_once_and_leaves_nothing(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, record: Path, name: str
):
    def signalled(*_: object) -> None:
        signal.raise_signal(getattr(signal, name))
        pytest.fail("went on")

    before = sorted(shell.folder.rglob("*"))
    monkeypatch.setattr(trained, "count_correct", signalled)
    code, out, err = shell.norml("verify", str(record), str(record), "--device", "cpu")
    assert (code, out, err) == (130, "", "")
    assert sorted(shell.folder.rglob("*")) == before


def test_verify_trains_nothing_and_takes_the_threads_of_the_record(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, record: Path
):
    splits, pool = [], Examples.pool
    monkeypatch.setattr(Examples, "pool", lambda self, split, **how: splits.append(split) or pool(self, split, **how))
    monkeypatch.setattr(torch.optim, "Adam", None)
    torch.set_num_threads(2)
    try:
        code, out, err = shell.norml("verify", str(record), "--device", "cpu")
        assert torch.get_num_threads() == read_record(record).threads == 1
    finally:
        torch.set_num_threads(1)
    assert code == 0, err
    assert "equal, all 350 episodes" in out
    assert splits == ["meta_test"]


def test_other_weights_are_found_and_the_episodes_named(shell: Shell, record: Path):
    weights = record.with_suffix(".weights")
    content = read_checkpoint(weights, {})
    for value in content["meta_learner"].values():
        value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(0)))
    write_checkpoint(weights, content)
    code, _, err = shell.norml("verify", str(record), "--device", "cpu")
    assert code == 2
    assert " of 350 episodes differ, by " in err
    assert "on the same kind of device" in err
    change(record, device="cpu (elsewhere, 64 threads)")
    code, _, err = shell.norml("verify", str(record), "--device", "cpu")
    assert code == 2
    assert "more than the 0.1% that rounding explains" in err


def test_one_answer_is_rounding_elsewhere_and_a_fault_here(shell: Shell, record: Path):
    content = json.loads(record.read_text())
    from norml.statistics import interval_95  # noqa: PLC0415

    correct = content["correct"]
    correct[7] += 1 if correct[7] < 5 else -1
    interval = interval_95(correct).divided_by(5)
    accuracy = content["accuracy"] | {"mean": interval.mean, "half_width": interval.half_width}
    change(record, correct=correct, accuracy=accuracy, by_class=None)
    code, _, err = shell.norml("verify", str(record), "--device", "cpu")
    assert code == 2
    assert "1 of 350 episodes differ, by 1 answers in all (7: " in err
    change(record, device="cpu (elsewhere, 64 threads)")
    code, out, err = shell.norml("verify", str(record), "--device", "cpu")
    assert code == 0, err
    assert "equal up to rounding: 1 of 350 episodes differ" in out


def test_answers_moved_from_class_to_class_are_found(shell: Shell, record: Path):
    by_class = json.loads(record.read_text())["by_class"]
    first, second, *_ = by_class.values()
    first["correct"], second["correct"] = first["correct"] + 1, second["correct"] - 1
    change(record, by_class=by_class)
    code, _, err = shell.norml("verify", str(record), "--device", "cpu")
    assert code == 2
    assert "by_class does not match these answers" in err


@pytest.mark.parametrize("name", ["missing", "another"])
def test_weights_that_are_not_there_or_another_run_s(shell: Shell, record: Path, name: str):
    weights = record.with_suffix(".weights")
    if name == "missing":
        weights.unlink()
    else:
        assert shell.norml(*RUN, "--seed", "1")[0] == 0
        weights.write_bytes(record.with_name("seed-1.weights").read_bytes())
    code, _, err = shell.norml("verify", str(record), "--device", "cpu")
    assert code == 2
    assert {"missing": "norml run norml --benchmark tiny-5way --shots 1 --results again", "another": "seed differs"}[
        name
    ] in err


def test_no_record_is_one_clear_line(shell: Shell):
    code, _, err = shell.norml("verify", "nowhere.json")
    assert code == 2
    assert "nowhere.json: no such file; a run's record is at " in err


@pytest.mark.usefixtures("record")
def test_doctor_is_content_with_a_sound_place(shell: Shell):
    code, out, _ = shell.norml("doctor")
    assert code == 0, out
    for words in ("Python: ", "torch: ", "caches: ", "registry: ", "cache of tiny-glyphs: opens", "records: 1 valid"):
        assert words in out


def test_doctor_reads_the_runs_of_other_protocols_too(shell: Shell, record: Path):
    results = record.parents[3]
    apart = results / "other-protocols" / "short" / record.relative_to(results)
    apart.parent.mkdir(parents=True)
    apart.write_bytes(record.read_bytes())
    assert "records: 2 valid" in shell.norml("doctor")[1]
    apart.write_bytes(record.read_bytes().replace(b"finished", b"finishes"))
    code, out, _ = shell.norml("doctor")
    assert code == 1
    assert f"must  record: {apart}: digest: " in out


def test_doctor_says_what_to_do_and_returns_1(shell: Shell, record: Path):
    record.with_name("seed-9.json").write_text("{}")
    record.with_name(".seed-0.json.abc.part").touch()
    code, out, _ = shell.norml("doctor", "--json")
    assert code == 1
    found = json.loads(out)
    assert found["fine"] is False
    must = {finding["what"]: finding for finding in found["findings"] if finding["severity"] == "must"}
    assert set(must) == {"record"}
    assert "move it out of the results folder" in must["record"]["found"]
    (leftover,) = [finding for finding in found["findings"] if finding["what"] == "leftover"]
    assert leftover["remedy"] == "the next command that writes there removes it"


def test_doctor_tells_a_broken_registry_and_a_damaged_cache(shell: Shell):
    (shell.registry / "methods").mkdir()
    path = shell.registry / "methods/broken.yaml"
    path.write_text("id: broken\n")
    code, out, _ = shell.norml("doctor")
    assert code == 1
    assert "must  registry: " in out
    path.unlink()
    shell.monkeypatch.setenv("NORML_HOME", str(shell.folder / "home"))
    (shell.folder / "home").mkdir()
    (shell.folder / "home/tiny-glyphs.h5").write_bytes(b"no HDF5")
    code, out, _ = shell.norml("doctor")
    assert code == 1
    assert "must  cache of tiny-glyphs: " in out
    assert "norml prepare tiny-glyphs --force" in out


def test_doctor_only_notes_a_cache_that_can_be_read(shell: Shell):
    home = shell.folder / "home"
    home.mkdir()
    (home / "tiny-glyphs.h5").write_bytes((shell.home / "tiny-glyphs.h5").read_bytes())
    shell.monkeypatch.setenv("NORML_HOME", str(home))
    shell.monkeypatch.setattr("os.access", lambda path, _mode: Path(path) != home)  # root may write everywhere
    code, out, _ = shell.norml("doctor")
    assert code == 0, out
    assert f"note  caches: {home} is read-only; " in out


@pytest.mark.parametrize("command", ["doctor", "report", "list", "show norml", "run norml", "study s", "validate x"])
def test_a_deleted_working_folder_is_one_clear_line(shell: Shell, command: str):
    gone = shell.folder / "gone"
    gone.mkdir()
    shell.monkeypatch.chdir(gone)
    gone.rmdir()
    told = "error: the working folder does not exist any more; change to another folder\n"
    assert shell.norml(*command.split()) == (2, "", told)


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        ("Old GPU\n", "Old GPU cannot compute (no kernel image is available); install a torch built for it, "),
        ("", "torch cannot be loaded (no kernel image is available); install torch again"),
    ],
)
def test_doctor_tells_a_gpu_that_computes_nothing(printed: str, said: str, monkeypatch: pytest.MonkeyPatch):
    failed = subprocess.CompletedProcess([], 1, printed, "Traceback\nno kernel image is available\n")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_args, **_settings: failed)
    finding = doctor._cuda()
    assert finding.severity == "must"
    assert f"{finding.found}; {finding.remedy}".startswith(said)
