"""Signals that ask a training to stop: after the step that it is in, or at once."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

# Ctrl-C; signals of systems and schedulers before they kill (Slurm: --signal=USR1@90); a closed terminal or lost ssh.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]
STOPPED_EXIT_CODE = 130  # a shell's exit code for a process that Ctrl-C ended


class Stopped(Exception):  # noqa: N818 - not an error: the user asked for it
    """The training got a stop request."""


class StoppedAtOnce(Stopped):
    """Stopped within a step, whose partial results must not be saved."""


class StopRequest:
    """A request to stop, made by a signal."""

    def __init__(self, say: Callable[[str], None] = lambda _: None) -> None:
        """say: tells the user that the training will stop after its step."""
        self.made = False
        self._say = say
        self._breaks_off = False
        self._over = False  # StoppedAtOnce was raised; it is raised only once

    def obey(self) -> None:
        """Raise Stopped if there is a request."""
        if self.made:
            raise Stopped

    @contextmanager
    def breaking_off(self) -> Iterator[None]:
        """A context in which a request raises Stopped at once, for long operations without partial results."""
        self._breaks_off = True
        try:
            self.obey()
            yield
        finally:
            self._breaks_off = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """A context in which a signal is a request to stop after the step; a second Ctrl-C interrupts the step."""
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
            with suppress(OSError, RuntimeError):  # a closed terminal, or a signal while printing
                self._say("stopping after this step; press Ctrl-C again to stop at once")
        elif number == signal.SIGINT and not self._over:  # only Ctrl-C: some systems send two signals to stop a process
            self._over = True
            raise StoppedAtOnce


def _is_under_nohup(number: int) -> bool:
    """Whether `number` is SIGHUP and the process runs under nohup, so it should outlive the terminal."""
    return number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) is signal.SIG_IGN
