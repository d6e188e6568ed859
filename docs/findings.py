"""The numbers that docs/findings.md.jinja speaks of, each taken from a record, a trial, an inspection or the registry.

What is asked for and not there raises an error, and so does a lead that is none, so that no sentence outlives the
record it rests on. Accuracies and differences are returned as the page prints them: percent and points.
"""

import csv
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from norml_cli.registry.resolving import Registry
from norml_cli.reporting.formats import percent
from norml_cli.results.comparisons import Difference, compare_table
from norml_cli.results.evaluated import Evaluations
from norml_cli.results.records import CurvePoint, RunRecord
from norml_cli.results.store import Results

BENCHMARK, TABLE = "omniglot-20way", "table-2"


class Numbers:
    """Read from the records under `results` once, looked up by name."""

    def __init__(self, registry: Registry, results: Results) -> None:
        self._registry, self._folder = registry, results.folder
        runs = results.runs()
        self.records = [record for _, record in runs]
        self.evaluations = Evaluations(runs, results.scan_evaluations().sound())
        self.trials = [trial for _, trial in results.scan_trials().sound()]
        table = registry.table(TABLE)
        self.comparisons = compare_table(registry, table, self.records)
        shots = {column.title: column.shots for column in table.columns}
        self._published = {
            (row.method, shots[title]): 100 * published.accuracy
            for row in table.rows
            for title, published in row.published.items()
        }

    def value(self, method: str, shots: int, key: str) -> Any:
        """What the registry declares."""
        [value] = self._registry.resolve(method, BENCHMARK, shots).spec.values_of([key]).values()
        return f"{value:,}" if isinstance(value, int) else value

    def accuracy(self, method: str, shots: int) -> str:
        """On meta-test, mean over seeds: '90.53'."""
        return f"{100 * self._over_runs(method, shots, lambda run: run.accuracy.mean):.2f}"

    def passing(self, method: str, shots: int) -> str:
        """The same, no less than what the paper prints. Raises ValueError where it is."""
        ours = self.accuracy(method, shots)
        if float(ours) < self._published[method, shots]:
            raise ValueError(f"{method} falls short of the paper at {shots} shots; say something else")
        return ours

    def validation_at(self, method: str, shots: int, step: int) -> str:
        """On meta-validation, of a run's weights after so many outer steps, mean over seeds: '90.7'."""
        return f"{100 * self._over_runs(method, shots, lambda run: _point(run, step).validation_accuracy):.1f}"

    def best_validation(self, method: str, shots: int) -> str:
        """On meta-validation, of the weights that a run keeps, mean over seeds: '90.8'."""
        return f"{100 * self._over_runs(method, shots, lambda run: run.best.validation_accuracy):.1f}"

    def training_at(self, method: str, shots: int, step: int) -> str:
        """On queries of training episodes, over the steps since the meta-validation before, mean over seeds: '97.7'."""
        return f"{100 * self._over_runs(method, shots, lambda run: _train_accuracy(run, step)):.1f}"

    def n_seeds(self, method: str, shots: int) -> int:
        """How often it was trained."""
        return len(self._runs(method, shots))

    def farthest_seeds(self, methods: Sequence[str], shots: int) -> str:
        """How far apart two seeds' accuracies of one method lie at most: '0.19' points."""
        accuracies = [[run.accuracy.mean for run in self._runs(method, shots)] for method in methods]
        return f"{100 * max(max(of_method) - min(of_method) for of_method in accuracies):.2f}"

    def paper(self, method: str, shots: int) -> str:
        """What the paper prints: '90.3'."""
        return f"{self._published[method, shots]:.1f}"

    def lead(self, a: str, b: str, shots: int) -> str:
        """How far `a` is ahead of `b` on the same test episodes, with its interval: '1.46 ± 0.15'.

        Raises ValueError unless it is, told from zero with the number of comparisons taken into account.
        """
        sign, difference = self._difference(a, b, shots)
        lead = sign * difference.interval.mean
        if not difference.settled or lead < 0:
            raise ValueError(f"{a} is not ahead of {b} at {shots} shots; say something else")
        return percent(lead, difference.interval.half_width)

    def level(self, a: str, b: str, shots: int) -> str:
        """The difference of two that are not told apart: '-0.02 ± 0.14'. Raises ValueError if they are."""
        sign, difference = self._difference(a, b, shots)
        if difference.settled:
            raise ValueError(f"{a} and {b} are told apart at {shots} shots; say something else")
        return percent(sign * difference.interval.mean, difference.interval.half_width, sign="+")

    def paper_lead(self, a: str, b: str, shots: int) -> str:
        """How far `a` is ahead of `b` in the paper: '4.0'. Raises ValueError where it is behind."""
        lead = self._published[a, shots] - self._published[b, shots]
        if lead < 0:
            raise ValueError(f"{a} is behind {b} in the paper at {shots} shots; say something else")
        return f"{lead:.1f}"

    def trial(self, study: str, method: str, shots: int, outer_steps: int, /, **values: Any) -> str:
        """The best accuracy on meta-validation of the trial that `norml study` makes with these values: '81.8'."""
        spec = self._registry.resolve(method, BENCHMARK, shots, {"outer_steps": outer_steps, **values}).spec
        [trial] = [trial for trial in self.trials if (trial.study, trial.spec_hash) == (study, spec.hash())]
        return f"{100 * trial.best.validation_accuracy:.1f}"

    def n_trials(self, method: str, shots: int, outer_steps: int, studies: Sequence[str]) -> int:
        """Different trials of so many outer steps in these studies."""
        return len(
            {
                trial.spec_hash
                for trial in self.trials
                if (trial.spec.method, trial.spec.shots) == (method, shots)
                and trial.study in studies
                and trial.spec.protocol.outer_steps == outer_steps
            }
        )

    def effective_rate(self, method: str, layer: int, inner_step: int, shots: int = 1) -> float:
        """What `norml inspect` found in the weights of a run."""
        return self._inspected(method, shots, "layers", "effective_rate", layer=layer, inner_step=inner_step)

    def cosine(self, method: str, layer: int, inner_step: int, shots: int = 1) -> float:
        """Of a layer's inner step to its gradient."""
        return self._inspected(method, shots, "layers", "cosine_to_gradient", layer=layer, inner_step=inner_step)

    def mean_gate(self, method: str, layer: int, inner_step: int, shots: int = 1) -> float:
        """Of NORML's gates of the error signal (delta), over examples and neurons."""
        return self._inspected(method, shots, "gates", "mean", layer=layer, inner_step=inner_step, signal="delta")

    def after_steps(self, method: str, inner_steps: int, shots: int = 1) -> str:
        """Meta-validation accuracy of a run's weights after so many inner steps: '64.5'."""
        return f"{100 * self._inspected(method, shots, 'accuracy-by-step', 'accuracy', inner_steps=inner_steps):.1f}"

    def frozen(self, method: str, case: str, shots: int = 1) -> str:
        """Meta-validation accuracy with parts of the learner left as they were: '64.5'."""
        return f"{100 * self._inspected(method, shots, 'freezing', 'accuracy', case=case):.1f}"

    def _runs(self, method: str, shots: int) -> list[RunRecord]:
        place = (method, shots, BENCHMARK)
        runs = [r for r in self.records if (r.spec.method, r.spec.shots, r.spec.benchmark) == place]
        if not runs:
            raise ValueError(f"{method} has not been run at {shots} shots")
        return runs

    def _over_runs(self, method: str, shots: int, value: Callable[[RunRecord], float]) -> float:
        return fmean(value(run) for run in self._runs(method, shots))

    def _difference(self, a: str, b: str, shots: int) -> tuple[int, Difference]:
        """+1 or -1, and the difference that it makes one of `a` from `b`: over episodes, of all seeds."""
        [pair] = [c for c in self.comparisons if c.shots == shots and {c.a, c.b} == {a, b}]
        return (1 if pair.a == a else -1), pair.over_episodes

    def _inspected(self, method: str, shots: int, name: str, column: str, /, **labels: int | str) -> float:
        """One number of a file that `norml inspect` wrote, in the row that has these labels."""
        path = self._folder / BENCHMARK / f"{shots}-shot" / method / "seed-0-inspection" / f"{name}.csv"
        with path.open(encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if all(row[key] == str(value) for key, value in labels.items())]
        [row] = rows
        return float(row[column])


def _point(run: RunRecord, step: int) -> CurvePoint:
    [point] = [point for point in run.curve if point.step == step]
    return point


def _train_accuracy(run: RunRecord, step: int) -> float:
    accuracy = _point(run, step).train_accuracy
    if accuracy is None:
        raise ValueError(f"nothing was trained before step {step}")
    return accuracy
