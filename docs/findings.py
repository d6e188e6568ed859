"""Numbers for docs/findings.md.jinja, from records, trials, inspections and the registry.

A missing number raises an error, so that no sentence stays after its record is gone. Accuracies are text in percent, as
the page prints them.
"""

import csv
import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from norml.statistics import Interval, least_difference, over_seeds
from norml_cli.files.companions import Companions
from norml_cli.files.errors import UserError
from norml_cli.registry.entries import Row, SecondTest
from norml_cli.registry.resolving import Registry
from norml_cli.reporting.formats import percent
from norml_cli.reporting.sheets import Grid, Sheet, to_markdown
from norml_cli.results.comparisons import Comparison, compare, places_of
from norml_cli.results.evaluated import Counts, Evaluations, Reached, counts_by_protocol, reached
from norml_cli.results.evaluations import EvaluationRecord
from norml_cli.results.goals import Entrant, Goal
from norml_cli.results.groups import Group, choose_runs, seeds_text
from norml_cli.results.records import CurvePoint, RunRecord
from norml_cli.results.store import Results
from norml_cli.results.tables import build_table

BENCHMARK, TABLE = "omniglot-20way", "table-2"
TESTS = {
    "as trained": "as trained: rotated classes, as many queries as shots",
    "rotations none": "no rotations",
    "queries_per_class 5": "rotated, 5 queries per class",
    "queries_per_class 15": "rotated, 15 queries per class",
    "queries_per_class 15, rotations none": "no rotations, 15 queries per class",
    "inner_steps_test 20": "rotated, 20 inner steps instead of 5",
    "query_statistics support": "rotated, batch norm by the support set alone",
}


