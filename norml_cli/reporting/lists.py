"""Lists of runs and of a study's trials, as text."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from norml.statistics import Interval, paired_difference
from norml_cli.files.suggestions import suggested
from norml_cli.registry.resolving import Registry
from norml_cli.registry.specs import RunSpec
from norml_cli.reporting.formats import marked, marks_of, note_lines, percent, render_sheets, require_format
from norml_cli.reporting.sheets import Grid, Sheet
from norml_cli.results.groups import protocol_differences, steps_of
from norml_cli.results.records import RunRecord, TrialRecord

RUN_KEYS = {
    "benchmark": "registry id",
    "shots": "K",
    "method": "registry id, or METHOD+NAME for a run with a name",
    "seed": "seed of initial weights and training episodes",
    "accuracy": "mean over test episodes",
    "half_width": "half-width of its 95% interval over test episodes",
    "n_episodes": "number of test episodes",
    "outer_steps": "outer steps of this run",
    "declared_outer_steps": "outer steps that the registry declares; empty if it does not declare this run",
    "device": "device of the run",
    "created": "time in UTC",
    "spec_hash": "hash of the protocol; equal for runs with the same protocol",
    "notes": "differences from the declared protocol",
    "training_s": "seconds in outer steps",
    "record": "path of the record",
}

TRIAL_KEYS = {
    "method": "registry id",
    "benchmark": "registry id",
    "shots": "K",
    "seed": "seed of initial weights and training episodes",
    "values": "values that the study varied, by key",
    "outer_steps": "outer steps of this trial",
    "best_step": "step of its best meta-validation",
    "validation_accuracy": "mean over the meta-validation episodes at best_step",
    "validation_half_width": "half-width of its 95% interval over these episodes",
    "minus_best": "paired difference from the best trial with the same method, shots and episodes; null without counts",
    "minus_best_half_width": "half-width of its 95% interval",
    "mean_over_seeds": "mean of validation_accuracy over the seeds of this trial",
    "n_seeds": "number of seeds with these values",
    "steps_per_s": "outer steps per second",
    "device": "device of the trial",
    "spec_hash": "hash of the protocol; equal for trials with the same protocol",
}


def render_runs(registry: Registry, runs: Sequence[tuple[Path, RunRecord]], format_: str, *, width: int) -> str:
    """The list of `runs` as text with a final newline. Raises UserError for an unknown format."""
    require_format(format_)
    if not runs and format_ == "rich":
        return f"no finished runs; `{suggested('norml run METHOD')}` makes one\n"
    values = [_run_values(registry, *run) for run in runs]
    return render_sheets([_runs_sheet(values)], RUN_KEYS, values, "runs", format_, width=width)


def runs_sheet(registry: Registry, runs: Sequence[tuple[Path, RunRecord]]) -> Sheet:
    """The list of `runs`, with notes on differences from the declared protocol."""
    return _runs_sheet([_run_values(registry, *run) for run in runs])


def render_trials(trials: Sequence[TrialRecord], format_: str, *, width: int) -> str:
    """A study's trials as text, as `render_runs`; for each method and number of shots the best come first."""
    require_format(format_)
    varied = sorted({key for trial in trials for key in trial.changed})
    values = [_trial_values(trial, varied) for trial in trials]
    _add_means(values)
    _add_pairs(trials, values)
    values.sort(key=lambda v: (v["benchmark"], v["shots"], v["method"], -v["validation_accuracy"]))
    sheets = [_trials_sheet(values)]
    if any(trial["n_seeds"] > 1 for trial in values):
        sheets.append(_means_sheet(values, [key for key in varied if key != "outer_steps"]))
    return render_sheets(sheets, TRIAL_KEYS, values, "trials", format_, width=width)


# -------------------------------------------------------------------------------------------------------------- runs


def _run_values(registry: Registry, path: Path, record: RunRecord) -> dict[str, Any]:
    declared = _declared(registry, record.spec)
    steps = record.spec.protocol.outer_steps
    return {
        "benchmark": record.spec.benchmark,
        "shots": record.spec.shots,
        "method": record.label,
        "seed": record.seed,
        "accuracy": record.accuracy.mean,
        "half_width": record.accuracy.half_width,
        "n_episodes": record.accuracy.n,
        "outer_steps": steps,
        "declared_outer_steps": declared.protocol.outer_steps if declared else None,
        "device": record.device,
        "created": record.created,
        "spec_hash": record.spec_hash,
        "notes": _run_notes(record.spec, declared),
        "training_s": record.cost.training_s,
        "record": str(path),
    }


