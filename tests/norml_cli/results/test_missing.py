"""Which runs are missing, in which order, and how long they may take."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from norml_cli.files.errors import UserError
from norml_cli.registry.protocol import ID_PATTERN
from norml_cli.registry.resolving import Registry
from norml_cli.results.missing import grid_name, plan_runs, plan_trials, runs_of
from norml_cli.results.store import Results, write_record
from tests.helpers.made_records import made_record, made_registry

Keep = Callable[..., Path]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return made_registry(tmp_path / "registry")


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path / "results")


@pytest.fixture
def keep(registry: Registry, results: Results) -> Keep:
    """Write a made record, which took 12 s for 2,000 outer steps, to its place."""

    def kept(method: str, **settings: object) -> Path:
        record = made_record(registry, method, [1, 2, 3, 4], **settings)
        path = results.run_path(record.spec, record.seed)
        write_record(path, record)
        return path

    return kept


def test_a_table_needs_each_run_that_it_shows_once(registry: Registry):
    specs = [item.spec for item in runs_of(registry, registry.table("tiny-table"))]
    methods = ["maml-constant-lr", "norml", "norml-zero-cell"]
    assert [(spec.method, spec.benchmark, spec.shots) for spec in specs] == [(m, "tiny", 1) for m in methods]


def test_the_first_seed_of_all_runs_comes_first_and_finished_runs_are_skipped(
    registry: Registry, results: Results, keep: Keep
):
    items = [registry.resolve(method, "tiny", 1) for method in ("norml", "norml-zero-cell")]
    finished = keep("norml", seed=1)
    plan = plan_runs(results, items, [1, 0])
    missing = plan.missing
    assert plan.finished == [finished]
    assert [(run.item.spec.method, run.seed) for run in missing] == [
        ("norml-zero-cell", 1),
        ("norml", 0),
        ("norml-zero-cell", 0),
    ]
    assert missing[1].path == results.folder / "tiny" / "1-shot" / "norml" / "seed-0.json"
    assert [run.expected_s for run in missing] == [None, 12.0, None]


def test_a_shorter_run_takes_as_much_less(registry: Registry, results: Results, keep: Keep):
    keep("norml", seed=1)
    shorter = registry.resolve("norml", "tiny", 1, {"outer_steps": 500})
    (run,) = plan_runs(results, [shorter], [0]).missing
    assert run.expected_s == 3.0


def test_records_of_other_values_and_damaged_ones_are_all_told(registry: Registry, results: Results, keep: Keep):
    other, damaged = keep("norml", outer_steps=500), keep("norml-zero-cell")
    damaged.write_text(damaged.read_text()[:-10])
    items = [registry.resolve(method, "tiny", 1) for method in ("norml", "norml-zero-cell")]
    with pytest.raises(UserError) as raised:
        plan_runs(results, items, [0])
    first, second = str(raised.value).splitlines()
    assert first.startswith(f"{other}: is a finished run with other values")
    assert second.startswith(f"{damaged}: is not JSON")


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"inner_lr": 0.2}, "inner-lr-0-2"),
        ({"inner_steps": 3, "initial_weight_std": "he"}, "inner-steps-3-initial-weight-std-he"),
        ({"first_order": True}, "first-order-true"),
        ({"inner_lr": 1e-05}, r"inner-lr-1e-05-[0-9a-f]{8}"),  # 1e-05 and 1e05 differ
        ({"hidden_sizes": [64, 32]}, r"hidden-sizes-64-32-[0-9a-f]{8}"),
        (
            dict.fromkeys(("inner_steps", "inner_steps_test", "validate_every", "outer_steps"), 2),
            r"[a-z0-9-]+-[0-9a-f]{8}",
        ),
    ],
)
def test_a_run_of_a_grid_is_named_by_its_values(registry: Registry, values: dict, name: str):
    item = replace(registry.resolve("norml", "tiny", 1, values), varied=tuple(values))
    found = grid_name(item)
    assert re.fullmatch(name, found)
    assert re.fullmatch(ID_PATTERN, found)
    assert len(found) <= 64
    assert grid_name(replace(item, varied=())) is None


def test_runs_of_a_grid_lie_beside_each_other(registry: Registry, results: Results):
    items = [replace(registry.resolve("norml", "tiny", 1, {"inner_lr": rate}), varied=("inner_lr",)) for rate in (1, 2)]
    missing = plan_runs(results, items, [0]).missing
    assert [each.path.parent.name for each in missing] == ["norml+inner-lr-1-0", "norml+inner-lr-2-0"]
    assert [each.name for each in missing] == ["inner-lr-1-0", "inner-lr-2-0"]


def test_trials_of_a_study_lie_in_its_folder(registry: Registry, results: Results):
    item = registry.resolve("norml", "tiny", 1, {"inner_lr": 0.2})
    first, second = plan_trials(results, "rates", [item], [0, 1]).missing
    assert first.path == results.folder / "studies/rates/1-shot/norml/inner_lr=0.2-seed-0.json"
    assert (first.study, first.name, first.expected_s, second.seed) == ("rates", None, None, 1)
    first.path.parent.mkdir(parents=True)
    first.path.write_text("{}")  # told of by `norml study`, which reads it
    assert [each.seed for each in plan_trials(results, "rates", [item], [0, 1]).missing] == [1]
