"""Checkpoints and weights: files of tensors and plain values, which name their run and are never half-written.

Published weights are a safetensors file, which holds no code, and its card.
"""

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from norml_cli.files.atomic import write_atomically
from norml_cli.files.companions import Companions
from norml_cli.files.errors import UserError, reason
from norml_cli.files.regular import read_regular
from norml_cli.registry.specs import PretrainSpec, RunSpec
from norml_cli.results.evaluations import Card
from norml_cli.results.records import DatasetIdentity, RunRecord
from norml_cli.results.store import read_card, stored_digest, write_record

HEAD = b"norml checkpoint 2 sha256 "
START_OVER = "start over with --force"

# Exceptions that torch raises for damaged files.
_BROKEN = (OSError, RuntimeError, ValueError, TypeError, EOFError, LookupError, AttributeError, pickle.UnpicklingError)

MAX_FILE_BYTES = 1 << 33  # chosen: 8 GiB, over a hundred times the largest model here


def identity_of(spec: RunSpec | PretrainSpec, seed: int, dataset: DatasetIdentity) -> dict[str, Any]:
    """Values that a training writes into its files and checks when it reads them, to reject another training's."""
    identity = {"spec_hash": spec.hash(), "seed": seed, "content_hash": dataset.content_hash}
    return identity if dataset.features is None else identity | {"features": dataset.features}


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values completely or not at all: a line with the SHA-256, then torch's format.

    Raises UserError.
    """
    payload = io.BytesIO()
    torch.save(dict(content), payload)
    data = payload.getbuffer()
    head = HEAD + hashlib.sha256(data).hexdigest().encode() + b"\n"
    write_atomically(path, lambda file: file.writelines([head, data]))


def read_checkpoint(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Read tensors and plain values. Never executes anything in the file, and verifies its checksum first.

    Raises UserError for a file that is damaged or not a checkpoint, and if a value of `identity` differs.
    """
    try:
        payload = _checked_payload(path)
        content = torch.load(io.BytesIO(payload), weights_only=True, map_location="cpu")
    except _BROKEN as error:
        why = f" ({reason(error)})" if isinstance(error, OSError) else ""  # torch's own message does not help
        raise UserError(f"{path}: is not a readable checkpoint{why}; {START_OVER}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: is not a checkpoint of a run; {START_OVER}")
    for key, expected in identity.items():
        if content.get(key) != expected:
            raise UserError(
                f"{path}: belongs to another run ({key} differs); start over with --force, "
                f"or keep it and use another --results folder"
            )
    return content


def _checked_payload(path: Path) -> bytes:
    """The file behind its head, for `torch.load`, after its checksum was verified."""
    data = read_regular(path, MAX_FILE_BYTES)
    head, _, payload = data.partition(b"\n")
    if not head.startswith(HEAD):
        raise UserError(f"{path}: is not a readable checkpoint (no checksum at its start); {START_OVER}")
    if head != HEAD + hashlib.sha256(payload).hexdigest().encode():
        raise UserError(f"{path}: is damaged (its checksum differs); {START_OVER}")
    return payload


# -------------------------------------------------------------------------------------------------- published


def write_published(
    record_at: Path, record: RunRecord, state: Mapping[str, torch.Tensor], *, licence: str, out: Path
) -> Card:
    """Write the tensors `state` of the run of `record` to `out`, then their card next to it.

    The same run always gives the same two files, byte for byte. Raises UserError for weights that are not float32.
    """
    others = sorted({str(value.dtype) for value in state.values() if value.is_floating_point()} - {"torch.float32"})
    if others:
        raise UserError(f"{record_at}: its weights are {', '.join(others)}; only float32 weights can be published")
    data = safetensors.torch.save({name: value.contiguous() for name, value in state.items()})
    card = Card.of(
        record,
        stored_digest(record_at),
        file_sha256=hashlib.sha256(data).hexdigest(),
        licence=licence,
        shapes={name: list(value.shape) for name, value in sorted(state.items())},
    )
    write_atomically(out, lambda file: file.write(data))
    write_record(Companions(out).card, card)
    return card


def read_published(record_at: Path) -> dict[str, torch.Tensor]:
    """The published tensors of the run whose record is at `record_at`. Verifies the checksum first.

    Raises UserError for a file that is damaged, has no card, or belongs to another run.
    """
    files = Companions(record_at)
    card, again = read_card(files.card), "restore both from a copy, or export them again"
    if card.run_digest != stored_digest(record_at):
        raise UserError(f"{files.card}: belongs to another run than {record_at.name}; {again}")
    try:
        data = read_regular(files.published, MAX_FILE_BYTES)
        if hashlib.sha256(data).hexdigest() != card.file_sha256:
            raise UserError(f"{files.published}: is damaged, or not the file of {files.card.name}; {again}")
        state: dict[str, torch.Tensor] = safetensors.torch.load(data)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{files.published}: cannot be read ({error}); {again}") from None
    return state
