"""Standard output and standard error that survive a full disk and a closed pipe."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from norml_cli.files.errors import reason

CLOSED_PIPE = 141  # the exit code after SIGPIPE, as of `cat` in `cat FILE | head -1`


class _Stream:
    """A stream that never raises OSError. After the first one, it calls `failed` and discards what follows.

    A training goes on without its output: the record matters more than the lines.
    """

    def __init__(self, stream: TextIO, failed: Callable[[OSError], None]) -> None:
        self._stream, self._failed = stream, failed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write like any text stream."""
        with self._caught():
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush like any text stream."""
        with self._caught():
            self._stream.flush()

    @contextmanager
    def _caught(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._discard()
            self._failed(error)

    def _discard(self) -> None:
        """Discard also what Python has buffered and flushes at exit."""
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)


@contextmanager
def guarded() -> Iterator[None]:
    """Guard a command's standard output and standard error.

    If standard output cannot be written, one line on standard error says so, and the command goes on and exits with
    code 2. A closed pipe ends the command at once and silently, with exit code 141.
    """
    faults: list[OSError] = []

    def lost(error: OSError) -> None:
        if isinstance(error, BrokenPipeError):
            sys.exit(CLOSED_PIPE)
        faults.append(error)
        if sys.stderr is not None:
            sys.stderr.write(f"error: standard output cannot be written ({reason(error)}); free space or redirect it\n")

    def ignored(_error: OSError) -> None:
        """Standard error itself failed, so nothing can be reported."""

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
