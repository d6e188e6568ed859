"""Use a finished run: its model, from the weights next to its record, its examples, and the test of both."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from norml.frozen_classifiers import FrozenClassifier
from norml.meta_training import MetaTrained
from norml_cli.data.examples import Examples
from norml_cli.data.fixed_episodes import episode_requests
from norml_cli.data.preparing import ensure_ready
from norml_cli.data.splits import SplitName
from norml_cli.files.companions import Companions
from norml_cli.files.errors import UserError, reason
from norml_cli.files.suggestions import suggested
from norml_cli.registry.reading import load_registry
from norml_cli.registry.resolving import Registry, n_features
from norml_cli.registry.specs import RunSpec
from norml_cli.results.records import RunRecord
from norml_cli.results.store import read_record
from norml_cli.terminal.output import Output
from norml_cli.terminal.progress import RunDisplay
from norml_cli.training.build import build_method
from norml_cli.training.checkpoints import identity_of, read_checkpoint, read_published
from norml_cli.training.evaluation import FixedEpisodes, count_correct, multiplying_as_declared
from norml_cli.training.resources import use_threads
from norml_cli.training.run import Run


@dataclass(frozen=True)
class Trained:
    """A finished run's record and the model that it tested."""

    record: RunRecord
    model: MetaTrained | FrozenClassifier

    @property
    def meta_learner(self) -> MetaTrained:
        """The meta-trained model. Raises TypeError for a method that is fitted to each support set."""
        if not isinstance(self.model, MetaTrained):
            raise TypeError(f"{self.record.spec.algorithm} is fitted to each support set; there is no meta-learner")
        return self.model


def load_trained(path: str | Path, device: torch.device | str = "cpu") -> Trained:
    """Load the trained meta-learner of the record at `path`, on `device`.

    Raises UserError for a damaged record, for weights that are missing or another run's, and for a method that is not
    meta-trained.
    """
    record = read_record(Path(path))
    if not record.spec.rule.meta_trained:
        raise UserError(
            f"{path}: {record.spec.algorithm} is fitted to each support set and has no meta-learner; name the record "
            "of a meta-trained method"
        )
    return stored_weights(Path(path), record, device)


def stored_weights(path: Path, record: RunRecord, device: torch.device | str) -> Trained:
    """Load the model that the run of `record` tested, from its own or its published weights.

    Raises UserError for weights that are missing, damaged or another run's.
    """
    weights, state = Companions(path).weights, stored_state(path, record)
    try:
        model = build_method(record.spec, _features_of(state) if record.spec.rule.meta_trained else 0, generator=None)
        model.load_state_dict(state)
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{weights}: holds no weights of this run ({reason(error)}); run it again with --force"
        ) from None
    return Trained(record, model.to(device))


def _features_of(state: Mapping[str, torch.Tensor]) -> int:
    """D: stored by a convolutional learner, or the width of a fully connected learner's first layer."""
    return int(state["learner.n_features"]) if "learner.n_features" in state else state["learner.weights.0"].shape[1]


def stored_state(path: Path, record: RunRecord) -> Mapping[str, torch.Tensor]:
    """The tensors that the run of `record` learned, by name. Raises UserError as `stored_weights`."""
    weights, published = Companions(path).weights, Companions(path).published
    if not weights.exists() and published.exists():
        return read_published(path)
    if not weights.exists():
        raise UserError(f"{weights}: no such file, and no published weights; make them with: {again(record)}")
    content = read_checkpoint(weights, identity_of(record.spec, record.seed, record.dataset))
    state = content.get(Run.weights_key)
    if not isinstance(state, Mapping):
        raise UserError(f"{weights}: holds no weights of this run; run it again with --force")
    return state


def under(trained: Trained, registry: Registry, spec: RunSpec) -> Trained:
    """The trained model with the values of `spec`. Raises UserError if its weights do not fit `spec`."""
    model = rebuilt(trained, spec).model
    if isinstance(model, MetaTrained) and model.learner.sizes[0] != n_features(registry, spec):
        needed, there = model.learner.sizes[0], n_features(registry, spec)
        raise UserError(f"{spec.benchmark}: has {there} values per example, but the learner expects {needed}")
    return Trained(trained.record, model)


