"""What lets a long training be stopped anywhere and taken up again: checkpoints, and signals that ask for a stop."""

import hashlib
import io
import pickle
import signal
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from norml_cli.files.atomic import write_atomically
from norml_cli.files.errors import UserError
from norml_cli.files.regular import read_regular

HEAD = b"norml checkpoint 2 sha256 "
ZIP_HEAD = b"PK\x03\x04"
START_OVER = "start over with --force"

# What torch and zipfile make of a damaged file.
_BROKEN = (OSError, RuntimeError, ValueError, TypeError, EOFError, LookupError, AttributeError, pickle.UnpicklingError)

MAX_FILE_BYTES = 1 << 33  # chosen: 8 GiB, over a hundred times the largest model here
CHECKPOINT_EVERY_S = 30.0  # chosen: at most half a minute is lost to a kill, under 1% of the time is spent saving


class Stopped(Exception):  # noqa: N818 - not an error: the user asked for it
    """The training was asked to stop."""


class StopRequest:
    """Whether Ctrl-C or SIGTERM asked for a stop."""

    def __init__(self) -> None:
        self.made = False
        self._breaks_off = False

    def obey(self) -> None:
        """Raise Stopped if a stop was asked for."""
        if self.made:
            raise Stopped

    @contextmanager
    def breaking_off(self) -> Iterator[None]:
        """Within it, a request raises Stopped at once: for what takes long and leaves nothing half done."""
        self._breaks_off = True
        try:
            self.obey()
            yield
        finally:
            self._breaks_off = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take those signals as requests, instead of breaking off a step."""

        def request_stop(_signal: int, _frame: FrameType | None) -> None:
            self.made = True
            if self._breaks_off:
                raise Stopped

        names = (signal.SIGINT, signal.SIGTERM)
        previous = [signal.signal(name, request_stop) for name in names]
        try:
            yield
        finally:
            for name, handler in zip(names, previous, strict=True):
                signal.signal(name, handler)


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values, whole or not at all: a line with their SHA-256, then what torch makes of them.

    Raises UserError.
    """
    payload = io.BytesIO()
    torch.save(dict(content), payload)
    data = payload.getbuffer()
    head = HEAD + hashlib.sha256(data).hexdigest().encode() + b"\n"
    write_atomically(path, lambda file: file.writelines([head, data]))


def read_checkpoint(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors and plain values only: nothing in the file is executed, and nothing read before its checksum is right.

    Raises UserError for what is no checkpoint or damaged, and if a value of `identity` differs.
    """
    try:
        payload = _checked_payload(path)
        content = torch.load(io.BytesIO(payload), weights_only=True, map_location="cpu")
    except (*_BROKEN, zipfile.BadZipFile, zlib.error, struct.error) as error:
        raise UserError(f"{path}: not a readable checkpoint ({type(error).__name__}); {START_OVER}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a checkpoint of a run; {START_OVER}")
    for key, expected in identity.items():
        if content.get(key) != expected:
            raise UserError(
                f"{path}: belongs to another run ({key} differs); start over with --force, "
                f"or keep it and use another --results folder"
            )
    return content


def _checked_payload(path: Path) -> bytes:
    """What `torch.load` may see: the file behind its head, whose checksum is that of the rest.

    Earlier versions wrote torch's zip archive alone. It has a CRC-32 of every entry, which torch does not look at; here
    they are checked, so that such a file is still of use and no flipped byte in what it holds goes unseen.
    """
    data = read_regular(path, MAX_FILE_BYTES)
    if data.startswith(ZIP_HEAD):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise UserError(f"{path}: is damaged (in {damaged}); {START_OVER}")
        return data
    head, _, payload = data.partition(b"\n")
    if not head.startswith(HEAD):
        raise UserError(f"{path}: not a readable checkpoint (no checksum at its start); {START_OVER}")
    if head != HEAD + hashlib.sha256(payload).hexdigest().encode():
        raise UserError(f"{path}: is damaged (its checksum differs); {START_OVER}")
    return payload
