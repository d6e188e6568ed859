"""The script as it is called."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from norml_cli.files.errors import UserError
from tests.benchmarks import speed
from tests.benchmarks.agreement import DisagreementError
from tests.benchmarks.engines import usable_engines
from tests.benchmarks.record import SpeedRecord

SCRIPT = ("-m", "tests.benchmarks.speed")


def script(*arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *SCRIPT, *arguments], env=environment, capture_output=True, text=True, check=False
    )


def test_the_script_writes_what_it_measured(tmp_path: Path):
    done = script("--quick", "--only", "evaluation", "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.rglob("*.json")] == ["cpu-quick-evaluation.json"]
    record = SpeedRecord.model_validate_json(next(tmp_path.rglob("*.json")).read_bytes())
    assert [section.name for section in record.sections] == ["evaluation"]
    assert "320 test episodes" in done.stdout
    assert "evaluation, episodes: 320/320" in done.stderr


BAD = [
    (["--only", "everything"], "everything"),
    (["--device", "tpu"], "--device tpu"),
    (["--device", "cuda:99"], "--device cuda:99"),
    (["--memory-limit", "-1"], "--memory-limit"),
    (["--name", "../elsewhere"], "--name"),
]


@pytest.mark.parametrize(("arguments", "word"), BAD)
def test_bad_options_are_one_line_and_exit_code_2(
    arguments: list[str], word: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(sys, "argv", ["speed.py", *arguments, "--results", str(tmp_path)])
    with pytest.raises(SystemExit) as left:
        speed.main()
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert word in line
    assert not list(tmp_path.iterdir())


def test_an_interrupted_or_disagreeing_bench_writes_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    for error, code, words in [(KeyboardInterrupt(), 130, "stopped"), (DisagreementError("they differ"), 1, "differ")]:

        def broken(_: object, error: BaseException = error) -> None:
            raise error

        monkeypatch.setitem(speed.SECTIONS, "peers", broken)
        monkeypatch.setattr(sys, "argv", ["speed.py", "--only", "peers", "--results", str(tmp_path)])
        with pytest.raises(SystemExit) as left:
            speed.main()
        assert left.value.code == code
        assert words in capsys.readouterr().err
        assert not list(tmp_path.iterdir())


def test_a_missing_peer_is_told_before_anything_is_timed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "higher" else name)
    with pytest.raises(UserError, match=r"^higher not installed; call `nox -s bench`"):
        usable_engines(compiled=False)
