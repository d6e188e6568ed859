"""`norml verify`: test the stored weights of a run again on the stored episodes, and compare with its record."""

from pathlib import Path

from norml_cli.files.errors import UserError
from norml_cli.registry.resolving import Registry
from norml_cli.results.records import RunRecord
from norml_cli.terminal.output import Output, print_line
from norml_cli.training.evaluation import FixedEpisodes
from norml_cli.training.launch import device_of
from norml_cli.training.provenance import device_name
from norml_cli.training.stopping import STOPPED_EXIT_CODE, Stopped, StopRequest
from norml_cli.training.trained import correct_answers, examples_seen, stored_weights

# The largest share of answers that may differ on another device or number of threads. Chosen: two logits that are equal
# up to rounding may change places when sums run in another order.
LARGEST_SHARE_ELSEWHERE = 0.001
NAMED = 5  # episodes that a message names one by one


def verify(registry: Registry, records: list[tuple[Path, RunRecord]], *, device: str, console: Output) -> None:
    """Test the weights of each record, and print whether the counts are those of the record.

    Raises UserError with a line for each record that differs. Exits with 130 if the user stops it.
    """
    faults, stop = [], StopRequest()
    try:
        with stop.listening(), stop.breaking_off():  # may stop at once: it writes nothing
            for path, record in records:
                try:
                    line = _verified(registry, path, record, device, console)
                    print_line(f"{path}: {line}", console)
                except UserError as error:
                    faults.append(str(error))
    except Stopped:
        raise SystemExit(STOPPED_EXIT_CODE) from None
    if faults:
        raise UserError("\n".join(faults))


def _verified(registry: Registry, path: Path, record: RunRecord, device: str, console: Output) -> str:
    spec, target = record.spec, device_of(device)
    trained = stored_weights(path, record, target)
    examples = examples_seen(registry, path, record, "meta_test", console)
    episodes = FixedEpisodes.of(spec, examples, "meta_test", target)
    if episodes.hash != record.episodes.test_hash:
        cache = examples.cache.path.name
        raise UserError(
            f"{path}: {cache} has other test episodes now; run the method again in another --results folder"
        )
    correct = correct_answers(trained, spec, episodes, "meta_test", console)
    found = correct.tolist()
    if found == record.correct and record.by_class not in (None, episodes.by_class(correct)):
        raise UserError(f"{path}: by_class does not match these answers, so the record was changed; run it again")
    return _compared(path, record, found, device_name(target, spec.examples_of_an_outer_step))


def _compared(path: Path, record: RunRecord, found: list[int], device: str) -> str:
    """The line for a record that agrees. Raises UserError for one that does not."""
    differing = [(n, a, b) for n, (a, b) in enumerate(zip(record.correct, found, strict=True)) if a != b]
    if not differing:
        return f"equal, all {len(found):,} episodes"
    named = ", ".join(f"{n}: {b - a:+d}" for n, a, b in differing[:NAMED]) + (" ..." if len(differing) > NAMED else "")
    moved = sum(abs(b - a) for _, a, b in differing)
    share = moved / (len(found) * record.episodes.queries_per_episode)
    what = f"{len(differing):,} of {len(found):,} episodes differ, by {moved:,} answers in all ({named})"
    if device == record.device:
        raise UserError(f"{path}: {what}, on the same kind of device; the record, its weights or torch have changed")
    if share > LARGEST_SHARE_ELSEWHERE:
        raise UserError(
            f"{path}: {what}: {100 * share:.3g}% of the answers, more than the {100 * LARGEST_SHARE_ELSEWHERE:g}% that "
            f"rounding explains between {record.device} and {device}; verify on the record's device"
        )
    return f"equal up to rounding: {what}; the record was made on {record.device}, this is {device}"
