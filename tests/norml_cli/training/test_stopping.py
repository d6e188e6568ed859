"""Requests to stop: heard, obeyed, broken off."""

import signal
from collections.abc import Iterator

import pytest

from norml_cli.training.stopping import SIGNALS, Stopped, StoppedAtOnce, StopRequest


@pytest.fixture(autouse=True)
def a_terminal() -> Iterator[None]:
    """SIGHUP is heard, also where the tests themselves are run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_a_request_that_is_obeyed_later(number: int):
    said: list[str] = []
    stop = StopRequest(said.append)
    before = signal.getsignal(number)
    with stop.listening():
        signal.raise_signal(number)
        assert stop.made
        assert said == ["stopping after this step; press Ctrl-C again to stop at once"]
        with pytest.raises(Stopped):
            stop.obey()
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_ctrl_c_after_any_request_stops_at_once_and_more_change_nothing(first: int):
    stop = StopRequest()
    with stop.listening():
        signal.raise_signal(first)
        with pytest.raises(StoppedAtOnce):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_two_signals_of_a_system_are_one_request():
    """systemd may send SIGHUP right after SIGTERM, and a terminal that closes both."""
    stop = StopRequest()
    with stop.listening():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGHUP)
        assert stop.made


def test_a_terminal_that_is_gone_does_not_lose_the_request():
    def fails(_: str) -> None:
        raise OSError(5, "Input/output error")

    stop = StopRequest(fails)
    with stop.listening():
        signal.raise_signal(signal.SIGHUP)
    assert stop.made


@pytest.fixture
def nohup() -> Iterator[None]:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("nohup")
def test_under_nohup_a_training_outlives_its_terminal():
    stop = StopRequest()
    with stop.listening():
        signal.raise_signal(signal.SIGHUP)
    assert not stop.made


def test_what_leaves_nothing_half_done_is_broken_off():
    stop = StopRequest()
    with stop.listening(), pytest.raises(Stopped), stop.breaking_off():
        signal.raise_signal(signal.SIGTERM)
