"""`norml classify`: adapt a trained learner to a few labelled images of each class, and classify other images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from norml.episodes import EpisodeBatch, ExamplePool
from norml.meta_training import MetaTrained
from norml_cli.data.cache import fingerprint
from norml_cli.data.sources.found_files import File
from norml_cli.data.sources.own_images import OwnImage, OwnImages, query_files, support_files
from norml_cli.files.atomic import write_atomically
from norml_cli.files.errors import UserError, counted
from norml_cli.registry.evaluating import adapted_as, at_ways
from norml_cli.registry.resolving import Registry
from norml_cli.registry.specs import RunSpec
from norml_cli.reporting.answers import Answers, answers_page, render_answers
from norml_cli.reporting.formats import percent, require_format
from norml_cli.results.records import RunRecord
from norml_cli.results.store import read_record
from norml_cli.terminal.output import print_line, print_text
from norml_cli.training.build import build_method
from norml_cli.training.embedding import features_of_images
from norml_cli.training.evaluation import multiplying_as_declared
from norml_cli.training.launch import device_of
from norml_cli.training.trained import Trained, rebuilt, stored_weights

AT_ONCE = 256  # images in a batch, if they are classified independently


@dataclass(frozen=True)
class ToClassify:
    """What the user asked for."""

    record: Path
    support: Path
    query: Path
    overrides: Mapping[str, Any]
    device: str
    format_: str
    html: Path | None


@dataclass(frozen=True)
class ImageFiles:
    """The labelled images, K of each class, and the images to classify."""

    support: Mapping[str, Sequence[File]]
    query: Sequence[File]

    @property
    def shots(self) -> int:
        """K."""
        return len(next(iter(self.support.values())))


def classify(registry: Registry, asked: ToClassify, console: Console) -> None:
    """Print the class of each image, and write the HTML page if the user asked for it.

    Raises UserError before it writes anything.
    """
    require_format(asked.format_)
    run, device = read_record(asked.record), device_of(asked.device)
    files = ImageFiles(support_files(asked.support), query_files(asked.query))
    spec = _spec(run.spec, asked, files)
    trained = _trained(asked.record, run, spec, device)
    answers = _answers(registry, trained, spec, files, asked)
    if asked.html is not None:
        page = answers_page(answers).encode()
        write_atomically(asked.html, lambda file: file.write(page))
        _say(f"wrote {asked.html}")
    print_text(render_answers(answers, asked.format_, width=console.width), console)


def _say(line: str) -> None:
    """Print to standard error: standard output holds only the answers."""
    print_line(line, Console(stderr=True))


def _spec(run: RunSpec, asked: ToClassify, files: ImageFiles) -> RunSpec:
    """The run's spec, changed to this support set. By default, images are classified independently."""
    default = {"query_statistics": "support"} if run.rule.meta_trained else {}
    spec = adapted_as(run, default | dict(asked.overrides))
    n_way, n_files = len(files.support), len(files.query)
    protocol = spec.protocol.model_copy(update={"n_way": n_way})
    at_ways(run, protocol, f"--support {asked.support}")
    by_queries = run.rule.meta_trained and protocol.query_statistics == "query" and protocol.hidden_sizes
    if by_queries and n_files < n_way:
        raise UserError(
            f"--set query_statistics=query: batch norm needs at least {n_way} images, one for each class, but --query "
            f"has {counted(n_files, 'image')}; leave the option out"
        )
    return spec.model_copy(update={"protocol": protocol, "shots": files.shots})


def _trained(path: Path, run: RunRecord, spec: RunSpec, device: torch.device) -> Trained:
    if not spec.rule.meta_trained:
        return Trained(run, build_method(spec, 0, generator=None))
    return rebuilt(stored_weights(path, run, device), spec)


def _answers(registry: Registry, trained: Trained, spec: RunSpec, files: ImageFiles, asked: ToClassify) -> Answers:
    entry, record = registry.dataset_of(asked.record, spec.dataset), trained.record
    device = device_of(asked.device)
    if fingerprint(entry, registry.files["datasets", entry.id]) != record.dataset.fingerprint:
        _say(f"the entry '{entry.id}' has changed since the run; images are prepared as it says now")
    reader = OwnImages(entry, thumbnails=asked.html is not None)
    support = {name: reader.read(of_class) for name, of_class in files.support.items()}
    query = reader.read(files.query)
    for line in reader.remarks:
        _say(line)
    with multiplying_as_declared(spec, device):
        examples = _examples(registry, record, [*(image for of in support.values() for image in of), *query], device)
        probabilities = _probabilities(trained.model, spec, examples)
    return Answers(
        _about(asked.record, record, spec),
        list(support),
        [image.name for image in query],
        probabilities.tolist(),
        [image.thumbnail for image in query],
        [[image.thumbnail for image in of_class] for of_class in support.values()],
    )


def _about(path: Path, record: RunRecord, spec: RunSpec) -> dict[str, str]:
    by = {"query": "all images together (they share batch norm's statistics)", "support": "each image by itself"}
    accuracy = percent(record.accuracy.mean, record.accuracy.half_width)
    return {
        "record": str(path),
        "learner": record.spec.title(record.changed, record.seed, record.name),
        "accuracy in the run's meta-test": f"{accuracy}%",
        "support": f"{spec.protocol.n_way} classes, {counted(spec.shots, 'image')} each",
        "inner steps": str(spec.protocol.inner_steps_test),
        "classified": by[spec.protocol.query_statistics] if spec.rule.meta_trained else by["support"],
    }


def _examples(registry: Registry, record: RunRecord, images: Sequence[OwnImage], device: torch.device) -> torch.Tensor:
    """[n, D] inputs in the form that the run was trained on: pixels in 0..1, or its backbone's features."""
    pixels, protocol = np.stack([image.pixels for image in images]), record.spec.protocol
    if protocol.backbone is None:
        return ExamplePool.of_images(torch.from_numpy(pixels)[None].to(device), rotations=False).upright()
    features = features_of_images(registry, record, pixels, device)
    return ExamplePool.of_features(features[None], unit_length=protocol.feature_scaling == "unit-length").upright()


@torch.no_grad()
def _probabilities(model: torch.nn.Module, spec: RunSpec, examples: torch.Tensor) -> torch.Tensor:
    """Class probabilities [M, N] of the queries. `examples` [S + M, D] has the S support examples first."""
    n_way, steps = spec.protocol.n_way, spec.protocol.inner_steps_test
    labels = torch.arange(n_way, device=examples.device).repeat_interleave(spec.shots)[None]
    support, query = examples[None, : labels.shape[1]], examples[None, labels.shape[1] :]
    if isinstance(model, MetaTrained):
        adapted = model.adapt(support, labels, steps)
        together = query.shape[1] if spec.protocol.query_statistics == "query" else AT_ONCE
        parts = [adapted.logits(part) for part in torch.split(query, together, dim=1)]
    else:
        unknown = labels.new_zeros(1, query.shape[1])
        parts = [model(EpisodeBatch.joined(support, labels, query, unknown))]
    return torch.cat(parts, dim=1)[0].softmax(dim=-1).cpu()
