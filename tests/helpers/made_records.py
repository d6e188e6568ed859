"""A small registry and made run records: four test episodes of ten queries, so that every number can be checked."""

from pathlib import Path
from typing import Any

import yaml

from norml.statistics import FORMULA, interval_95
from norml_cli.registry.evaluating import changes, evaluated
from norml_cli.registry.reading import builtin_registry, read_registry
from norml_cli.registry.resolving import Registry
from norml_cli.results.evaluations import EvaluationEpisodes, EvaluationRecord
from norml_cli.results.records import SCHEMA_VERSION, Origin, RunRecord
from norml_cli.results.store import Results, evaluation_path, stored_digest, write_record

QUERIES = 10  # n_way 5 x queries_per_class 2
OUTER_STEPS = 2000
METHODS = ("maml-constant-lr", "norml", "norml-zero-cell")

_CHOSEN = "chosen: for tests"
_PROTOCOL = {
    "n_way": 5,
    "queries_per_class": 2,
    "rotations": "none",
    "hidden_sizes": [8],
    "batch_norm_scale": True,
    "batch_norm_epsilon": 0.001,
    "query_statistics": "query",
    "initial_weight_std": "he",
    "inner_lr": 0.4,
    "inner_steps": 1,
    "inner_steps_test": 1,
    "first_order": False,
    "meta_batch_size": 4,
    "outer_steps": OUTER_STEPS,
    "outer_lr": 0.001,
    "outer_schedule": "constant",
    "gradient_clip": None,
    "validate_every": 1000,
    "validation_episodes": 4,
    "test_episodes": 4,
    "episode_seed": 0,
}


def made_protocol() -> dict[str, Any]:
    """The protocol of the benchmark `tiny`, as an entry writes it."""
    return {key: {"value": value, "source": _CHOSEN} for key, value in _PROTOCOL.items()}


def made_benchmark() -> dict[str, Any]:
    return {
        "id": "tiny",
        "title": "Tiny",
        "citation": "this project",
        "dataset": "glyphs",
        "shots": [1, 5],
        "protocol": made_protocol(),
    }


def made_table() -> dict[str, Any]:
    """Two methods of ours, one row of a published method alone, and one column without a benchmark."""
    return {
        "id": "tiny-table",
        "title": "Table 9: 50% & more",
        "citation": "Nobody 2020, Table 9",
        "reference": "maml-constant-lr",
        "columns": [
            {"title": "1-shot", "benchmark": "tiny", "shots": 1},
            {"title": "elsewhere", "shots": 5},
        ],
        "rows": [
            {
                "title": "Published_only",
                "published": {"1-shot": "50.5 +- 1.25", "elsewhere": "60.2"},
                "citation": "Nobody 2020",
            },
            {
                "title": "MAML | const",
                "method": "maml-constant-lr",
                "published": {"1-shot": "48.0"},
                "citation": "Nobody 2020",
            },
            {"title": "NORML", "method": "norml", "published": {"1-shot": "60.2"}, "citation": "Nobody 2020"},
            {"title": "NORML (zero cell)", "method": "norml-zero-cell", "citation": "Nobody 2020"},
        ],
    }


def write_entry(folder: Path, kind: str, entry: dict[str, Any]) -> Path:
    """Write `entry` where a registry folder holds it."""
    path = folder / kind / f"{entry['id']}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(entry, sort_keys=False), encoding="utf-8")
    return path


def made_registry(folder: Path, **changed: Any) -> Registry:
    """The built-in entries, with the benchmark `tiny` and the table `tiny-table` (`changed`) from `folder`."""
    write_entry(folder, "benchmarks", made_benchmark())
    write_entry(folder, "tables", made_table() | changed)
    return read_registry([builtin_registry(), folder])


def made_content(
    registry: Registry,
    method: str,
    correct: list[int],
    *,
    shots: int = 1,
    seed: int = 0,
    test_hash: str = "episodes-a",
    benchmark: str = "tiny",
    **overrides: Any,
) -> dict[str, Any]:
    """A record's JSON content; `overrides` are those of --set."""
    resolved = registry.resolve(method, benchmark, shots, overrides)
    spec = resolved.spec
    queries = spec.protocol.n_way * spec.protocol.queries_per_class
    interval = interval_95(count / queries for count in correct)
    return {
        "schema_version": SCHEMA_VERSION,
        "status": "finished",
        "spec": spec.model_dump(mode="json"),
        "spec_hash": spec.hash(),
        "changed": list(resolved.changed),
        "seed": seed,
        "dataset": {"id": spec.dataset, "fingerprint": "made", "content_hash": "made"},
        "episodes": {
            "validation_hash": "validation",
            "test_hash": test_hash,
            "n_test": len(correct),
            "queries_per_episode": queries,
        },
        "correct": correct,
        "accuracy": {
            "mean": interval.mean,
            "half_width": interval.half_width,
            "n": interval.n,
            "formula": FORMULA,
        },
        "curve": [
            {
                "step": spec.protocol.outer_steps,
                "loss": 1.25,
                "train_accuracy": 0.5,
                "validation_accuracy": 0.5,
                "validation_half_width": 0.1,
                "outer_lr": 0.001,
            }
        ],
        "best_step": spec.protocol.outer_steps,
        "parameters": {"learner": 6453, "meta_learner": 100},
        "cost": {
            "wall_s": 12.0,
            "training_s": 10.0,
            "evaluation_s": 1.0,
            "steps_per_s": 200.0,
            "peak_memory_bytes": 1_000_000,
        },
        "device": "cpu (x86_64, 2 threads)",
        "versions": {"norml": "0.1.0", "python": "3.11.7", "torch": "2.11.0"},
        "git": {"commit": None, "dirty": None},
        "command": f"norml run {method} --benchmark tiny",
        "created": "2026-01-31T12:00:00+00:00",
    }


def made_record(registry: Registry, method: str, correct: list[int], **settings: Any) -> RunRecord:
    """A record as `norml run` would have written it."""
    return RunRecord.model_validate(made_content(registry, method, correct, **settings))


def written_run(
    folder: Path, registry: Registry, method: str, correct: list[int], seed: int = 0, **settings: Any
) -> tuple[Path, RunRecord]:
    """A record in its place below `folder`."""
    record = made_record(registry, method, correct, seed=seed, **settings)
    path = Results(folder).run_path(record.spec, seed)
    write_record(path, record)
    return path, record


def write_evaluation(
    registry: Registry, run: tuple[Path, RunRecord], correct: list[int], episodes: str = "b", **values: Any
) -> None:
    """The record of an evaluation of the weights of `run` by `values`, on `episodes`."""
    path, record = run
    spec = evaluated(registry, record.spec, values, benchmark=None, shots=None)
    facts = {key: getattr(record, key) for key in ("device", "versions", "git", "command")}
    origin = Origin(spec=spec, changed=[], seed=record.seed, deterministic=None, repeatability="", **facts)
    changed = changes(spec, record.spec)
    found = EvaluationRecord.of(
        origin,
        stored_digest(path),
        changed=changed,
        correct=correct,
        split="meta_test",
        dataset=record.dataset,
        episodes=EvaluationEpisodes(hash=episodes, n=len(correct), queries_per_episode=spec.queries_per_episode),
    )
    write_record(evaluation_path(path, changed, "meta_test"), found)