def rebuilt(trained: Trained, spec: RunSpec) -> Trained:
    """The trained model with the values of `spec`, for examples of the same size.

    Raises UserError if its weights do not fit `spec`.
    """
    state = dict(trained.model.state_dict())
    if spec.protocol.head_init != trained.record.spec.protocol.head_init:
        _without_head(state, len(spec.protocol.hidden_sizes))
    model = build_method(spec, _features_of(state) if spec.rule.meta_trained else 0, generator=None)
    shapes = [{name: value.shape for name, value in each.items()} for each in (model.state_dict(), state)]
    if shapes[0] != shapes[1]:
        raise UserError(_does_not_fit(spec, trained.record.spec))
    model.load_state_dict(state)
    device = next((value.device for value in state.values()), torch.device("cpu"))
    return Trained(trained.record, model.to(device))


def _without_head(state: dict[str, torch.Tensor], head: int) -> None:
    for name in (f"learner.weights.{head}", f"learner.biases.{head}"):
        state[name] = state[name][:0]


def _does_not_fit(spec: RunSpec, was: RunSpec) -> str:
    """Why weights that were trained with `was` do not fit `spec`."""
    if spec.protocol.head_init != was.protocol.head_init:
        advice = f"train with it: {suggested(f'norml run {spec.method} --set head_init=zero')}"
        return f"--set head_init=zero: the update rule of {spec.method} has parameters for each class; {advice}"
    option = "--shots" if spec.shots != was.shots else "--set n_way"
    support = [f"{each.protocol.n_way}-way {each.shots}-shot" for each in (was, spec)]
    return (
        f"{option}: the update rule of {spec.method} takes all support examples at once, so weights trained for "
        f"{support[0]} cannot adapt to {support[1]}; train it for {support[1]}"
    )


def examples_seen(
    registry: Registry,
    path: Path,
    record: RunRecord,
    split: SplitName,
    console: Console,
    *,
    spec: RunSpec | None = None,
) -> Examples:
    """The examples of the run of `record`, with its fixed episodes of `split` or those of another `spec`.

    Raises UserError if they are missing, or if the run's own data set has changed.
    """
    spec = spec or record.spec
    registry.dataset_of(path, spec.dataset)
    requests = [request for request in episode_requests(spec) if request.split == split]
    examples = Examples.of(registry, spec, ensure_ready(registry, spec.dataset, requests, console))
    found, saw = examples.identity, record.dataset
    same = (found.content_hash, found.features) == (saw.content_hash, saw.features)
    if spec.dataset == record.spec.dataset and not same:
        what = "images" if found.content_hash != saw.content_hash else "features"
        raise UserError(
            f"{path}: was made with other {what} than those of {examples.cache.path.name} now; prepare the run's "
            f"{what} again, or run it again in another --results folder"
        )
    return examples


def correct_answers(
    trained: Trained, spec: RunSpec, episodes: FixedEpisodes, split: SplitName, console: Output
) -> NDArray[np.int64]:
    """Correct answers of the trained model in each of the `episodes` of `split`: [E]. It shows its progress.

    On a CPU, it uses as many threads as the run.
    """
    record, device = trained.record, episodes.indices.classes.device
    if device.type == "cpu" and record.threads is not None:
        use_threads(record.threads)
    with (
        RunDisplay(console, f"{spec.method}, {spec.shots}-shot, seed {record.seed}") as display,
        multiplying_as_declared(spec, device),
    ):
        return count_correct(trained.model, spec, episodes, partial(display.evaluating, split))


def again(record: RunRecord) -> str:
    """The command that repeats this run in another results folder, so that it replaces no record."""
    spec = record.spec
    words = ["norml", "run", spec.method, "--benchmark", spec.benchmark, "--shots", str(spec.shots)]
    words += ["--seed", str(record.seed)] if record.seed else []
    words += ["--name", record.name] if record.name else []
    values = _values(spec)
    for key in _unlike_the_registry(record):
        words += ["--set", f"{key}={json.dumps(values[key])}"]
    return suggested(shlex.join([*words, "--results", "again"]))


def _unlike_the_registry(record: RunRecord) -> list[str]:
    """Keys whose values differ from the registry's current ones; the record's changed keys if it has no such run."""
    try:
        declared = _values(
            load_registry(strict=False).resolve(record.spec.method, record.spec.benchmark, record.spec.shots).spec
        )
    except UserError:
        return record.changed
    return [key for key, value in _values(record.spec).items() if value != declared.get(key)]


def _values(spec: RunSpec) -> dict[str, Any]:
    return spec.protocol.model_dump(mode="json") | spec.rule.model_dump(mode="json")
