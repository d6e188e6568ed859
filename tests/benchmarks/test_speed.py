"""The script as it is called."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from norml_cli.files.errors import UserError
from norml_cli.results.speed import SpeedSection, read_speed
from tests.benchmarks import speed
from tests.benchmarks.agreement import DisagreementError
from tests.benchmarks.engines import PEERS, Ours, TorchFunc, TorchOptMetaSgd, usable_engines
from tests.benchmarks.load import busy_seconds
from tests.benchmarks.record import measured

SCRIPT = ("-m", "tests.benchmarks.speed")


def script(*arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *SCRIPT, *arguments], env=environment, capture_output=True, text=True, check=False
    )


def test_a_quick_bench_runs_every_section_and_writes_what_it_measured(tmp_path: Path):
    done = script("--quick", "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    kept = {}
    for path in (tmp_path / "speed").iterdir():
        [section] = read_speed(path).sections
        kept[path.name] = section
        assert path.name == f"cpu-quick-{section.name}.json"
        assert (section.others_busy_cores is None) == (busy_seconds() == 0)
    assert {section.name for section in kept.values()} == set(speed.SECTIONS)
    assert "320 test episodes" in done.stdout
    assert "evaluation, episodes: 320/320" in done.stderr
    peers = kept["cpu-quick-peers.json"].settings
    missing = [name for name in PEERS if importlib.util.find_spec(name) is None]
    assert peers["peers not installed"] == (", ".join(missing) or "none")
    assert ("peers, left out as not installed: " in done.stderr) == bool(missing)
    agreed = peers["relative error of the meta-gradient against norml's (float64)"]
    assert set(agreed) == {"torch.func", *(PEERS[name].title for name in PEERS if name not in missing)}
    assert all(error <= peers["tolerated error"] for error in agreed.values())


def test_threads_spin_briefly_in_the_bench_as_in_the_command_line(monkeypatch: pytest.MonkeyPatch):
    for module in ("tests.benchmarks.speed", "norml_cli.app.main"):
        monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
        tells = (
            "import os, sys; from {0} import main; sys.argv = ['', '--version']\n"
            "try: main()\nfinally: print(os.environ['GOMP_SPINCOUNT'])"
        )
        done = subprocess.run([sys.executable, "-c", tells.format(module)], capture_output=True, text=True, check=False)
        assert done.stdout.splitlines()[-1] == "1000", module


BAD = [
    (["--only", "everything"], "everything"),
    (["--device", "tpu"], "--device tpu"),
    (["--device", "cuda:99"], "--device cuda:99"),
    (["--memory-limit", "-1"], "--memory-limit"),
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


def test_an_interrupted_or_disagreeing_section_writes_nothing_and_earlier_ones_stay(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    for error, code, words in [(KeyboardInterrupt(), 130, "stopped"), (DisagreementError("they differ"), 1, "differ")]:

        def broken(_: object, error: BaseException = error) -> None:
            raise error

        results = tmp_path / str(code)
        section = SpeedSection(name="peers", title="made", measurements=[measured({"engine": "norml"}, [1.0])])
        monkeypatch.setitem(speed.SECTIONS, "peers", lambda _, section=section: section)
        monkeypatch.setitem(speed.SECTIONS, "methods", broken)
        only = ["--only", "peers", "--only", "methods"]
        monkeypatch.setattr(sys, "argv", ["speed.py", *only, "--busy", "--results", str(results)])
        with pytest.raises(SystemExit) as left:
            speed.main()
        assert left.value.code == code
        assert words in capsys.readouterr().err
        assert [path.name for path in results.rglob("*.json")] == ["cpu-peers.json"]


def test_a_missing_peer_is_told_before_anything_is_timed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "higher" else name)
    with pytest.raises(UserError, match=r"^higher not installed; call `nox -s bench`"):
        usable_engines(compiled=False, all_peers=True)
    engines, missing = usable_engines(compiled=False, all_peers=False)
    assert missing == ["higher"]
    assert engines == [Ours, TorchFunc, TorchOptMetaSgd]


def test_a_bench_beside_busy_processes_is_refused_unless_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    section = SpeedSection(name="peers", title="made", measurements=[measured({"engine": "norml"}, [1.0])])
    monkeypatch.setitem(speed.SECTIONS, "peers", lambda _: section)
    monkeypatch.setattr(speed.Others, "busy_cores", lambda _: 1.3)
    monkeypatch.setattr(speed, "LOOK_S", 0)
    monkeypatch.setattr(sys, "argv", ["speed.py", "--only", "peers", "--results", str(tmp_path)])
    with pytest.raises(SystemExit) as left:
        speed.main()
    assert left.value.code == 2
    assert "error: other processes keep 1.3 cores busy" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--busy"])
    speed.main()
    assert "other processes kept 1.30 cores busy meanwhile: above 0.2" in capsys.readouterr().out
    record = read_speed(tmp_path / "speed" / "cpu-peers.json")
    assert record.machine.others_busy_cores == record.sections[0].others_busy_cores == 1.3
