"""`norml evaluate`: test the weights of runs under another protocol. Each result is a record beside the run's."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from norml_cli.files.errors import UserError
from norml_cli.registry.evaluating import changes
from norml_cli.registry.resolving import Registry
from norml_cli.registry.specs import RunSpec
from norml_cli.reporting.formats import percent
from norml_cli.results.evaluated import protocol_title
from norml_cli.results.evaluations import EvaluationEpisodes, EvaluationRecord, Split
from norml_cli.results.records import RunRecord
from norml_cli.results.store import evaluation_path, read_evaluation, write_record
from norml_cli.terminal.output import Output, print_line
from norml_cli.training.evaluation import FixedEpisodes
from norml_cli.training.launch import device_of
from norml_cli.training.provenance import device_name, origin_of
from norml_cli.training.stopping import STOPPED_EXIT_CODE, Stopped, StopRequest
from norml_cli.training.trained import Trained, correct_answers, examples_seen, stored_weights, under


@dataclass(frozen=True)
class Wanted:
    """One evaluation: the weights of the run whose record is at `path`, under `spec`, on a split's fixed episodes.

    digest: the record's, read before the weights.
    """

    path: Path
    run: RunRecord
    digest: str
    spec: RunSpec
    split: Split

    @property
    def changed(self) -> dict[str, Any]:
        """The values of `spec` that differ from the run's."""
        return changes(self.spec, self.run.spec)

    @property
    def title(self) -> str:
        """'norml, omniglot-20way, 1-shot, seed 0: queries_per_class 15'."""
        return f"{self.run.spec.title([], self.run.seed)}: {protocol_title(self.changed, self.split)}"


def evaluate(registry: Registry, wanted: list[Wanted], *, device: str, force: bool, console: Output) -> None:
    """Make the wanted evaluations that have no record yet. force: make them all.

    Raises UserError before it computes anything, for weights that are missing or do not fit. Exits with 130 if the user
    stops it; finished evaluations stay.
    """
    target, stop, results = device_of(device), StopRequest(), []
    ready = [(each, _model(registry, each, target)) for each in wanted]
    try:
        with stop.listening():
            for each, trained in ready:
                there = None if force else _finished(each)
                record = there or _evaluated(registry, each, trained, target, stop=stop, console=console)
                path = evaluation_path(each.path, each.changed, each.split)
                if there is None:
                    write_record(path, record)
                _tell(each, record, path, console)
                results.append({"record": str(path), "new": there is None, **record.model_dump(mode="json")})
    except Stopped:
        raise SystemExit(STOPPED_EXIT_CODE) from None
    console.result(results)


def _model(registry: Registry, wanted: Wanted, target: torch.device) -> Trained:
    """The trained model under the wanted protocol. Raises UserError if there is nothing to test, or it does not fit."""
    if not wanted.changed and wanted.split == "meta_test":
        fault = "nothing to change; add --set, --shots, --benchmark or --split (`norml verify` repeats the test)"
        raise UserError(f"{wanted.path}: {fault}")
    return under(stored_weights(wanted.path, wanted.run, target), registry, wanted.spec)


def _finished(wanted: Wanted) -> EvaluationRecord | None:
    """The existing record of this evaluation, if the weights and values are the same."""
    path = evaluation_path(wanted.path, wanted.changed, wanted.split)
    if not path.exists():
        return None
    record = read_evaluation(path)
    return record if (record.run_digest, record.spec) == (wanted.digest, wanted.spec) else None


def _evaluated(
    registry: Registry, wanted: Wanted, trained: Trained, target: torch.device, *, stop: StopRequest, console: Output
) -> EvaluationRecord:
    run, spec, split = wanted.run, wanted.spec, wanted.split
    examples = examples_seen(registry, wanted.path, run, split, console, spec=spec)
    episodes = FixedEpisodes.of(spec, examples, split, target)
    origin = origin_of(spec, run.changed, run.seed, target, [device_name(target, spec.examples_of_an_outer_step)])
    with stop.breaking_off():  # may stop at once: nothing is written yet
        correct = correct_answers(trained, spec, episodes, split, console).tolist()
    return EvaluationRecord.of(
        origin,
        wanted.digest,
        changed=wanted.changed,
        correct=correct,
        split=split,
        dataset=examples.identity,
        episodes=EvaluationEpisodes(hash=episodes.hash, n=len(correct), queries_per_episode=spec.queries_per_episode),
    )


def _tell(wanted: Wanted, record: EvaluationRecord, path: Path, console: Output) -> None:
    trained = wanted.run.accuracy
    reached = percent(record.accuracy.mean, record.accuracy.half_width)
    was = percent(trained.mean, trained.half_width)
    print_line(f"{wanted.title}: {reached}% (the run's test: {was}%); {path}", console)
