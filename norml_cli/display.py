"""How a run shows itself: a live bar in a terminal, a plain line now and then elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

REFRESHES_PER_S = 2  # of the bar: each takes 1.5 ms of the CPU, so Rich's own 10 would cost over 1% of a run's time
PLAIN_EVERY_S = 15.0  # chosen: a log that a person can follow and a file can hold

_SPLITS = {"meta_train": "meta-training", "meta_val": "meta-validation", "meta_test": "meta-test"}


class RunDisplay:
    """Steps per second, loss, meta-validation accuracy and time left of one run."""

    def __init__(self, console: Console, title: str) -> None:
        self._console, self._title = console, title
        self._live = console.is_terminal
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=REFRESHES_PER_S,
            disable=not self._live,
        )
        self._task: TaskID | None = None
        self._phase = ""
        self._phase_started_at = self._said_at = time.perf_counter()
        self._phase_start = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def training(self, step: int, outer_steps: int, loss: float, validation: float | None) -> None:
        """Show meta-training at `step` of `outer_steps`."""
        rate = self._enter_phase("meta-training", step)
        note = f"{rate:.1f} steps/s, loss {loss:.3f}"
        note += f", meta-val {100 * validation:.1f}%" if validation is not None else ""
        self._show(step, outer_steps, note, rate)

    def pretraining(self, step: int, steps: int, batch_size: int, loss: float, validation: float | None) -> None:
        """Show a backbone's pretraining at `step` of `steps`, each of `batch_size` images."""
        rate = self._enter_phase("pretraining", step)
        note = f"{rate * batch_size:.0f} images/s, loss {loss:.3f}"
        note += f", meta-val {100 * validation:.1f}%" if validation is not None else ""
        self._show(step, steps, note, rate)

    def embedding(self, split: str, done: int, images: int) -> None:
        """Show how many images of a split have been turned into features."""
        rate = self._enter_phase(f"features of {_SPLITS[split]}", done)
        self._show(done, images, f"{rate:.0f} images/s" if rate else "", rate)

    def evaluating(self, split: str, done: int, episodes: int) -> None:
        """Show an evaluation at `done` of `episodes` episodes."""
        rate = self._enter_phase(_SPLITS[split], done)
        self._show(done, episodes, f"{rate:.0f} episodes/s" if rate else "", rate)

    def say(self, line: str) -> None:
        """One line that stays."""
        self._console.print(f"{self._title}: {line}", highlight=False, markup=False, soft_wrap=True)

    def _enter_phase(self, phase: str, done: int) -> float:
        """Steps or episodes a second since this phase was entered."""
        now = time.perf_counter()
        if phase != self._phase:
            self._phase, self._phase_started_at, self._phase_start = phase, now, done
            if self._task is not None:
                self._progress.remove_task(self._task)
                self._task = None
        elapsed = now - self._phase_started_at
        return (done - self._phase_start) / elapsed if elapsed > 0 else 0.0

    def _show(self, done: int, total: int, note: str, rate: float) -> None:
        if self._live:
            if self._task is None:
                self._task = self._progress.add_task(self._phase, total=total, note=note)
            self._progress.update(self._task, completed=done, note=note)
            return
        now = time.perf_counter()
        if now - self._said_at >= PLAIN_EVERY_S:
            self._said_at = now
            left = f", {_duration((total - done) / rate)} left" if rate else ""
            self.say(f"{self._phase} {done:,}/{total:,}, {note}{left}")


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