def _declared(registry: Registry, spec: RunSpec) -> RunSpec | None:
    """The registry's current spec for this run; None if it declares no such run."""
    bench = registry.benchmarks.get(spec.benchmark)
    if spec.method not in registry.methods or bench is None or spec.shots not in bench.shots:
        return None
    return registry.resolve(spec.method, spec.benchmark, spec.shots).spec


def _run_notes(spec: RunSpec, declared: RunSpec | None) -> list[str]:
    """Differences from the declared protocol, except fewer outer steps, which have their own column."""
    if declared is None:
        return ["not declared by this registry"]
    if spec.protocol.outer_steps < declared.protocol.outer_steps:
        protocol = declared.protocol.model_copy(update={"outer_steps": spec.protocol.outer_steps})
        declared = declared.model_copy(update={"protocol": protocol})
    return protocol_differences(spec, declared)


def _runs_sheet(runs: Sequence[Mapping[str, Any]]) -> Sheet:
    marks = marks_of(note for run in runs for note in _joined_notes(run))
    headers = ["benchmark", "shots", "method", "device", "seed", "accuracy", "outer steps", "date"]
    wide = Grid(headers, [[*_place(run), *_result(run, marks)] for run in runs], n_left=4)
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for run in runs:
        benchmark, shots, _, device = _place(run)
        groups.setdefault((benchmark, shots, device), []).append(run)
    pieces = [
        Grid(
            ["method", *headers[4:]],
            [[run["method"], *_result(run, marks)] for run in members],
            title=f"{benchmark}, {shots}-shot, on {device}",
        )
        for (benchmark, shots, device), members in groups.items()
    ]
    legend = ["accuracy: meta-test, in percent, with its 95% interval over test episodes"]
    return Sheet(wide, pieces, [*legend, *note_lines(marks)])


def _place(run: Mapping[str, Any]) -> list[str]:
    return [run["benchmark"], str(run["shots"]), run["method"], run["device"]]


def _result(run: Mapping[str, Any], marks: Mapping[str, str]) -> list[str]:
    accuracy = marked(percent(run["accuracy"], run["half_width"]), _joined_notes(run), marks)
    steps = steps_of(run["outer_steps"], run["declared_outer_steps"])
    return [str(run["seed"]), accuracy, steps, run["created"][:10]]


def _joined_notes(run: Mapping[str, Any]) -> list[str]:
    return ["; ".join(run["notes"])] if run["notes"] else []


# ------------------------------------------------------------------------------------------------------------ trials


def _trial_values(trial: TrialRecord, varied: Sequence[str]) -> dict[str, Any]:
    best = trial.best
    return {
        "method": trial.spec.method,
        "benchmark": trial.spec.benchmark,
        "shots": trial.spec.shots,
        "seed": trial.seed,
        "values": trial.spec.values_of(key for key in varied if key != "outer_steps"),
        "outer_steps": trial.spec.protocol.outer_steps,
        "best_step": best.step,
        "validation_accuracy": best.validation_accuracy,
        "validation_half_width": best.validation_half_width,
        "steps_per_s": trial.cost.steps_per_s,
        "device": trial.device,
        "spec_hash": trial.spec_hash,
    }


def _add_means(values: list[dict[str, Any]]) -> None:
    """Add to each trial the number of its seeds and their mean."""
    by_spec: dict[str, list[float]] = {}
    for trial in values:
        by_spec.setdefault(trial["spec_hash"], []).append(trial["validation_accuracy"])
    for trial in values:
        of_seeds = by_spec[trial["spec_hash"]]
        trial.update(mean_over_seeds=sum(of_seeds) / len(of_seeds), n_seeds=len(of_seeds))


