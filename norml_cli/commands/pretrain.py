"""`norml pretrain`: pretrain a backbone, and keep its weights and its features of every image."""

from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from norml.statistics import FORMULA
from norml_cli.data.cache import Cache
from norml_cli.data.features import FeatureCache, write_features
from norml_cli.data.fixed_episodes import pretraining_requests
from norml_cli.data.preparing import ensure_ready
from norml_cli.files.atomic import file_sha256
from norml_cli.files.errors import UserError
from norml_cli.files.locks import held
from norml_cli.registry.recipes import ResolvedRecipe, backbone_path
from norml_cli.registry.resolving import Registry
from norml_cli.reporting.formats import percent
from norml_cli.results.records import Accuracy, PretrainingCost, PretrainingPoint, PretrainingRecord
from norml_cli.results.store import Results, read_pretraining, write_record
from norml_cli.terminal.output import Output
from norml_cli.terminal.progress import RunDisplay
from norml_cli.terminal.status_files import SUFFIX, StatusFile
from norml_cli.training.checkpoints import Stopped, StopRequest
from norml_cli.training.divergence import note_path
from norml_cli.training.embedding import feature_streams, read_backbone
from norml_cli.training.launch import STOPPED_EXIT_CODE, device_of, known_fields, now, require_writable
from norml_cli.training.pretraining import Pretraining


def pretrain(
    registry: Registry,
    resolved: ResolvedRecipe,
    *,
    seed: int,
    device: str,
    force: bool,
    verify: bool,
    results: Path,
    console: Output,
) -> None:
    """Pretrain a backbone and make its features, unless they are there, and print what it reaches on meta-validation.

    `verify` only checks the features.

    Raises UserError; exits with 130 when the user stopped it (its checkpoint is written, the same command goes on).
    """
    spec = resolved.spec
    if verify:
        cache = Cache.open(registry.datasets[spec.dataset], registry.files["datasets", spec.dataset])
        _verify(FeatureCache.open(spec, seed, cache), f"{spec.recipe}, seed {seed}", console)
        return
    target = device_of(device)
    record_at, weights_at = Results(results).pretraining_path(spec, seed), backbone_path(spec, seed, ".weights")
    require_writable(results)
    cache = ensure_ready(registry, spec.dataset, pretraining_requests(spec.values).values(), console)
    with held(weights_at, record_at):
        trains = force or not (record_at.exists() and weights_at.exists())
        if trains:
            _train(resolved, cache, record_at, weights_at, seed=seed, device=target, force=force, console=console)
        else:
            weights_at.with_suffix(".checkpoint").unlink(missing_ok=True)  # of who was killed just before removing it
            console.print(f"{spec.recipe}: pretrained already; --force does it again", highlight=False)
        record = read_pretraining(record_at)
        if trains or not backbone_path(spec, seed, ".features.h5").exists():
            _embed(record, weights_at, cache, device=target, console=console)
    FeatureCache.open(spec, seed, cache)
    for shots, accuracy in record.nearest_centroid.items():
        reached = f"{percent(accuracy.mean, accuracy.half_width)}%"
        text = f"{spec.values.n_way}-way {shots}-shot nearest centroid on meta-validation: {reached}"
        console.print(f"{spec.recipe}, seed {seed}: {text}", highlight=False, soft_wrap=True)
    console.result({"record": str(record_at), **record.model_dump(mode="json", exclude={"curve"})})


def _train(
    resolved: ResolvedRecipe,
    cache: Cache,
    record_at: Path,
    weights_at: Path,
    *,
    seed: int,
    device: torch.device,
    force: bool,
    console: Console,
) -> None:
    """Begin or go on, and leave the weights and their record."""
    spec = resolved.spec
    checkpoint = weights_at.with_suffix(".checkpoint")
    if force:
        checkpoint.unlink(missing_ok=True)
        note_path(checkpoint).unlink(missing_ok=True)
    known = known_fields(spec, resolved.changed, seed, device)
    title = f"{spec.recipe}, seed {seed}"
    status = StatusFile(checkpoint.with_suffix(SUFFIX), title)
    with RunDisplay(console, title, [status]) as display:
        pretraining = Pretraining(spec, cache, seed=seed, device=device, checkpoint=checkpoint, display=display)
        status.begin("pretraining", pretraining.state.step, spec.values.steps)
        begun = f"goes on from {pretraining.state.step:,} of" if pretraining.state.step else "begins"
        display.say(f"{begun} {spec.values.steps:,} steps, {pretraining.training_images:,} training images")
        try:
            pretraining.train()
        except Stopped:
            display.say(f"stopped after step {pretraining.state.step:,}; the same command goes on from there")
            raise SystemExit(STOPPED_EXIT_CODE) from None
        pretraining.keep_weights(weights_at)  # first: a record without its weights could not be used
        write_record(record_at, PretrainingRecord(**known, **_found_fields(pretraining, weights_at)))
        checkpoint.unlink(missing_ok=True)
        status.remove()
        display.say("finished")


def _embed(
    record: PretrainingRecord, weights_at: Path, cache: Cache, *, device: torch.device, console: Console
) -> None:
    """Make the feature cache. Raises UserError if the weights are not those of the record."""
    spec, seed = record.spec, record.seed
    if file_sha256(weights_at) != record.weights_sha256:
        raise UserError(f"{weights_at}: holds other weights than its record tells of; pretrain again with --force")
    backbone, stop = read_backbone(weights_at, spec, seed, cache, device), StopRequest()
    with RunDisplay(console, f"{spec.recipe}, seed {seed}") as display, stop.listening():

        def look(split: str, done: int, images: int) -> None:
            stop.obey()
            display.embedding(split, done, images)

        try:
            made = write_features(spec, seed, cache, feature_streams(backbone, spec, cache, device, look))
        except Stopped:
            display.say("stopped while making features; the same command makes them")
            raise SystemExit(STOPPED_EXIT_CODE) from None
        size = f"{made.path.stat().st_size / 1e6:.0f} MB"
        display.say(f"features of every image: {backbone.n_features} numbers each, {size}, sha256 {made.content_hash}")


def _verify(features: FeatureCache, title: str, console: Console) -> None:
    checked = f"verified, {features.verify()} arrays as they were written, content sha256 {features.content_hash}"
    console.print(f"{title}: {checked}", highlight=False, soft_wrap=True)


def _found_fields(pretraining: Pretraining, weights_at: Path) -> dict[str, Any]:
    """The fields of a record that a finished pretraining gives."""
    state = pretraining.state
    return {
        "dataset": pretraining.dataset,
        "curve": [PretrainingPoint(**point) for point in state.curve],
        "best_step": state.best_step,
        "nearest_centroid": {
            shots: Accuracy(**interval, formula=FORMULA) for shots, interval in state.best_intervals.items()
        },
        "validation_hashes": pretraining.validation_hashes,
        "training_images": pretraining.training_images,
        "parameters": pretraining.parameters,
        "weights_sha256": file_sha256(weights_at),
        "cost": PretrainingCost(
            wall_s=state.wall_s,
            training_s=state.training_s,
            images_per_s=state.step * pretraining.spec.values.batch_size / state.training_s,
            peak_memory_bytes=state.peak_memory_bytes,
        ),
        "created": now(),
    }
