"""The script that makes a table: which commands it gives, and what it does when its time is up."""

import sys
import time
from pathlib import Path

import pytest

from norml_cli.registry.reading import builtin_registry, read_registry
from tests.benchmarks import make_table

OBEYS = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit({code})); time.sleep(60)"


def planned(table: str, source: Path | None = None) -> list[list[str]]:
    registry = read_registry([builtin_registry()])
    plan = make_table.stages(registry, registry.table(table), source=source, seeds=[0, 1], options=["--device", "cpu"])
    return [[" ".join(arguments) for arguments in stage] for stage in plan]


def test_table_1_needs_images_three_backbones_and_their_runs():
    prepared, pretrained, runs, report = planned("table-1", Path("raw"))
    assert prepared == ["prepare mini-imagenet --source raw"]
    assert pretrained == [
        "pretrain mini-imagenet --recipe mtl-2019 --device cpu",
        "pretrain mini-imagenet --recipe rfs-2020 --device cpu",
        "pretrain mini-imagenet --recipe resnet12-narrow --device cpu",
    ]
    assert runs[:2] == [
        "run norml --benchmark mini-imagenet-5way --shots 1 --seed 0 --device cpu",
        "run maml-constant-lr --benchmark mini-imagenet-5way --shots 1 --seed 0 --device cpu",
    ]
    assert len(runs) == len(set(runs)) == 3 * 2 * 2 * 5  # benchmarks, shots, seeds, methods
    assert report == ["report --table table-1"]


def test_table_2_needs_its_data_set_and_all_seven_methods_first_with_one_seed():
    prepared, pretrained, runs, _ = planned("table-2")
    assert (prepared, pretrained) == (["prepare omniglot"], [])
    assert len(runs) == len(set(runs)) == 2 * 2 * 7
    assert all("--seed 0" in run for run in runs[:14])


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch):
    """Commands are Python code in place of what `norml` is given."""
    monkeypatch.setattr(make_table, "_command", lambda arguments: [sys.executable, "-c", *arguments])


def run_for(seconds: float, *codes: str, at_once: int = 1) -> int:
    return make_table._run_stage([[code] for code in codes], time.monotonic() + seconds, at_once)


@pytest.mark.usefixtures("scripts")
def test_commands_are_stopped_when_time_is_up_and_an_exit_code_of_their_own_is_told():
    assert run_for(3, OBEYS.format(code=130)) == make_table.STOPPED
    assert run_for(3, OBEYS.format(code=130), OBEYS.format(code=2), at_once=2) == 2
    assert run_for(60, "raise SystemExit(2)") == 2
    assert run_for(60, "pass") == 0
    assert run_for(-1, "raise SystemExit(2)") == make_table.STOPPED  # not even begun


@pytest.mark.usefixtures("scripts")
def test_after_a_failure_what_runs_is_let_finish_and_nothing_more_is_begun(tmp_path: Path):
    leaves = "import time; time.sleep({seconds}); open({path!r}, 'w')"
    beside, after = tmp_path / "beside", tmp_path / "after"
    codes = ["raise SystemExit(2)", leaves.format(seconds=2, path=str(beside))]
    assert run_for(60, *codes, leaves.format(seconds=0, path=str(after)), at_once=2) == 2
    assert beside.exists()
    assert not after.exists()


@pytest.mark.usefixtures("scripts")
def test_when_time_is_up_after_a_failure_what_runs_is_stopped_too(tmp_path: Path):
    begun, stopped = tmp_path / "begun", tmp_path / "stopped"
    waits = f"import time\nopen({str(begun)!r}, 'w')\ntry: time.sleep(60)\nfinally: open({str(stopped)!r}, 'w')"
    obeys = f"import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))\n{waits}"
    assert run_for(3, "raise SystemExit(2)", obeys, at_once=2) == 2
    assert begun.exists()
    assert stopped.exists()


@pytest.mark.usefixtures("scripts")
def test_as_many_commands_as_asked_for_run_side_by_side(tmp_path: Path):
    """Each waits for the other's file, so one after the other they would never end."""
    meets = "import os, time\nopen({own!r}, 'w')\nwhile not os.path.exists({other!r}): time.sleep(0.01)"
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    codes = [meets.format(own=one, other=two), meets.format(own=two, other=one)]
    assert run_for(60, *codes, at_once=2) == 0
    assert run_for(1, meets.format(own=one, other=str(tmp_path / "nobody's")), at_once=1) == make_table.STOPPED


@pytest.mark.usefixtures("scripts")
def test_no_stage_begins_before_the_one_it_needs_has_succeeded(capsys):
    fails = [[["pass"]], [["raise SystemExit(2)"]], [["pass # not begun"]]]
    assert make_table.carry_out(fails, float("inf"), at_once=3) == 2
    assert capsys.readouterr().out == "norml pass\nnorml raise SystemExit(2)\n"
    assert make_table.carry_out([[["pass"]]], time.monotonic() - 1) == make_table.TRY_AGAIN
