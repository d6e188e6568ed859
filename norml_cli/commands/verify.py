"""`norml verify`: the stored weights of a run, tested again on the stored episodes, against its record."""

import io
from pathlib import Path

from rich.console import Console

from norml_cli.data.cache import Cache
from norml_cli.data.examples import Examples
from norml_cli.files.errors import UserError
from norml_cli.registry.resolving import Registry
from norml_cli.results.records import RunRecord
from norml_cli.terminal.progress import RunDisplay
from norml_cli.training.launch import device_of
from norml_cli.training.provenance import device_name
from norml_cli.training.run import Run

LARGEST_SHARE_ELSEWHERE = 0.001  # chosen: of all answers, on another device or number of threads; where two logits lie
# within rounding of each other, another order of summation moves an answer
NAMED = 5  # episodes that a message names


def verify(registry: Registry, records: list[tuple[Path, RunRecord]], *, device: str, console: Console) -> None:
    """Say of each record whether its weights give its counts. Raises UserError with every record that does not hold."""
    faults = []
    for path, record in records:
        try:
            found = _tested_again(registry, path, record, device)
            here = device_name(device_of(device), record.spec.examples_of_an_outer_step)
            line = _compared(path, record, found, here)
            console.print(f"{path}: {line}", highlight=False, markup=False, soft_wrap=True)
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("\n".join(faults))


def _tested_again(registry: Registry, path: Path, record: RunRecord, device: str) -> list[int]:
    """Correct answers of each test episode by the stored weights."""
    spec, weights = record.spec, path.with_suffix(".weights")
    again = f"norml run {spec.method} --benchmark {spec.benchmark} --shots {spec.shots} --seed {record.seed} --force"
    if not weights.exists():
        kept = "with the --set values of its command" if record.changed else "which makes them"
        raise UserError(f"{path}: its weights are missing ({weights.name}); run `{again}`, {kept}")
    if spec.dataset not in registry.datasets:
        raise UserError(f"{path}: its data set '{spec.dataset}' is not declared; name its folder with --registry")
    cache = Cache.open(registry.datasets[spec.dataset], registry.files["datasets", spec.dataset])
    if cache.content_hash != record.dataset.content_hash:
        raise UserError(f"{path}: was made on other images than are in {cache.path} now; prepare those, or run again")
    with RunDisplay(Console(file=io.StringIO()), spec.method) as display:
        run = Run(
            spec,
            Examples.of(registry, spec, cache),
            seed=record.seed,
            device=device_of(device),
            checkpoint=path.with_suffix(".verifying"),  # never written: nothing is trained
            display=display,
        )
        run.take_weights(weights)
        if run.episode_hashes["meta_test"] != record.episodes.test_hash:
            raise UserError(f"{path}: was tested on other episodes than {cache.path} holds now; run again with --force")
        return run.test().correct


def _compared(path: Path, record: RunRecord, found: list[int], device: str) -> str:
    """The line of a record that holds. Raises UserError for one that does not."""
    differing = [(n, a, b) for n, (a, b) in enumerate(zip(record.correct, found, strict=True)) if a != b]
    if not differing:
        return f"equal, all {len(found):,} episodes"
    named = ", ".join(f"{n}: {b - a:+d}" for n, a, b in differing[:NAMED]) + (" ..." if len(differing) > NAMED else "")
    moved = sum(abs(b - a) for _, a, b in differing)
    share = moved / (len(found) * record.episodes.queries_per_episode)
    what = f"{len(differing):,} of {len(found):,} episodes differ, by {moved:,} answers in all ({named})"
    if device == record.device:
        raise UserError(f"{path}: {what}, on the same kind of device; record or weights were changed, or torch was")
    if share > LARGEST_SHARE_ELSEWHERE:
        raise UserError(
            f"{path}: {what}: {100 * share:.3g}% of the answers, more than the {100 * LARGEST_SHARE_ELSEWHERE:g}% that "
            f"rounding explains between {record.device} and {device}; verify it on the device of the record"
        )
    return f"equal within rounding: {what}; {record.device} made the record, this is {device}"
