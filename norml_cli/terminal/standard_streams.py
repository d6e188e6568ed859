"""Standard output and standard error, whatever becomes of what they lead to: a full disk, a closed pipe."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from norml_cli.files.errors import reason

CLOSED_PIPE = 141  # the exit code of a program that SIGPIPE ended, as `cat FILE | head -1` leaves


class _Stream:
    """A stream that never raises OSError: after the first one what is written goes nowhere.

    failed: told of it. A training goes on, since its record is worth more than its lines.
    """

    def __init__(self, stream: TextIO, failed: Callable[[OSError], None]) -> None:
        self._stream, self._failed = stream, failed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As of any text stream."""
        with self._told():
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """As of any text stream."""
        with self._told():
            self._stream.flush()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._discard()
            self._failed(error)

    def _discard(self) -> None:
        """What Python still holds of it, and flushes when it ends, goes nowhere, too."""
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)


@contextmanager
def guarded() -> Iterator[None]:
    """Standard output and error of a command.

    If standard output cannot be written, one line on standard error says so, the command goes on, and exit code 2
    follows. A closed pipe ends the command at once, in silence, with exit code 141.
    """
    faults: list[OSError] = []

    def lost(error: OSError) -> None:
        if isinstance(error, BrokenPipeError):
            sys.exit(CLOSED_PIPE)
        faults.append(error)
        if sys.stderr is not None:
            sys.stderr.write(f"error: standard output cannot be written ({reason(error)}); free space or redirect it\n")

    def ignored(_error: OSError) -> None:
        """Nobody is left to tell."""

    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _wrapped(sys.stdout, lost), _wrapped(sys.stderr, ignored)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = before
        if faults:
            sys.exit(2)


def _wrapped(stream: TextIO | None, failed: Callable[[OSError], None]) -> TextIO:
    return cast("TextIO", None if stream is None else _Stream(stream, failed))
