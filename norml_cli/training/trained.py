"""A finished run's meta-learner, from its record and the weights that lie beside it."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from norml.meta_training import MetaLearner
from norml_cli.files.errors import UserError
from norml_cli.registry.reading import load_registry
from norml_cli.registry.specs import RunSpec
from norml_cli.results.records import RunRecord
from norml_cli.results.store import read_record
from norml_cli.training.build import build_method
from norml_cli.training.checkpoints import read_checkpoint


@dataclass(frozen=True)
class Trained:
    """What a run left: its record, and the meta-learner that it tested."""

    record: RunRecord
    meta_learner: MetaLearner


def load_trained(path: str | Path, device: torch.device | str = "cpu") -> Trained:
    """The trained meta-learner of the record at `path`, on `device`.

    Raises UserError for a damaged record, for weights that are missing or another run's, and for what learns nothing.
    """
    path = Path(path)
    record = read_record(path)
    spec, weights = record.spec, path.with_suffix(".weights")
    if not spec.rule.meta_trained:
        raise UserError(f"{path}: {spec.algorithm} is fitted to each support set; there is no meta-learner in it")
    if not weights.exists():
        raise UserError(f"{weights}: not there, as records are published without; make them with: {again(record)}")
    identity = {"spec_hash": record.spec_hash, "seed": record.seed, "content_hash": record.dataset.content_hash}
    content = read_checkpoint(weights, identity)["meta_learner"]
    n_features = int(content.get("learner.n_features", content["learner.weights.0"].shape[1]))
    method = build_method(spec, n_features, generator=None)
    if not isinstance(method, MetaLearner):
        raise TypeError(f"{spec.algorithm} builds no meta-learner")
    method.load_state_dict(content)
    return Trained(record, method.to(device))


def again(record: RunRecord) -> str:
    """The command that makes this run once more, in place of its record."""
    spec = record.spec
    words = ["norml", "run", spec.method, "--benchmark", spec.benchmark, "--shots", str(spec.shots)]
    words += ["--seed", str(record.seed)] if record.seed else []
    values = _values(spec)
    for key in _unlike_the_registry(record):
        words += ["--set", f"{key}={json.dumps(values[key])}"]
    return shlex.join([*words, "--force"])


def _unlike_the_registry(record: RunRecord) -> list[str]:
    """The values that the registry as it is now would not give; those that were changed then, if it has no such run."""
    try:
        declared = _values(load_registry().resolve(record.spec.method, record.spec.benchmark, record.spec.shots).spec)
    except UserError:
        return record.changed
    return [key for key, value in _values(record.spec).items() if value != declared.get(key)]


def _values(spec: RunSpec) -> dict[str, Any]:
    return spec.protocol.model_dump(mode="json") | spec.rule.model_dump(mode="json")
