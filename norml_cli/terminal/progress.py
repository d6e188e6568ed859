"""Progress of a long command: a live bar in a terminal; elsewhere, a plain line or a JSON object every few seconds.

Followers, such as the status file and TensorBoard, get the same progress.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import Progress as LiveBars
from rich.progress import ProgressColumn, Task, TaskID
from rich.text import Text
from typing_extensions import override

from norml_cli.terminal.output import Output, print_line

REFRESHES_PER_S = 2  # each takes 1.5 ms of CPU: Rich's default of 10 would cost over 1% of a run's time
BAR_WIDTH, MIN_BAR_WIDTH = 20, 4  # characters; a shorter bar would show nothing
MOST_FRACTIONS = 8  # runs shown one by one on a line; above this, their mean
PLAIN_EVERY_S = 15.0  # chosen: a person can follow the log, and it stays short
JSON_EVERY_S = 1.0  # chosen: often enough for a program that draws progress

_SPLITS = {"meta_train": "meta-training", "meta_val": "meta-validation", "meta_test": "meta-test"}


@dataclass(frozen=True)
class Progress:
    """Progress of one phase. rate: `done` per second; 0: not known yet. numbers: loss and accuracies by name."""

    phase: str
    done: int
    total: int
    rate: float
    speed: str
    numbers: Mapping[str, float] = field(default_factory=dict)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the end of this phase, at this rate. None: not known yet."""
        return (self.total - self.done) / self.rate if self.rate > 0 else None

    @property
    def notes(self) -> list[str]:
        """Speed and numbers as short texts for people."""
        parts = [self.speed] if self.speed else []
        if "loss" in self.numbers:
            parts.append(f"loss {self.numbers['loss']:.3f}")
        if "validation" in self.numbers:
            parts.append(f"meta-val {100 * self.numbers['validation']:.1f}%")
        return parts


class Follower:
    """Gets a run's progress, besides the terminal. Each method does nothing unless a subclass overrides it."""

    def progressed(self, progress: Progress) -> None:
        """Called from time to time."""

    def validated(self, point: Mapping[str, Any]) -> None:
        """Called after each meta-validation with its point of the learning curve."""

    def tested(self, step: int, accuracy: float) -> None:
        """Called after the meta-test of the weights of outer step `step`."""

    def close(self) -> None:
        """Called at the end, also after an error."""


@dataclass
class _PhaseStart:
    """When a phase was first shown, and how much was done then and at the last update."""

    at: float
    done: int
    last: int


