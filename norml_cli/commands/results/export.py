"""`norml export`: the trained weights of runs as safetensors files with their cards, for others to use."""

from pathlib import Path

from norml_cli.files.companions import PUBLISHED, Companions
from norml_cli.files.errors import UserError
from norml_cli.registry.resolving import Registry
from norml_cli.results.records import RunRecord
from norml_cli.terminal.output import Output
from norml_cli.training.checkpoints import write_published
from norml_cli.training.trained import stored_state, stored_weights


def export(registry: Registry, records: list[tuple[Path, RunRecord]], *, out: Path | None, console: Output) -> None:
    """Write the weights of each record beside it, or those of a single one to `out`.

    Raises UserError, before anything is written, for what has no weights.
    """
    if out is not None and (len(records) > 1 or out.suffix != PUBLISHED):
        raise UserError(f"--out {out}: takes one RECORD and a file that ends in {PUBLISHED}")
    states = []
    for path, record in records:
        if not record.spec.rule.meta_trained:
            raise UserError(f"{path}: {record.spec.algorithm} learns nothing, so there are no weights to export")
        stored_weights(path, record, "cpu")  # they fit
        states.append(stored_state(path, record))
    done = []
    for (path, record), state in zip(records, states, strict=True):
        file = out or Companions(path).published
        licence = registry.dataset(record.spec.dataset).licence
        card = write_published(path, record, state, licence=licence, out=file)
        size = f"{file.stat().st_size / 1e6:.1f} MB"
        console.print(f"{file}: {size}, with {Companions(file).card.name}", highlight=False, soft_wrap=True)
        done.append({"file": str(file), "card": str(Companions(file).card), "sha256": card.file_sha256})
    console.result(done)