class Numbers:
    """Numbers by name, from the records in a results folder, which is read once."""

    def __init__(self, registry: Registry, results: Results) -> None:
        self._registry, self._folder = registry, results.folder
        runs = results.runs()
        self.records = [record for _, record in runs]
        self.evaluations = Evaluations(runs, results.scan_evaluations().sound())
        self.trials = [trial for _, trial in results.scan_trials().sound()]
        table = registry.table(TABLE)
        self._families: dict[tuple[tuple[str, ...], tuple[str, int]], list[Comparison]] = {}
        self.comparisons = [
            pair for place, methods in places_of(table).items() for pair in self._compared(methods, place)
        ]
        self._table = build_table(registry, table, self.records, self.evaluations)
        shots = {column.title: column.shots for column in table.columns}
        self._published = {
            (row.method, shots[title]): 100 * published.accuracy
            for row in table.rows
            for title, published in row.published.items()
        }

    def value(self, method: str, shots: int, key: str) -> Any:
        """The registry's value of `key`."""
        [value] = self._registry.resolve(method, BENCHMARK, shots).spec.values_of([key]).values()
        return f"{value:,}" if isinstance(value, int) else value

    def accuracy(self, method: str, shots: int, benchmark: str = BENCHMARK) -> str:
        """Meta-test accuracy, mean over seeds: '90.53'."""
        return f"{100 * fmean(run.accuracy.mean for run in self._runs(method, shots, benchmark)):.2f}"

    def validation_at(self, method: str, shots: int, step: int) -> str:
        """Meta-validation accuracy after outer step `step`, mean over seeds: '90.7'."""
        return f"{100 * self._over_runs(method, shots, lambda run: _point(run, step).validation_accuracy):.1f}"

    def best_validation(self, method: str, shots: int) -> str:
        """Meta-validation accuracy of the best weights, mean over seeds: '90.8'."""
        return f"{100 * self._over_runs(method, shots, lambda run: run.best.validation_accuracy):.1f}"

    def training_at(self, method: str, shots: int, step: int) -> str:
        """Query accuracy in training, over the steps since the last meta-validation, mean over seeds: '97.7'."""
        return f"{100 * self._over_runs(method, shots, lambda run: _train_accuracy(run, step)):.1f}"

    def validated(self, method: str, benchmark: str, shots: int = 1) -> float | None:
        """The best meta-validation accuracy of a method's runs, mean over seeds, as a fraction; None: no record."""
        runs = [
            run for run in self.records if (run.label, run.spec.benchmark, run.spec.shots) == (method, benchmark, shots)
        ]
        return fmean(run.best.validation_accuracy for run in runs) if runs else None

    def tuned(self, study: str, method: str, benchmark: str) -> float | None:
        """The best meta-validation accuracy of a method's runs and its trials in a study; None without trials."""
        place = (study, method, benchmark)
        tried = [
            trial.best.validation_accuracy
            for trial in self.trials
            if (trial.study, trial.spec.method, trial.spec.benchmark) == place
        ]
        run = self.validated(method, benchmark)
        return max([*tried, *([run] if run is not None else [])], default=None) if tried else None

    def first_run(self, method: str, shots: int) -> RunRecord | None:
        """The record of the first seed; None without records."""
        return next(iter(self._found(method, shots)), None)

    def run_on_a_core(self, method: str, shots: int) -> RunRecord | None:
        """The record of the first seed trained entirely with one CPU thread; None if there is none."""
        return next(
            (run for run in self._found(method, shots) if run.threads == 1 and ", then " not in run.device), None
        )

    def seeds_range(self) -> str:
        """Range of the number of seeds in Table 2's cells: '1 to 3'."""
        counts = {len(cell.ours.runs.seeds) for _, _, cell in self._table.cells() if cell.ours}
        return str(min(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"

    def tests(self, method: str, other: str, shots: int) -> str:
        """Two methods' accuracies in each test that both have, over the seeds that have all of these tests."""
        ours, theirs = (self._by_test(each, shots) for each in (method, other))
        tests = [test for test in TESTS if test in ours and test in theirs]
        seeds = set.intersection(*({*of[test].correct} for of in (ours, theirs) for test in tests))
        rows = []
        for test in tests:
            left, right = (_of_seeds(of[test], seeds) for of in (ours, theirs))
            found, beside = reached(method, left, right), reached(other, right, None)
            accuracies = [f"{100 * each.accuracy.mean:.1f}" for each in (found, beside)]
            paired = found.minus_reference
            rows.append(
                [TESTS[test], *accuracies, percent(paired.mean, paired.half_width, sign="+") if paired else "-"]
            )
        of = ("mean of " if len(seeds) > 1 else "") + seeds_text(sorted(seeds))
        headers = [f"test ({of})", *map(self.title, (method, other)), "difference"]
        return to_markdown(Sheet(Grid(headers, rows))).rstrip()

    def _by_test(self, method: str, shots: int) -> dict[str, Counts]:
        return counts_by_protocol(Group(tuple(self._runs(method, shots))), self.evaluations)

    def backbone(self, benchmark: str) -> str:
        """The recipe of the benchmark's features."""
        backbone = self._registry.benchmark(benchmark).protocol.backbone
        if backbone is None:
            raise ValueError(f"{benchmark} has no backbone")
        return str(backbone.value)

    def n_seeds(self, method: str, shots: int, benchmark: str = BENCHMARK) -> int:
        """Number of seeds with a record."""
        return len(self._found(method, shots, benchmark))

    def title(self, method: str) -> str:
        """The method's title."""
        return self._registry.method(method).title

    def interval(self, method: str, benchmark: str, shots: int) -> Interval | None:
        """Meta-test accuracy, mean over seeds, with its interval over episodes; None without a record."""
        runs = self._found(method, shots, benchmark)
        if not runs:
            return None
        return over_seeds([run.correct for run in runs]).interval.divided_by(runs[0].episodes.queries_per_episode)

    def pair(self, a: str, b: str, benchmark: str, shots: int) -> Comparison | None:
        """The comparison of `a` and `b`, among all pairs of Table 2's methods or of a table; None without records."""
        if not all(self._found(method, shots, benchmark) for method in (a, b)):
            return None
        place = (benchmark, shots)
        every = [[row.method for row in self._rows()]]
        every += [places_of(table).get(place, []) for table in self._registry.tables.values()]
        methods = next((each for each in every if {a, b} <= set(each)), [a, b])
        for pair in self._compared(methods, place):
            if (pair.a, pair.b) == (a, b):
                return pair
            if (pair.a, pair.b) == (b, a):
                return pair.reversed()
        return compare(self._registry, [a, b], benchmark, shots, self.records)[0]

    def _compared(self, methods: Sequence[str], place: tuple[str, int]) -> list[Comparison]:
        """All pairs of those `methods` that have records at `place`; [] if some cannot be paired."""
        ran = tuple(method for method in dict.fromkeys(methods) if self._found(method, place[1], place[0]))
        if (ran, place) not in self._families:
            try:
                self._families[ran, place] = compare(self._registry, ran, *place, self.records)
            except UserError:
                self._families[ran, place] = []
        return self._families[ran, place]

    def least_difference(self, benchmark: str, shots: int, n_seeds: int) -> float | None:
        """The significant difference of two methods with `n_seeds` seeds each, from all methods with several seeds."""
        labels = dict.fromkeys(r.label for r in self.records if (r.spec.benchmark, r.spec.shots) == (benchmark, shots))
        groups = [choose_runs(self._registry, label, benchmark, shots, self.records)[0] for label in labels]
        means = [[run.accuracy.mean for run in group.records] for group in groups if group is not None]
        return least_difference(means, n_seeds)

    def needed(self, shots: int) -> str:
        """The significant difference of two methods of Table 2 with one seed each, in points: '0.30'."""
        need = self.least_difference(BENCHMARK, shots, 1)
        if need is None:
            raise ValueError(f"no row has several seeds at {shots} shots; say something else")
        return f"{100 * need:.2f}"

    def scattering(self, shots: int) -> list[str]:
        """Titles of the methods of Table 2 that have several seeds."""
        return [self.title(row.method) for row in self._rows() if self.n_seeds(row.method, shots) > 1]

    @property
    def second_title(self) -> str:
        """The title of the table's second test."""
        return self._table.entry.second_test.title if self._table.entry.second_test else ""

    def second(self, method: str, shots: int) -> Reached | None:
        """The result of a method's weights in the second test, with the difference from MAML with a constant rate."""
        [ours] = [
            cell.ours for row, column, cell in self._table.cells() if (row.method, column.shots) == (method, shots)
        ]
        return ours.second if ours else None

    def least_second_difference(self, shots: int, n_seeds: int) -> float | None:
        """As `least_difference`, for the second test."""
        test = self._table.entry.second_test
        means = [
            [each.accuracy.mean for run in self._found(row.method, shots) for each in self._second(run, test)]
            for row in self._rows()
        ]
        return least_difference([row for row in means if row], n_seeds)

    def _second(self, run: RunRecord, test: SecondTest | None) -> list[EvaluationRecord]:
        changed = None if test is None else test.changed
        return [e for e in self.evaluations.of(run) if (e.split, dict(e.changed)) == ("meta_test", changed)]

    def goals(self, table: str, method: str) -> list[tuple[Goal, list[Entrant]]]:
        """Published numbers of `method` in a table, each with our results on all backbones with full-support steps."""
        built = build_table(self._registry, self._registry.table(table), self.records)
        found = []
        for goal in built.goals:
            cells = [(row, cell) for row, column, cell in built.cells() if column.title == goal.column]
            entrants = [
                Entrant(row.title, method, cell.benchmark, cell.ours.accuracy.interval if cell.ours else None)
                for row, cell in cells
                if row.method == method and cell.benchmark is not None and not cell.benchmark.endswith("-one-by-one")
            ]
            found.append((goal, entrants))
        return found

    def paper_difference(self, a: str, b: str, shots: int) -> str:
        """`a` minus `b` in the paper: '+4.0'; '-' if the paper does not have both."""
        if not {(a, shots), (b, shots)} <= self._published.keys():
            return "-"
        return f"{self._published[a, shots] - self._published[b, shots]:+.1f}"

    def trials_of(self, method: str, shots: int) -> str:
        """Numbers of trials on Table 2's benchmark, by outer steps: '28 of 1,500, 3 of 5,000', or 'none'."""
        steps = Counter(
            trial.spec.protocol.outer_steps
            for trial in {t.spec_hash: t for t in self.trials}.values()
            if (trial.spec.method, trial.spec.shots, trial.spec.benchmark) == (method, shots, BENCHMARK)
        )
        return ", ".join(f"{n} of {of:,}" for of, n in sorted(steps.items())) or "none"

    def _rows(self) -> list[Row]:
        return [row for row in self._table.entry.rows if row.method]

    def paper(self, method: str, shots: int) -> str:
        """The paper's accuracy: '90.3'."""
        return f"{self._published[method, shots]:.1f}"

    def trial(self, study: str, method: str, shots: int, outer_steps: int, /, **values: Any) -> str:
        """Best meta-validation accuracy of a study's trial with these values: '81.8'."""
        spec = self._registry.resolve(method, BENCHMARK, shots, {"outer_steps": outer_steps, **values}).spec
        [trial] = [trial for trial in self.trials if (trial.study, trial.spec_hash) == (study, spec.hash())]
        return f"{100 * trial.best.validation_accuracy:.1f}"

    def effective_rate(self, method: str, layer: int, inner_step: int, shots: int = 1) -> float:
        """Effective learning rate of a layer in an inner step, from `norml inspect`."""
        return self._inspected(method, shots, "layers", "effective_rate", layer=layer, inner_step=inner_step)

    def cosine(self, method: str, layer: int, inner_step: int, shots: int = 1) -> float:
        """Cosine of a layer's inner step and its gradient."""
        return self._inspected(method, shots, "layers", "cosine_to_gradient", layer=layer, inner_step=inner_step)

    def mean_gate(self, method: str, layer: int, inner_step: int, shots: int = 1) -> float:
        """Mean of NORML's gates of delta over examples and neurons."""
        return self._inspected(method, shots, "gates", "mean", layer=layer, inner_step=inner_step, signal="delta")

    def after_steps(self, method: str, steps: Sequence[int], shots: int = 1) -> str:
        """Meta-validation accuracies after each of `steps` inner steps: '64.5, 70.1'; '' without a record."""
        if not (self._inspection(method, shots) / "accuracy-by-step.csv").exists():
            return ""
        found = [self._inspected(method, shots, "accuracy-by-step", "accuracy", inner_steps=step) for step in steps]
        return ", ".join(f"{100 * accuracy:.1f}" for accuracy in found)

    def frozen(self, method: str, case: str, shots: int = 1) -> str:
        """Meta-validation accuracy with parts of the learner frozen: '64.5'."""
        return f"{100 * self._inspected(method, shots, 'freezing', 'accuracy', case=case):.1f}"

    def _found(self, method: str, shots: int, benchmark: str = BENCHMARK) -> list[RunRecord]:
        place = (method, shots, benchmark)
        return [r for r in self.records if (r.label, r.spec.shots, r.spec.benchmark) == place]

    def _runs(self, method: str, shots: int, benchmark: str = BENCHMARK) -> list[RunRecord]:
        runs = self._found(method, shots, benchmark)
        if not runs:
            raise ValueError(f"{method} has not been run at {shots} shots")
        return runs

    def _over_runs(self, method: str, shots: int, value: Callable[[RunRecord], float]) -> float:
        return fmean(value(run) for run in self._runs(method, shots))

    def inspected_seed(self, method: str, shots: int, benchmark: str = BENCHMARK) -> int:
        """The first seed whose run was inspected; 0 if none was."""
        seeds = (run.seed for run in self._found(method, shots, benchmark))
        return next((seed for seed in seeds if self._inspection_of(method, shots, benchmark, seed).exists()), 0)

    def _inspection(self, method: str, shots: int, benchmark: str = BENCHMARK) -> Path:
        return self._inspection_of(method, shots, benchmark, self.inspected_seed(method, shots, benchmark))

    def _inspection_of(self, method: str, shots: int, benchmark: str, seed: int) -> Path:
        return Companions(Results(self._folder).place(benchmark, shots, method, seed=seed)).inspection

    def meta_gradients(self, method: str, benchmark: str, shots: int) -> list[float]:
        """Norms of a run's meta-gradient over all layers after 0 to T inner steps; [] without a record."""
        path = self._inspection(method, shots, benchmark) / "meta-gradient-by-step.csv"
        squares: dict[int, float] = {}
        if path.exists():
            with path.open(encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    step = int(row["inner_steps"])
                    squares[step] = squares.get(step, 0.0) + float(row["mean"]) ** 2
        return [math.sqrt(squares[step]) for step in sorted(squares)]

    def _inspected(self, method: str, shots: int, name: str, column: str, /, **labels: int | str) -> float:
        """A number of a file of `norml inspect`, from the row with these labels."""
        path = self._inspection(method, shots) / f"{name}.csv"
        with path.open(encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if all(row[key] == str(value) for key, value in labels.items())]
        [row] = rows
        return float(row[column])


def _of_seeds(counts: Counts, seeds: Collection[int]) -> Counts:
    return replace(counts, correct={seed: counts.correct[seed] for seed in sorted(seeds)})


def _point(run: RunRecord, step: int) -> CurvePoint:
    [point] = [point for point in run.curve if point.step == step]
    return point


def _train_accuracy(run: RunRecord, step: int) -> float:
    accuracy = _point(run, step).train_accuracy
    if accuracy is None:
        raise ValueError(f"there is no training before step {step}")
    return accuracy
