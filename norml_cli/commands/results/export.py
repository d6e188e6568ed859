"""`norml export`: write trained weights as safetensors files with cards, and as programs that need only torch."""

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from norml.meta_training import MetaTrained
from norml_cli.files.atomic import write_atomically
from norml_cli.files.companions import PUBLISHED, Companions
from norml_cli.files.errors import UserError, reason
from norml_cli.registry.evaluating import adapted_as
from norml_cli.registry.resolving import Registry
from norml_cli.registry.specs import RunSpec
from norml_cli.results.evaluations import Card
from norml_cli.results.records import RunRecord
from norml_cli.terminal.output import Output, print_line
from norml_cli.training.checkpoints import write_published
from norml_cli.training.trained import Trained, rebuilt, stored_state, stored_weights

PROGRAM = ".pt2"


@dataclass(frozen=True)
class ProgramFile:
    """Where to write a program, and the adaptation settings that differ from the run's test (--set)."""

    path: Path
    overrides: Mapping[str, Any]


def export(
    registry: Registry,
    records: list[tuple[Path, RunRecord]],
    *,
    out: Path | None,
    program: ProgramFile | None,
    console: Output,
) -> None:
    """Write the weights of each record beside it, or of a single record to `out`, and its program if wanted.

    Raises UserError before it writes anything: for a record without weights, and if torch cannot export the program.
    """
    _require_one(records, out, "--out", PUBLISHED)
    _require_one(records, program.path if program else None, "--program", PROGRAM)
    states, made = [], None
    for path, record in records:
        if not record.spec.rule.meta_trained:
            raise UserError(
                f"{path}: {record.spec.algorithm} has no trained weights; name the record of another method"
            )
        trained = stored_weights(path, record, "cpu")  # checks that they fit
        states.append((stored_state(path, record), registry.dataset_of(path, record.spec.dataset).licence))
        made = None if program is None else _exported(trained, adapted_as(record.spec, dict(program.overrides)))
    done = []
    for (path, record), (state, licence) in zip(records, states, strict=True):
        file = out or Companions(path).published
        card = write_published(path, record, state, licence=licence, out=file)
        _tell(console, file, f", with {Companions(file).card.name}")
        done.append({"file": str(file), "card": str(Companions(file).card), "sha256": card.file_sha256})
        if program is not None and made is not None:
            _write_program(made, card, program.path)
            _tell(console, program.path, f": {made.takes}")
            done[-1]["program"] = str(program.path)
    console.result(done)


def _require_one(records: list[tuple[Path, RunRecord]], file: Path | None, option: str, suffix: str) -> None:
    if file is not None and (len(records) > 1 or file.suffix != suffix):
        raise UserError(f"{option} {file}: takes one RECORD and a file that ends in {suffix}")


def _tell(console: Output, file: Path, more: str) -> None:
    print_line(f"{file}: {file.stat().st_size / 1e6:.1f} MB{more}", console)


# ----------------------------------------------------------------------------------------------------------- programs


class Episode(nn.Module):
    """One episode as a function: support examples [S, D], labels [S] and queries [M, D] -> logits [M, N]."""

    def __init__(self, meta_learner: MetaTrained, inner_steps: int) -> None:
        super().__init__()
        self.meta_learner, self.inner_steps = meta_learner.requires_grad_(requires_grad=False), inner_steps

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Adapt to the support examples. Returns logits [M, N] of the queries."""
        adapted = self.meta_learner.adapt(support_x[None], support_y[None], self.inner_steps)
        return adapted.logits(query_x[None])[0]


@dataclass(frozen=True)
class Program:
    """An exported episode, its adaptation settings, and its inputs and outputs in words."""

    exported: torch.export.ExportedProgram
    spec: RunSpec
    takes: str


def _exported(trained: Trained, spec: RunSpec) -> Program:
    """The program of one episode under `spec`. M is free, and S too unless the rule has learned values per example.

    Raises UserError if torch cannot export it.
    """
    protocol = spec.protocol.model_copy(
        update={"weight_form": "materialised"}
    )  # the other forms choose by sizes, which are free here
    meta_learner = rebuilt(trained, spec.model_copy(update={"protocol": protocol})).meta_learner
    n_features, n_support = meta_learner.learner.sizes[0], protocol.n_way * spec.shots
    free = _serves_any_support(trained, spec)
    support, queries = torch.export.Dim("S", min=2), torch.export.Dim("M", min=1)
    shapes = ({0: support} if free else None, {0: support} if free else None, {0: queries})
    example = (
        torch.zeros(n_support, n_features),
        torch.arange(protocol.n_way).repeat_interleave(spec.shots),
        torch.zeros(n_support + 1, n_features),
    )
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # from torch's internals
            episode = Episode(meta_learner, protocol.inner_steps_test)
            made = torch.export.export(episode, example, dynamic_shapes=shapes)
    except RuntimeError as error:  # the base of everything that torch.export raises
        raise UserError(
            f"--program: torch cannot export {spec.method} ({reason(error).split('. ')[0]}); leave out --program"
        ) from None
    what = "images" if protocol.backbone is None else f"features by '{protocol.backbone}'"
    n = "S" if free else n_support
    return Program(made, spec, f"{what} [{n}, {n_features}], labels [{n}], [M, {n_features}] -> [M, {protocol.n_way}]")


def _serves_any_support(trained: Trained, spec: RunSpec) -> bool:
    """Whether the program can take any number of support examples: neither weights nor steps depend on it."""
    if spec.protocol.support_order == "one-by-one":
        return False
    try:
        rebuilt(trained, spec.model_copy(update={"shots": spec.shots + 1}))
    except UserError:
        return False
    return True


def _write_program(program: Program, card: Card, path: Path) -> None:
    """Write the program, the card of its weights and its adaptation settings into one file."""
    target = io.BytesIO()
    extra = {"card.json": card.model_dump_json(indent=2), "spec.json": program.spec.model_dump_json(indent=2)}
    torch.export.save(program.exported, target, extra_files=extra)
    write_atomically(path, lambda file: file.write(target.getbuffer()))