class _Line(ProgressColumn):
    """Title, bar, count, notes and time left on one line, as wide as the terminal."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    @override
    def render(self, task: Task) -> Text:
        progress = task.fields["progress"]
        title, bar, rest = fitted(task.description, progress, self._console.width)
        done = round(bar * progress.done / progress.total) if progress.total else 0
        sign, blank = ("━", " " if self._console.no_color else "━") if self._console.encoding == "utf-8" else ("-", " ")
        drawn = Text.assemble((sign * done, "bar.complete"), (blank * (bar - done), "bar.back"), " " * bool(bar))
        return Text.assemble(f"{title} ", drawn, rest, no_wrap=True, overflow="crop")


def fitted(title: str, progress: Progress, width: int) -> tuple[str, int, str]:
    """The title, the bar's width and the rest of a progress line of at most `width` characters.

    If there is too little room, the bar shrinks first, then the notes go (speed first), then the title is shortened.
    Count and time left always stay.
    """
    left = "-:--:--" if progress.seconds_left is None else duration(progress.seconds_left)
    count = f"{progress.done:,}/{progress.total:,}"
    notes = progress.notes
    while True:
        rest = " ".join([count, *([", ".join(notes)] if notes else []), left])
        room = width - len(rest) - len(title) - 1
        if room >= 0 or not notes:
            break
        notes = notes[1:]
    if room < 0:
        title = f"{title[: max(0, len(title) + room - 3)]}..."
    whole = len(notes) == len(progress.notes) and room > MIN_BAR_WIDTH
    return title, min(BAR_WIDTH, room - 1) if whole else 0, rest


class RunDisplay:
    """Shows what a command is doing, how far it is, how fast it goes, and how much time is left."""

    def __init__(self, console: Console, title: str, followers: Sequence[Follower] = ()) -> None:
        self._console, self._title, self._followers = console, title, followers
        self._as_json = isinstance(console, Output) and console.as_json
        self._live = console.is_terminal and not (console.is_dumb_terminal or console.quiet or self._as_json)
        self._bars = LiveBars(
            _Line(console),
            console=console,
            transient=True,  # the bar disappears at the end; lines stay
            refresh_per_second=REFRESHES_PER_S,
            disable=not self._live,
        )
        self._task: TaskID | None = None
        self._phase = ""  # the one that the bar shows
        self._said_at = time.perf_counter()
        self._begun: dict[str, _PhaseStart] = {}  # by phase

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()
        for follower in self._followers:
            follower.close()

    def training(self, step: int, outer_steps: int, loss: float, validation: float | None) -> None:
        """Show that meta-training is at `step` of `outer_steps`."""
        rate = self._rate("meta-training", step)
        numbers = {"loss": loss} | ({} if validation is None else {"validation": validation})
        self._show(Progress("meta-training", step, outer_steps, rate, f"{rate:.1f} steps/s" if rate else "", numbers))

    def pretraining(self, step: int, steps: int, batch_size: int, loss: float, validation: float | None) -> None:
        """Show that pretraining is at `step` of `steps`, each of `batch_size` images."""
        rate = self._rate("pretraining", step)
        numbers = {"loss": loss} | ({} if validation is None else {"validation": validation})
        self._show(
            Progress("pretraining", step, steps, rate, f"{rate * batch_size:,.0f} images/s" if rate else "", numbers)
        )

    def reading(self, done: int, images: int) -> None:
        """Show how many images of a data set have been read."""
        self.counting("reading images", done, images, "images")

    def embedding(self, split: str, done: int, images: int) -> None:
        """Show how many images of a split have been turned into features."""
        self.counting(f"features of {_SPLITS[split]}", done, images, "images")

    def evaluating(self, split: str, done: int, episodes: int) -> None:
        """Show that an evaluation is at `done` of `episodes` episodes."""
        self.counting(_SPLITS[split], done, episodes, "episodes")

    def validated(self, point: Mapping[str, Any]) -> None:
        """Pass a meta-validation on to the followers."""
        for follower in self._followers:
            follower.validated(point)

    def tested(self, step: int, accuracy: float) -> None:
        """Pass the meta-test on to the followers."""
        for follower in self._followers:
            follower.tested(step, accuracy)

    def say(self, line: str) -> None:
        """Print one line, which stays."""
        if isinstance(self._console, Output) and self._as_json:
            self._console.event("line", title=self._title, line=line)
        else:
            print_line(f"{self._title}: {line}", self._console)

    def counting(self, phase: str, done: int, total: int, unit: str) -> None:
        """Show that `phase` is at `done` of `total`, counted in `unit`."""
        rate = self._rate(phase, done)
        self._show(Progress(phase, done, total, rate, f"{rate:,.0f} {unit}/s" if rate else ""))

    def cells(
        self, finished: int, cells: int, running: Sequence[float], queued: int, seconds_left: float | None
    ) -> None:
        """Show the progress of a sweep.

        finished: how many of the `cells` have finished. running: the fraction done of each running cell.
        queued: how many cells are submitted but not running. A plain log shows nothing here: it already has a line when
        a cell starts and when it ends.
        """
        if self._live or self._as_json:
            rate = (cells - finished) / seconds_left if seconds_left else 0.0
            self._show(Progress("cells", finished, cells, rate, _running(running, queued)))

    def _rate(self, phase: str, done: int) -> float:
        """Steps, images or episodes per second since the phase began.

        The time includes phases in between, such as a run's meta-validations: the rest of the run has them too.
        """
        now = time.perf_counter()
        began = self._begun.get(phase)
        if began is None or done <= began.last:  # a new phase, or the same phase started again
            self._begun[phase] = _PhaseStart(now, done, done)
            return 0.0
        began.last = done
        return (done - began.done) / max(now - began.at, 1e-9)

    def _show(self, progress: Progress) -> None:
        for follower in self._followers:
            follower.progressed(progress)
        if self._live:
            if self._task is None or self._phase != progress.phase:
                if self._task is not None:
                    self._bars.remove_task(self._task)
                self._phase = progress.phase
                description = progress.phase if self._title == "" else f"{self._title}: {progress.phase}"
                self._task = self._bars.add_task(
                    description, completed=progress.done, total=progress.total, progress=progress
                )
            self._bars.update(self._task, completed=progress.done, total=progress.total, progress=progress)
        elif self._is_due(JSON_EVERY_S if self._as_json else PLAIN_EVERY_S):
            self._say_how_far(progress)

    def _is_due(self, every_s: float) -> bool:
        now = time.perf_counter()
        due = now - self._said_at >= every_s
        self._said_at = now if due else self._said_at
        return due

    def _say_how_far(self, progress: Progress) -> None:
        if isinstance(self._console, Output) and self._as_json:
            values: dict[str, Any] = {
                "phase": progress.phase,
                "done": progress.done,
                "total": progress.total,
                "per_s": progress.rate,
            }
            values["seconds_left"] = progress.seconds_left
            self._console.event("progress", title=self._title, **values, **progress.numbers)
            return
        note = "".join(f", {part}" for part in progress.notes)
        left = f", {duration(progress.seconds_left)} left" if progress.seconds_left is not None else ""
        self.say(f"{progress.phase} {progress.done:,}/{progress.total:,}{note}{left}")


def _running(fractions: Sequence[float], queued: int) -> str:
    far = ", ".join(f"{100 * fraction:.0f}%" for fraction in fractions)
    if len(fractions) > MOST_FRACTIONS:
        far = f"{len(fractions)} cells, {100 * sum(fractions) / len(fractions):.0f}% on average"
    parts = [f"running: {far}"] if far else []
    return ", ".join([*parts, *([f"queued: {queued}"] if queued else [])])


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
