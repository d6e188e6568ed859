"""The timer, on a clock that is moved by hand."""

from tests.benchmarks.measure import Timer
from tests.benchmarks.record import measured


def test_every_candidate_is_timed_in_every_round_and_warm_up_calls_do_not_count():
    now, calls, turns = [0.0], [], []

    def costs(name: str, seconds: list[float]):
        def call() -> None:
            now[0] += seconds.pop(0)
            calls.append(name)

        return call

    candidates = {
        "a": costs("a", [100.0, 1.0, 2.0, 100.0, 3.0, 4.0]),
        "b": costs("b", [50.0, 5.0, 6.0, 50.0, 7.0, 8.0]),
    }
    timer = Timer(rounds=2, measured=2, unmeasured=1, clock=lambda: now[0])
    seconds = timer.interleaved(candidates, lambda done, total: turns.append((done, total)))
    assert seconds == {"a": [1, 2, 3, 4], "b": [5, 6, 7, 8]}
    assert "".join(calls) == "aaabbbaaabbb"
    assert turns == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert measured({"x": "a"}, seconds["a"]).median == 2.5


def test_the_clock_starts_and_stops_when_the_device_is_idle():
    now = [0.0]

    def finish() -> None:
        now[0] = float(int(now[0]) + 1)  # waiting ends on the next whole second

    def launch() -> None:
        now[0] += 0.25

    assert Timer(1, clock=lambda: now[0], synchronise=finish).once(launch) == 1
