"""The script that makes a table: which commands it gives, and what it does when its time is up."""

import sys
import time
from pathlib import Path

import make_table

from norml_cli.registry import builtin_registry, read_registry

OBEYS = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit({code})); print(1); time.sleep(60)"


def planned(table: str, source: Path | None = None) -> list[str]:
    registry = read_registry([builtin_registry()])
    plan = make_table.commands(
        registry, registry.table(table), source=source, seeds=[0, 1], options=["--device", "cpu"]
    )
    return [" ".join(arguments) for arguments in plan]


def test_table_1_needs_images_three_backbones_and_their_runs():
    commands = planned("table-1", Path("raw"))
    assert commands[:4] == [
        "prepare mini-imagenet --source raw",
        "pretrain mini-imagenet --recipe mtl-2019 --device cpu",
        "pretrain mini-imagenet --recipe rfs-2020 --device cpu",
        "pretrain mini-imagenet --recipe resnet12-narrow --device cpu",
    ]
    methods = "norml maml-constant-lr logistic-regression cosine-classifier nearest-centroid"
    assert commands[4] == f"run {methods} --benchmark mini-imagenet-5way --shots 1 --seed 0 --device cpu"
    assert len(commands) == 4 + 3 * 2 * 2 + 1  # benchmarks, shots, seeds
    assert commands[-1] == "report --table table-1"


def test_table_2_needs_its_data_set_and_all_seven_methods():
    commands = planned("table-2")
    assert commands[0] == "prepare omniglot"
    assert len(commands) == 1 + 2 * 2 + 1
    assert len(commands[1].split(" --")[0].split()) == 1 + 7


def run_for(seconds: float, code: str) -> int:
    return make_table._run_until(time.monotonic() + seconds, [sys.executable, "-c", code])


def test_a_command_is_stopped_when_time_is_up_and_its_own_exit_code_is_told():
    assert run_for(3, OBEYS.format(code=130)) == make_table.STOPPED
    assert run_for(3, OBEYS.format(code=2)) == 2
    assert run_for(60, "raise SystemExit(2)") == 2
    assert run_for(60, "pass") == 0
    assert run_for(-1, "raise SystemExit(2)") == make_table.STOPPED  # not even begun


def test_it_stops_at_the_first_command_that_fails(monkeypatch, capsys):
    codes = iter([0, 0, 2])
    monkeypatch.setattr(make_table, "_run_until", lambda *_: next(codes))
    assert make_table.carry_out([["a"], ["b"], ["c"], ["d"]], float("inf")) == 2
    assert capsys.readouterr().out == "norml a\nnorml b\nnorml c\n"
    monkeypatch.setattr(make_table, "_run_until", lambda *_: make_table.STOPPED)
    assert make_table.carry_out([["a"]], float("inf")) == make_table.TRY_AGAIN
