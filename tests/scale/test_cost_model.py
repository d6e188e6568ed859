"""The arithmetic of docs/scaling.py, by hand; its tables are held to the records by the test of the made pages."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def scaling() -> ModuleType:
    sys.path.insert(0, str(DOCS))
    try:
        import scaling  # noqa: PLC0415 - a script of the docs folder
    finally:
        sys.path.remove(str(DOCS))
    return scaling


def test_a_sum_takes_hops_and_bandwidth(scaling: ModuleType):
    assert scaling.sum_over_gpus_s(1, 1e9) == 0
    assert scaling.sum_over_gpus_s(2, 0) == pytest.approx(20e-6)  # up and down one level
    assert scaling.sum_over_gpus_s(8, 0) == pytest.approx(60e-6)  # three levels
    assert scaling.sum_over_gpus_s(8, 450e6) == pytest.approx(60e-6 + 1.75e-3)
    assert scaling.sum_over_gpus_s(16, 50e6) == pytest.approx(80e-6 + 1.875e-3)  # between machines


def test_what_a_step_sends(scaling: ModuleType):
    models = {model.name: model for model in scaling.models()}
    maml = models["maml-constant-lr, omniglot-20way, 5-shot"]
    assert (maml.values, maml.bytes, maml.most_gpus) == (247_572, 990_288, 16)
    whole, own = models["rfs-2020, whole-batch"], models["rfs-2020, per-rank"]
    assert whole.bytes == own.bytes
    assert whole.messages_s(8) - own.messages_s(8) == pytest.approx(64 * 60e-6)  # 16 batch norms, 4 sums each


def test_cells_an_hour_are_those_that_ended_within_the_span(scaling: ModuleType, monkeypatch: pytest.MonkeyPatch):
    made = [
        SimpleNamespace(created="2026-01-01T00:10:00+00:00", cost=SimpleNamespace(wall_s=600.0)),
        SimpleNamespace(created="2026-01-01T00:20:00+00:00", cost=SimpleNamespace(wall_s=900.0)),
    ]
    monkeypatch.setattr(scaling, "gpu_records", lambda: made)
    assert scaling.cells_an_hour() == pytest.approx(6)  # two in twenty minutes


def test_calls_are_counted_by_what_they_are_for():
    from tests.benchmarks.scaling import START, requests_by_part  # noqa: PLC0415 - torch

    lines = [
        '1 openat(AT_FDCWD, "/usr/lib/libc.so")',
        '1 openat(AT_FDCWD, "/t/counted/x/.seed-0.status.a.part")',
        '1 rename("/t/counted/x/.seed-0.status.a.part", "/t/counted/x/seed-0.status")',
        '1 openat(AT_FDCWD, "/t/counted/x/.seed-0.status.b.part")',
        '1 rename("/t/counted/x/.seed-0.status.b.part", "/t/counted/x/seed-0.status")',
        '1 unlink("/t/counted/x/seed-0.checkpoint")',
        '1 rename("/t/counted/x/a", "/t/counted/x/seed-0.checkpoint")',
        '1 openat(AT_FDCWD, "/t/counted/x/seed-0.json")',
        '1 openat(AT_FDCWD, "/t/home/cache.h5")',
    ]
    assert requests_by_part(lines) == {
        START: 1,
        "one status file": 2,
        "one checkpoint": 2,
        "record, weights and lock": 1,
        "caches": 1,
    }
