"""`norml pretrain`: pretrain a backbone, and store its weights and its features of every image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from norml_cli.data.cache import Cache
from norml_cli.data.features import FeatureCache, write_features
from norml_cli.data.fixed_episodes import pretraining_requests
from norml_cli.data.preparing import ensure_ready
from norml_cli.files.atomic import file_sha256
from norml_cli.files.companions import FEATURES, WEIGHTS, Companions
from norml_cli.files.errors import UserError
from norml_cli.files.locks import held
from norml_cli.registry.recipes import ResolvedRecipe, backbone_path
from norml_cli.registry.resolving import Registry
from norml_cli.reporting.formats import percent
from norml_cli.results.records import PretrainingRecord
from norml_cli.results.store import Results, read_pretraining, write_record
from norml_cli.terminal.output import Output, print_line
from norml_cli.terminal.progress import RunDisplay
from norml_cli.training.embedding import feature_streams, read_backbone
from norml_cli.training.launch import Launch, TrainingNames, launched
from norml_cli.training.loop import Setting
from norml_cli.training.pretraining import Pretraining
from norml_cli.training.resources import use_threads
from norml_cli.training.stopping import STOPPED_EXIT_CODE, Stopped, StopRequest


def pretrain(registry: Registry, resolved: ResolvedRecipe, launches: Sequence[Launch], console: Output) -> None:
    """Pretrain a backbone for each seed (launch), make its features, and print its accuracy on meta-validation.

    Keeps weights and features that exist. Raises UserError. Exits with 130 if the user stops it, after writing a
    checkpoint.
    """
    done = [_pretrained(registry, resolved, launch, console) for launch in launches]
    if launches[0].ranks.is_first:
        console.result(done if len(done) > 1 else done[0])


def _pretrained(registry: Registry, resolved: ResolvedRecipe, launch: Launch, console: Output) -> dict[str, Any]:
    """Pretrain with one seed, unless it is done. Returns its record as JSON values."""
    spec, seed = resolved.spec, launch.seed
    ranks = launch.ranks
    record_at = Results(launch.results).pretraining_path(spec, seed)
    weights_at = backbone_path(spec, seed, WEIGHTS)
    ranks.require_share(spec.values.batch_size, "batch_size")
    ranks.of_first(Results(launch.results).require_writable)
    cache = ensure_ready(registry, spec.dataset, pretraining_requests(spec.values).values(), console)
    with ranks.first_within(held(weights_at, record_at)):
        trains = launch.force or not ranks.of_first(lambda: record_at.exists() and weights_at.exists())
        if trains:
            _train(resolved, cache, launch, record_at, console)
        else:
            ranks.of_first(Companions(weights_at).tidy)
            print_line(f"{spec.recipe}: already pretrained; --force pretrains again", console)
        if not ranks.is_first:
            return {}  # only the first rank makes the features
        record = read_pretraining(record_at)
        if trains or not backbone_path(spec, seed, FEATURES).exists():
            _embed(record, weights_at, cache, launch, console)
    FeatureCache.open(spec, seed, cache, resolved.options)
    if resolved.settings:
        use = f"norml run METHOD --benchmark ID{resolved.settings}, for a benchmark with backbone {spec.recipe}"
        print_line(f"to use its features: {use}", console)
    for shots, accuracy in record.nearest_centroid.items():
        reached = f"{percent(accuracy.mean, accuracy.half_width)}%"
        text = f"{spec.values.n_way}-way {shots}-shot nearest centroid on meta-validation: {reached}"
        print_line(f"{spec.recipe}, seed {seed}: {text}", console)
    return {"record": str(record_at), **record.model_dump(mode="json", exclude={"curve"})}


def _train(resolved: ResolvedRecipe, cache: Cache, launch: Launch, record_at: Path, console: Console) -> None:
    """Train, or resume. Writes the weights and their record."""
    spec = resolved.spec
    title = f"{spec.recipe}, seed {launch.seed}"
    named = TrainingNames(title, title, resolved.changed, "a recipe with a smaller batch_size")
    companions = Companions(backbone_path(spec, launch.seed, WEIGHTS))

    def build(setting: Setting) -> Pretraining:
        return Pretraining(spec, cache, setting)

    with launched(launch, companions, named, build, console=console) as pretraining:
        pretraining.train()
        if launch.ranks.is_first:
            pretraining.keep_weights()  # before the record, which is useless without weights
            write_record(record_at, _record(pretraining, companions))


def _record(pretraining: Pretraining, companions: Companions) -> PretrainingRecord:
    return PretrainingRecord.of(
        pretraining.origin,
        pretraining.course(),
        nearest_centroid=pretraining.nearest_centroid,
        validation_hashes=pretraining.validation_hashes,
        training_images=pretraining.training_images,
        parameters=pretraining.parameters,
        weights_sha256=file_sha256(companions.weights),
    )


def _embed(record: PretrainingRecord, weights_at: Path, cache: Cache, launch: Launch, console: Console) -> None:
    """Make the feature cache. Raises UserError if the weights do not match the record."""
    spec, seed, device = record.spec, record.seed, launch.device
    if file_sha256(weights_at) != record.weights_sha256:
        raise UserError(f"{weights_at}: does not match its record; pretrain again with --force")
    if record.threads is not None and device.type == "cpu":
        use_threads(record.threads)
    backbone = read_backbone(weights_at, spec, seed, cache, device)
    with RunDisplay(console, f"{spec.recipe}, seed {seed}") as display:
        stop = StopRequest()

        def on_progress(split: str, done: int, images: int) -> None:
            stop.obey()
            display.embedding(split, done, images)

        try:
            with stop.listening():
                made = write_features(spec, seed, cache, feature_streams(backbone, spec, cache, device, on_progress))
        except Stopped:
            display.say("stopped while making features; run the same command again to make them")
            raise SystemExit(STOPPED_EXIT_CODE) from None
        size = f"{made.path.stat().st_size / 1e6:.0f} MB"
        display.say(f"{backbone.n_features} features of every image, {size}, sha256 {made.content_hash}")


def verify_features(registry: Registry, resolved: ResolvedRecipe, seed: int, console: Console) -> None:
    """Recompute every checksum of a backbone's features. Raises UserError."""
    spec = resolved.spec
    cache = Cache.open(registry.dataset(spec.dataset), registry.files["datasets", spec.dataset])
    features = FeatureCache.open(spec, seed, cache, resolved.options)
    checked = f"verified, all {features.verify()} checksums are right, content sha256 {features.content_hash}"
    print_line(f"{spec.recipe}, seed {seed}: {checked}", console)
