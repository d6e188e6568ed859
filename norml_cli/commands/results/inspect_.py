"""`norml inspect RECORD`: show what the meta-learner of a finished run does while it adapts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import isnan
from pathlib import Path

import torch
from rich.table import Table

from norml.episodes import EpisodeBatch, EpisodeIndices, ExamplePool
from norml.evaluation import correct_counts
from norml.inspection import freezings, frozen, logits_of_each_step, meta_gradient_norms, watch
from norml.meta_training import MetaLearner
from norml.statistics import Interval, interval_95
from norml_cli.files.companions import Companions
from norml_cli.files.errors import UserError, counted
from norml_cli.registry.resolving import Registry
from norml_cli.registry.specs import RunSpec
from norml_cli.reporting.formats import percent
from norml_cli.reporting.inspection_files import Inspection, write_inspection
from norml_cli.results.store import stored_digest
from norml_cli.terminal.output import Output, print_line
from norml_cli.terminal.progress import RunDisplay
from norml_cli.training.evaluation import FixedEpisodes
from norml_cli.training.launch import device_of
from norml_cli.training.trained import Trained, examples_seen, load_trained

EPISODES_AT_ONCE = 8  # changes memory and speed only; few, since every weight's gradient is formed


def inspect(registry: Registry, path: Path, *, out: Path | None, episodes: int, device: str, console: Output) -> None:
    """Watch the run's meta-learner on meta-validation episodes. Meta-test is not read: it is for the final result only.

    Raises UserError for a record without weights, and if the data has changed since the run.
    """
    digest = stored_digest(path)  # first: should the run be replaced meanwhile, this inspection is not its own
    trained = load_trained(path, device_of(device))
    record, spec = trained.record, trained.record.spec
    if spec.protocol.inner_steps_test == 0:
        raise UserError(f"{path}: {spec.method} takes no inner steps; name the record of a method that does")
    examples = examples_seen(registry, path, record, "meta_val", console)
    fixed = FixedEpisodes.of(spec, examples, "meta_val", device_of(device))
    with RunDisplay(console, f"{spec.method}, {spec.shots}-shot, seed {record.seed}") as display:
        source = {"record": str(path), "run_digest": digest}
        found = _inspected(trained, fixed.pool, fixed.indices[:episodes], source, display)
    folder = out or Companions(path).inspection
    written = write_inspection(folder, found)
    _print(found, console)
    print_line(f"{len(written)} files in {folder}", console)
    console.result({"folder": str(folder), "files": [each.name for each in written], "about": found.about})


def _inspected(
    trained: Trained, pool: ExamplePool, episodes: EpisodeIndices, source: Mapping[str, str], display: RunDisplay
) -> Inspection:
    record, meta_learner = trained.record, trained.meta_learner
    if not isinstance(meta_learner, MetaLearner):
        raise TypeError(f"{record.spec.algorithm} takes no inner steps")
    spec, protocol = record.spec, record.spec.protocol
    watched = _Watched(meta_learner, spec, pool, episodes, display)
    return Inspection(
        title=f"{spec.method} on {spec.benchmark}, {spec.shots}-shot, seed {record.seed}: meta-validation",
        about={
            **source,
            "method": spec.method,
            "benchmark": spec.benchmark,
            "shots": spec.shots,
            "seed": record.seed,
            "episodes": f"the first {len(episodes)} fixed meta-validation episodes",
            "inner_lr": protocol.inner_lr,
            "inner_steps": watched.n_steps,
        },
        inner_lr=protocol.inner_lr,
        inner_steps=watched.n_steps,
        accuracies=watched.accuracies(),
        freezing=watched.freezing(),
        meta_gradients=watched.meta_gradients(),
        layers=watch(meta_learner, watched.batches("watching the rule"), watched.n_steps),
    )


@dataclass(frozen=True)
class _Watched:
    """A meta-learner and the episodes that it is watched on."""

    meta_learner: MetaLearner
    spec: RunSpec
    pool: ExamplePool
    episodes: EpisodeIndices
    display: RunDisplay

    @property
    def n_steps(self) -> int:
        return self.spec.protocol.inner_steps_test

    def batches(self, doing: str) -> Iterator[EpisodeBatch]:
        for start in range(0, len(self.episodes), EPISODES_AT_ONCE):
            self.display.counting(doing, start, len(self.episodes), "episodes")
            yield self.pool.gather(self.episodes[start : start + EPISODES_AT_ONCE], k_shot=self.spec.shots)

    def accuracies(self) -> list[Interval]:
        """After each inner step, up to twice as many as the run takes."""
        by_step: list[list[int]] = [[] for _ in range(2 * self.n_steps + 1)]
        for batch in self.batches("accuracy by inner step"):
            each_step = logits_of_each_step(self.meta_learner, batch, 2 * self.n_steps)
            for counts, logits in zip(by_step, each_step, strict=True):
                counts.extend((logits.argmax(-1) == batch.query_y).sum(dim=1).tolist())
        return [self._interval(counts) for counts in by_step]

    def freezing(self) -> dict[str, Interval]:
        """Accuracy while some layers keep their initial weights, by case."""
        found = {}
        for number, (case, layers) in enumerate(cases := list(freezings(self.meta_learner.learner.n_layers).items())):
            self.display.counting("freezing", number, len(cases), "cases")
            logits_of = partial(frozen(self.meta_learner, layers), inner_steps=self.n_steps)
            counts = correct_counts(logits_of, self.pool, self.episodes, k_shot=self.spec.shots)
            found[case] = self._interval(counts.tolist())
        return found

    def meta_gradients(self) -> list[list[list[float]]]:
        """Norms by number of inner steps, layer and episode."""
        batches = self.batches("meta-gradient by inner step")
        norms = [meta_gradient_norms(self.meta_learner, batch, self.n_steps) for batch in batches]
        by_step: list[list[list[float]]] = torch.cat(norms).permute(1, 2, 0).tolist()
        return by_step

    def _interval(self, counts: list[int]) -> Interval:
        return interval_95(counts).divided_by(self.spec.queries_per_episode)


def _print(found: Inspection, console: Output) -> None:
    """Print a summary: layers at the first and last step, the freeze test, and accuracy by step."""
    if console.as_json:
        return
    print_line(f"{found.title}, {found.about['episodes']}", console)
    table = Table(box=None, pad_edge=False)
    for column in ("layer", "inner step", "effective rate", "cosine to gradient", "mean gate of delta", "of h"):
        table.add_column(column, justify="right")
    for summary in found.layers:
        if summary.step in {0, found.layers[-1].step}:
            gates = [f"{gate.mean:.3f}" if gate else "-" for gate in (summary.delta_gate, summary.h_gate)]
            rate = (f"{summary.rate:.4f}", "-" if isnan(summary.cosine) else f"{summary.cosine:.3f}")
            table.add_row(str(summary.layer + 1), str(summary.step + 1), *rate, *gates)
    console.print(table, highlight=False)
    for case, accuracy in found.freezing.items():
        print_line(f"{case}: {_percent(accuracy)}", console)
    for t in (0, 1, found.inner_steps, 2 * found.inner_steps):
        print_line(f"after {counted(t, 'inner step')}: {_percent(found.accuracies[t])}", console)


def _percent(accuracy: Interval) -> str:
    return f"{percent(accuracy.mean, accuracy.half_width)}%"