def _add_pairs(trials: Sequence[TrialRecord], values: list[dict[str, Any]]) -> None:
    """Add to each trial its difference from the best trial of its method on the same meta-validation episodes."""
    best: dict[tuple[Any, ...], TrialRecord] = {}
    for trial in sorted(trials, key=lambda trial: trial.best.validation_accuracy, reverse=True):
        best.setdefault(_paired_with(trial), trial)
    for trial, each in zip(trials, values, strict=True):
        difference = _minus(trial, best[_paired_with(trial)])
        each["minus_best"] = difference and difference.mean
        each["minus_best_half_width"] = difference and difference.half_width


def _paired_with(trial: TrialRecord) -> tuple[Any, ...]:
    return trial.spec.method, trial.spec.shots, trial.validation_hash, trial.correct is None


def _minus(trial: TrialRecord, best: TrialRecord) -> Interval | None:
    if trial is best or trial.correct is None or best.correct is None:
        return None
    return paired_difference(trial.correct, best.correct).divided_by(trial.spec.queries_per_episode)


def _means_sheet(trials: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> Sheet:
    """A row for each trial with the mean over its seeds, the best first."""
    rows = {trial["spec_hash"]: trial for trial in trials}.values()
    ordered = sorted(rows, key=lambda trial: (trial["method"], trial["shots"], -trial["mean_over_seeds"]))
    cells = [
        [
            trial["method"],
            str(trial["shots"]),
            *(_value_text(trial["values"].get(key, "")) for key in keys),
            str(trial["n_seeds"]),
            f"{100 * trial['mean_over_seeds']:.2f}",
        ]
        for trial in ordered
    ]
    footer = ["mean: best meta-validation accuracy in percent, mean over seeds"]
    return Sheet(Grid(["method", "shots", *keys, "seeds", "mean"], cells), footer=footer)


def _trials_sheet(trials: Sequence[Mapping[str, Any]]) -> Sheet:
    keys = list(dict.fromkeys(key for trial in trials for key in trial["values"]))
    paired = any(trial["minus_best"] is not None for trial in trials)
    numbers = ["seed", "meta-validation", *["minus the best"] * paired, "at step"]
    headers = ["method", "shots", *keys, *numbers]
    rows = [[trial["method"], str(trial["shots"]), *_trial_numbers(trial, keys, paired=paired)] for trial in trials]
    groups = itertools.groupby(trials, key=lambda trial: (trial["method"], trial["shots"]))
    pieces = [_trials_piece(f"{method}, {shots}-shot", list(group), numbers) for (method, shots), group in groups]
    footer = ["meta-validation: accuracy in percent with its 95% interval over episodes, at the best step"]
    if paired:
        footer.append("minus the best: paired difference in points from the method's best trial on the same episodes")
    return Sheet(Grid(headers, rows), pieces, footer)


def _trials_piece(title: str, trials: Sequence[Mapping[str, Any]], headers: Sequence[str]) -> Grid:
    """For a narrow terminal: the title has the most common values, and each row names only its differences."""
    shared = {
        key: Counter(_value_text(trial["values"].get(key)) for trial in trials).most_common(1)[0][0]
        for key in trials[0]["values"]
    }
    paired = len(headers) > len(("seed", "meta-validation", "at step"))
    rows = [[_changes(trial["values"], shared), *_trial_numbers(trial, [], paired=paired)] for trial in trials]
    return Grid(["changed", *headers], rows, title=f"{title}: {', '.join(f'{k} {v}' for k, v in shared.items())}")


def _changes(values: Mapping[str, Any], shared: Mapping[str, str]) -> str:
    texts = {key: _value_text(value) for key, value in values.items()}
    return ", ".join(f"{key} {value}" for key, value in texts.items() if value != shared.get(key)) or "-"


def _value_text(value: Any) -> str:
    return f"{value:,}" if type(value) is int else str(value)


def _trial_numbers(trial: Mapping[str, Any], keys: Sequence[str], *, paired: bool) -> list[str]:
    values = [_value_text(trial["values"].get(key, "")) for key in keys]
    accuracy = percent(trial["validation_accuracy"], trial["validation_half_width"])
    behind = trial["minus_best"]
    text = "-" if behind is None else percent(behind, trial["minus_best_half_width"], sign="+")
    step = f"{trial['best_step']:,} of {trial['outer_steps']:,}"
    return [*values, str(trial["seed"]), accuracy, *[text] * paired, step]
