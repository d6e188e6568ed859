"""Signals that ask a training to stop: after the step that it is in, or at once."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

# Ctrl-C; what systems and schedulers send before they kill (Slurm: --signal=USR1@90); a closed terminal, a lost ssh.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]
STOPPED_EXIT_CODE = 130  # as a shell reports a process that Ctrl-C ended


class Stopped(Exception):  # noqa: N818 - not an error: the user asked for it
    """The training was asked to stop."""


class StoppedAtOnce(Stopped):
    """Within a step: what it had half done is not to be saved."""


class StopRequest:
    """Whether a signal asked for a stop."""

    def __init__(self, say: Callable[[str], None] = lambda _: None) -> None:
        """`say` tells the user that the request was heard, where it is not obeyed at once."""
        self.made = False
        self._say = say
        self._breaks_off = False
        self._over = False  # a stop at once was raised: no more of them

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
        """Take signals as requests, instead of breaking off a step; a second Ctrl-C does break it off."""
        previous = {number: signal.signal(number, self._heard) for number in SIGNALS if not _is_under_nohup(number)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _heard(self, number: int, _frame: FrameType | None) -> None:
        first, self.made = not self.made, True
        if self._breaks_off:
            self._breaks_off = False  # once is enough
            raise Stopped
        if first:
            with suppress(OSError, RuntimeError):  # a closed terminal; in the middle of another line
                self._say("stopping after this step; press Ctrl-C again to stop at once")
        elif number == signal.SIGINT and not self._over:  # no other: some systems send two signals to stop a process
            self._over = True
            raise StoppedAtOnce


def _is_under_nohup(number: int) -> bool:
    """Whether it is SIGHUP, and whoever started this process wants it to outlive the terminal."""
    return number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) is signal.SIG_IGN
